/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon's clients may ask of a move at any time, and the answers as JSON. */
#include "tools/daemon/move_fields.h"
#include "tools/daemon/socket_address.h"
#include "tools/session/text.h"

#include <stdlib.h>

#define THREADS_MAX 1024

static const char *const guest_words[GUEST_COUNT] = {
    [PRELAUNCH] = "prelaunch",           [INMIGRATE] = "inmigrate",     [RUNNING] = "running",
    [FINISH_MIGRATE] = "finish-migrate", [POSTMIGRATE] = "postmigrate", [PAUSED] = "paused",
};

enum haul_state haul_move_state(const struct haul_move *move)
{
    return (enum haul_state)atomic_load_explicit(&move->state, memory_order_relaxed);
}

const char *haul_move_guest(const struct haul_move *move)
{
    return guest_words[atomic_load_explicit(&move->guest, memory_order_relaxed)];
}

const char *haul_move_name(const struct haul_move *move)
{
    return move->name;
}

static json_t *json_of(struct haul_move *move, const struct haul_session_snapshot *snapshot)
{
    json_t *json = haul_outcome_json(&snapshot->outcome);
    json_object_set_new(json, "status", json_string(haul_state_name(haul_move_state(move))));
    json_object_set_new(json, "name", json_string(move->name));
    json_object_set_new(json, "uri", haul_text_json(snapshot->outcome.uri));
    if (!snapshot->outcome.source && snapshot->outcome.stats.total) {
        json_object_set_new(json, "socket-address", haul_socket_address_json(snapshot->outcome.uri));
    }
    return json;
}

json_t *haul_move_json(struct haul_move *move)
{
    if (haul_move_state(move) == HAUL_STATE_NONE) {
        return json_pack("{s:s}", "name", move->name); /* QEMU's answer is empty too */
    }
    struct haul_session_snapshot *snapshot = malloc(sizeof *snapshot);
    json_t *json = NULL;
    pthread_mutex_lock(&move->lock);
    if (!move->session) {
        json = json_of(move, &move->last);
    } else if (snapshot) {
        haul_session_snapshot(move->session, snapshot);
        json = json_of(move, snapshot);
    }
    pthread_mutex_unlock(&move->lock);
    free(snapshot);
    return json;
}

struct thread_query {
    json_t *list;
    uint32_t throttle_percent;
};

static int ask(void *opaque, struct haul_migration *migration)
{
    struct thread_query *query = opaque;
    struct haul_stats stats = {0};
    haul_get_stats(migration, &stats);
    query->throttle_percent = stats.throttle_percent;
    struct haul_thread *threads = query->list ? calloc(THREADS_MAX, sizeof *threads) : NULL;
    unsigned count = threads ? haul_threads(migration, threads, THREADS_MAX) : 0;
    for (unsigned i = 0; i < count && i < THREADS_MAX; i++) {
        json_array_append_new(query->list,
                              json_pack("{s:s s:i}", "name", threads[i].name, "thread-id", threads[i].tid));
    }
    free(threads);
    return 0;
}

static void query(struct haul_move *move, struct thread_query *query)
{
    pthread_mutex_lock(&move->lock);
    if (move->session) {
        haul_session_use(move->session, ask, query);
    }
    pthread_mutex_unlock(&move->lock);
}

json_t *haul_move_threads_json(struct haul_move *move)
{
    struct thread_query answer = {.list = json_array()};
    int own = atomic_load_explicit(&move->thread_id, memory_order_relaxed);
    if (own) {
        json_array_append_new(answer.list, json_pack("{s:s s:i}", "name", "move", "thread-id", own));
    }
    query(move, &answer);
    return answer.list;
}

uint32_t haul_move_throttle(struct haul_move *move)
{
    struct thread_query answer = {0};
    query(move, &answer);
    return answer.throttle_percent;
}
