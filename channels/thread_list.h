/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_THREAD_LIST_H
#define HAUL_CHANNELS_THREAD_LIST_H

/*
 * How the library's threads start, and the live ones of one migration, whoever started them. A thread names
 * itself and enters the list as its first act, and leaves it as its last; its entry lies on its own stack, so
 * nothing is allocated.
 */

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_THREAD_NAME_SIZE 16 /* the kernel's limit, with the final NUL */
#define HAUL_THREAD_ALONE (-1)   /* index of a thread that is the only one of its kind */

struct haul_thread_entry {
    struct haul_thread_entry *next;
    char name[HAUL_THREAD_NAME_SIZE];
    int tid;
};

/* A zeroed list is a valid empty one. */
struct haul_thread_list {
    pthread_mutex_t lock;
    struct haul_thread_entry *first; /* in the order of their names, "x_2" before "x_10" */
};

/*
 * haul_thread_start starts a thread that takes no signals but those for what it does itself (SIGSEGV,
 * SIGBUS): the others are the application's, and its handlers must not run on a thread that it does not know.
 * 0 or a negative errno.
 */
int haul_thread_start(pthread_t *thread, void *(*run)(void *), void *opaque);

/*
 * haul_thread_enter names the calling thread NAME, or NAME_INDEX, and puts it on `list`; NULL: on none.
 * haul_thread_leave takes it off again, and must come before the thread's function returns.
 */
void haul_thread_enter(struct haul_thread_list *list, struct haul_thread_entry *entry, const char *name,
                       int index);
void haul_thread_leave(struct haul_thread_list *list, struct haul_thread_entry *entry);

/* haul_thread_each calls `visit` for every thread on the list in the order of their names, under its lock.
 * Any thread. */
void haul_thread_each(struct haul_thread_list *list,
                      void (*visit)(void *opaque, const struct haul_thread_entry *entry), void *opaque);

#ifdef __cplusplus
}
#endif
#endif
