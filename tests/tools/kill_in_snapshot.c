/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded into a haul that takes a snapshot: at one moment it dies, or kills the process whose number is
 * $HAUL_TEST_KILLS. Its children, one of which is the guardian, do not. $HAUL_TEST_MOMENT is "setup" before
 * any memory is watched, "protecting" when the first is protected, "device" before the process that it
 * stopped goes on, "saved" before the file is made durable, and "naming" before it gets its name. */
#include <dlfcn.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pid_t haul;

__attribute__((constructor)) static void note(void)
{
    haul = getpid();
}

static void reached(const char *moment)
{
    const char *wanted = getenv("HAUL_TEST_MOMENT");
    const char *victim = getenv("HAUL_TEST_KILLS");
    if (getpid() != haul || !wanted || strcmp(moment, wanted) != 0) {
        return;
    }
    if (!victim) {
        raise(SIGKILL);
        return;
    }
    pid_t pid = (pid_t)strtol(victim, NULL, 10);
    struct pollfd gone = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    kill(pid, SIGKILL);
    poll(&gone, 1, -1);
    close(gone.fd);
}

long syscall(long number, ...)
{
    long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    long words[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) {
        words[i] = va_arg(list, long);
    }
    va_end(list);
    if (number == SYS_pidfd_send_signal && words[1] == SIGCONT) {
        reached("device");
    }
    return real(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

int ioctl(int fd, unsigned long request, ...)
{
    int (*real)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (request == UFFDIO_REGISTER) {
        reached("setup");
    }
    int result = real(fd, request, argument);
    if (request == UFFDIO_WRITEPROTECT) {
        reached("protecting");
    }
    return result;
}

int fsync(int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    struct stat status;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        reached("saved");
    }
    return real(fd);
}

int linkat(int from, const char *path, int to, const char *name, int flags)
{
    int (*real)(int, const char *, int, const char *, int) =
        (int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat");
    reached("naming");
    return real(from, path, to, name, flags);
}
