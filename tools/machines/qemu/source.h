/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_SOURCE_H
#define HAUL_TOOLS_MACHINES_QEMU_SOURCE_H

/* A QEMU machine that moves away: what its files (source, bracket, switchover) share. */

#include "tools/machines/machine.h"
#include "tools/machines/qemu/discards.h"
#include "tools/machines/qemu/guardian.h"
#include "tools/machines/qemu/mirror.h"
#include "tools/machines/qemu/settings.h"
#include "tools/machines/qemu/stream.h"
#include "tools/machines/qemu/watch.h"

#define HAUL_QEMU_QMP_TIMEOUT_MS 30000
#define HAUL_QEMU_GREETING_TIMEOUT_MS 5000

/* Whether the mirror gets anywhere: compares two looks that lie some seconds apart. */
struct haul_qemu_lag {
    uint64_t since_ns; /* the earlier look; 0: none yet */
    uint64_t done_bytes[HAUL_QEMU_DRIVES_MAX];
    uint64_t total_bytes[HAUL_QEMU_DRIVES_MAX];
    uint64_t least_left[HAUL_QEMU_DRIVES_MAX]; /* since then */
    uint64_t said_ns;
    char advice[256]; /* what was said last, "" nothing */
};

/*
 * Written by attach on the main thread before haul_start, then by the migration_thread until haul_wait
 * returned.
 */
struct haul_qemu_source {
    struct haul_machine machine;
    char path[512]; /* of the monitor, absolute */
    struct haul_qmp *qmp;
    struct haul_guardian *guardian;
    struct haul_qemu_inspection inspection;
    struct haul_qemu_settings settings;
    bool settings_applied;
    struct haul_migration *migration; /* attached to */
    bool disks;                       /* the drives move too */
    struct haul_qemu_mirror mirror;
    struct haul_qemu_lag lag;       /* of the mirror behind the guest */
    bool hands_over;                /* mode cpr-transfer: no writers, no tracker */
    bool snapshots;                 /* mode background-snapshot: the machine goes on here */
    struct haul_qemu_memory memory; /* at the stop of a snapshot */
    struct haul_qemu_writers writers;
    struct haul_tracker *tracker;
    struct haul_write_guard *guard;      /* mode background-snapshot, in place of the tracker */
    struct haul_tracker_ops tracker_ops; /* ours around it; opaque is the source */
    char restore_script[4096];           /* what settings restore sends, for the guardian */

    uint64_t unplugs; /* of the machine's devices before the move */

    /* bracket: trap T2 */
    const char *bracket_why; /* NULL: scans need no bracket */
    bool bracket_open;       /* we said `stop`, and not yet `cont` */
    unsigned brackets;
    uint64_t bracket_total_ns;
    uint64_t bracket_longest_ns;
    uint64_t scan_ns;  /* the scan within the last bracket; 0: none yet */
    uint64_t drain_ns; /* from the guest's stop to the end of its I/O, of late */

    /* switchover */
    struct haul_qemu_stream *stream;
    bool switching;           /* `migrate` was sent, and not undone or handed over */
    _Atomic bool was_running; /* read by any thread; when it was looked at last, and so at the switchover */
    uint64_t state_bytes;
    uint64_t lead_ns; /* what the stop hook does before the machine stops */
};

/* haul_qemu_bracket_tracker_init fills `tracker_ops`, the engine's view of the tracker: each scan bracketed
 * where it must be. */
void haul_qemu_bracket_tracker_init(struct haul_qemu_source *source);

/* The switchover's hooks and handler; opaque is the source. */
const struct haul_guest_ops *haul_qemu_switchover_guest_ops(void);
const struct haul_state_ops *haul_qemu_switchover_state_ops(void);

/* ---- lag.c ---- */

/* haul_qemu_lag_watch is called with each look at the mirror, and tells the operator what helps when the
 * guest writes about as fast as the mirror carries. */
void haul_qemu_lag_watch(struct haul_qemu_source *source);

/* ---- disks.c ---- */

/* haul_qemu_disks_attach gives the migration a side stream for each drive that moves. */
int haul_qemu_disks_attach(struct haul_qemu_source *source, struct haul_error *error);

/* haul_qemu_disks_warn tells the operator which drives do not move and are not shared. */
int haul_qemu_disks_warn(struct haul_qemu_source *source, struct haul_error *error);

/* haul_qemu_disks_ready is the guest's `ready` hook: mirrors, and tells when all drives are. */
int haul_qemu_disks_ready(struct haul_qemu_source *source, struct haul_error *error);

/* haul_qemu_disks_detach ends what is left of mirroring. */
void haul_qemu_disks_detach(struct haul_qemu_source *source);

/* haul_qemu_disks_summary writes a sentence about the drives, "" when none moved. */
void haul_qemu_disks_summary(const struct haul_qemu_source *source, char *text, size_t size);

/* ---- source.c ---- */

/*
 * haul_qemu_source_check_state looks whether the machine can be moved now, and runs. -ENOTSUP: it is in a
 * state in which it cannot, or a device blocks migration; -EALREADY: it was moved away; -EBUSY: somebody else
 * migrates it.
 */
int haul_qemu_source_check_state(struct haul_qemu_source *source, struct haul_error *error);

/* haul_qemu_source_set_up makes QEMU's settings haul's own, if they are not. */
int haul_qemu_source_set_up(struct haul_qemu_source *source, struct haul_error *error);

/* haul_qemu_source_restore makes QEMU's settings what they were. What QEMU refuses is left to the guardian,
 * which tries again when haul ends. */
int haul_qemu_source_restore(struct haul_qemu_source *source, struct haul_error *error);

/* haul_qemu_source_rearm tells the guardian what to do now if haul dies: `first` (QMP lines), then end the
 * mirroring of drives and restore the settings. */
int haul_qemu_source_rearm(struct haul_qemu_source *source, const char *first, struct haul_error *error);

/*
 * haul_qemu_continue sends `cont` until QEMU takes it (a migration may still be ending), for up to 30 s;
 * haul_qemu_continue_within for up to `seconds`.
 */
int haul_qemu_continue(struct haul_qmp *qmp, struct haul_error *error);
int haul_qemu_continue_within(struct haul_qmp *qmp, int seconds, struct haul_error *error);

/* haul_qemu_open_monitor opens the QMP connection and writes the monitor's absolute path. *qmp is set even
 * when that fails. */
int haul_qemu_open_monitor(const char *address, struct haul_qmp **qmp, char *path, size_t size,
                           struct haul_error *error);

/* haul_qemu_quit ends the QEMU process. */
int haul_qemu_quit(struct haul_qmp *qmp, struct haul_error *error);

#endif
