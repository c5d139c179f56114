/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_COMPRESS_LIVE_H
#define HAUL_COMPRESS_LIVE_H

/*
 * HAUL_READS_LIVE_MEMORY marks a function that reads guest memory while the guest may write it. What it
 * finds is a hint, or is certain to be looked at again because the write marks the page dirty, so
 * ThreadSanitizer must not report the read as a race.
 */
#define HAUL_READS_LIVE_MEMORY __attribute__((no_sanitize("thread")))

#endif
