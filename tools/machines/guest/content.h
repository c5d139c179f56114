/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_CONTENT_H
#define HAUL_TOOLS_MACHINES_GUEST_CONTENT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * haul_guest_content_build writes one page (4096 bytes) that depends only on its arguments and carries the
 * page number: `content` of enum haul_guest_content, noise that no codec shrinks or text that LZ4 shrinks to
 * about a third.
 */
void haul_guest_content_build(uint32_t content, uint64_t seed, uint64_t page, unsigned char *bytes);

#ifdef __cplusplus
}
#endif
#endif
