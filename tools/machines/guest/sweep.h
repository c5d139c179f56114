/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_SWEEP_H
#define HAUL_TOOLS_MACHINES_GUEST_SWEEP_H

/* Work over all pages of the guest, on as many threads as this process may use CPUs. */

#include "tools/machines/guest/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* haul_guest_fill writes what every page holds before the first write of the workload (version 0) into
 * `memory`, fresh and zero; zero pages are touched, untouched ones are not. Of `options` it uses `cancelled`
 * only. -EAGAIN, -ENOMEM: no thread could be started; -ECANCELED. */
int haul_guest_fill(const struct haul_guest_layout *layout, const struct haul_guest_options *options,
                    unsigned char *memory, struct haul_error *error);

/*
 * haul_guest_verify compares every byte of every page, read from `memory_fd`, with what it must be at
 * `position`; nothing may write meanwhile. Holes are read without being filled. -EIO: pages are wrong; the
 * message counts them, names the first and says whether it is lost, stale, torn or otherwise corrupt.
 */
int haul_guest_verify(const struct haul_guest_layout *layout, int memory_fd,
                      struct haul_guest_position position, struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
