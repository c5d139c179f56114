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

// What acts at once may be late on a machine that does something else meanwhile, or under a sanitizer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kAtOnceMs = 2000;
#else
constexpr int64_t kAtOnceMs = 100;
#endif

// The least of what up to ten tries return, the number of each given; no more once one is under `enough`.
inline int64_t BestOfTries(int64_t enough, const std::function<int64_t(int)> &measure)
{
    int64_t best = INT64_MAX;
    for (int i = 0; i < 10 && best >= enough; i++) {
        int64_t value = measure(i);
        best = value < best ? value : best;
    }
    return best;
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
