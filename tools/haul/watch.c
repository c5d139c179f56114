/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/watch.h"

#include "tools/clock.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct cli_watch {
    struct cli_progress *progress;
    int signal_fd;
    int stop_fd;      /* eventfd: the thread shall end */
    int interrupt_fd; /* eventfd: one for each signal, read by cli_watch_sleep */
    pthread_t thread;
    bool started;
    _Atomic bool interrupted; /* only ever set; read alone, so relaxed */
    pthread_mutex_t mutex;    /* guards the rest; held while the migration is used */
    struct haul_migration *migration;
    const char *gist;
    int (*cancel_start)(void *opaque); /* before there is a migration to cancel; or NULL */
    void *opaque;
};

static void fill_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

void cli_watch_block_signals(void)
{
    sigset_t set;
    fill_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* With the mutex held. */
static void cancel(struct cli_watch *watch)
{
    int status = haul_cancel(watch->migration);
    if (status == -EALREADY) {
        cli_progress_message(watch->progress, true,
                             "too late to cancel: the guest is being handed over; waiting for the end");
    } else if (status == 0) {
        cli_progress_message(watch->progress, true, "cancelling; %s", watch->gist);
    }
}

static void take_signal(struct cli_watch *watch)
{
    struct signalfd_siginfo info;
    if (read(watch->signal_fd, &info, sizeof info) != sizeof info) {
        return;
    }
    atomic_store_explicit(&watch->interrupted, true, memory_order_relaxed);
    uint64_t one = 1;
    if (write(watch->interrupt_fd, &one, sizeof one) < 0) {
        return; /* only when 2^64 signals wait */
    }
    pthread_mutex_lock(&watch->mutex);
    if (watch->migration) {
        cancel(watch);
    } else if (watch->cancel_start) {
        watch->cancel_start(watch->opaque);
    }
    pthread_mutex_unlock(&watch->mutex);
}

static void show(struct cli_watch *watch)
{
    pthread_mutex_lock(&watch->mutex);
    if (watch->migration) {
        struct haul_stats stats = {0};
        haul_get_stats(watch->migration, &stats);
        cli_progress_show(watch->progress, &stats, haul_clock_ns());
    }
    pthread_mutex_unlock(&watch->mutex);
}

static void *watch_thread(void *opaque)
{
    struct cli_watch *watch = opaque;
    uint64_t interval = cli_progress_interval_ms(watch->progress) * UINT64_C(1000000);
    uint64_t next = haul_clock_ns() + interval;
    struct pollfd fds[] = {{watch->stop_fd, POLLIN, 0}, {watch->signal_fd, POLLIN, 0}};
    pthread_setname_np(pthread_self(), "watch");
    for (;;) {
        uint64_t now = haul_clock_ns();
        if (now >= next) {
            show(watch);
            next = now + interval;
        }
        int ready = poll(fds, 2, (int)((next - now) / 1000000) + 1);
        if (ready > 0 && fds[0].revents) {
            return NULL;
        }
        if (ready > 0 && fds[1].revents) {
            take_signal(watch);
        }
    }
}

int cli_watch_new(struct cli_progress *progress, struct cli_watch **result, struct haul_error *error)
{
    struct cli_watch *watch = calloc(1, sizeof *watch);
    if (!watch) {
        return haul_error_set(error, ENOMEM, "no memory to watch for signals");
    }
    sigset_t set;
    fill_signals(&set);
    pthread_mutex_init(&watch->mutex, NULL);
    watch->progress = progress;
    watch->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    watch->stop_fd = eventfd(0, EFD_CLOEXEC);
    watch->interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int failure = 0;
    if (watch->signal_fd < 0 || watch->stop_fd < 0 || watch->interrupt_fd < 0) {
        failure = errno;
    } else {
        failure = pthread_create(&watch->thread, NULL, watch_thread, watch);
        watch->started = failure == 0;
    }
    if (failure) {
        cli_watch_free(watch);
        errno = failure;
        return haul_error_set(error, failure, "the thread that watches for signals cannot start: %m");
    }
    *result = watch;
    return 0;
}

void cli_watch_set_start(struct cli_watch *watch, int (*cancel_start)(void *opaque), void *opaque)
{
    pthread_mutex_lock(&watch->mutex);
    watch->cancel_start = cancel_start;
    watch->opaque = opaque;
    if (cancel_start && cli_watch_interrupted(watch)) {
        cancel_start(opaque);
    }
    pthread_mutex_unlock(&watch->mutex);
}

void cli_watch_set_migration(struct cli_watch *watch, struct haul_migration *migration, const char *gist)
{
    pthread_mutex_lock(&watch->mutex);
    watch->migration = migration;
    watch->gist = gist;
    if (migration && cli_watch_interrupted(watch)) {
        cancel(watch);
    }
    pthread_mutex_unlock(&watch->mutex);
}

bool cli_watch_interrupted(const struct cli_watch *watch)
{
    return atomic_load_explicit(&watch->interrupted, memory_order_relaxed);
}

int cli_watch_interrupt_fd(const struct cli_watch *watch)
{
    return watch->interrupt_fd;
}

int cli_watch_sleep(struct cli_watch *watch, int fd, int timeout_ms)
{
    struct pollfd fds[] = {{watch->interrupt_fd, POLLIN, 0}, {fd, POLLIN, 0}};
    int ready = poll(fds, 2, timeout_ms);
    uint64_t count;
    if (ready > 0 && fds[0].revents && read(watch->interrupt_fd, &count, sizeof count) > 0) {
        return -EINTR;
    }
    return ready > 0 && fds[1].revents ? 1 : 0;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void cli_watch_free(struct cli_watch *watch)
{
    if (!watch) {
        return;
    }
    if (watch->started) {
        uint64_t one = 1;
        if (write(watch->stop_fd, &one, sizeof one) == sizeof one) {
            pthread_join(watch->thread, NULL);
        }
    }
    close_fd(watch->signal_fd);
    close_fd(watch->stop_fd);
    close_fd(watch->interrupt_fd);
    pthread_mutex_destroy(&watch->mutex);
    free(watch);
}
