/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/migration.h"

#include "engine/clock.h"
#include "engine/disks.h"
#include "engine/holes.h"
#include "engine/snapshot.h"
#include "engine/state.h"
#include "engine/streams.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* A list that names a CPU which cannot be had fails here, before anything is touched or waited for. */
static int check_placement(const struct haul_migration *migration, struct haul_error *error)
{
    struct haul_placement_slot slot;
    struct haul_placement_request request = {
        .policy = migration->placement, .channels = 1, .nic_node = HAUL_NODE_UNKNOWN};
    return haul_placement_plan(migration->topology, &request, &slot, error);
}

static int migration_new(const struct haul_options *options,
                         int (*init)(struct haul_migration *migration, struct haul_error *error),
                         struct haul_migration **migration, struct haul_error *error)
{
    struct haul_migration *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory for a migration");
    }
    pthread_mutex_init(&made->lock, NULL);
    pthread_mutex_init(&made->threads.lock, NULL);
    made->stats.ownership = HAUL_OWNER_SOURCE;
    made->greeting_fd = -1;
    made->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc =
        made->cancel_fd < 0 ? haul_error_set(error, errno, "cannot make an eventfd: %s", strerror(errno)) : 0;
    if (rc == 0) {
        rc = haul_migration_copy_options(made, options, error);
    }
    if (rc == 0) {
        rc = haul_topology_new(HAUL_TOPOLOGY_THIS_MACHINE, NULL, &made->topology, error);
    }
    if (rc == 0) {
        rc = check_placement(made, error);
    }
    if (rc == 0) {
        rc = init(made, error);
    }
    if (rc < 0) {
        haul_free(made);
        return rc;
    }
    *migration = made;
    return 0;
}

int haul_source_new(const struct haul_options *options, struct haul_migration **migration,
                    struct haul_error *error)
{
    return migration_new(options, haul_source_init, migration, error);
}

int haul_destination_new(const struct haul_options *options, struct haul_migration **migration,
                         struct haul_error *error)
{
    return migration_new(options, haul_destination_init, migration, error);
}

/* ---- registration ---- */

static int check_not_started(const struct haul_migration *migration, struct haul_error *error)
{
    return migration->started ? haul_error_set(error, EBUSY, "the migration has already started") : 0;
}

static int check_name(const char *what, const char *name, struct haul_error *error)
{
    size_t length = name ? strlen(name) : 0;
    if (length == 0 || length > HAUL_NAME_MAX) {
        return haul_error_set(error, EINVAL, "a %s name has %zu bytes; it must have 1 to %d", what, length,
                              HAUL_NAME_MAX);
    }
    return 0;
}

int haul_add_ram(struct haul_migration *migration, const struct haul_ram_block *block,
                 struct haul_error *error)
{
    int rc = check_not_started(migration, error);
    if (rc == 0) {
        rc = check_name("RAM block", block->name, error);
    }
    if (rc < 0) {
        return rc;
    }
    bool power_of_two =
        block->page_size >= HAUL_PAGE_SIZE && (block->page_size & (block->page_size - 1)) == 0;
    if (!power_of_two || block->length == 0 || block->length % block->page_size != 0 ||
        (uintptr_t)block->host % HAUL_PAGE_SIZE != 0 || !block->host) {
        return haul_error_set(
            error, EINVAL,
            "RAM block %s: length %llu and page size %u at %p: length must be a multiple of the page "
            "size, that a power of two from 4096, and the address aligned",
            block->name, (unsigned long long)block->length, block->page_size, block->host);
    }
    for (uint32_t i = 0; i < migration->block_count; i++) {
        if (strcmp(migration->blocks[i].name, block->name) == 0) {
            return haul_error_set(error, EEXIST, "RAM block %s is there already", block->name);
        }
    }
    if (migration->block_count == HAUL_BLOCKS_MAX) {
        return haul_error_set(error, ENOSPC, "more than %d RAM blocks", HAUL_BLOCKS_MAX);
    }
    struct haul_block *own = &migration->blocks[migration->block_count++];
    snprintf(own->name, sizeof own->name, "%s", block->name);
    own->host = block->host;
    own->length = block->length;
    own->page_size = block->page_size;
    own->fd = block->fd;
    own->fd_offset = block->fd_offset;
    return 0;
}

int haul_set_tracker(struct haul_migration *migration, const struct haul_tracker_ops *ops, void *opaque,
                     struct haul_error *error)
{
    int rc = check_not_started(migration, error);
    if (rc == 0 && !(ops->name && ops->start && ops->sync && ops->stop)) {
        rc = haul_error_set(error, EINVAL, "a dirty tracker needs name, start, sync and stop");
    }
    if (rc == 0) {
        migration->tracker = ops;
        migration->tracker_opaque = opaque;
    }
    return rc;
}

int haul_set_write_guard(struct haul_migration *migration, const struct haul_write_guard_ops *ops,
                         void *opaque, struct haul_error *error)
{
    int rc = check_not_started(migration, error);
    if (rc == 0 && !(ops->name && ops->protect && ops->release && ops->wait && ops->stop)) {
        rc = haul_error_set(error, EINVAL, "a write guard needs name, protect, release, wait and stop");
    }
    if (rc == 0) {
        migration->guard = ops;
        migration->guard_opaque = opaque;
    }
    return rc;
}

int haul_add_state(struct haul_migration *migration, const struct haul_state_ops *ops, void *opaque,
                   struct haul_error *error)
{
    int rc = check_not_started(migration, error);
    if (rc == 0) {
        rc = check_name("state handler", ops->name, error);
    }
    for (uint32_t i = 0; rc == 0 && i < migration->handler_count; i++) {
        if (strcmp(migration->handlers[i].ops->name, ops->name) == 0) {
            rc = haul_error_set(error, EEXIST, "state handler %s is there already", ops->name);
        }
    }
    if (rc == 0 && migration->handler_count == HAUL_HANDLERS_MAX) {
        rc = haul_error_set(error, ENOSPC, "more than %d state handlers", HAUL_HANDLERS_MAX);
    }
    if (rc == 0) {
        migration->handlers[migration->handler_count++] = (struct haul_handler){.ops = ops, .opaque = opaque};
    }
    return rc;
}

int haul_set_guest(struct haul_migration *migration, const struct haul_guest_ops *ops, void *opaque,
                   struct haul_error *error)
{
    int rc = check_not_started(migration, error);
    if (rc == 0) {
        migration->guest = *ops;
        migration->guest_opaque = opaque;
    }
    return rc;
}

int haul_set_events(struct haul_migration *migration, const struct haul_events *events, void *opaque,
                    struct haul_error *error)
{
    int rc = check_not_started(migration, error);
    if (rc == 0) {
        migration->events = *events;
        migration->events_opaque = opaque;
    }
    return rc;
}

/* ---- life ---- */

/* Undoes a start that failed, so that another may be tried: a port may have been taken. */
static void forget_start(struct haul_migration *migration)
{
    free(migration->views);
    migration->views = NULL;
    free(migration->uri);
    migration->uri = NULL;
    migration->file_path = NULL;
    migration->stats.total = 0;
    migration->stats.disk.total = 0;
    migration->started_ns = 0;
}

int haul_start(struct haul_migration *migration, const char *uri, struct haul_error *error)
{
    int rc = check_not_started(migration, error);
    if (rc == 0 && migration->block_count == 0) {
        rc = haul_error_set(error, EINVAL, "the migration has no RAM block; call haul_add_ram first");
    }
    if (rc == 0) {
        rc = haul_check_uri(uri, migration->destination, error);
    }
    if (rc < 0) {
        return rc;
    }
    migration->view_count = migration->block_count + haul_disks_count(migration);
    migration->views = calloc(migration->view_count, sizeof *migration->views);
    migration->uri = strdup(uri);
    if (!migration->views || !migration->uri) {
        forget_start(migration);
        return haul_error_set(error, ENOMEM, "no memory for the block table");
    }
    for (uint32_t i = 0; i < migration->block_count; i++) {
        rc = rc < 0 ? rc : haul_holes_check(&migration->blocks[i], error);
        migration->views[i].host = migration->blocks[i].host;
        migration->views[i].pages = migration->blocks[i].length / HAUL_PAGE_SIZE;
        migration->stats.total += migration->blocks[i].length;
    }
    haul_disks_views(migration, migration->views + migration->block_count);
    for (uint32_t i = 0; i < haul_disks_count(migration); i++) {
        migration->stats.disk.total += migration->disks->disk[i].size;
    }
    migration->stats.disk.count = haul_disks_count(migration);
    migration->file_path = haul_file_path(migration->uri);
    migration->started_ns = haul_now_ns();
    migration->stats.page_size = HAUL_PAGE_SIZE;
    rc = rc < 0 ? rc : haul_disks_check(migration, error);
    if (rc == 0) {
        rc = migration->source ? haul_source_start(migration, uri, error)
                               : haul_destination_start(migration, uri, error);
    }
    migration->started = rc == 0;
    if (rc < 0) {
        forget_start(migration);
    }
    return rc;
}

int haul_check_uri(const char *uri, bool listening, struct haul_error *error)
{
    const char *path = haul_file_path(uri);
    if (path) {
        return *path ? 0 : haul_error_set(error, EINVAL, "'%s' has no path: a file is file:PATH", uri);
    }
    return haul_uri_check(uri, listening ? HAUL_URI_LISTEN : HAUL_URI_CONNECT, error);
}

bool haul_writes_file(const struct haul_migration *migration)
{
    return migration->source && migration->file_path;
}

enum haul_mode haul_get_mode(const struct haul_migration *migration)
{
    return migration->mode;
}

const char *haul_local_uri(const struct haul_migration *migration)
{
    return migration->destination ? haul_destination_uri(migration) : NULL;
}

int haul_wait(struct haul_migration *migration, struct haul_error *error)
{
    if (!migration->started) {
        return haul_error_set(error, EINVAL, "the migration was not started");
    }
    if (!migration->joined) {
        pthread_join(migration->thread, NULL);
        migration->joined = true;
    }
    if (migration->result < 0 && error) {
        *error = migration->error;
    }
    return migration->result;
}

int haul_cancel(struct haul_migration *migration)
{
    int expected = HAUL_GATE_OPEN;
    /* Pairs with the exchange in haul_migration_commit: one of the two wins. */
    if (!atomic_compare_exchange_strong(&migration->gate, &expected, HAUL_GATE_CANCELLED)) {
        return expected == HAUL_GATE_COMMITTED ? -EALREADY : 0;
    }
    uint64_t one = 1;
    ssize_t written = write(migration->cancel_fd, &one, sizeof one);
    (void)written; /* an eventfd at its limit is readable already */
    pthread_mutex_lock(&migration->lock);
    if (migration->control) {
        haul_control_wake(migration->control);
    }
    if (migration->greeting_fd >= 0) {
        shutdown(migration->greeting_fd, SHUT_RD); /* what is to be said can still be said */
    }
    pthread_mutex_unlock(&migration->lock);
    if (migration->source) {
        haul_streams_abort(migration->streams); /* a hook of the guest's may wait for what they carry */
        haul_source_wake(migration);
    }
    if (migration->destination) {
        haul_destination_wake(migration);
    }
    return 0;
}

void haul_free(struct haul_migration *migration)
{
    if (!migration) {
        return;
    }
    if (migration->started) {
        haul_cancel(migration);
        haul_wait(migration, NULL);
    }
    /* Receivers use the control connection; its reader rings the source's bell: in this order. */
    if (migration->destination) {
        haul_destination_cleanup(migration);
    }
    haul_control_free(migration->control);
    if (migration->source) {
        haul_source_cleanup(migration);
    }
    haul_streams_free(migration->streams);
    haul_migration_close_transport(migration);
    haul_topology_free(migration->topology);
    if (migration->cancel_fd >= 0) {
        close(migration->cancel_fd);
    }
    pthread_mutex_destroy(&migration->threads.lock);
    pthread_mutex_destroy(&migration->lock);
    haul_disks_free(migration);
    free(migration->views);
    free(migration->uri);
    free(migration);
}

/* ---- what the ends share ---- */

int haul_migration_set_state(struct haul_migration *migration, enum haul_state to)
{
    enum haul_state from = (enum haul_state)atomic_load_explicit(&migration->state, memory_order_relaxed);
    if (!haul_state_allowed(from, to)) {
        haul_migration_say(migration, "refused the illegal change of state from %s to %s",
                           haul_state_name(from), haul_state_name(to));
        return -EINVAL;
    }
    pthread_mutex_lock(&migration->lock);
    /* Release: who reads the new state with acquire (haul_get_state) sees what led to it. */
    atomic_store_explicit(&migration->state, (int)to, memory_order_release);
    if (haul_state_ended(to) && migration->ended_ns == 0) {
        migration->ended_ns = haul_now_ns();
    }
    pthread_mutex_unlock(&migration->lock);
    if (migration->events.state) {
        migration->events.state(migration->events_opaque, from, to);
    }
    return 0;
}

void haul_migration_say(struct haul_migration *migration, const char *format, ...)
{
    if (!migration->events.message) {
        return;
    }
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    migration->events.message(migration->events_opaque, text);
}

void haul_say(struct haul_migration *migration, const char *text)
{
    haul_migration_say(migration, "%s", text);
}

int haul_migration_step(struct haul_migration *migration, enum haul_step step, struct haul_error *error)
{
    struct haul_error unheard; /* where the step is no longer to be refused */
    return migration->events.step
               ? migration->events.step(migration->events_opaque, step, error ? error : &unheard)
               : 0;
}

int haul_migration_try_step(struct haul_migration *migration, uint64_t *ns, struct haul_error *error)
{
    uint64_t took[3]; /* the middle one: a disk may be busy for once */
    for (unsigned i = 0; migration->events.step && i < 3; i++) {
        uint64_t begun = haul_now_ns();
        int rc = haul_migration_step(migration, HAUL_STEP_TRIAL, error);
        if (rc < 0) {
            return rc;
        }
        uint64_t now = haul_now_ns() - begun;
        unsigned at = i;
        for (; at > 0 && took[at - 1] > now; at--) {
            took[at] = took[at - 1];
        }
        took[at] = now;
    }
    *ns = migration->events.step ? took[1] : *ns;
    return 0;
}

void haul_migration_guest(struct haul_migration *migration, bool running)
{
    if (migration->events.guest) {
        migration->events.guest(migration->events_opaque, running);
    }
}

bool haul_migration_cancelled(const struct haul_migration *migration)
{
    return atomic_load(&migration->gate) == HAUL_GATE_CANCELLED;
}

int haul_migration_reason(struct haul_migration *migration, struct haul_error *error)
{
    if (haul_migration_cancelled(migration)) {
        return haul_error_set(error, ECANCELED, "cancelled");
    }
    return migration->control ? haul_control_reason(migration->control, HAUL_ASKS_MS, error) : 0;
}

bool haul_migration_commit(struct haul_migration *migration)
{
    int expected = HAUL_GATE_OPEN;
    /* Pairs with the exchange in haul_cancel. */
    return atomic_compare_exchange_strong(&migration->gate, &expected, HAUL_GATE_COMMITTED);
}

void haul_migration_set_control(struct haul_migration *migration, struct haul_control *control)
{
    pthread_mutex_lock(&migration->lock);
    migration->control = control;
    /* A cancel that came before the control connection existed could not wake it. */
    if (haul_migration_cancelled(migration)) {
        haul_control_wake(control);
    }
    pthread_mutex_unlock(&migration->lock);
}

unsigned haul_allowed_cpus(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

void haul_migration_greet(struct haul_migration *migration, int fd)
{
    pthread_mutex_lock(&migration->lock);
    migration->greeting_fd = fd;
    if (fd >= 0 && haul_migration_cancelled(migration)) {
        shutdown(fd, SHUT_RD); /* the cancel came before there was anything to shut down */
    }
    pthread_mutex_unlock(&migration->lock);
}

enum haul_state haul_get_state(const struct haul_migration *migration)
{
    /* Acquire: pairs with the release in haul_migration_set_state. */
    return (enum haul_state)atomic_load_explicit(&migration->state, memory_order_acquire);
}
