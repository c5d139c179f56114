/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_NUMBER_H
#define HAUL_TOOLS_HAUL_NUMBER_H

/* Numbers as an operator types and reads them. Nothing here depends on the locale's digits or on global
 * state. */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * cli_parse_size reads a size in bytes: decimal digits and an optional suffix K, M, G or T (either case,
 * powers of 1024), nothing else. 0, -EINVAL when it has another form, -ERANGE when it does not fit 64 bits.
 * *value is written on success only.
 */
int cli_parse_size(const char *text, uint64_t *value);

/* cli_parse_number reads a plain decimal number from `minimum` to `maximum`. 0, -EINVAL or -ERANGE. */
int cli_parse_number(const char *text, uint64_t minimum, uint64_t maximum, uint64_t *value);

/* Room for anything that the cli_format functions write. */
#define CLI_NUMBER_SIZE 32

/* The cli_format functions write at most three or four significant digits with a unit, and return `text`. */
const char *cli_format_bytes(char text[CLI_NUMBER_SIZE], uint64_t bytes);          /* "1.21 GiB" */
const char *cli_format_rate(char text[CLI_NUMBER_SIZE], uint64_t bytes_per_s);     /* "812 MiB/s" */
const char *cli_format_duration(char text[CLI_NUMBER_SIZE], uint64_t nanoseconds); /* "25 ms", "3 min 20 s" */

#ifdef __cplusplus
}
#endif
#endif
