// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_HELD_WRITE_H
#define HAUL_TESTS_ENGINE_HELD_WRITE_H

// Threads that wait, as the kernel sees them: for who holds their writes.

#include "tests/waiting.h"

#include <atomic>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <unistd.h>

namespace haul_test
{

// Whether a thread of this process sleeps.
inline bool Sleeps(int tid)
{
    std::ifstream stat("/proc/self/task/" + std::to_string(tid) + "/stat");
    std::string line;
    std::getline(stat, line);
    size_t name = line.rfind(')');
    return name != std::string::npos && name + 2 < line.size() &&
           (line[name + 2] == 'S' || line[name + 2] == 'D');
}

// A thread that writes one page once it is told to.
class HeldWrite
{
  public:
    explicit HeldWrite(void *page)
        : thread_([this, page] {
              go_.Wait();
              tid_ = gettid();
              memset(page, 0xee, 4096);
              done_.Set();
          })
    {
    }
    ~HeldWrite()
    {
        Go();
        thread_.join();
    }
    HeldWrite(const HeldWrite &) = delete;
    void Go()
    {
        go_.Set();
    }
    // Comes to its write, and waits there.
    bool Waits()
    {
        Go();
        return Eventually([this] { return tid_ != 0 && Sleeps(tid_); });
    }
    bool Ends()
    {
        Go();
        return done_.Wait();
    }

  private:
    Signal go_, done_;
    std::atomic<int> tid_{0};
    std::thread thread_; // last: it uses the others
};

} // namespace haul_test

#endif
