/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/mirror.h"

#include "tools/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENDING_NS 30000000000u
#define WORTH_MEASURING_NS 20000000u /* between two looks */
#define FLUSH_AGAIN_NS 500000000u
#define FLUSH_SHARE 10           /* of the time QEMU may wait for flushes */
#define FLUSH_SHORT_NS 5000000u  /* what can be left out of one does not matter */
#define WORTH_COMPARING 1048576u /* bytes flushed: how long so many took tells of more */
#define ASKED_AT_THE_END 2       /* of all jobs together, and */
#define ASKED_PER_DRIVE 4        /* of each: cancel, look, dismiss, remove */
#define NAME_SIZE 32

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

void haul_qemu_mirror_init(struct haul_qemu_mirror *mirror)
{
    memset(mirror, 0, sizeof *mirror);
    mirror->patience_ns = ENDING_NS;
    for (unsigned i = 0; i < HAUL_QEMU_DRIVES_MAX; i++) {
        mirror->sockets[i] = -1;
    }
}

void haul_qemu_mirror_cleanup(struct haul_qemu_mirror *mirror)
{
    for (unsigned i = 0; i < HAUL_QEMU_DRIVES_MAX; i++) {
        if (mirror->sockets[i] >= 0) {
            close(mirror->sockets[i]);
        }
    }
    haul_qemu_mirror_init(mirror);
}

/* ---- starting ---- */

/* QEMU mirrors a drive from its topmost node only. */
static int explain_refusal(const struct haul_qemu_drive *drive, int result, struct haul_error *error)
{
    if (result != -EREMOTEIO || !error || !strstr(error->message, "Need a root block node")) {
        return result;
    }
    return haul_error_set(
        error, EBUSY,
        "QEMU cannot mirror it, because another block node lies on its node %s. If somebody "
        "added a filter there, remove it (blockdev-del). Otherwise another tool's mirror "
        "left its filter when it failed, by a fault of QEMU before 8.2.3, and it stays "
        "until that QEMU ends: move without --disks, or shut the guest down and start "
        "it in a new QEMU",
        drive->node);
}

static int start_one(struct haul_qemu_mirror *mirror, unsigned index, struct haul_qmp *qmp,
                     struct haul_error *error)
{
    char job[NAME_SIZE], node[NAME_SIZE], filter[NAME_SIZE];
    snprintf(job, sizeof job, HAUL_QEMU_JOB_PREFIX "%u", index);
    snprintf(node, sizeof node, HAUL_QEMU_NODE_PREFIX "%u", index);
    snprintf(filter, sizeof filter, HAUL_QEMU_FILTER_PREFIX "%u", index);
    int result = haul_qmp_give_fd(qmp, mirror->sockets[index], node, error);
    if (result) {
        return result;
    }
    close(mirror->sockets[index]);
    mirror->sockets[index] = -1;
    result =
        haul_qmp_execute(qmp, "blockdev-add",
                         json_pack("{s:s, s:s, s:{s:s, s:s}, s:s, s:s}", "driver", "nbd", "node-name", node,
                                   "server", "type", "fd", "str", node, "export", node, "discard", "unmap"),
                         NULL, error);
    if (result) {
        return result;
    }
    /* The whole drive, with what backing files have: the destination's image need not have any. A job that
     * ended stays to be looked at, and one that meets an error waits to be cancelled: a job that ended by
     * itself while QEMU stops the machine would make QEMU before 8.2.3 lose count of who uses the drive. */
    result =
        haul_qmp_execute(qmp, "blockdev-mirror",
                         json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "job-id", job, "device",
                                   mirror->drives.list[index].node, "target", node, "sync", "full",
                                   "copy-mode", "background", "filter-node-name", filter, "on-source-error",
                                   "stop", "on-target-error", "stop", "auto-dismiss", 0),
                         NULL, error);
    return explain_refusal(&mirror->drives.list[index], result, error);
}

int haul_qemu_mirror_start(struct haul_qemu_mirror *mirror, struct haul_qmp *qmp, struct haul_error *error)
{
    mirror->started = true;
    mirror->begun_ns = mirror->polled_ns = haul_clock_ns();
    for (unsigned i = 0; i < mirror->drives.count; i++) {
        int result = start_one(mirror, i, qmp, error);
        if (result) {
            return haul_error_prefix(error, "drive %s: ", mirror->drives.list[i].name);
        }
    }
    return 0;
}

/* ---- watching ---- */

/* One of our jobs in the answer of query-block-jobs, or NULL. */
static const json_t *find_job(const json_t *jobs, unsigned index)
{
    char name[NAME_SIZE];
    size_t i;
    const json_t *job;
    snprintf(name, sizeof name, HAUL_QEMU_JOB_PREFIX "%u", index);
    json_array_foreach(jobs, i, job)
    {
        if (strcmp(text_of(job, "device"), name) == 0) {
            return job;
        }
    }
    return NULL;
}

static uint64_t number_of(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

static uint64_t left_of(const json_t *job)
{
    uint64_t total = number_of(job, "len");
    uint64_t done = number_of(job, "offset");
    return total > done ? total - done : 0;
}

/* Whether a job met an error, and waits. */
static bool met_error(const json_t *job)
{
    const char *status = text_of(job, "io-status");
    return status[0] && strcmp(status, "ok") != 0;
}

static int failed(const struct haul_qemu_drive *drive, const json_t *job, struct haul_error *error)
{
    const char *why = text_of(job, "error");
    if (!why[0] && met_error(job)) {
        why = strcmp(text_of(job, "io-status"), "nospace") == 0
                  ? "no space left there"
                  : "an input/output error of the drive here, the connection, or the drive there";
    }
    return haul_error_set(error, EIO, "mirroring drive %s to the destination: %s", drive->name,
                          why[0] ? why : "the job ended too early; did somebody cancel it?");
}

static void measure(struct haul_qemu_mirror *mirror, uint64_t done, uint64_t pending)
{
    uint64_t now = haul_clock_ns();
    uint64_t since = now - mirror->polled_ns;
    if (since < WORTH_MEASURING_NS) {
        mirror->pending_bytes = pending;
        return;
    }
    /* Only time in which there was always something to mirror tells how fast it goes. */
    if (done > mirror->done_bytes && (mirror->pending_bytes > 0 || !mirror->ready) && pending > 0) {
        double rate = (double)(done - mirror->done_bytes) * 1e9 / (double)since;
        mirror->bytes_per_s = mirror->bytes_per_s > 0 ? (mirror->bytes_per_s + rate) / 2 : rate;
    }
    mirror->polled_ns = now;
    mirror->done_bytes = done;
    mirror->pending_bytes = pending;
}

int haul_qemu_mirror_poll(struct haul_qemu_mirror *mirror, struct haul_qmp *qmp, struct haul_error *error)
{
    json_t *jobs = NULL;
    uint64_t asked = haul_clock_ns();
    int result = haul_qmp_execute(qmp, "query-block-jobs", NULL, &jobs, error);
    mirror->ask_ns = haul_clock_ns() - asked;
    uint64_t done = 0;
    uint64_t pending = 0;
    bool ready = true;
    for (unsigned i = 0; !result && i < mirror->drives.count; i++) {
        const json_t *job = find_job(jobs, i);
        const char *status = text_of(job, "status");
        if (!job || met_error(job) || strcmp(status, "concluded") == 0 || strcmp(status, "aborting") == 0) {
            result = failed(&mirror->drives.list[i], job, error);
        }
        struct haul_qemu_mirror_job *own = &mirror->jobs[i];
        own->done_bytes = number_of(job, "offset");
        own->total_bytes = number_of(job, "len");
        /* "standby" is a ready job that is held for a moment. */
        own->ready = strcmp(status, "ready") == 0 || strcmp(status, "standby") == 0;
        ready = ready && own->ready;
        done += own->done_bytes;
        pending += left_of(job);
    }
    json_decref(jobs);
    if (result) {
        return result;
    }
    measure(mirror, done, pending);
    if (ready && !mirror->ready) {
        mirror->ready = true;
        mirror->ready_ns = haul_clock_ns() - mirror->begun_ns;
        if (mirror->bytes_per_s == 0 && mirror->ready_ns) { /* too quick for two looks */
            mirror->bytes_per_s = (double)done * 1e9 / (double)mirror->ready_ns;
        }
    }
    return ready;
}

static int flush_all(const struct haul_qemu_mirror *mirror, struct haul_qmp *qmp, uint64_t *took_ns,
                     struct haul_error *error)
{
    uint64_t begun = haul_clock_ns();
    for (unsigned i = 0; i < mirror->drives.count; i++) {
        char line[NAME_SIZE + 32];
        char *text = NULL;
        snprintf(line, sizeof line, "qemu-io " HAUL_QEMU_NODE_PREFIX "%u flush", i);
        /* A flush that failed is the job's matter, which ends for it. */
        int result = haul_qmp_hmp(qmp, line, &text, error);
        free(text);
        if (result) {
            return result;
        }
    }
    *took_ns = haul_clock_ns() - begun;
    return 0;
}

int haul_qemu_mirror_flush(struct haul_qemu_mirror *mirror, struct haul_qmp *qmp, struct haul_error *error)
{
    uint64_t begun = haul_clock_ns();
    uint64_t rest = FLUSH_SHARE * mirror->flush_last_ns;
    rest = rest > FLUSH_AGAIN_NS ? rest : FLUSH_AGAIN_NS;
    if (mirror->flushed_ns && begun - mirror->flushed_ns < rest) {
        return 0;
    }
    int result = flush_all(mirror, qmp, &mirror->flush_ns, error);
    mirror->reflush_ns = mirror->flush_ns;
    if (!result && mirror->flush_ns > FLUSH_SHORT_NS) {
        result = flush_all(mirror, qmp, &mirror->reflush_ns, error);
    }
    mirror->flush_bytes = mirror->done_bytes - mirror->flushed_bytes;
    mirror->flushed_bytes = mirror->done_bytes;
    mirror->flushed_ns = haul_clock_ns();
    mirror->flush_last_ns = mirror->flushed_ns - begun;
    mirror->flush_total_ns += mirror->flush_last_ns;
    mirror->flushes++;
    if (mirror->flush_longest_ns < mirror->flush_last_ns) {
        mirror->flush_longest_ns = mirror->flush_last_ns;
    }
    return result;
}

/* What the flush at the end takes. The stop has flushed all that was mirrored by then, so that only what was
 * pending is left: it takes so much of what the last flush took longer than one right after it. */
static uint64_t last_flush_ns(const struct haul_qemu_mirror *mirror)
{
    if (mirror->flush_ns <= mirror->reflush_ns || mirror->pending_bytes >= mirror->flush_bytes) {
        return mirror->flush_ns;
    }
    double part = (double)mirror->pending_bytes / (double)mirror->flush_bytes;
    return mirror->reflush_ns + (uint64_t)(part * (double)(mirror->flush_ns - mirror->reflush_ns));
}

uint64_t haul_qemu_mirror_cost_ns(const struct haul_qemu_mirror *mirror)
{
    if (mirror->drives.count == 0) {
        return 0;
    }
    uint64_t asking = (ASKED_AT_THE_END + (uint64_t)ASKED_PER_DRIVE * mirror->drives.count) * mirror->ask_ns;
    double carry = mirror->bytes_per_s > 0 ? (double)mirror->pending_bytes * 1e9 / mirror->bytes_per_s : 0;
    return asking + last_flush_ns(mirror) + (uint64_t)carry;
}

uint64_t haul_qemu_mirror_stop_ns(const struct haul_qemu_mirror *mirror)
{
    uint64_t since = mirror->done_bytes - mirror->flushed_bytes;
    if (since <= mirror->flush_bytes || mirror->flush_bytes < WORTH_COMPARING ||
        mirror->flush_ns <= mirror->reflush_ns) {
        return mirror->flush_ns;
    }
    double times = (double)since / (double)mirror->flush_bytes;
    return mirror->reflush_ns + (uint64_t)(times * (double)(mirror->flush_ns - mirror->reflush_ns));
}

/* ---- the end ---- */

static int cancel_job(struct haul_qmp *qmp, const char *job, bool force, struct haul_error *error)
{
    /* A ready mirror that is cancelled without force completes, and QEMU stays on the drive that it has. */
    return haul_qmp_execute(qmp, "block-job-cancel",
                            json_pack("{s:s, s:b}", "device", job, "force", (int)force), NULL, error);
}

static int dismiss(struct haul_qmp *qmp, const char *job, struct haul_error *error)
{
    return haul_qmp_execute(qmp, "job-dismiss", json_pack("{s:s}", "id", job), NULL, error);
}

/* Waits for the end of one job, and looks whether it came to a good one. */
static int await_end(struct haul_qemu_mirror *mirror, unsigned index, uint64_t deadline, struct haul_qmp *qmp,
                     struct haul_error *error)
{
    const struct haul_qemu_drive *drive = &mirror->drives.list[index];
    for (;;) {
        json_t *jobs = NULL;
        int result = haul_qmp_execute(qmp, "query-block-jobs", NULL, &jobs, error);
        const json_t *job = find_job(jobs, index);
        bool concluded = strcmp(text_of(job, "status"), "concluded") == 0;
        bool lacks = concluded && (text_of(job, "error")[0] || left_of(job));
        if (!result && (!job || lacks || met_error(job))) {
            result = failed(drive, job, error);
        }
        json_decref(jobs);
        if (result || concluded) {
            return result;
        }
        if (haul_clock_ns() > deadline) {
            return haul_error_set(error, ETIMEDOUT,
                                  "the last writes to drive %s did not get to the destination in %u s",
                                  drive->name, (unsigned)(mirror->patience_ns / 1000000000u));
        }
        poll(NULL, 0, 1);
    }
}

static int end_one(struct haul_qemu_mirror *mirror, unsigned index, uint64_t deadline, struct haul_qmp *qmp,
                   struct haul_error *error)
{
    char job[NAME_SIZE], node[NAME_SIZE];
    snprintf(job, sizeof job, HAUL_QEMU_JOB_PREFIX "%u", index);
    snprintf(node, sizeof node, HAUL_QEMU_NODE_PREFIX "%u", index);
    int result = await_end(mirror, index, deadline, qmp, error);
    result = result ? result : dismiss(qmp, job, error);
    return result ? result
                  : haul_qmp_execute(qmp, "blockdev-del", json_pack("{s:s}", "node-name", node), NULL, error);
}

int haul_qemu_mirror_finish(struct haul_qemu_mirror *mirror, struct haul_qmp *qmp, struct haul_error *error)
{
    uint64_t begun = haul_clock_ns();
    /* Cancelling a job that is not ready would leave half a drive behind and call it done. */
    int result = haul_qemu_mirror_poll(mirror, qmp, error);
    if (result <= 0) {
        return result < 0 ? result
                          : haul_error_set(error, EIO, "a drive is not ready, the machine stopped too early");
    }
    result = 0;
    mirror->last_bytes = mirror->pending_bytes;
    for (unsigned i = 0; !result && i < mirror->drives.count; i++) {
        char job[NAME_SIZE];
        snprintf(job, sizeof job, HAUL_QEMU_JOB_PREFIX "%u", i);
        result = cancel_job(qmp, job, false, error);
    }
    for (unsigned i = 0; !result && i < mirror->drives.count; i++) {
        result = end_one(mirror, i, begun + mirror->patience_ns, qmp, error);
    }
    mirror->finish_ns = haul_clock_ns() - begun;
    mirror->started = result != 0;
    return result;
}

/* ---- undoing ---- */

static bool is_ours(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

/* Ends what runs and dismisses what ended; *left says whether any job is still there. */
static int remove_jobs(struct haul_qmp *qmp, bool *left, struct haul_error *error)
{
    json_t *jobs = NULL;
    int result = haul_qmp_execute(qmp, "query-block-jobs", NULL, &jobs, error);
    size_t index;
    const json_t *job;
    *left = false;
    json_array_foreach(jobs, index, job)
    {
        const char *id = text_of(job, "device");
        if (!is_ours(id, HAUL_QEMU_JOB_PREFIX)) {
            continue;
        }
        *left = true;
        /* Both may be refused, by a job that is on its way from one state to the next. */
        if (strcmp(text_of(job, "status"), "concluded") == 0) {
            dismiss(qmp, id, NULL);
        } else {
            cancel_job(qmp, id, true, NULL);
        }
    }
    json_decref(jobs);
    return result;
}

static int remove_nodes(struct haul_qmp *qmp, struct haul_error *error)
{
    json_t *nodes = NULL;
    int result =
        haul_qmp_execute(qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), &nodes, error);
    size_t index;
    const json_t *node;
    json_array_foreach(nodes, index, node)
    {
        const char *name = text_of(node, "node-name");
        if (!result && is_ours(name, HAUL_QEMU_NODE_PREFIX)) {
            result =
                haul_qmp_execute(qmp, "blockdev-del", json_pack("{s:s}", "node-name", name), NULL, error);
        }
    }
    json_decref(nodes);
    return result;
}

int haul_qemu_mirror_remove(struct haul_qmp *qmp, struct haul_error *error)
{
    uint64_t deadline = haul_clock_ns() + ENDING_NS;
    bool left = true;
    int result = 0;
    while (!result && left) {
        result = remove_jobs(qmp, &left, error);
        if (!result && left && haul_clock_ns() > deadline) {
            result = haul_error_set(error, ETIMEDOUT, "QEMU does not end its job of mirroring a drive");
        }
        if (left) {
            poll(NULL, 0, 2);
        }
    }
    return result ? result : remove_nodes(qmp, error);
}

void haul_qemu_mirror_script(const struct haul_qemu_mirror *mirror, char *first, char *last, size_t size)
{
    size_t first_used = 0;
    size_t last_used = 0;
    first[0] = last[0] = '\0';
    for (unsigned i = 0; mirror->started && i < mirror->drives.count; i++) {
        first_used += (size_t)snprintf(
            first + first_used, size - first_used,
            "?{\"execute\":\"block-job-cancel\",\"arguments\":{\"device\":\"" HAUL_QEMU_JOB_PREFIX
            "%u\",\"force\":true}}\n",
            i);
        last_used += (size_t)snprintf(
            last + last_used, size - last_used,
            "+{\"execute\":\"job-dismiss\",\"arguments\":{\"id\":\"" HAUL_QEMU_JOB_PREFIX "%u\"}}\n"
            "+{\"execute\":\"blockdev-del\",\"arguments\":{\"node-name\":\"" HAUL_QEMU_NODE_PREFIX "%u\"}}\n",
            i, i);
    }
}
