// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_UNSEEN_H
#define HAUL_TESTS_MACHINES_UNSEEN_H

// What makes the writes of another process hard or impossible to see.

#include <cstdint>
#include <string>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace haul_test
{

// A file with the name of a vDPA device: who holds it open looks as if it drove one.
class DeviceFile
{
  public:
    DeviceFile() : path_("/dev/vhost-vdpa-haul-test-" + std::to_string(getpid()))
    {
        int fd = open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        ok_ = fd >= 0;
        close(fd);
    }
    ~DeviceFile()
    {
        if (ok_) {
            unlink(path_.c_str());
        }
    }
    DeviceFile(const DeviceFile &) = delete;
    DeviceFile &operator=(const DeviceFile &) = delete;
    bool ok() const
    {
        return ok_;
    }
    const std::string &path() const
    {
        return path_;
    }

  private:
    std::string path_;
    bool ok_ = false;
};

// Puts memory of this process under a userfaultfd, which stays open: the kernel takes no second one.
inline bool watch_with_userfaultfd(void *memory, size_t length)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    uffdio_api api = {};
    api.api = UFFD_API;
    uffdio_register range = {};
    range.range.start = reinterpret_cast<uintptr_t>(memory);
    range.range.len = length;
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    return fd >= 0 && memory && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &range) == 0;
}

} // namespace haul_test

#endif
