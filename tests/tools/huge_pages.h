// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_HUGE_PAGES_H
#define HAUL_TESTS_TOOLS_HUGE_PAGES_H

// Huge pages of 2 MiB for a test, which the kernel has to set aside first.

#include <fstream>
#include <string>

namespace haul_test
{

// As many more than there are, until it goes out of scope. Other tests may do the same meanwhile, so what is
// given back is what was added, not what was found.
class HugePages
{
  public:
    explicit HugePages(long wanted)
    {
        Change(wanted);
        added_ = wanted;
        enough_ = Read("free_hugepages") - Read("resv_hugepages") >= wanted;
    }
    ~HugePages()
    {
        Change(-added_);
    }
    HugePages(const HugePages &) = delete;
    // "" or why there are none, for GTEST_SKIP.
    std::string missing() const
    {
        return enough_ ? "" : "no huge pages of 2 MiB can be reserved here (root, and unfragmented memory)";
    }

  private:
    static std::string File(const char *name)
    {
        return std::string("/sys/kernel/mm/hugepages/hugepages-2048kB/") + name;
    }
    static long Read(const char *name)
    {
        long value = 0;
        std::ifstream(File(name)) >> value;
        return value;
    }
    static void Change(long by)
    {
        long now = Read("nr_hugepages") + by;
        std::ofstream(File("nr_hugepages")) << (now > 0 ? now : 0);
    }
    long added_ = 0;
    bool enough_ = false;
};

} // namespace haul_test

#endif
