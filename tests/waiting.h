// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_WAITING_H
#define HAUL_TESTS_WAITING_H

// Waiting in tests. What must come is waited for, up to far longer than it takes on a loaded machine under a
// sanitizer; a sleep of a fixed length shows only what must not come.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

namespace haul_test
{

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience{30};

inline int64_t MsSince(Clock::time_point begun)
{
    return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun).count();
}

// Looks every millisecond until `true_now`; false when it does not come true.
inline bool Eventually(const std::function<bool()> &true_now)
{
    for (auto end = Clock::now() + kPatience; !true_now();) {
        if (Clock::now() > end) {
            return false;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

// Set once by one thread, awaited by another.
class Signal
{
  public:
    void Set()
    {
        std::lock_guard<std::mutex> hold(lock_);
        set_ = true;
        changed_.notify_all();
    }
    bool Wait()
    {
        std::unique_lock<std::mutex> hold(lock_);
        return changed_.wait_for(hold, kPatience, [this] { return set_; });
    }

  private:
    std::mutex lock_;
    std::condition_variable changed_;
    bool set_ = false;
};

} // namespace haul_test

#endif
