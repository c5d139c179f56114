/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded into a haul that stopped a process: it dies when it is about to let that go on. Its children, one
 * of which is the guardian, do not. */
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

static pid_t haul;

__attribute__((constructor)) static void note(void)
{
    haul = getpid();
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
    if (number == SYS_pidfd_send_signal && words[1] == SIGCONT && getpid() == haul) {
        raise(SIGKILL);
    }
    return real(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}
