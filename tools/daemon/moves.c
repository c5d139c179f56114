/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/daemon/moves.h"

#include <errno.h>
#include <string.h>

int haul_moves_change(struct haul_moves *moves, struct haul_qmp_failure *failure)
{
    pthread_mutex_lock(&moves->lock);
    if (!moves->closed) {
        return 0;
    }
    pthread_mutex_unlock(&moves->lock);
    return haul_qmp_fail(failure, ESHUTDOWN, "The daemon is ending");
}

void haul_moves_changed(struct haul_moves *moves)
{
    pthread_mutex_unlock(&moves->lock);
}

void haul_moves_close(struct haul_moves *moves, const char *reason)
{
    pthread_mutex_lock(&moves->lock);
    bool was_closed = moves->closed;
    moves->closed = true;
    pthread_mutex_unlock(&moves->lock);
    if (!was_closed) {
        moves->event(moves->opaque, "SHUTDOWN", json_pack("{s:b s:s}", "guest", 0, "reason", reason));
    }
}

int haul_moves_find(const struct haul_moves *moves, const char *name, struct haul_move **move,
                    struct haul_qmp_failure *failure)
{
    *move = NULL;
    if (!name) {
        if (moves->count > 1) {
            return haul_qmp_fail(failure, EINVAL,
                                 "Parameter 'name' is missing: there are %u migrations, see query-migrations",
                                 moves->count);
        }
        *move = moves->list[0];
        return 0;
    }
    for (unsigned i = 0; i < moves->count; i++) {
        if (strcmp(haul_move_name(moves->list[i]), name) == 0) {
            *move = moves->list[i];
            return 0;
        }
    }
    return haul_qmp_fail(failure, ENOENT, "There is no migration '%.64s'", name);
}

int haul_moves_obtain(struct haul_moves *moves, const char *name, struct haul_move **move,
                      struct haul_qmp_failure *failure)
{
    int status = haul_moves_find(moves, name, move, failure);
    if (*move || (status < 0 && status != -ENOENT)) {
        return status;
    }
    if (moves->count == HAUL_MOVES_MAX) {
        return haul_qmp_fail(failure, ENOSPC,
                             "There are %d migrations, the most that a daemon keeps: migrate-forget one that "
                             "has ended",
                             HAUL_MOVES_MAX);
    }
    status =
        haul_move_new(name ? name : HAUL_MOVES_DEFAULT, moves->event, moves->opaque, move, &failure->error);
    if (status == 0) {
        moves->list[moves->count++] = *move;
    }
    return status;
}

void haul_moves_forget(struct haul_moves *moves, struct haul_move *move)
{
    unsigned i = 0;
    while (moves->list[i] != move) {
        i++;
    }
    moves->count--;
    memmove(&moves->list[i], &moves->list[i + 1], (moves->count - i) * sizeof *moves->list);
    moves->list[moves->count] = NULL;
    haul_move_free(move);
}

const struct haul_move *haul_moves_held(const struct haul_moves *moves)
{
    for (unsigned i = 0; i < moves->count; i++) {
        if (haul_move_held(moves->list[i])) {
            return moves->list[i];
        }
    }
    return NULL;
}
