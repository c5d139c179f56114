/* SPDX-License-Identifier: Apache-2.0 */
/*
 * userfaultfd write protection in sync mode: who writes a protected page waits until it is released. Unlike
 * the tracker's, this descriptor must see the kernel's accesses (KVM, vhost, direct I/O) too, so it is not
 * the unprivileged kind. It is the only one (see haul_inject_userfaultfd): when it is closed, or haul dies,
 * the kernel lifts all protection and wakes everybody.
 */
#include "engine/clock.h"
#include "engine/trackers/inject.h"
#include "engine/trackers/maps.h"
#include "engine/trackers/uffd_call.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GUARD_FLAGS (O_CLOEXEC | O_NONBLOCK)
#define GUARD_FEATURES                                                                                       \
    (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define PAGE UINT64_C(4096)
#define MESSAGES 32 /* read at once */

struct haul_write_guard {
    int pid; /* 0: this process */
    int uffd;
    uint64_t drained_ns; /* nobody had waited by then of whom `wait` did not tell; its thread's */
    unsigned count;
    struct haul_tracked_range ranges[];
};

/* ---- callbacks ---------------------------------------------------------------------------------------- */

typedef int change_function(int uffd, uint64_t start, uint64_t end, struct haul_error *error);

/* Changes pages of a block wherever they are mapped. */
static int change(struct haul_write_guard *guard, uint32_t block, uint64_t first, uint64_t count,
                  change_function *function, struct haul_error *error)
{
    int result = 0;
    for (unsigned i = 0; !result && i < guard->count; i++) {
        const struct haul_tracked_range *range = &guard->ranges[i];
        uint64_t start = first * PAGE > range->block_offset ? first * PAGE : range->block_offset;
        uint64_t range_end = range->block_offset + range->length;
        uint64_t end = (first + count) * PAGE < range_end ? (first + count) * PAGE : range_end;
        if (range->block == block && start < end) {
            uint64_t shift = range->address - range->block_offset;
            result = function(guard->uffd, start + shift, end + shift, error);
        }
    }
    return result;
}

static int guard_protect(void *opaque, uint32_t block, uint64_t first, uint64_t count,
                         struct haul_error *error)
{
    return change(opaque, block, first, count, haul_uffd_protect, error);
}

static int guard_release(void *opaque, uint32_t block, uint64_t first, uint64_t count,
                         struct haul_error *error)
{
    int result = change(opaque, block, first, count, haul_uffd_release, error);
    /* A process that has exited has nobody who waits, and its memory stands still. */
    return result == -ESRCH ? 0 : result;
}

static bool locate(const struct haul_write_guard *guard, uint64_t address, struct haul_waiting_write *write)
{
    for (unsigned i = 0; i < guard->count; i++) {
        const struct haul_tracked_range *range = &guard->ranges[i];
        if (address >= range->address && address - range->address < range->length) {
            write->block = range->block;
            write->page = (address - range->address + range->block_offset) / PAGE;
            return true;
        }
    }
    return false;
}

/* What is there now; 0 for nothing. */
static int take_writes(struct haul_write_guard *guard, struct haul_waiting_write *writes, unsigned capacity,
                       struct haul_error *error)
{
    struct uffd_msg messages[MESSAGES];
    unsigned wanted = capacity < MESSAGES ? capacity : MESSAGES;
    uint64_t now = haul_now_ns();
    ssize_t got = read(guard->uffd, messages, wanted * sizeof *messages);
    if (got < (ssize_t)(wanted * sizeof *messages)) {
        guard->drained_ns = now;
    }
    if (got < 0) {
        return errno == EAGAIN || errno == EINTR
                   ? 0
                   : haul_error_set(error, errno, "reading the userfaultfd: %s", strerror(errno));
    }
    int count = 0;
    for (size_t i = 0; i < (size_t)got / sizeof *messages; i++) {
        if (messages[i].event == UFFD_EVENT_PAGEFAULT &&
            locate(guard, messages[i].arg.pagefault.address, &writes[count])) {
            count++;
        }
    }
    return count;
}

static int guard_wait(void *opaque, int interrupt_fd, struct haul_waiting_write *writes, unsigned capacity,
                      struct haul_error *error)
{
    struct haul_write_guard *guard = opaque;
    /*
     * The kernel does not say since when somebody waits. Who is found without sleep came at any time since
     * all were found last; who wakes this thread up came just now.
     */
    uint64_t since = guard->drained_ns;
    for (;;) {
        int count = take_writes(guard, writes, capacity, error);
        for (int i = 0; i < count; i++) {
            writes[i].since_ns = since;
        }
        if (count != 0) {
            return count;
        }
        struct pollfd fds[] = {{.fd = guard->uffd, .events = POLLIN}, {.fd = interrupt_fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            return haul_error_set(error, errno, "waiting for the userfaultfd: %s", strerror(errno));
        }
        since = haul_now_ns();
        if (fds[1].revents && !fds[0].revents) {
            return 0;
        }
    }
}

static void guard_stop(void *opaque)
{
    struct haul_write_guard *guard = opaque;
    if (guard->uffd >= 0) {
        close(guard->uffd); /* the last descriptor: the kernel unprotects everything and wakes who waits */
        guard->uffd = -1;
    }
}

static const struct haul_write_guard_ops guard_ops = {
    .name = "uffd-wp",
    .protect = guard_protect,
    .release = guard_release,
    .wait = guard_wait,
    .stop = guard_stop,
};

/* ---- life --------------------------------------------------------------------------------------------- */

/* The watched process's privilege counts, not ours. */
static int take_other(struct haul_write_guard *guard, struct haul_error *error)
{
    int result = haul_inject_userfaultfd(guard->pid, GUARD_FLAGS, &guard->uffd, error);
    if (result == -EPERM) {
        haul_error_prefix(error,
                          "the kernel's own writes for process %d must be seen too, for which that "
                          "process needs CAP_SYS_PTRACE, or this host vm.unprivileged_userfaultfd=1 "
                          "(sysctl): ",
                          guard->pid);
    }
    return result ? result : haul_uffd_handshake(guard->uffd, GUARD_FEATURES, error);
}

static int attach(struct haul_write_guard *guard, struct haul_error *error)
{
    int result = 0;
    for (unsigned i = 0; !result && i < guard->count; i++) {
        result = haul_check_range(guard->pid, &guard->ranges[i], error);
    }
    if (!result) { /* for another process too: what is refused here is refused before that one is touched */
        result = haul_uffd_open(GUARD_FLAGS, GUARD_FEATURES, &guard->uffd, error);
    }
    if (!result && guard->pid) {
        close(guard->uffd);
        guard->uffd = -1;
        result = take_other(guard, error);
    }
    for (unsigned i = 0; !result && i < guard->count; i++) {
        result = haul_uffd_register(guard->uffd, &guard->ranges[i], error);
    }
    return result;
}

int haul_write_guard_uffd_new(int pid, const struct haul_tracked_range *ranges, unsigned count,
                              struct haul_write_guard **guard, struct haul_error *error)
{
    struct haul_write_guard *made = calloc(1, sizeof *made + count * sizeof made->ranges[0]);
    if (!made) {
        return haul_error_set(error, ENOMEM, "write guard: no memory for %u ranges", count);
    }
    made->pid = pid == getpid() ? 0 : pid;
    made->uffd = -1;
    made->drained_ns = haul_now_ns();
    made->count = count;
    memcpy(made->ranges, ranges, count * sizeof *ranges);
    int result = attach(made, error);
    if (result) {
        haul_write_guard_free(made);
        haul_error_prefix(error, "write guard: ");
        return result;
    }
    *guard = made;
    return 0;
}

const struct haul_write_guard_ops *haul_write_guard_get_ops(const struct haul_write_guard *guard)
{
    (void)guard;
    return &guard_ops;
}

void *haul_write_guard_get_opaque(struct haul_write_guard *guard)
{
    return guard;
}

void haul_write_guard_free(struct haul_write_guard *guard)
{
    if (guard) {
        guard_stop(guard);
        free(guard);
    }
}
