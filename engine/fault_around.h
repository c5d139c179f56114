/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_FAULT_AROUND_H
#define HAUL_ENGINE_FAULT_AROUND_H

/* Maps pages that a shared file has already, many at one fault. */

#include "channels/batch.h"

#include <stddef.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

/* Bytes that the kernel maps at one read fault, its default fault_around_bytes. */
#define HAUL_FAULT_AROUND ((size_t)64 << 10)

/*
 * haul_fault_around maps the page at `page` for reading, and with it those of its aligned window of
 * HAUL_FAULT_AROUND bytes that are in memory. Any thread. 0, or -1 with errno; EINVAL before Linux 5.14.
 */
static inline int haul_fault_around(unsigned char *page)
{
    return madvise(page, HAUL_PAGE_SIZE, MADV_POPULATE_READ);
}

#endif
