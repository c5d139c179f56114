/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_PROCESS_H
#define HAUL_TOOLS_MACHINES_QEMU_PROCESS_H

/* What /proc says of a QEMU process: its shared mappings, the files behind them, the devices that it drives.
 */

#include "channels/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One writable shared mapping of a file; neighbours that continue each other in memory and in the file are
 * one. */
struct haul_shared_mapping {
    uint64_t address;
    uint64_t length;
    uint64_t offset; /* in the file */
    uint64_t inode;
    unsigned device_major, device_minor;
    uint64_t first_end; /* end of its first line in maps, the name of its map_files entry */
    char name[256];     /* the path column, cut */
};

/*
 * haul_shared_mappings_parse reads the text of /proc/PID/maps. *mappings is the caller's to free. Leaves out
 * what cannot be guest memory: devices, anonymous inodes, kernel rings ("/[aio]"). 0 or -ENOMEM.
 */
int haul_shared_mappings_parse(FILE *maps, struct haul_shared_mapping **mappings, unsigned *count);
int haul_shared_mappings_read(pid_t pid, struct haul_shared_mapping **mappings, unsigned *count,
                              struct haul_error *error);

/* haul_shared_mapping_open opens the file behind a mapping, by map_files or, without that right, by
 * /proc/PID/fd. */
int haul_shared_mapping_open(pid_t pid, const struct haul_shared_mapping *mapping, bool writable, int *fd,
                             struct haul_error *error);

/*
 * haul_process_find_fds lists the descriptors of `pid`, open for reading and writing, of the file behind our
 * own `fd`; in ascending order. -ENOSPC: more than `capacity`.
 */
int haul_process_find_fds(pid_t pid, int fd, int *numbers, unsigned capacity, unsigned *count,
                          struct haul_error *error);

#define HAUL_FD_LINK_SIZE 512

/* haul_process_find_passthrough writes what links to a passed-through device in the process's /proc/PID/fd,
 * "" when nothing does. -ENOENT (the process is gone), -EACCES. */
int haul_process_find_passthrough(pid_t pid, char link[HAUL_FD_LINK_SIZE]);

/* haul_process_refuse_passthrough: -ENOTSUP naming the device file, if QEMU, the process, holds one open. */
int haul_process_refuse_passthrough(pid_t pid, struct haul_error *error);

/* haul_process_name writes the command name of a process ("?" when unknown). */
void haul_process_name(pid_t pid, char *name, size_t size);

#ifdef __cplusplus
}
#endif
#endif
