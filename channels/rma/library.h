/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_RMA_LIBRARY_H
#define HAUL_CHANNELS_RMA_LIBRARY_H

/*
 * libfabric, brought into the process by those who use rdma: and by nobody else: libraries beneath it (PSM,
 * for Omni-Path) measure the clock for a fifth of a second when they are loaded, and change signal handlers.
 */

#include "channels/error.h"

#include <rdma/fabric.h>

/* The functions that libfabric exports and that are called here; all others hang off its objects. */
struct haul_rma_library {
    void *handle;
    int (*getinfo)(uint32_t version, const char *node, const char *service, uint64_t flags,
                   const struct fi_info *hints, struct fi_info **info);
    void (*freeinfo)(struct fi_info *info);
    struct fi_info *(*dupinfo)(const struct fi_info *info); /* of NULL: an empty one */
    int (*fabric)(struct fi_fabric_attr *attributes, struct fid_fabric **fabric, void *context);
    const char *(*strerror)(int code);
};

/* haul_rma_library_load fills `library`. -ENOSYS: libfabric is not installed, or too old. */
int haul_rma_library_load(struct haul_rma_library *library, struct haul_error *error);

/* haul_rma_library_unload accepts a zeroed library. */
void haul_rma_library_unload(struct haul_rma_library *library);

#endif
