/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/freeze.h"

#include "engine/trackers/proc_pid.h"
#include "engine/trackers/tracee.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_THREADS 1024
#define STOP_TIMEOUT_MS 1000

struct freeze_plan {
    int pid;
    int except; /* a thread that goes on; 0: none */
    unsigned count;
    int stopped[MAX_THREADS];
};

/* ---- in the helper: no allocation --------------------------------------------------------------------- */

struct directory_entry {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

static bool has_ended(int pid, int tid)
{
    char name[64], text[512];
    snprintf(name, sizeof name, "/proc/%d/task/%d/stat", pid, tid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) {
        close(fd);
    }
    text[length > 0 ? length : 0] = '\0';
    const char *end = strrchr(text, ')'); /* of the name, which may hold anything */
    return !end || end[1] == '\0' || end[2] == 'Z' || end[2] == 'X';
}

/* Seizes one thread if it is new. Returns 1 for a new one, 0 for a known or ended one, or a negative errno.
 */
static int seize(struct freeze_plan *plan, int tid, struct haul_error *error)
{
    for (unsigned i = 0; i < plan->count; i++) {
        if (plan->stopped[i] == tid) {
            return 0;
        }
    }
    if (tid == plan->except) {
        return 0;
    }
    if (plan->count == MAX_THREADS) {
        return haul_error_set(error, E2BIG, "process %d has more than %d threads", plan->pid, MAX_THREADS);
    }
    int failure = haul_tracee_interrupt(tid);
    if (failure && has_ended(plan->pid, tid)) {
        return 0;
    }
    if (failure) {
        return haul_error_set(
            error, -failure, "cannot stop thread %d of process %d: %s%s", tid, plan->pid, strerror(-failure),
            failure == -EPERM ? " (it is traced already, belongs to the kernel, or haul lacks "
                                "CAP_SYS_PTRACE)"
                              : "");
    }
    plan->stopped[plan->count++] = tid;
    return 1;
}

/* Seizes all threads that the process has now. Returns how many were new, or a negative errno. */
static int seize_all(struct freeze_plan *plan, struct haul_error *error)
{
    char name[64];
    _Alignas(struct directory_entry) char buffer[8192];
    snprintf(name, sizeof name, "/proc/%d/task", plan->pid);
    int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return haul_error_set(error, ESRCH, "process %d has exited", plan->pid);
    }
    int seized = 0, result = 0;
    long length;
    while (result >= 0 && (length = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0) {
        for (long at = 0; result >= 0 && at < length;) {
            struct directory_entry *entry = (struct directory_entry *)(buffer + at);
            at += entry->length;
            int tid = haul_proc_pid(entry->name);
            result = tid > 0 ? seize(plan, tid, error) : 0;
            seized += result > 0;
        }
    }
    close(fd);
    return result < 0 ? result : seized;
}

static int stop_all(struct freeze_plan *plan, struct haul_error *error)
{
    unsigned waited = 0;
    for (;;) {
        int seized = seize_all(plan, error);
        if (seized <= 0) {
            return seized; /* a pass that finds no new thread while all others stand still */
        }
        for (; waited < plan->count; waited++) {
            int failure = haul_tracee_wait(plan->stopped[waited], STOP_TIMEOUT_MS);
            if (failure && failure != -ESRCH) {
                return haul_error_set(error, -failure, "thread %d of process %d does not stop: %s",
                                      plan->stopped[waited], plan->pid, strerror(-failure));
            }
        }
    }
}

static void freeze_work(void *opaque, int socket)
{
    struct freeze_plan *plan = opaque;
    struct haul_error outcome = {0};
    char go;
    if (recv(socket, &go, sizeof go, 0) != 1) {
        return;
    }
    stop_all(plan, &outcome);
    haul_helper_reply(socket, &outcome, -1);
    if (!outcome.code) {
        haul_helper_wait_close(socket);
    }
}

/* ---- in our process ----------------------------------------------------------------------------------- */

int haul_freeze_begin(struct haul_freeze *freeze, int pid, struct haul_error *error)
{
    struct freeze_plan plan = {.pid = pid ? pid : getpid(), .except = pid ? 0 : (int)gettid()};
    int result = haul_helper_start(&freeze->helper, freeze_work, &plan, NULL, 0, error);
    if (result) {
        return result;
    }
    if (!pid) {
        prctl(PR_SET_PTRACER, freeze->helper.pid); /* where Yama keeps a child from tracing its parent */
    }
    (void)!send(freeze->helper.socket, "", 1, MSG_NOSIGNAL); /* a helper that is gone shows in the answer */
    result = haul_helper_receive(&freeze->helper, NULL, error);
    if (result) {
        haul_freeze_end(freeze);
    }
    return result;
}

void haul_freeze_end(struct haul_freeze *freeze)
{
    haul_helper_finish(&freeze->helper);
}
