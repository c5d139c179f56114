// SPDX-License-Identifier: Apache-2.0
// A snapshot that is cancelled while writes wait: each of them goes on, whatever the file's writers wait for.
#include "tests/engine/background/background.h"

#include <algorithm>
#include <climits>
#include <filesystem>
#include <random>
#include <vector>

using namespace haul_test;

namespace
{

constexpr int kSnapshots = 20;

TEST_F(SnapshotStuck, CancelledLetsWritesGoOnAtOnce)
{
    ASSERT_NO_FATAL_FAILURE(Start(SnapshotOptions()));
    HoldWrites(3);
    EXPECT_EQ(haul_cancel(end->migration), 0);
    for (auto &write : writes) {
        EXPECT_TRUE(write->Ends()) << "it waits for the file";
    }
    go_on.Set();
    EXPECT_EQ(Wait(), -ECANCELED) << end->message();
    EXPECT_EQ(end->stats.state, HAUL_STATE_CANCELLED);
    ExpectGoesOn({});
}

// Threads that write all the time, whether the guest runs or not.
class Writers
{
  public:
    explicit Writers(Guest *guest)
    {
        for (unsigned i = 0; i < kThreads; i++) {
            threads_.emplace_back([this, guest, i] {
                Memory *memory = guest->blocks[0];
                std::mt19937 random(i);
                while (!done_) {
                    __atomic_store_n(memory->data() + random() % memory->size(), i, __ATOMIC_RELAXED);
                    writes_[i]++;
                }
            });
        }
    }
    ~Writers()
    {
        done_ = true;
        for (std::thread &thread : threads_) {
            thread.join();
        }
    }
    Writers(const Writers &) = delete;
    bool GoOn()
    {
        for (std::atomic<uint64_t> &writes : writes_) {
            if (!Eventually([&writes, before = writes.load()] { return writes > before; })) {
                return false;
            }
        }
        return true;
    }

  private:
    static constexpr unsigned kThreads = 3;
    std::atomic<bool> done_{false};
    std::atomic<uint64_t> writes_[kThreads] = {};
    std::vector<std::thread> threads_;
};

TEST_F(Snapshot, CancelledAtRandomMomentsHoldsNoWrite)
{
    setenv("HWLOC_SYNTHETIC", "numa:1 pu:2", 1); // the real topology would take most of the time
    std::mt19937 random(79);
    unsigned window_us = UINT_MAX; // twice what the quickest snapshot took
    int cancelled = 0;
    for (int i = 0; i <= kSnapshots; i++) {
        SCOPED_TRACE("snapshot " + std::to_string(i));
        haul_options options = SnapshotOptions();
        options.channels = 1 + random() % 4;
        end.reset(); // it has the guard, and that the guest
        guard.reset();
        Make({4 * kMiB}, true, options);
        if (HasFailure()) {
            return;
        }
        Writers writers(guest.get());
        ASSERT_EQ(end->Start(directory / "a"), 0) << end->message();
        if (i > 0) {
            usleep(static_cast<unsigned>(random() % window_us));
            int result = haul_cancel(end->migration);
            ASSERT_TRUE(result == 0 || result == -EALREADY) << result;
        }
        int result = Wait();
        ASSERT_TRUE(result == -ECANCELED || (result == 0 && end->stats.state == HAUL_STATE_COMPLETED))
            << end->message();
        if (!writers.GoOn()) {
            guard->Lift(); // lets them go
            FAIL() << "a write waits for ever";
        }
        ASSERT_EQ(directory.Names().size(), result == 0 ? 1u : 0u);
        if (result == 0) {
            window_us = std::min(window_us, static_cast<unsigned>(end->stats.total_time_ns / 500) + 1);
        }
        cancelled += result == -ECANCELED;
        std::filesystem::remove(directory / "a");
    }
    EXPECT_GT(cancelled, 0);
}

} // namespace
