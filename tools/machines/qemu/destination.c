/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A QEMU that waits with -incoming defer. Without -S it starts the machine by itself when its stream ends, so
 * the stream's last byte is held back until the handover: by then it has read and accepted everything else.
 */
#include "tools/clock.h"
#include "tools/machines/qemu/adopt.h"
#include "tools/machines/qemu/exports.h"
#include "tools/machines/qemu/preamble.h"
#include "tools/machines/qemu/source.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The last byte of a stream without description: after any loss before it, QEMU gives up instead of starting
 * the machine. */
#define END_MARK '\0'

/* How long `cont` is tried: the source waits for a word about the machine, and no longer than its timeout. */
#define START_SECONDS 5

/* Main thread until haul_start, then the loader thread. */
struct haul_qemu_destination {
    struct haul_machine machine;
    char path[512];
    struct haul_qmp *qmp;
    struct haul_guardian *guardian;
    struct haul_qemu_inspection inspection;
    struct haul_qemu_settings settings;
    int stream; /* our end of QEMU's incoming migration, -1: none */
    bool holds; /* whether `held` waits for the handover */
    char held;
    bool disks;                             /* may be overwritten by the source's */
    bool exporting;                         /* QEMU serves its drives to the source */
    enum { HELD, LET_GO, REFUSED } how_far; /* of the start, for never_ran */
    bool running;                           /* the source's machine ran */
    bool adopted;              /* its memory is the source's: QEMU may not write it before the handover */
    char restore_script[4096]; /* what settings restore sends, for the guardian */
};

static int refused(const struct haul_qemu_destination *destination, struct haul_error *error)
{
    return haul_error_set(
        error, EREMOTEIO,
        "the destination's QEMU refused the device state and ended; its standard error says why%s. "
        "Start it again, with the source's options, for the next try",
        destination->adopted ? " (nothing there: it wrote guest memory while it loaded, for which mode "
                               "cpr-transfer ends it; use mode normal)"
                             : "");
}

/* What a broken stream means: usually that QEMU is gone. */
static int check_alive(struct haul_qemu_destination *destination, struct haul_error *error)
{
    char status[32];
    int result = haul_qemu_status(destination->qmp, status, sizeof status, error);
    if (result == -EPIPE) {
        return refused(destination, error);
    }
    if (!result && strcmp(status, "inmigrate") != 0) {
        return haul_error_set(
            error, EREMOTEIO,
            "the destination's QEMU is \"%s\" while its device state is loaded: somebody else commands it",
            status);
    }
    return result;
}

static int write_all(struct haul_qemu_destination *destination, const char *bytes, size_t length,
                     struct haul_error *error)
{
    for (size_t done = 0; done < length;) {
        struct pollfd poller = {.fd = destination->stream, .events = POLLOUT};
        int ready = poll(&poller, 1, HAUL_QEMU_QMP_TIMEOUT_MS);
        if (ready == 0) {
            return haul_error_set(error, ETIMEDOUT, "the destination's QEMU took no device state for %d s",
                                  HAUL_QEMU_QMP_TIMEOUT_MS / 1000);
        }
        ssize_t count =
            ready < 0 ? -1
                      : send(destination->stream, bytes + done, length - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
            continue;
        }
        if (count < 0) {
            int code = errno;
            int result = check_alive(destination, error);
            return result ? result
                          : haul_error_set(error, code,
                                           "the destination's QEMU stopped reading the device state: %s",
                                           strerror(code));
        }
        done += (size_t)count;
    }
    return 0;
}

static int read_preamble(struct haul_qemu_destination *destination, struct haul_state_reader *reader,
                         struct haul_error *error)
{
    uint8_t bytes[HAUL_QEMU_PREAMBLE_SIZE];
    struct haul_qemu_preamble preamble;
    for (size_t have = 0; have < sizeof bytes;) {
        ptrdiff_t count = haul_state_read(reader, bytes + have, sizeof bytes - have, error);
        if (count <= 0) {
            return count ? (int)count
                         : haul_error_set(error, EPROTO, "the source sent a device state of only %zu bytes",
                                          have);
        }
        have += (size_t)count;
    }
    int result = haul_qemu_preamble_read(bytes, &preamble, error);
    if (result) {
        return result;
    }
    destination->running = preamble.running;
    if (strcmp(preamble.machine_type, destination->inspection.machine_type) != 0) {
        return haul_error_set(
            error, EINVAL,
            "the source's machine is a %s (QEMU %s), this one a %s (QEMU %s): start the destination with "
            "the source's -machine",
            preamble.machine_type, preamble.version, destination->inspection.machine_type,
            destination->inspection.version);
    }
    return 0;
}

static int open_stream(struct haul_qemu_destination *destination, struct haul_error *error)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return haul_error_set(error, errno, "cannot make a socket for QEMU's device state: %s",
                              strerror(errno));
    }
    int result = haul_qmp_give_fd(destination->qmp, pair[1], "haul-state", error);
    close(pair[1]);
    result = result ? result
                    : haul_qmp_execute(destination->qmp, "migrate-incoming",
                                       json_pack("{s:s}", "uri", "fd:haul-state"), NULL, error);
    if (result) {
        close(pair[0]);
        return result;
    }
    destination->stream = pair[0];
    return 0;
}

/* Passes the state on, always one byte behind. */
static int pump(struct haul_qemu_destination *destination, struct haul_state_reader *reader,
                struct haul_error *error)
{
    char bytes[65536];
    for (;;) {
        ptrdiff_t count = haul_state_read(reader, bytes, sizeof bytes, error);
        if (count <= 0) {
            return (int)count;
        }
        int result = destination->holds ? write_all(destination, &destination->held, 1, error) : 0;
        result = result ? result : write_all(destination, bytes, (size_t)count - 1, error);
        if (result) {
            return result;
        }
        destination->held = bytes[count - 1];
        destination->holds = true;
    }
}

/*
 * QEMU reads its stream on the thread that answers the monitor, and gives way only to wait for more of it:
 * once the socket is empty, an answer means that everything sent was parsed and accepted.
 */
static int wait_accepted(struct haul_qemu_destination *destination, struct haul_error *error)
{
    uint64_t deadline = haul_clock_ns() + (uint64_t)HAUL_QEMU_QMP_TIMEOUT_MS * 1000000;
    int unread = 1;
    while (unread) {
        struct pollfd poller = {.fd = destination->stream, .events = POLLRDHUP};
        if (ioctl(destination->stream, SIOCOUTQ, &unread) < 0) {
            return haul_error_set(error, errno, "asking how much QEMU read: %s", strerror(errno));
        }
        int hung_up = poll(&poller, 1, unread ? 1 : 0);
        if (hung_up > 0) {
            int result = check_alive(destination, error);
            return result ? result : refused(destination, error);
        }
        if (haul_clock_ns() > deadline) {
            return haul_error_set(error, ETIMEDOUT, "the destination's QEMU took no device state for %d s",
                                  HAUL_QEMU_QMP_TIMEOUT_MS / 1000);
        }
    }
    return check_alive(destination, error);
}

/* The source's drives are complete: from here on the machine's own are nobody else's. */
static int end_exports(struct haul_qemu_destination *destination, struct haul_error *error)
{
    if (!destination->exporting) {
        return 0;
    }
    int result = haul_qemu_exports_close(destination->qmp, error);
    destination->exporting = result != 0;
    return result ? result : haul_guardian_arm(destination->guardian, destination->restore_script, error);
}

static int open_exports(void *opaque, const struct haul_stream *streams, unsigned count, int *fds,
                        struct haul_error *error)
{
    struct haul_qemu_destination *destination = opaque;
    struct haul_qemu_announced announced[HAUL_QEMU_DRIVES_MAX];
    char script[sizeof destination->restore_script + sizeof HAUL_QEMU_EXPORTS_SCRIPT];
    if (!destination->disks) {
        return haul_error_set(error, EINVAL,
                              "the source moves the machine's drives too, and here they may not be "
                              "overwritten: start haul receive with --disks");
    }
    if (count > HAUL_QEMU_DRIVES_MAX) {
        return haul_error_set(error, EPROTO, "the source announces %u drives", count);
    }
    for (unsigned i = 0; i < count; i++) {
        announced[i] = (struct haul_qemu_announced){streams[i].name, streams[i].description};
    }
    snprintf(script, sizeof script, "%s%s", HAUL_QEMU_EXPORTS_SCRIPT, destination->restore_script);
    int result = haul_guardian_arm(destination->guardian, script, error);
    result = result ? result : haul_qemu_exports_open(destination->qmp, announced, count, fds, error);
    destination->exporting = result == 0;
    return result;
}

static int load(void *opaque, struct haul_state_reader *reader, struct haul_error *error)
{
    struct haul_qemu_destination *destination = opaque;
    int result = read_preamble(destination, reader, error);
    result = result ? result : end_exports(destination, error);
    result = result ? result : open_stream(destination, error);
    result = result ? result : pump(destination, reader, error);
    if (!result && (!destination->holds || destination->held != END_MARK)) {
        result = haul_error_set(error, EPROTO, "the source's device state does not end with QEMU's end mark");
    }
    result = result ? result : wait_accepted(destination, error);
    char status[32];
    if (result == -EPIPE && haul_qemu_status(destination->qmp, status, sizeof status, NULL) == -EPIPE) {
        haul_error_prefix(error, "the destination's QEMU is gone, start it again for the next try: ");
    }
    return result;
}

/* Waits until QEMU left inmigrate; *status is what it became. */
static int wait_loaded(struct haul_qemu_destination *destination, char *status, size_t size,
                       struct haul_error *error)
{
    uint64_t deadline = haul_clock_ns() + (uint64_t)HAUL_QEMU_QMP_TIMEOUT_MS * 1000000;
    for (;;) {
        int result = haul_qemu_status(destination->qmp, status, size, error);
        if (result == -EPIPE) {
            return refused(destination, error);
        }
        if (result || strcmp(status, "inmigrate") != 0) {
            return result;
        }
        if (haul_clock_ns() > deadline) {
            return haul_error_set(error, ETIMEDOUT,
                                  "the destination's QEMU has the whole machine and does not start it");
        }
        poll(NULL, 0, 1);
    }
}

/* ---- mode cpr-transfer ---- */

static int adopt(void *opaque, const char *name, int fd, uint64_t offset, struct haul_error *error)
{
    struct haul_qemu_destination *destination = opaque;
    const struct haul_qemu_block *block = NULL;
    for (unsigned i = 0; i < destination->inspection.count; i++) {
        if (strcmp(destination->inspection.blocks[i].name, name) == 0) {
            block = &destination->inspection.blocks[i];
        }
    }
    if (!block) {
        return haul_error_set(error, EINVAL, "QEMU has no such memory backend");
    }
    char status[32];
    int result = haul_qemu_status(destination->qmp, status, sizeof status, error);
    if (!result && strcmp(status, "inmigrate") != 0) {
        result = haul_error_set(error, EREMOTEIO, "QEMU is \"%s\" now: somebody else commands it", status);
    }
    /* From here on this QEMU is of no use but for this move, also if haul dies. */
    result = result ? result : haul_guardian_arm(destination->guardian, "{\"execute\":\"quit\"}\n", error);
    destination->adopted = destination->adopted || !result;
    return result ? result
                  : haul_qemu_adopt(destination->qmp, &destination->inspection, block, fd, offset, error);
}

static void disown(void *opaque)
{
    struct haul_qemu_destination *destination = opaque;
    if (!destination->adopted) {
        return; /* QEMU was gone, or somebody else's */
    }
    haul_qemu_adopt_end(destination->qmp, &destination->inspection);
    haul_guardian_arm(destination->guardian, "", NULL);
}

/* At the handover: QEMU may write, and haul's death no longer ends it. */
static int release_memory(struct haul_qemu_destination *destination, struct haul_error *error)
{
    int result = haul_qemu_lock_memory(&destination->inspection, true, error);
    return result ? result : haul_guardian_arm(destination->guardian, destination->restore_script, error);
}

static int start_guest(void *opaque, struct haul_error *error)
{
    struct haul_qemu_destination *destination = opaque;
    char status[32];
    int result = destination->adopted ? release_memory(destination, error) : 0;
    result = result ? result : write_all(destination, &destination->held, 1, error);
    destination->holds = false;
    if (result) {
        return result;
    }
    destination->how_far = LET_GO;
    result = wait_loaded(destination, status, sizeof status, error);
    /* With -S, and where the disks could not be opened at once, QEMU waits for `cont`. */
    if (!result && destination->running && strcmp(status, "running") != 0) {
        result = haul_qemu_continue_within(destination->qmp, START_SECONDS, error);
        /* One whose answer was lost may have been obeyed. */
        destination->how_far = result == -EREMOTEIO ? REFUSED : LET_GO;
        result = result ? result : haul_qemu_status(destination->qmp, status, sizeof status, error);
        if (!result && strcmp(status, "running") != 0) {
            result = haul_error_set(error, EREMOTEIO,
                                    "the destination's QEMU took `cont`, yet the machine is \"%s\"", status);
        }
    }
    return result; /* detach puts QEMU's settings back: the source waits to hear that the guest runs */
}

/* Ends QEMU; true when it is gone and its last words are read. */
static bool end_qemu(const struct haul_qemu_destination *destination)
{
    int pidfd = (int)syscall(SYS_pidfd_open, destination->inspection.pid, 0);
    if (pidfd < 0) {
        return false;
    }
    struct pollfd poller = {.fd = pidfd, .events = POLLIN};
    bool resumed;
    bool gone =
        haul_qemu_quit(destination->qmp, NULL) == 0 &&
        haul_qmp_wait_event(destination->qmp, "RESUME", HAUL_QEMU_QMP_TIMEOUT_MS, &resumed, NULL) == -EPIPE &&
        poll(&poller, 1, HAUL_QEMU_QMP_TIMEOUT_MS) == 1;
    close(pidfd);
    return gone;
}

/*
 * Without the end of its stream QEMU never starts the machine. One that was loaded and refused every `cont`
 * (disks that it cannot open or lock) did not start it either, unless it says so itself (a machine that ran
 * and panicked refuses `cont` too); it must not be able to later.
 */
static bool never_ran(void *opaque)
{
    struct haul_qemu_destination *destination = opaque;
    switch (destination->how_far) {
    case HELD:
        return true;
    case REFUSED:
        return !haul_qmp_ran(destination->qmp) && end_qemu(destination) && !haul_qmp_ran(destination->qmp);
    default:
        return false;
    }
}

static void detach(struct haul_qemu_destination *destination)
{
    if (destination->exporting) {
        haul_qemu_exports_close(destination->qmp, NULL);
        destination->exporting = false;
    }
    destination->how_far = HELD;
    if (destination->guardian) {
        haul_qemu_settings_restore(destination->qmp, &destination->settings, NULL);
        haul_qemu_settings_script(&destination->settings, destination->restore_script,
                                  sizeof destination->restore_script);
        haul_guardian_arm(destination->guardian, destination->restore_script, NULL);
    }
    haul_qemu_inspection_cleanup(&destination->inspection);
    if (destination->stream >= 0) {
        close(destination->stream); /* without its last byte QEMU gives up, and ends */
        destination->stream = -1;
    }
    destination->holds = false;
    destination->adopted = false;
}

static int register_with(struct haul_qemu_destination *destination, struct haul_migration *migration,
                         struct haul_error *error)
{
    static const struct haul_state_ops state = {.name = HAUL_QEMU_STATE_NAME, .load = load};
    static const struct haul_guest_ops guest = {.start = start_guest,
                                                .never_ran = never_ran,
                                                .streams = open_exports,
                                                .adopt = adopt,
                                                .disown = disown};
    for (unsigned i = 0; i < destination->inspection.count; i++) {
        const struct haul_qemu_block *block = &destination->inspection.blocks[i];
        struct haul_ram_block ram = {
            .name = block->name,
            .host = block->host,
            .length = block->length,
            .page_size = block->page_size,
            .fd = block->fd,
            .fd_offset = block->fd_offset,
        };
        int result = haul_add_ram(migration, &ram, error);
        if (result) {
            return result;
        }
    }
    int result = haul_add_state(migration, &state, destination, error);
    return result ? result : haul_set_guest(migration, &guest, destination, error);
}

static int attach(struct haul_machine *machine, struct haul_migration *migration, struct haul_error *error)
{
    struct haul_qemu_destination *destination = (struct haul_qemu_destination *)machine;
    char status[32];
    detach(destination);
    int result = haul_qemu_status(destination->qmp, status, sizeof status, error);
    if (!result && strcmp(status, "inmigrate") != 0) {
        result = haul_error_set(error, ENOTSUP,
                                "the destination's QEMU is \"%s\", not waiting for a machine: start it with "
                                "the source's options and -incoming defer",
                                status);
    }
    if (!result && destination->disks) {
        result = haul_qemu_exports_clear(destination->qmp, error);
    }
    result = result ? result : haul_qemu_inspect(destination->qmp, true, &destination->inspection, error);
    if (!result && haul_get_mode(migration) == HAUL_MODE_NORMAL) {
        result = haul_qemu_refuse_overwriting(&destination->inspection, error);
    }
    result =
        result ? result : haul_qemu_settings_apply(destination->qmp, false, &destination->settings, error);
    result = result ? result : register_with(destination, migration, error);
    if (!result) {
        haul_qemu_settings_script(&destination->settings, destination->restore_script,
                                  sizeof destination->restore_script);
        result = haul_guardian_arm(destination->guardian, destination->restore_script, error);
    }
    if (result) {
        detach(destination);
    }
    return result;
}

static const char *locator(struct haul_machine *machine)
{
    return ((struct haul_qemu_destination *)machine)->path;
}

static int resume(struct haul_machine *machine, struct haul_error *error)
{
    return haul_qemu_continue(((struct haul_qemu_destination *)machine)->qmp, error);
}

static int abandon(struct haul_machine *machine, struct haul_error *error)
{
    return haul_qemu_quit(((struct haul_qemu_destination *)machine)->qmp, error);
}

static void free_destination(struct haul_machine *machine)
{
    struct haul_qemu_destination *destination = (struct haul_qemu_destination *)machine;
    if (!destination) {
        return;
    }
    detach(destination);
    haul_qmp_close(destination->qmp);
    if (haul_qemu_settings_changed(&destination->settings)) {
        haul_guardian_leave(destination->guardian); /* somebody migrates the machine on */
    } else {
        haul_guardian_free(destination->guardian);
    }
    haul_qemu_settings_cleanup(&destination->settings);
    free(destination);
}

static bool ended(struct haul_machine *machine)
{
    return haul_machine_process_ended((int)((struct haul_qemu_destination *)machine)->inspection.pid, -1);
}

static bool paused(struct haul_machine *machine)
{
    return !((struct haul_qemu_destination *)machine)->running;
}

int haul_qemu_destination_new(const char *qmp, bool disks, struct haul_machine **machine,
                              struct haul_error *error)
{
    static const struct haul_machine_ops ops = {
        .kind = "qemu",
        .attach = attach,
        .locator = locator,
        .resume = resume,
        .abandon = abandon,
        .paused = paused,
        .ended = ended,
        .free = free_destination,
    };
    struct haul_qemu_destination *destination = haul_machine_alloc(sizeof *destination, &ops, error);
    if (!destination) {
        return -ENOMEM;
    }
    destination->stream = -1;
    destination->disks = disks;
    int result =
        haul_qemu_open_monitor(qmp, &destination->qmp, destination->path, sizeof destination->path, error);
    result = result ? result : haul_guardian_new(destination->path, &destination->guardian, error);
    return haul_machine_finish(&destination->machine, result, machine);
}
