/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/runner.h"

#include "tools/clock.h"
#include "tools/machines/guest/pace.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum request { RUN, PAUSE_NOW, PAUSE_BOUNDARY, END };

struct haul_guest_runner {
    /* written once at creation */
    struct haul_guest_cpu *cpu;
    pthread_t thread;
    /* under the lock */
    pthread_mutex_t lock;
    pthread_cond_t wake;   /* for the runner: the request changed */
    pthread_cond_t paused; /* for the others: the runner paused */
    enum request request;
    bool is_paused;
    uint64_t paused_ns;
    struct haul_guest_pace pace;
    int failed; /* negative errno, and why */
    struct haul_error failure;
    bool at_boundary; /* since the last run, every page is whole */
};

static void fail(struct haul_guest_runner *runner, int result, const struct haul_error *why)
{
    if (!runner->failed) {
        runner->failed = result;
        runner->failure = *why;
    }
}

/* With the lock held; returns with it held once the request changed. */
static void stay_paused(struct haul_guest_runner *runner)
{
    if (!runner->is_paused) {
        struct haul_error why = {0};
        int result = runner->cpu->ops->settle(runner->cpu, &why);
        if (result) {
            fail(runner, result, &why);
        }
        runner->is_paused = true;
        runner->paused_ns = haul_clock_ns();
        pthread_cond_broadcast(&runner->paused);
    }
    pthread_cond_wait(&runner->wake, &runner->lock);
}

/* With the lock held: waits until `wait_ns` passed or a request came. */
static void wait_for_credit(struct haul_guest_runner *runner, uint64_t wait_ns)
{
    uint64_t end = haul_clock_ns() + wait_ns;
    struct timespec until = {.tv_sec = (time_t)(end / 1000000000u), .tv_nsec = (long)(end % 1000000000u)};
    pthread_cond_timedwait(&runner->wake, &runner->lock, &until);
}

/* With the lock held, but not while the cpu runs. */
static void run_once(struct haul_guest_runner *runner, uint32_t pages)
{
    struct haul_error why = {0};
    pthread_mutex_unlock(&runner->lock);
    uint64_t begin = haul_clock_ns();
    int result = runner->cpu->ops->run(runner->cpu, pages, &why);
    uint64_t end = haul_clock_ns();
    pthread_mutex_lock(&runner->lock);
    haul_guest_pace_ran(&runner->pace, begin, end);
    runner->at_boundary = result == HAUL_GUEST_RUN_BOUNDARY;
    if (result < 0) {
        fail(runner, result, &why);
    }
}

static void *runner_main(void *opaque)
{
    struct haul_guest_runner *runner = opaque;
    pthread_setname_np(pthread_self(), "guest");
    pthread_mutex_lock(&runner->lock);
    while (runner->request != END) {
        if (runner->failed || runner->request == PAUSE_NOW ||
            (runner->request == PAUSE_BOUNDARY && runner->at_boundary)) {
            stay_paused(runner);
            continue;
        }
        uint32_t pages = 0;
        if (runner->at_boundary) {
            uint64_t wait_ns;
            pages = haul_guest_pace_take(&runner->pace, haul_clock_ns(), &wait_ns);
            if (!pages) {
                wait_for_credit(runner, wait_ns);
                continue;
            }
        }
        run_once(runner, pages);
    }
    pthread_mutex_unlock(&runner->lock);
    return NULL;
}

/* With the lock held. A cpu that was settled has to find its boundary again. */
static void end_pause(struct haul_guest_runner *runner)
{
    if (runner->is_paused && !runner->failed) {
        runner->is_paused = false;
        runner->at_boundary = false;
        haul_guest_pace_restart(&runner->pace, haul_clock_ns());
    }
}

static void make_request(struct haul_guest_runner *runner, enum request request)
{
    runner->request = request;
    pthread_cond_signal(&runner->wake);
    if (runner->cpu->ops->kick && (request == PAUSE_NOW || request == END)) {
        runner->cpu->ops->kick(runner->cpu, runner->thread);
    }
}

/* All signals are blocked in the new thread: they are the host program's, and the kick is for KVM_RUN only.
 */
static int start_thread(struct haul_guest_runner *runner)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(&runner->thread, NULL, runner_main, runner);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

int haul_guest_runner_new(struct haul_guest_cpu *cpu, uint64_t bytes_per_s, struct haul_guest_runner **runner,
                          struct haul_error *error)
{
    struct haul_guest_runner *self = calloc(1, sizeof *self);
    if (!self) {
        return haul_error_set(error, ENOMEM, "no memory for the guest's runner");
    }
    self->cpu = cpu;
    self->request = PAUSE_NOW;
    self->is_paused = true;
    haul_guest_pace_init(&self->pace, bytes_per_s, haul_clock_ns());
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->paused, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&self->wake, &attributes);
    pthread_condattr_destroy(&attributes);

    int result = start_thread(self);
    if (result) {
        pthread_cond_destroy(&self->wake);
        pthread_cond_destroy(&self->paused);
        pthread_mutex_destroy(&self->lock);
        free(self);
        return haul_error_set(error, result, "cannot start the guest's thread: %s", strerror(result));
    }
    *runner = self;
    return 0;
}

void haul_guest_runner_free(struct haul_guest_runner *runner)
{
    if (!runner) {
        return;
    }
    pthread_mutex_lock(&runner->lock);
    make_request(runner, END);
    pthread_mutex_unlock(&runner->lock);
    pthread_join(runner->thread, NULL);
    pthread_cond_destroy(&runner->wake);
    pthread_cond_destroy(&runner->paused);
    pthread_mutex_destroy(&runner->lock);
    free(runner);
}

int haul_guest_runner_pause(struct haul_guest_runner *runner, enum haul_guest_pause where,
                            uint64_t *paused_ns, struct haul_error *error)
{
    pthread_mutex_lock(&runner->lock);
    make_request(runner, where == HAUL_GUEST_PAUSE_NOW ? PAUSE_NOW : PAUSE_BOUNDARY);
    if (where == HAUL_GUEST_PAUSE_BOUNDARY && !runner->at_boundary) {
        end_pause(runner);
    }
    while (!runner->is_paused) {
        pthread_cond_wait(&runner->paused, &runner->lock);
    }
    int result = runner->failed;
    if (paused_ns) {
        *paused_ns = runner->paused_ns;
    }
    if (result && error) {
        *error = runner->failure;
    }
    pthread_mutex_unlock(&runner->lock);
    return result;
}

void haul_guest_runner_resume(struct haul_guest_runner *runner)
{
    pthread_mutex_lock(&runner->lock);
    end_pause(runner);
    make_request(runner, RUN);
    pthread_mutex_unlock(&runner->lock);
}

void haul_guest_runner_throttle(struct haul_guest_runner *runner, unsigned percent)
{
    pthread_mutex_lock(&runner->lock);
    runner->pace.percent = percent > 99 ? 99 : percent;
    runner->pace.idle_until_ns = 0;
    pthread_cond_signal(&runner->wake);
    if (runner->cpu->ops->kick && !runner->is_paused) {
        runner->cpu->ops->kick(runner->cpu, runner->thread); /* it idles for what it ran, from now on */
    }
    pthread_mutex_unlock(&runner->lock);
}

bool haul_guest_runner_runs(struct haul_guest_runner *runner)
{
    pthread_mutex_lock(&runner->lock);
    bool runs = !runner->failed && runner->request == RUN;
    pthread_mutex_unlock(&runner->lock);
    return runs;
}
