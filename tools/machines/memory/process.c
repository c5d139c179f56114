/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/memory/process.h"

#include "tools/clock.h"
#include "tools/machines/machine.h"
#include "tools/machines/memory/guardian.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STOP_TIMEOUT_NS 10000000000ull
#define POLL_NS 200000L

struct haul_process {
    int pid;
    int pidfd; /* signals reach this process or none, also when its PID is used again */
    uint64_t start_time;
    bool stopped; /* by us */
    bool kept;    /* stopped for good: only resume and continue end it */
    struct haul_memory_guardian guardian;
};

static int gone(const struct haul_process *process, struct haul_error *error)
{
    return haul_error_set(error, ESRCH, "process %d is gone", process->pid);
}

static int send(const struct haul_process *process, int signal, struct haul_error *error)
{
    if (syscall(SYS_pidfd_send_signal, process->pidfd, signal, NULL, 0)) {
        return errno == ESRCH ? gone(process, error)
                              : haul_error_set(error, errno, "cannot send %s to process %d: %s",
                                               sigabbrev_np(signal), process->pid, strerror(errno));
    }
    return 0;
}

/* ---- threads ------------------------------------------------------------------------------------------ */

/* Reads a stat file up to the fields after the name, which may hold anything. */
static bool read_stat(const char *path, char *state, uint64_t *start_time)
{
    char text[1024];
    FILE *file = fopen(path, "re");
    size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) {
        fclose(file);
    }
    text[length] = '\0';
    const char *fields = strrchr(text, ')');
    if (!fields || fields[1] != ' ') {
        return false;
    }
    *state = fields[2];
    /* `fields` starts field 3; the start time is field 22. */
    const char *field = fields + 2;
    for (unsigned i = 3; field && i < 22; i++) {
        field = strchr(field, ' ');
        field = field ? field + 1 : NULL;
    }
    *start_time = field ? strtoull(field, NULL, 10) : 0;
    return true;
}

struct threads {
    unsigned count;   /* that have not ended */
    unsigned stopped; /* of them, by a signal */
    int running;      /* one that is not stopped; 0: all are */
    char state;       /* of that one */
};

static void look_at_thread(int pid, const char *name, struct threads *threads)
{
    char path[64], state = 'X';
    uint64_t start_time;
    snprintf(path, sizeof path, "/proc/%d/task/%.16s/stat", pid, name);
    if (!read_stat(path, &state, &start_time) || strchr("XZ", state)) {
        return;
    }
    threads->count++;
    threads->stopped += state == 'T';
    if (!strchr("Tt", state)) {
        threads->running = (int)strtol(name, NULL, 10);
        threads->state = state;
    }
}

static int look_at_threads(const struct haul_process *process, struct threads *threads,
                           struct haul_error *error)
{
    *threads = (struct threads){0};
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", process->pid);
    DIR *tasks = opendir(path);
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        if (entry->d_name[0] != '.') {
            look_at_thread(process->pid, entry->d_name, threads);
        }
    }
    if (tasks) {
        closedir(tasks);
    }
    return threads->count ? 0 : gone(process, error);
}

/*
 * Whether all threads are stopped, and none was started meanwhile: a thread that a running one started behind
 * the first look's back shows in the second, since by then those that the first look saw could start no more.
 */
static int look_twice(const struct haul_process *process, struct threads *threads, struct haul_error *error)
{
    struct threads first;
    int result = look_at_threads(process, &first, error);
    if (!result) {
        result = look_at_threads(process, threads, error);
    }
    if (!result && first.running && !threads->running) {
        threads->running = first.running;
        threads->state = first.state;
    }
    return result;
}

/* ---- calls -------------------------------------------------------------------------------------------- */

int haul_process_open(int pid, struct haul_process **process, struct haul_error *error)
{
    if (pid == getpid()) {
        return haul_error_set(error, EINVAL, "process %d is haul itself, which cannot stop itself", pid);
    }
    struct haul_process *self = calloc(1, sizeof *self);
    if (!self) {
        return haul_error_set(error, ENOMEM, "no memory to watch process %d", pid);
    }
    self->pid = pid;
    haul_memory_guardian_init(&self->guardian);
    self->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct threads threads;
    char path[64], state;
    int result = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (self->pidfd < 0 || !read_stat(path, &state, &self->start_time)) {
        result = haul_error_set(error, ESRCH, "there is no process %d", pid);
    } else if (syscall(SYS_pidfd_send_signal, self->pidfd, 0, NULL, 0)) {
        result =
            haul_error_set(error, errno, "process %d may not be stopped by this user (%s): run haul as root",
                           pid, strerror(errno));
    } else if (!(result = look_at_threads(self, &threads, error))) {
        result = haul_memory_guardian_start(&self->guardian, self->pidfd, error);
    }
    if (result) {
        haul_process_close(self);
        return result;
    }
    *process = self;
    return 0;
}

void haul_process_close(struct haul_process *process)
{
    if (!process) {
        return;
    }
    if (!process->kept) {
        haul_process_resume(process, NULL);
    }
    haul_memory_guardian_end(&process->guardian);
    if (process->pidfd >= 0) {
        close(process->pidfd);
    }
    free(process);
}

int haul_process_pid(const struct haul_process *process)
{
    return process->pid;
}

uint64_t haul_process_start_time(const struct haul_process *process)
{
    return process->start_time;
}

static int wait_until_stopped(struct haul_process *process, struct threads *threads, struct haul_error *error)
{
    uint64_t deadline = haul_clock_ns() + STOP_TIMEOUT_NS;
    for (;;) {
        int result = look_twice(process, threads, error);
        if (result || !threads->running) {
            return result;
        }
        if (!process->stopped && !threads->stopped) {
            return 0; /* somebody let it on again */
        }
        if (haul_clock_ns() >= deadline) {
            return haul_error_set(
                error, ETIMEDOUT,
                "thread %d of process %d did not stop within 10 s (state %c): it waits in the kernel; "
                "look at /proc/%d/stack",
                threads->running, process->pid, threads->state, threads->running);
        }
        nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
}

int haul_process_stop(struct haul_process *process, struct haul_error *error)
{
    struct threads threads;
    int result = look_twice(process, &threads, error);
    if (!result && threads.running && threads.stopped) {
        result =
            wait_until_stopped(process, &threads, error); /* somebody's signal has not reached all of them */
    }
    if (result || !threads.running) {
        return result; /* stopped by somebody else: theirs to let on */
    }
    /* The guardian first: dying in between then costs a needless SIGCONT, not a process that is stopped for
     * ever. */
    result = haul_memory_guardian_arm(&process->guardian, error);
    if (result) {
        return result;
    }
    process->stopped = true;
    result = send(process, SIGSTOP, error);
    if (!result) {
        result = wait_until_stopped(process, &threads, error);
    }
    if (result) {
        haul_process_resume(process, NULL);
    }
    return result;
}

bool haul_process_ended(const struct haul_process *process)
{
    return haul_machine_process_ended(process->pid, process->pidfd);
}

int haul_process_resume(struct haul_process *process, struct haul_error *error)
{
    if (haul_process_ended(process)) {
        return gone(process, error);
    }
    if (!process->stopped) {
        return 0;
    }
    int result = send(process, SIGCONT, error);
    if (result) {
        return result; /* still stopped, and the guardian armed */
    }
    process->stopped = process->kept = false;
    haul_memory_guardian_disarm(&process->guardian);
    return 0;
}

int haul_process_keep_stopped(struct haul_process *process, struct haul_error *error)
{
    struct threads threads;
    int result = look_twice(process, &threads, error);
    if (result) {
        return result;
    }
    if (threads.running) {
        return haul_error_set(
            error, EBUSY,
            "somebody let process %d run on while haul had it stopped: find out who sends it SIGCONT",
            process->pid);
    }
    haul_memory_guardian_disarm(&process->guardian);
    process->kept = true;
    return 0;
}

int haul_process_continue(struct haul_process *process, struct haul_error *error)
{
    process->stopped = process->kept = false;
    haul_memory_guardian_disarm(&process->guardian);
    return send(process, SIGCONT, error);
}
