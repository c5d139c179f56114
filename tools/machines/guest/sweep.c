/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/sweep.h"

#include "tools/machines/guest/guest.h"
#include "tools/machines/guest/workload.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_WORKERS 16u
#define CHUNK_PAGES 16u
#define CANCEL_PAGES 1024u /* filled between two looks at a cancel: a millisecond or two */

struct worker {
    const struct haul_guest_layout *layout;
    uint64_t first; /* pages [first, end) are this worker's */
    uint64_t end;
    const struct haul_guest_options *options; /* fill */
    unsigned char *memory;
    int memory_fd; /* verify */
    struct haul_guest_position position;
    uint64_t wrong; /* verify: pages that differ, and what is the matter with the first */
    struct haul_error failure;
};

static unsigned usable_cpus(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) {
        return 1;
    }
    unsigned count = (unsigned)CPU_COUNT(&set);
    return count > MAX_WORKERS ? MAX_WORKERS : count;
}

/* Runs `work` over all pages, in parallel; the workers' results are in `workers`, in the order of their
 * pages. */
static int sweep(const struct worker *template, void *(*work)(void *), struct worker *workers, unsigned count,
                 struct haul_error *error)
{
    pthread_t threads[MAX_WORKERS];
    unsigned started = 0;
    int result = 0;
    uint64_t pages = template->layout->pages;
    for (; started < count; started++) {
        workers[started] = *template;
        workers[started].first = pages * started / count;
        workers[started].end = pages * (started + 1) / count;
        result = pthread_create(&threads[started], NULL, work, &workers[started]);
        if (result) {
            haul_error_set(error, result, "cannot start a thread to sweep the guest's memory: %s",
                           strerror(result));
            break;
        }
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
    return -result;
}

static void *fill_pages(void *opaque)
{
    struct worker *worker = opaque;
    for (uint64_t page = worker->first; page < worker->end; page++) {
        if (page % CANCEL_PAGES == 0 && haul_guest_cancelled(worker->options, &worker->failure) < 0) {
            break;
        }
        if (haul_guest_page_kind(worker->layout, page) != HAUL_GUEST_KIND_UNTOUCHED) {
            haul_guest_page_build(worker->layout, page, 0, worker->memory + page * HAUL_GUEST_PAGE_SIZE);
        }
    }
    return NULL;
}

int haul_guest_fill(const struct haul_guest_layout *layout, const struct haul_guest_options *options,
                    unsigned char *memory, struct haul_error *error)
{
    struct worker workers[MAX_WORKERS];
    struct worker template = {.layout = layout, .options = options, .memory = memory, .memory_fd = -1};
    int result = sweep(&template, fill_pages, workers, usable_cpus(), error);
    return result ? result : haul_guest_cancelled(options, error);
}

/* Says what is the matter with a hot page whose stamps are not those of `version`; false: its stamps are
 * right. */
static bool explain_stamps(uint64_t page, uint32_t version, const unsigned char *bytes, char *text,
                           size_t size)
{
    uint64_t slot = page - HAUL_GUEST_RESERVED_PAGES;
    uint32_t expected = haul_guest_stamp(slot, version), first = 0;
    unsigned right = 0, same = 0;
    for (size_t i = 0; i < HAUL_GUEST_STAMPS; i++) {
        uint32_t stamp;
        memcpy(&stamp, bytes + i * HAUL_GUEST_STAMP_DISTANCE, sizeof stamp);
        first = i ? first : stamp;
        right += stamp == expected;
        same += stamp == first;
    }
    if (right == HAUL_GUEST_STAMPS) {
        return false;
    }
    if (same == HAUL_GUEST_STAMPS) {
        snprintf(text, size, "stale: it holds version %" PRIu32 " instead of %" PRIu32, first, version);
    } else {
        snprintf(text, size, "torn: %u of its %u stamps are not of version %" PRIu32,
                 HAUL_GUEST_STAMPS - right, HAUL_GUEST_STAMPS, version);
    }
    return true;
}

static bool is_zero(const unsigned char *bytes)
{
    return !bytes[0] && !memcmp(bytes, bytes + 1, HAUL_GUEST_PAGE_SIZE - 1);
}

static void explain_page(const struct worker *worker, uint64_t page, uint32_t version,
                         const unsigned char *bytes, const unsigned char *expected, char *text, size_t size)
{
    enum haul_guest_kind kind = haul_guest_page_kind(worker->layout, page);
    if (is_zero(bytes) && !is_zero(expected)) {
        snprintf(text, size, "lost: it is all zero");
        return;
    }
    if (kind == HAUL_GUEST_KIND_HOT && explain_stamps(page, version, bytes, text, size)) {
        return;
    }
    unsigned at = 0;
    while (bytes[at] == expected[at]) {
        at++;
    }
    snprintf(text, size, "corrupt: it differs from byte %u on", at);
}

static void check_page(struct worker *worker, uint64_t page, const unsigned char *bytes)
{
    unsigned char expected[HAUL_GUEST_PAGE_SIZE];
    uint32_t version = haul_guest_page_version(worker->layout, page, worker->position);
    haul_guest_page_build(worker->layout, page, version, expected);
    if (!memcmp(bytes, expected, sizeof expected)) {
        return;
    }
    if (!worker->wrong++) {
        char text[128];
        explain_page(worker, page, version, bytes, expected, text, sizeof text);
        haul_error_set(&worker->failure, EIO, "page %" PRIu64 " is %s", page, text);
    }
}

static void *verify_pages(void *opaque)
{
    struct worker *worker = opaque;
    unsigned char bytes[CHUNK_PAGES * HAUL_GUEST_PAGE_SIZE];
    for (uint64_t page = worker->first; page < worker->end;) {
        uint64_t count = worker->end - page < CHUNK_PAGES ? worker->end - page : CHUNK_PAGES;
        size_t length = count * HAUL_GUEST_PAGE_SIZE;
        ssize_t got = pread(worker->memory_fd, bytes, length, (off_t)(page * HAUL_GUEST_PAGE_SIZE));
        if (got != (ssize_t)length) {
            worker->wrong++;
            haul_error_set(&worker->failure, EIO, "page %" PRIu64 " cannot be read: %s", page,
                           got < 0 ? strerror(errno) : "the memory is shorter than it was");
            break;
        }
        for (uint64_t i = 0; i < count; i++, page++) {
            check_page(worker, page, bytes + i * HAUL_GUEST_PAGE_SIZE);
        }
    }
    return NULL;
}

int haul_guest_verify(const struct haul_guest_layout *layout, int memory_fd,
                      struct haul_guest_position position, struct haul_error *error)
{
    struct worker workers[MAX_WORKERS];
    struct worker template = {.layout = layout, .memory_fd = memory_fd, .position = position};
    unsigned count = usable_cpus();
    int result = sweep(&template, verify_pages, workers, count, error);
    if (result) {
        return result;
    }
    uint64_t wrong = 0;
    const struct haul_error *first = NULL;
    for (unsigned i = 0; i < count; i++) {
        first = workers[i].wrong && !first ? &workers[i].failure : first;
        wrong += workers[i].wrong;
    }
    return first ? haul_error_set(error, EIO,
                                  "self-check failed: %" PRIu64 " of %" PRIu64 " pages are wrong; %s", wrong,
                                  layout->pages, first->message)
                 : 0;
}
