/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/inject.h"

#include "engine/trackers/helper.h"
#include "engine/trackers/maps.h"
#include "engine/trackers/process_info.h"
#include "engine/trackers/tracee.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif

#define STOP_TIMEOUT_MS 1000
#define TRACER_NAPS 40 /* of 5 ms */

/* All that the helper needs, gathered before it starts. */
struct inject_plan {
    int pid;
    int pidfd;
    int memory;                             /* /proc/PID/mem */
    int flags;                              /* of userfaultfd */
    const struct haul_injected_call *calls; /* instead of a userfaultfd, unless NULL */
    unsigned call_count;
    uint64_t syscall_address;
    struct haul_process_info info;
};

/* ---- before: in our process ---------------------------------------------------------------------------- */

struct find_vdso {
    uint64_t address, end;
};

static int find_vdso_visit(void *opaque, const struct haul_map *map)
{
    struct find_vdso *vdso = opaque;
    if (strcmp(map->path, "[vdso]") != 0) {
        return 0;
    }
    vdso->address = map->address;
    vdso->end = map->end;
    return 1;
}

/* The vdso has a syscall instruction, for clocks that it cannot read itself. */
static int find_syscall(struct inject_plan *plan, struct haul_error *error)
{
    static const unsigned char instruction[] = {0x0f, 0x05};
    struct find_vdso vdso = {0};
    int result = haul_maps_read(plan->pid, find_vdso_visit, &vdso, error);
    if (result) {
        return result;
    }
    size_t length = vdso.end - vdso.address;
    unsigned char *code = length ? malloc(length) : NULL;
    if (code && pread(plan->memory, code, length, (off_t)vdso.address) == (ssize_t)length) {
        unsigned char *found = memmem(code, length, instruction, sizeof instruction);
        if (found) {
            plan->syscall_address = vdso.address + (uint64_t)(found - code);
        }
    }
    free(code);
    if (!plan->syscall_address) {
        return haul_error_set(error, ENOTSUP, "process %d has no readable vdso with a syscall instruction",
                              plan->pid);
    }
    return 0;
}

/* The helper of a haul that was killed a moment ago may still be at its last steps: a tracer gets a moment to
 * go. */
static int read_untraced(struct inject_plan *plan, struct haul_error *error)
{
    const struct timespec nap = {.tv_nsec = 5000000};
    int result;
    for (int i = 0; !(result = haul_process_info_read(plan->pid, &plan->info, error)); i++) {
        if (!plan->info.tracer || i == TRACER_NAPS) {
            break;
        }
        nanosleep(&nap, NULL);
    }
    return result;
}

static int gather(struct inject_plan *plan, struct haul_error *error)
{
    int result = read_untraced(plan, error);
    if (result) {
        return result;
    }
    if (plan->info.tracer) {
        return haul_error_set(error, EBUSY,
                              "process %d is traced by process %d (a debugger, strace): end that first",
                              plan->pid, plan->info.tracer);
    }
    plan->pidfd = (int)syscall(SYS_pidfd_open, plan->pid, 0);
    if (plan->pidfd < 0) {
        int code = errno;
        return haul_error_set(error, code, "cannot open process %d: %s", plan->pid,
                              code == EINVAL ? "this is the number of a thread" : strerror(code));
    }
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/mem", plan->pid);
    plan->memory = open(name, O_RDONLY | O_CLOEXEC);
    if (plan->memory < 0) {
        int code = errno == EACCES ? EPERM : errno;
        return haul_error_set(error, code, "process %d may not be traced: %s%s", plan->pid, strerror(code),
                              code == EPERM ? "; run haul as root, or give it CAP_SYS_PTRACE" : "");
    }
    return find_syscall(plan, error);
}

/* ---- in the helper ------------------------------------------------------------------------------------ */

static int did_not_run(const struct inject_plan *plan, int failure, struct haul_error *error)
{
    return haul_error_set(error, -failure, "process %d %s", plan->pid,
                          failure == -ESRCH ? "exited meanwhile" : "did not run the injected call");
}

/* The thread is borrowed; returned by the caller. */
static int run_calls(const struct inject_plan *plan, struct haul_tracee *tracee, struct haul_error *error)
{
    for (unsigned i = 0; i < plan->call_count; i++) {
        const struct haul_injected_call *call = &plan->calls[i];
        long result = -1;
        int failure = haul_tracee_call(tracee, plan->syscall_address, call->number, call->arguments, &result);
        if (failure) {
            return did_not_run(plan, failure, error);
        }
        if (result < 0 && result >= -4095) {
            return haul_error_set(error, (int)-result, "%s within process %d: %s", call->name, plan->pid,
                                  strerror((int)-result));
        }
    }
    return 0;
}

/* Opens, takes and closes. The thread is borrowed; returned by the caller. */
static int take_descriptor(const struct inject_plan *plan, struct haul_tracee *tracee, int *fd,
                           struct haul_error *error)
{
    long remote = -1, closed = -1;
    int failure =
        haul_tracee_call(tracee, plan->syscall_address, SYS_userfaultfd, (long[6]){plan->flags}, &remote);
    if (failure) {
        return did_not_run(plan, failure, error);
    }
    if (remote < 0) {
        int code = (int)-remote;
        return haul_error_set(error, code, "userfaultfd within process %d: %s", plan->pid,
                              code == EMFILE ? "it has no free descriptor" : strerror(code));
    }
    *fd = (int)syscall(SYS_pidfd_getfd, plan->pidfd, (int)remote, 0);
    int code = errno;
    failure = haul_tracee_call(tracee, plan->syscall_address, SYS_close, (long[6]){remote}, &closed);
    if (*fd < 0) {
        return haul_error_set(error, code, "cannot take the userfaultfd of process %d: %s", plan->pid,
                              strerror(code));
    }
    if (failure || closed) {
        return haul_error_set(error, failure ? -failure : (int)-closed,
                              "process %d did not close its copy of the userfaultfd (descriptor %ld)",
                              plan->pid, remote);
    }
    return 0;
}

static int borrow(const struct inject_plan *plan, int tid, struct haul_tracee *tracee,
                  struct haul_error *error)
{
    int failure =
        haul_tracee_borrow(tracee, tid, plan->memory, plan->info.seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0);
    if (!failure) {
        return 0;
    }
    if (failure == -ENOTSUP) {
        return haul_error_set(error, ENOTSUP, "process %d runs 32-bit code", plan->pid);
    }
    if (failure == -EPERM && plan->info.seccomp) {
        return haul_error_set(
            error, EPERM,
            "process %d runs under a seccomp filter, which might end it at the injected call, and only "
            "CAP_SYS_ADMIN may lift it for that moment: run haul as root",
            plan->pid);
    }
    return haul_error_set(error, -failure, "cannot read the registers of thread %d of process %d: %s", tid,
                          plan->pid, strerror(-failure));
}

static void inject_work(void *opaque, int socket)
{
    const struct inject_plan *plan = opaque;
    struct haul_error outcome = {.code = ESRCH, .message = "no thread is left to stop"};
    struct haul_tracee tracee;
    int fd = -1;
    for (unsigned i = 0; i < plan->info.threads; i++) {
        int tid = plan->info.tids[i];
        int failure = haul_tracee_interrupt(tid);
        if (!failure) {
            failure = haul_tracee_wait(tid, STOP_TIMEOUT_MS);
        }
        if (failure) {
            haul_error_set(&outcome, -failure, "cannot stop thread %d of process %d: %s%s", tid, plan->pid,
                           strerror(-failure),
                           failure == -EPERM ? "; run haul as root, or give it CAP_SYS_PTRACE" : "");
            continue; /* it ended, or sleeps without being interruptible: any other will do */
        }
        outcome.code = 0;
        if (borrow(plan, tid, &tracee, &outcome)) {
            break; /* nothing was changed; the end of this process lets it go */
        }
        if (plan->calls) {
            run_calls(plan, &tracee, &outcome);
        } else {
            take_descriptor(plan, &tracee, &fd, &outcome);
        }
        failure = haul_tracee_return(&tracee);
        if (failure && !outcome.code) {
            haul_error_set(&outcome, -failure, "process %d could not be let go: %s", plan->pid,
                           strerror(-failure));
        }
        break;
    }
    haul_helper_reply(socket, &outcome, outcome.code ? -1 : fd);
}

/* Runs the plan in a helper; *fd gets the descriptor that it took, or -1. */
static int inject(struct inject_plan *plan, int *fd, struct haul_error *error)
{
    struct haul_helper helper;
    *fd = -1;
    int result = gather(plan, error);
    if (!result) {
        int keep[] = {plan->pidfd, plan->memory};
        result = haul_helper_start(&helper, inject_work, plan, keep, 2, error);
    }
    if (!result) {
        result = haul_helper_receive(&helper, fd, error);
        haul_helper_finish(&helper);
    }
    if (plan->memory >= 0) {
        close(plan->memory);
    }
    if (plan->pidfd >= 0) {
        close(plan->pidfd);
    }
    return result;
}

int haul_inject_userfaultfd(int pid, int flags, int *uffd, struct haul_error *error)
{
    struct inject_plan plan = {.pid = pid, .pidfd = -1, .memory = -1, .flags = flags};
    int result = inject(&plan, uffd, error);
    return !result && *uffd < 0 ? haul_error_set(error, EIO, "the helper process sent no userfaultfd")
                                : result;
}

int haul_inject_calls(int pid, const struct haul_injected_call *calls, unsigned count,
                      struct haul_error *error)
{
    struct inject_plan plan = {.pid = pid, .pidfd = -1, .memory = -1, .calls = calls, .call_count = count};
    int none;
    return inject(&plan, &none, error);
}
