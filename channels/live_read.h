/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_LIVE_READ_H
#define HAUL_CHANNELS_LIVE_READ_H

/*
 * Brackets reads of guest memory that the guest may be writing at the same moment. This is no mistake of
 * ours: such a page is dirty, and what was read of it is sent again. ThreadSanitizer is told so, also for
 * reads inside of libc functions (memcpy, sendmsg); elsewhere the brackets are nothing.
 */
#ifdef __SANITIZE_THREAD__
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
#define HAUL_LIVE_READ_BEGIN() AnnotateIgnoreReadsBegin(__FILE__, __LINE__)
#define HAUL_LIVE_READ_END() AnnotateIgnoreReadsEnd(__FILE__, __LINE__)
#else
#define HAUL_LIVE_READ_BEGIN() ((void)0)
#define HAUL_LIVE_READ_END() ((void)0)
#endif

#endif
