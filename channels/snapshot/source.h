/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_SNAPSHOT_SOURCE_H
#define HAUL_CHANNELS_SNAPSHOT_SOURCE_H

/* Internal: what snapshot_load.c needs of the reader. */

#include "channels/snapshot/reader.h"

struct haul_snapshot_reader {
    char *path;
    int fd;
    uint64_t allocated;
    struct haul_snapshot_header header;
    struct haul_snapshot_layout layout;
};

/* Puts the path before the message; returns its code. */
int haul_snapshot_named(const struct haul_snapshot_reader *reader, struct haul_error *error);

#endif
