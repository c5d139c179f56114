/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_QEMU_MIRROR_H
#define HAUL_TOOLS_MACHINES_QEMU_MIRROR_H

/*
 * The source's drives, mirrored by QEMU itself (blockdev-mirror) to NBD nodes whose other ends are sockets of
 * ours. Job, node and filter of drive i are called haul-mirror-i, haul-disk-i and haul-filter-i.
 */

#include "tools/machines/qemu/drives.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One job, as it was looked at last. */
struct haul_qemu_mirror_job {
    uint64_t done_bytes;
    uint64_t total_bytes; /* grows by what the guest writes */
    bool ready;
};

struct haul_qemu_mirror {
    struct haul_qemu_drives drives;    /* those that move */
    int sockets[HAUL_QEMU_DRIVES_MAX]; /* what QEMU gets, until it has it; else -1 */
    struct haul_qemu_mirror_job jobs[HAUL_QEMU_DRIVES_MAX];
    bool started;         /* jobs and nodes may be there */
    bool ready;           /* all had the whole drive once */
    uint64_t patience_ns; /* in finish, with all drives together; 30 s unless set */
    uint64_t begun_ns;
    uint64_t ready_ns;      /* from the start to the last drive's being ready */
    uint64_t polled_ns;     /* the last look at the jobs */
    uint64_t done_bytes;    /* mirrored by then */
    uint64_t pending_bytes; /* written by the guest and not mirrored, by then */
    double bytes_per_s;     /* while there was something to mirror */
    uint64_t ask_ns;        /* one question to QEMU and its answer, of late */
    uint64_t flushed_ns;    /* the last flush; 0: none yet */
    uint64_t flush_ns;      /* what it took, all drives one after the other */
    uint64_t reflush_ns;    /* and one right after it */
    unsigned flushes;
    uint64_t flush_last_ns;    /* how long QEMU waited for the last, with what was repeated */
    uint64_t flush_total_ns;   /* and for all */
    uint64_t flush_longest_ns; /* and for the longest */
    uint64_t flushed_bytes;    /* done_bytes then */
    uint64_t flush_bytes;      /* mirrored between the last two */
    uint64_t last_bytes;       /* pending when the guest stood still */
    uint64_t finish_ns;        /* from then to the end of the jobs */
};

/* haul_qemu_mirror_init makes `mirror` an empty one, which cleanup accepts. */
void haul_qemu_mirror_init(struct haul_qemu_mirror *mirror);

/* haul_qemu_mirror_start hands the sockets to QEMU and starts a job for each drive; it reads and writes them,
 * so their other ends must be served. After a failure remove is due. */
int haul_qemu_mirror_start(struct haul_qemu_mirror *mirror, struct haul_qmp *qmp, struct haul_error *error);

/* haul_qemu_mirror_poll looks at the jobs: 1 when each has the whole drive but for `pending_bytes`, 0 when
 * not yet, negative when one failed. */
int haul_qemu_mirror_poll(struct haul_qemu_mirror *mirror, struct haul_qmp *qmp, struct haul_error *error);

/*
 * haul_qemu_mirror_finish, with the machine stopped and all drives ready: when it returns 0 the drives of
 * both ends are equal, and jobs and nodes are gone.
 */
int haul_qemu_mirror_finish(struct haul_qemu_mirror *mirror, struct haul_qmp *qmp, struct haul_error *error);

/*
 * haul_qemu_mirror_flush makes durable at the destination what was mirrored so far, unless that was done a
 * moment ago: QEMU does it once more when the guest is stopped, and how long that takes is now known. QEMU
 * waits meanwhile, for a tenth of the time at most. All drives ready.
 */
int haul_qemu_mirror_flush(struct haul_qemu_mirror *mirror, struct haul_qmp *qmp, struct haul_error *error);

/* haul_qemu_mirror_cost_ns predicts what finish would take now; haul_qemu_mirror_stop_ns what the drives add
 * to stopping the guest, which flushes them. */
uint64_t haul_qemu_mirror_cost_ns(const struct haul_qemu_mirror *mirror);
uint64_t haul_qemu_mirror_stop_ns(const struct haul_qemu_mirror *mirror);

/* haul_qemu_mirror_remove cancels every job and removes every node that is haul's, also those of a haul that
 * was killed. The guest may run, and nothing of it is touched. */
int haul_qemu_mirror_remove(struct haul_qmp *qmp, struct haul_error *error);

/* haul_qemu_mirror_script writes QMP lines for the guardian: `first` ends the jobs, `last` removes what they
 * leave, a moment later. */
void haul_qemu_mirror_script(const struct haul_qemu_mirror *mirror, char *first, char *last, size_t size);
#define HAUL_QEMU_MIRROR_SCRIPT_SIZE 6144

void haul_qemu_mirror_cleanup(struct haul_qemu_mirror *mirror);

#ifdef __cplusplus
}
#endif
#endif
