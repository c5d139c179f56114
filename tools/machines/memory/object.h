/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_MEMORY_OBJECT_H
#define HAUL_TOOLS_MACHINES_MEMORY_OBJECT_H

/* A shared memory object: a file in a tmpfs or hugetlbfs, or a memfd, which is one too. */

#include "channels/error.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct haul_memory_object {
    int fd;
    uint64_t length;
    uint32_t page_size; /* 4096, or the huge page size of a hugetlbfs */
    void *host;         /* the whole object, mapped shared; NULL until mapped */
    bool created;       /* by haul_memory_object_create */
};

/*
 * haul_memory_object_open opens an existing object, for reading or also for writing. *object is the caller's,
 * closed with haul_memory_object_close in any case (also zeroed with fd -1). -EINVAL: not a tmpfs or
 * hugetlbfs file, empty, or not whole pages; or the errno of open. The message says what to do.
 */
int haul_memory_object_open(struct haul_memory_object *object, const char *path, bool writable,
                            struct haul_error *error);
/*
 * haul_memory_object_create makes `path` with `size` bytes under its final name, or opens it, for writing,
 * when it exists with that size. -EINVAL: exists with another size, or as above. -ENOSPC: the file system has
 * not so much left. A file that it created is removed again when it fails.
 */
int haul_memory_object_create(struct haul_memory_object *object, const char *path, uint64_t size,
                              struct haul_error *error);
/* haul_memory_object_map maps the whole object, writable or not. -ENOMEM, for huge pages also when there are
 * too few. */
int haul_memory_object_map(struct haul_memory_object *object, const char *path, bool writable,
                           struct haul_error *error);
void haul_memory_object_close(struct haul_memory_object *object);

#ifdef __cplusplus
}
#endif
#endif
