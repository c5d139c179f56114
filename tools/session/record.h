/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_SESSION_RECORD_H
#define HAUL_TOOLS_SESSION_RECORD_H

/*
 * How far a move came, on disk, so that an operator can decide who runs the guest after both sides lost each
 * other or died (rule R1). One small JSON file per side, ID.source.json or ID.destination.json, in the state
 * directory: $HAUL_STATE_DIR, else /run/haul for root, else $XDG_RUNTIME_DIR/haul.
 */

#include "channels/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The step names are what the files say. */
#define HAUL_RECORDED_SENDING "handover-sending"   /* source: HANDOVER is about to leave */
#define HAUL_RECORDED_RECEIVED "handover-received" /* destination: the guest is about to start */
#define HAUL_RECORDED_RUNNING "running"            /* destination: the guest runs here */
#define HAUL_RECORDED_STOPPED "stopped" /* source: the guest is its own, and could not be resumed */
#define HAUL_RECORDED_UNCERTAIN                                                                              \
    "uncertain" /* the move ended and nobody knows whether the other side runs the guest */

struct haul_record {
    char id[33];
    bool source; /* which side wrote it */
    char step[24];
    char time[32];      /* UTC, ISO 8601; filled by haul_record_write */
    char peer[4200];    /* URI of the other side, of the listening socket, or of the file */
    char machine[16];   /* "qemu", "memory" or "guest" */
    char locator[4096]; /* the machine's own words, by which it is found again */
    int haul_pid;       /* the process that wrote the record */
    uint64_t haul_start;
};

struct haul_store; /* opaque: the open state directory */

/*
 * haul_store_open finds the state directory, creates it (mode 0700) when it is missing, and proves that it
 * can be written. -ENOENT: no directory is known; -EPERM: it is not ours alone; or what the kernel said.
 */
int haul_store_open(struct haul_store **store, struct haul_error *error);
void haul_store_close(struct haul_store *store);
const char *haul_store_path(const struct haul_store *store);
int haul_store_fd(const struct haul_store *store);
/* haul_store_lock waits until no other resume or abandon is at work; held until haul_store_close. */
int haul_store_lock(struct haul_store *store, struct haul_error *error);

/* haul_record_write replaces the record of record->id and side atomically: on disk whole, or as it was
 * before.
 */
int haul_record_write(struct haul_store *store, struct haul_record *record, struct haul_error *error);

/* haul_record_try writes the like of a record, in the same steps, and removes it: whether one could be
 * written, and how long it takes. */
int haul_record_try(struct haul_store *store, struct haul_error *error);

/* haul_record_remove: a record that is not there is no error. */
int haul_record_remove(struct haul_store *store, const char *id, bool source, struct haul_error *error);

/*
 * haul_record_list reads all records; *records is the caller's, to be freed with free(). Files that are no
 * records are passed over.
 */
int haul_record_list(struct haul_store *store, struct haul_record **records, size_t *count,
                     struct haul_error *error);

/* haul_record_prune removes destination records of guests that started to run more than `seconds` ago. */
void haul_record_prune(struct haul_store *store, int64_t seconds);

/* haul_record_process_start returns the start time of process `pid` in clock ticks since boot, or 0 when
 * there is none. */
uint64_t haul_record_process_start(int pid);
/* haul_record_process_alive tells whether `pid` is still the process that started at `start`. */
bool haul_record_process_alive(int pid, uint64_t start);

#ifdef __cplusplus
}
#endif
#endif
