/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who runs first, where there are fewer CPUs than threads. The fault thread comes before everybody: the guest
 * waits for it. The writers are modest, they come after everybody: a vCPU that was let go on gets its CPU at
 * once, not when a time slice of theirs ends, which is some milliseconds later. They are modest no longer
 * when that keeps them from working, or when the fault thread runs out of slots. Once they had enough they
 * are modest again, in the first case not at once and each time later: what kept them from working is likely
 * to be there still.
 */
#include "engine/background/background.h"

#include "engine/clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NICE (-20)
#define WINDOW_NS 90000000u /* a look that comes sooner tells nothing */
#define STARVED 5u          /* a writer that wants a CPU gets less than this part of one */
#define SLOTS_LEFT 8u       /* no more than this part of all slots is free */

static id_t this_thread(void)
{
    return (id_t)syscall(SYS_gettid);
}

/* Who makes a thread modest must be able to take it back, which takes the same right as a lower nice value.
 */
void haul_bg_priority_init(struct haul_bg_priority *priority)
{
    int nice = getpriority(PRIO_PROCESS, this_thread());
    pthread_mutex_init(&priority->lock, NULL);
    atomic_store_explicit(&priority->modest, false, memory_order_relaxed);
    priority->changeable = sched_getscheduler(0) == SCHED_OTHER && nice > NICE &&
                           setpriority(PRIO_PROCESS, this_thread(), nice - 1) == 0;
    if (priority->changeable) {
        setpriority(PRIO_PROCESS, this_thread(), nice);
    }
}

void haul_bg_priority_faults(void)
{
    /* Below any other real-time thread. Its work is bounded: each page is copied once. */
    const struct sched_param lowest = {.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_FIFO, &lowest) < 0) {
        setpriority(PRIO_PROCESS, this_thread(), NICE);
    }
}

/* Under the lock. */
static void set_writers(struct haul_background *background, bool modest)
{
    const struct sched_param none = {0};
    for (unsigned i = 0; i < background->writer_count; i++) {
        if (background->writers[i].started) {
            pthread_setschedparam(background->writers[i].thread, modest ? SCHED_IDLE : SCHED_OTHER, &none);
        }
    }
    atomic_store_explicit(&background->priority.modest, modest, memory_order_relaxed);
}

static bool is_modest(struct haul_bg_priority *priority)
{
    return atomic_load_explicit(&priority->modest, memory_order_relaxed);
}

/* Not before the fault thread is about to wait for a slot: until then nobody but the writers gains by it, and
 * the vCPU waits for their time slices. */
static bool short_of_slots(struct haul_background *background)
{
    uint32_t count = background->pool.count;
    return haul_bg_pool_filled(&background->pool) >= count - count / SLOTS_LEFT;
}

void haul_bg_priority_hurry(struct haul_background *background)
{
    struct haul_bg_priority *priority = &background->priority;
    if (is_modest(priority) && short_of_slots(background)) {
        pthread_mutex_lock(&priority->lock);
        if (!priority->over) {
            set_writers(background, false);
        }
        pthread_mutex_unlock(&priority->lock);
    }
}

/* Whether a thread wants a CPU, rather than to sleep or for the disk. */
static bool runnable(int tid)
{
    char path[64];
    char state = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    FILE *file = fopen(path, "re");
    if (!file) {
        return true;
    }
    int found = fscanf(file, "%*d (%*[^)]) %c", &state);
    fclose(file);
    return found != 1 || state == 'R';
}

/* A sample of the writer's state says whether what it got since the last look is what it wanted. */
static bool starved(struct haul_bg_priority *priority, struct haul_bg_writer *writer, uint64_t passed_ns)
{
    clockid_t clock;
    struct timespec used;
    if (!writer->started || pthread_getcpuclockid(writer->thread, &clock) != 0 ||
        clock_gettime(clock, &used) < 0) {
        return false;
    }
    uint64_t now = (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
    uint64_t before = priority->used_ns[writer->index];
    priority->used_ns[writer->index] = now;
    return now - before < passed_ns / STARVED &&
           runnable(atomic_load_explicit(&writer->account.tid, memory_order_relaxed));
}

void haul_bg_priority_look(struct haul_background *background)
{
    struct haul_bg_priority *priority = &background->priority;
    uint64_t now = haul_now_ns();
    uint64_t passed = now - priority->looked_ns;
    if (!priority->changeable || passed < WINDOW_NS) {
        return;
    }
    bool any_starved = false;
    for (unsigned i = 0; i < background->writer_count; i++) {
        any_starved = starved(priority, &background->writers[i], passed) || any_starved;
    }
    priority->looked_ns = now;
    pthread_mutex_lock(&priority->lock);
    bool may = haul_patience_look(&priority->patience, is_modest(priority), any_starved);
    set_writers(background, may && !short_of_slots(background));
    pthread_mutex_unlock(&priority->lock);
}

void haul_bg_priority_begin(struct haul_background *background)
{
    struct haul_bg_priority *priority = &background->priority;
    if (priority->changeable) {
        pthread_mutex_lock(&priority->lock);
        set_writers(background, true);
        pthread_mutex_unlock(&priority->lock);
    }
}

void haul_bg_priority_end(struct haul_background *background)
{
    struct haul_bg_priority *priority = &background->priority;
    pthread_mutex_lock(&priority->lock);
    if (is_modest(priority)) {
        set_writers(background, false);
    }
    priority->over = true;
    pthread_mutex_unlock(&priority->lock);
}
