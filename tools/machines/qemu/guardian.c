/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/qemu/guardian.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRIES 300 /* of 100 ms */
#define REPLY_MS 10000

struct haul_guardian {
    pid_t pid;
    int socket;
};

/* ---- in the guardian: after a fork of a threaded process, so only calls that are safe in a signal handler
 * ---- */

struct monitor {
    int fd;
    char line[4096]; /* the line being read, cut: only its start matters */
    size_t used;
};

/* Reads up to the end of a line; false on a closed or silent monitor. */
static bool read_line(struct monitor *monitor)
{
    monitor->used = 0;
    for (;;) {
        struct pollfd poller = {.fd = monitor->fd, .events = POLLIN};
        char byte;
        if (poll(&poller, 1, REPLY_MS) != 1 || recv(monitor->fd, &byte, 1, 0) != 1) {
            return false;
        }
        if (byte == '\n') {
            return true;
        }
        if (monitor->used < sizeof monitor->line) {
            monitor->line[monitor->used++] = byte;
        }
    }
}

static bool line_starts(const struct monitor *monitor, const char *prefix)
{
    size_t length = strlen(prefix);
    return monitor->used >= length && memcmp(monitor->line, prefix, length) == 0;
}

/* Sends a command and waits for its answer among the events: 1 accepted, 0 refused, -1 the monitor is gone.
 */
static int ask(struct monitor *monitor, const char *command, size_t length)
{
    if (send(monitor->fd, command, length, MSG_NOSIGNAL) != (ssize_t)length ||
        send(monitor->fd, "\n", 1, MSG_NOSIGNAL) != 1) {
        return -1;
    }
    while (read_line(monitor)) {
        if (line_starts(monitor, "{\"return\"")) {
            return 1;
        }
        if (line_starts(monitor, "{\"error\"")) {
            return 0;
        }
    }
    return -1;
}

static bool open_monitor(struct monitor *monitor, const struct sockaddr_un *address)
{
    static const char hello[] = "{\"execute\":\"qmp_capabilities\"}";
    for (int i = 0; i < TRIES; i++) {
        monitor->fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(monitor->fd, (const struct sockaddr *)address, sizeof *address) == 0 &&
            read_line(monitor) && ask(monitor, hello, sizeof hello - 1) == 1) {
            return true;
        }
        bool gone = errno == ECONNREFUSED || errno == ENOENT;
        close(monitor->fd);
        if (gone) {
            return false;
        }
        poll(NULL, 0, 100);
    }
    return false;
}

/* Whether QEMU refused for what is about to end: a job that still winds down, a node that it uses. */
static bool is_busy(const struct monitor *monitor)
{
    static const char *const signs[] = {" in state '", " is busy", " is in use"};
    for (unsigned i = 0; i < sizeof signs / sizeof signs[0]; i++) {
        if (memmem(monitor->line, monitor->used, signs[i], strlen(signs[i]))) {
            return true;
        }
    }
    return false;
}

/* Takes a line off the script; its length without the end. */
static size_t take_line(const char *script, size_t length, size_t *at)
{
    const char *line = script + *at;
    const char *end = memchr(line, '\n', length - *at);
    size_t line_length = end ? (size_t)(end - line) : length - *at;
    *at += line_length + 1;
    return line_length;
}

/* How many lines to leave out where QEMU accepts this one. */
static unsigned skips(const char *line, size_t length)
{
    return length > 0 && line[0] >= '1' && line[0] <= '9' ? (unsigned)(line[0] - '0') : 0;
}

/* Says a line as often as its mark tells: 1 accepted, 0 refused, -1 the monitor is gone. */
static int say_line(struct monitor *monitor, const char *line, size_t length)
{
    bool once = length > 0 && (line[0] == '?' || skips(line, length) > 0);
    bool while_busy = length > 0 && line[0] == '+';
    bool marked = once || while_busy;
    int tries = once ? 1 : TRIES;
    int answer = 0;
    for (int i = 0; i < tries && answer == 0 && length > 1; i++) {
        if (i > 0 && while_busy && !is_busy(monitor)) {
            break;
        }
        if (i > 0) {
            poll(NULL, 0, 100);
        }
        answer = ask(monitor, line + marked, length - marked);
    }
    return answer;
}

static void run_script(const struct sockaddr_un *address, const char *script, size_t length)
{
    struct monitor monitor;
    if (length == 0 || !open_monitor(&monitor, address)) {
        return;
    }
    for (size_t at = 0; at < length;) {
        const char *line = script + at;
        size_t line_length = take_line(script, length, &at);
        int answer = say_line(&monitor, line, line_length);
        if (answer < 0) {
            return;
        }
        for (unsigned i = answer ? skips(line, line_length) : 0; i > 0 && at < length; i--) {
            take_line(script, length, &at);
        }
    }
}

static void guard(int socket_fd, const struct sockaddr_un *address)
{
    char script[HAUL_GUARDIAN_SCRIPT_MAX];
    size_t length = 0;
    setsid(); /* the terminal's Ctrl-C is not for the guardian */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    prctl(PR_SET_NAME, "haul-guardian");
    /* Whatever it inherited would stay open for as long as it lives: the monitor, above all, would not get
     * free. */
    dup2(socket_fd, 3);
    close_range(4, ~0U, 0);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++) {
        dup2(null, fd);
    }
    close(null);
    for (;;) {
        ssize_t count = recv(3, script, sizeof script, 0);
        if (count > 0) {
            length = script[0] == '-'
                         ? 0
                         : (size_t)count; /* "-": disarmed; an empty message would look like the end */
        } else if (count == 0 || errno != EINTR) {
            /* By a child where it may take long, so that a process that goes on does not wait for it. */
            if (length == 0 || _Fork() <= 0) {
                run_script(address, script, length);
            }
            _exit(0);
        }
    }
}

/* ---- in haul ---- */

int haul_guardian_new(const char *qmp_path, struct haul_guardian **guardian, struct haul_error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(qmp_path) >= sizeof address.sun_path) {
        return haul_error_set(error, EINVAL, "the monitor's path %s is too long", qmp_path);
    }
    memcpy(address.sun_path, qmp_path, strlen(qmp_path) + 1);
    struct haul_guardian *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "no memory for the guardian process");
    }
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        int code = errno;
        free(made);
        return haul_error_set(error, code, "cannot make a socket for the guardian process: %s",
                              strerror(code));
    }
    made->pid = fork();
    if (made->pid == 0) {
        close(pair[0]);
        guard(pair[1], &address);
    }
    int code = errno;
    close(pair[1]);
    if (made->pid < 0) {
        close(pair[0]);
        free(made);
        return haul_error_set(error, code, "cannot fork the guardian process: %s", strerror(code));
    }
    made->socket = pair[0];
    *guardian = made;
    return 0;
}

int haul_guardian_arm(struct haul_guardian *guardian, const char *script, struct haul_error *error)
{
    size_t length = strlen(script);
    if (length >= HAUL_GUARDIAN_SCRIPT_MAX) {
        return haul_error_set(error, E2BIG, "the guardian's script of %zu bytes is too long", length);
    }
    if (send(guardian->socket, length ? script : "-", length ? length : 1, MSG_NOSIGNAL) < 0) {
        return haul_error_set(error, errno,
                              "the guardian process %d, which resumes QEMU if haul dies, is gone: %s",
                              (int)guardian->pid, strerror(errno));
    }
    return 0;
}

void haul_guardian_leave(struct haul_guardian *guardian)
{
    if (!guardian) {
        return;
    }
    close(guardian->socket);
    waitpid(guardian->pid, NULL, 0);
    free(guardian);
}

void haul_guardian_free(struct haul_guardian *guardian)
{
    if (guardian) {
        haul_guardian_arm(guardian, "", NULL);
    }
    haul_guardian_leave(guardian);
}
