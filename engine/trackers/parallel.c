/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/parallel.h"

#include "channels/thread_list.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

struct job {
    unsigned items;
    haul_parallel_step *step;
    void *opaque;
    _Atomic unsigned next; /* the next item to claim; relaxed: the join orders the results */
    _Atomic bool failed;   /* relaxed: a hint to claim no more, and who of several sets `error` */
    int result;            /* of the first that failed; read after the join */
    struct haul_error error;
};

struct worker {
    struct job *job;
    unsigned number;
    pthread_t thread;
};

static void work(struct job *job, unsigned number)
{
    while (!atomic_load_explicit(&job->failed, memory_order_relaxed)) {
        unsigned item = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (item >= job->items) {
            return;
        }
        struct haul_error error = {0};
        int result = job->step(job->opaque, item, number, &error);
        if (result && !atomic_exchange_explicit(&job->failed, true, memory_order_relaxed)) {
            job->result = result;
            job->error = error;
        }
    }
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    pthread_setname_np(pthread_self(), "dirty-scan");
    work(worker->job, worker->number);
    return NULL;
}

unsigned haul_parallel_workers(unsigned items)
{
    cpu_set_t cpus;
    unsigned workers = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? (unsigned)CPU_COUNT(&cpus) : 1;
    workers = workers < items ? workers : items;
    workers = workers < HAUL_PARALLEL_MAX ? workers : HAUL_PARALLEL_MAX;
    return workers > 0 ? workers : 1;
}

int haul_parallel_run(unsigned items, unsigned workers, haul_parallel_step *step, void *opaque,
                      struct haul_error *error)
{
    struct job job = {.items = items, .step = step, .opaque = opaque};
    struct worker helpers[HAUL_PARALLEL_MAX - 1];
    unsigned started = 0;
    while (started + 1 < workers) {
        struct worker *helper = &helpers[started];
        *helper = (struct worker){.job = &job, .number = started + 1};
        if (haul_thread_start(&helper->thread, worker_main, helper) != 0) {
            break;
        }
        started++;
    }
    work(&job, 0);
    for (unsigned i = 0; i < started; i++) {
        pthread_join(helpers[i].thread, NULL);
    }
    if (job.result && error) {
        *error = job.error;
    }
    return job.result;
}
