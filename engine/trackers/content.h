/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_TRACKERS_CONTENT_H
#define HAUL_ENGINE_TRACKERS_CONTENT_H

#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * haul_content_end returns where in the file `fd` the content that begins at offset `at` ends: at the next
 * hole or later, where `end` or more stands for all of it; -1 and errno as lseek(2). Any thread.
 *
 * To find a hole the kernel visits each page on the way, some 15 ms for each GiB. Where as many blocks are
 * allocated as the file is long there is none, which takes a look at one page in each 2 MiB: what was
 * allocated ahead (fallocate) and never written is no content, unless it lies between two such looks.
 */
off_t haul_content_end(int fd, off_t at, off_t end);

#ifdef __cplusplus
}
#endif
#endif
