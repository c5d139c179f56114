/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_PASSTHROUGH_H
#define HAUL_TOOLS_MACHINES_PASSTHROUGH_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* haul_fd_is_passthrough tells from a link in /proc/PID/fd whether the process drives a device that writes
 * its memory by DMA or pins it, unseen by any tracker (trap T3): VFIO, iommufd, vDPA, vhost-scsi, RDMA. */
bool haul_fd_is_passthrough(const char *link);

#ifdef __cplusplus
}
#endif
#endif
