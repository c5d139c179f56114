/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/disk_option.h"

#include "tools/haul/number.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* One "key=VALUE" of `length` bytes. */
static int take(struct cli_options *options, const char *text, size_t length, struct haul_error *error)
{
    char word[64];
    uint64_t *field = NULL;
    snprintf(word, sizeof word, "%.*s", (int)length, text);
    const char *value = word + strcspn(word, "=");
    if (!strncmp(word, "size=", 5)) {
        field = &options->guest_options.disk_bytes;
    } else if (!strncmp(word, "rate=", 5) && options->command == CLI_SEND) {
        field = &options->guest_options.disk_bytes_per_s;
    }
    if (!field) {
        return haul_error_set(error, EINVAL, "option --disk takes PATH%s, not '%s' after the path",
                              options->command == CLI_SEND ? "[,size=SIZE][,rate=RATE]" : "[,size=SIZE]",
                              word);
    }
    if (cli_parse_size(value + 1, field) < 0) {
        return haul_error_set(error, EINVAL, "option --disk: '%s' is no number of bytes such as 256M", word);
    }
    return 0;
}

int cli_disk_parse(struct cli_options *options, struct haul_error *error)
{
    const char *at = options->disk + strcspn(options->disk, ",");
    size_t length = (size_t)(at - options->disk);
    if (length == 0 || length >= sizeof options->disk_path) {
        return haul_error_set(error, EINVAL, "option --disk needs the path of an image");
    }
    memcpy(options->disk_path, options->disk, length);
    options->disk_path[length] = 0;
    options->guest_options.disk = options->disk_path;
    int status = 0;
    while (status == 0 && *at == ',') {
        length = strcspn(++at, ",");
        status = take(options, at, length, error);
        at += length;
    }
    uint64_t size = options->guest_options.disk_bytes;
    if (status == 0 && (size % 4096 || (strstr(options->disk, ",size=") && size < 65536))) {
        return haul_error_set(error, EINVAL,
                              "option --disk: the size must be a multiple of 4096, and 64 KiB or more");
    }
    return status;
}
