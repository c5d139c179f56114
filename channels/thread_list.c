/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/thread_list.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int haul_thread_start(pthread_t *thread, void *(*run)(void *), void *opaque)
{
    /* What a thread does itself still reaches the application's handlers, which may report a crash. */
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t others, before;
    sigfillset(&others);
    for (unsigned i = 0; i < sizeof own / sizeof own[0]; i++) {
        sigdelset(&others, own[i]);
    }
    /* A new thread inherits the mask of its creator. */
    int code = pthread_sigmask(SIG_SETMASK, &others, &before);
    if (code != 0) {
        return -code;
    }
    code = pthread_create(thread, NULL, run, opaque);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -code;
}

void haul_thread_enter(struct haul_thread_list *list, struct haul_thread_entry *entry, const char *name,
                       int index)
{
    if (index == HAUL_THREAD_ALONE) {
        snprintf(entry->name, sizeof entry->name, "%s", name);
    } else {
        snprintf(entry->name, sizeof entry->name, "%s_%d", name, index);
    }
    pthread_setname_np(pthread_self(), entry->name);
    if (!list) {
        return;
    }
    entry->tid = (int)syscall(SYS_gettid);
    pthread_mutex_lock(&list->lock);
    struct haul_thread_entry **place = &list->first;
    while (*place && strverscmp((*place)->name, entry->name) <= 0) {
        place = &(*place)->next;
    }
    entry->next = *place;
    *place = entry;
    pthread_mutex_unlock(&list->lock);
}

void haul_thread_leave(struct haul_thread_list *list, struct haul_thread_entry *entry)
{
    if (!list) {
        return;
    }
    pthread_mutex_lock(&list->lock);
    struct haul_thread_entry **place = &list->first;
    while (*place != entry) {
        place = &(*place)->next;
    }
    *place = entry->next;
    pthread_mutex_unlock(&list->lock);
}

void haul_thread_each(struct haul_thread_list *list,
                      void (*visit)(void *opaque, const struct haul_thread_entry *entry), void *opaque)
{
    pthread_mutex_lock(&list->lock);
    for (const struct haul_thread_entry *entry = list->first; entry; entry = entry->next) {
        visit(opaque, entry);
    }
    pthread_mutex_unlock(&list->lock);
}
