/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_HAUL_RECORD_H
#define HAUL_TOOLS_HAUL_RECORD_H

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
#define CLI_STEP_SENDING "handover-sending"   /* source: HANDOVER is about to leave */
#define CLI_STEP_RECEIVED "handover-received" /* destination: the guest is about to start */
#define CLI_STEP_RUNNING "running"            /* destination: the guest runs here */
#define CLI_STEP_UNCERTAIN                                                                                   \
    "uncertain" /* the move ended and nobody knows whether the other side runs the guest */

struct cli_record {
    char id[33];
    bool source; /* which side wrote it */
    char step[24];
    char time[32];      /* UTC, ISO 8601; filled by cli_record_write */
    char peer[300];     /* URI of the other side, or of the listening socket */
    char machine[16];   /* "qemu", "memory" or "guest" */
    char locator[4096]; /* the machine's own words, by which it is found again */
    int haul_pid;       /* the process that wrote the record */
    uint64_t haul_start;
};

struct cli_store; /* opaque: the open state directory */

/*
 * cli_store_open finds the state directory, creates it (mode 0700) when it is missing, and proves that it can
 * be written. -ENOENT: no directory is known; -EPERM: it is not ours alone; or what the kernel said.
 */
int cli_store_open(struct cli_store **store, struct haul_error *error);
void cli_store_close(struct cli_store *store);
const char *cli_store_path(const struct cli_store *store);
int cli_store_fd(const struct cli_store *store);
/* cli_store_lock waits until no other resume or abandon is at work; held until cli_store_close. */
int cli_store_lock(struct cli_store *store, struct haul_error *error);

/* cli_record_write replaces the record of record->id and side atomically: on disk whole, or as it was before.
 */
int cli_record_write(struct cli_store *store, struct cli_record *record, struct haul_error *error);

/* cli_record_remove: a record that is not there is no error. */
int cli_record_remove(struct cli_store *store, const char *id, bool source, struct haul_error *error);

/*
 * cli_record_list reads all records; *records is the caller's, to be freed with free(). Files that are no
 * records are passed over.
 */
int cli_record_list(struct cli_store *store, struct cli_record **records, size_t *count,
                    struct haul_error *error);

/* cli_record_prune removes destination records of guests that started to run more than `seconds` ago. */
void cli_record_prune(struct cli_store *store, int64_t seconds);

/* cli_process_start returns the start time of process `pid` in clock ticks since boot, or 0 when there is
 * none. */
uint64_t cli_process_start(int pid);
/* cli_process_alive tells whether `pid` is still the process that started at `start`. */
bool cli_process_alive(int pid, uint64_t start);

#ifdef __cplusplus
}
#endif
#endif
