/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trackers/uffd_call.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXITED "the process has exited"

/* One call holds the process's memory lock for reading; in pieces, so that its own mmap calls get a turn. */
#define PROTECT_STEP (UINT64_C(1) << 30)

static int change(int uffd, uint64_t start, uint64_t end, uint64_t mode, struct haul_error *error)
{
    while (start < end) {
        uint64_t length = end - start < PROTECT_STEP ? end - start : PROTECT_STEP;
        struct uffdio_writeprotect request = {.range = {.start = start, .len = length}, .mode = mode};
        if (ioctl(uffd, UFFDIO_WRITEPROTECT, &request)) {
            if (errno == EAGAIN || errno == EINTR) {
                continue; /* the process changes its mappings; it begins at the start of the piece again */
            }
            int code = errno == ENOENT ? EINVAL : errno;
            return haul_error_set(error, code, "cannot %s 0x%" PRIx64 "+0x%" PRIx64 ": %s",
                                  mode ? "write-protect" : "release", start, length,
                                  code == ESRCH ? EXITED : strerror(code));
        }
        start += length;
    }
    return 0;
}

int haul_uffd_protect(int uffd, uint64_t start, uint64_t end, struct haul_error *error)
{
    return change(uffd, start, end, UFFDIO_WRITEPROTECT_MODE_WP, error);
}

int haul_uffd_release(int uffd, uint64_t start, uint64_t end, struct haul_error *error)
{
    return change(uffd, start, end, 0, error);
}

int haul_uffd_handshake(int uffd, uint64_t features, struct haul_error *error)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    if (ioctl(uffd, UFFDIO_API, &api)) {
        int code = errno == EINVAL ? ENOSYS : errno;
        const char *too_old = features & UFFD_FEATURE_WP_ASYNC
                                  ? "this kernel's userfaultfd has no asynchronous write protection: it "
                                    "takes Linux 6.7 or newer"
                                  : "this kernel's userfaultfd cannot write-protect memory that was never "
                                    "touched: it takes Linux 6.4 or newer";
        return haul_error_set(error, code, "%s", code == ENOSYS ? too_old : strerror(code));
    }
    return 0;
}

int haul_uffd_open(int flags, uint64_t features, int *uffd, struct haul_error *error)
{
    int fd = (int)syscall(SYS_userfaultfd, flags);
    if (fd < 0) {
        int code = errno;
        return haul_error_set(error, code, "userfaultfd: %s",
                              code == ENOSYS  ? "this kernel is built without CONFIG_USERFAULTFD"
                              : code != EPERM ? strerror(code)
                              : flags & UFFD_USER_MODE_ONLY
                                  ? "refused by a security policy of this process (seccomp, SELinux)"
                                  : "it takes CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd=1 (sysctl)");
    }
    int result = haul_uffd_handshake(fd, features, error);
    if (result) {
        close(fd);
        return result;
    }
    *uffd = fd;
    return 0;
}

int haul_uffd_register(int uffd, const struct haul_tracked_range *range, struct haul_error *error)
{
    struct uffdio_register request = {.range = {.start = range->address, .len = range->length},
                                      .mode = UFFDIO_REGISTER_MODE_WP};
    if (!ioctl(uffd, UFFDIO_REGISTER, &request)) {
        return 0;
    }
    int code = errno;
    if (code == ENOMEM &&
        haul_uffd_release(uffd, range->address, range->address + range->length, NULL) == -ESRCH) {
        code = ESRCH; /* to this call the kernel gives the same answer when no memory is left to watch */
    }
    const char *why = strerror(code);
    if (code == ESRCH) {
        why = EXITED;
    } else if (code == EBUSY) {
        why = "a userfaultfd watches it already (postcopy, a snapshot, or another haul)";
    } else if (code == EPERM) {
        why = "it may not be written";
    } else if (code == EINVAL) {
        why = "this kind of memory cannot be write-protected, or the range cuts a huge page";
    }
    return haul_error_set(error, code, "cannot watch 0x%" PRIx64 "+0x%" PRIx64 ": %s", range->address,
                          range->length, why);
}
