// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_HUGE_PAGES_H
#define HAUL_TESTS_TOOLS_HUGE_PAGES_H

// Huge pages of 2 MiB for a test, which the kernel has to set aside first.

#include <algorithm>
#include <fcntl.h>
#include <fstream>
#include <string>
#include <sys/file.h>
#include <unistd.h>

namespace haul_test
{

// As many more than there are, until it goes out of scope. Other tests may do the same meanwhile: each adds
// what it takes, so that none takes another's, and gives back what it added, not what it found.
class HugePages
{
  public:
    explicit HugePages(long wanted) : wanted_(wanted), added_(Change(wanted))
    {
    }
    ~HugePages()
    {
        Change(-added_);
    }
    HugePages(const HugePages &) = delete;
    // "" or why there are none, for GTEST_SKIP.
    std::string missing() const
    {
        return added_ == wanted_
                   ? ""
                   : "no huge pages of 2 MiB can be reserved here (root, and unfragmented memory)";
    }

  private:
    static long Now()
    {
        long value = 0;
        std::ifstream(kFile) >> value;
        return value;
    }
    // By how many there are more then; one such change at a time.
    static long Change(long by)
    {
        int lock = open(kFile, O_RDONLY | O_CLOEXEC);
        flock(lock, LOCK_EX);
        long before = Now();
        std::ofstream(kFile) << std::max(before + by, 0L);
        long added = Now() - before;
        close(lock);
        return added;
    }
    static constexpr char kFile[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const long wanted_, added_;
};

} // namespace haul_test

#endif
