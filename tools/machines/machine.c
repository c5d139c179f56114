/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/machine.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENDING_MS 1000

void *haul_machine_alloc(size_t size, const struct haul_machine_ops *ops, struct haul_error *error)
{
    struct haul_machine *made = calloc(1, size);
    if (!made) {
        haul_error_set(error, ENOMEM, "no memory for a %s machine", ops->kind);
        return NULL;
    }
    made->ops = ops;
    return made;
}

bool haul_machine_process_ended(int pid, int pidfd)
{
    int own = pidfd < 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (pidfd < 0 && own < 0) {
        return errno == ESRCH;
    }
    /* What dies loses its memory, and with it the link to its program, before anything else can be seen of
     * that; a process whose first thread alone has ended looks the same, and lives on. */
    char path[32], program[8];
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    bool ending = readlink(path, program, sizeof program) < 0 && errno == ENOENT;
    struct pollfd polled = {.fd = own < 0 ? pidfd : own, .events = POLLIN};
    bool ended = poll(&polled, 1, ending ? ENDING_MS : 0) == 1;
    if (own >= 0) {
        close(own);
    }
    return ended;
}

int haul_machine_finish(struct haul_machine *made, int result, struct haul_machine **machine)
{
    if (result < 0) {
        made->ops->free(made);
        return result;
    }
    *machine = made;
    return 0;
}
