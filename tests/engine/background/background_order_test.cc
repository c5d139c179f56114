// SPDX-License-Identifier: Apache-2.0
// A page is copied, then taken, then released. Each test holds up one thread in the middle of its copies, and
// writes meanwhile what it has not copied yet: taken or released too soon, that would get into the file.
#include "tests/engine/background/background.h"

#include <csignal>
#include <sys/mman.h>

using namespace haul_test;

namespace
{

constexpr size_t kHeldUp = 4 * kClusterPages; // the page whose copy is held up

class SnapshotOrder : public Snapshot
{
  protected:
    void SetUp() override
    {
        Snapshot::SetUp();
        struct sigaction action = {};
        action.sa_sigaction = Fault;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &action, &before_);
    }
    void TearDown() override
    {
        sigaction(SIGSEGV, &before_, nullptr);
    }
    unsigned char *Page(size_t page) const
    {
        return guest->blocks[0]->data() + page * kPage;
    }
    // Whoever is the first to copy the page calls `hook` before.
    void HoldUp(std::function<void()> hook)
    {
        hook_ = std::move(hook);
        held_up_ = Page(kHeldUp); // after the hook: whoever sees it sees that
        ASSERT_EQ(mprotect(held_up_, kPage, PROT_NONE), 0);
    }

    Signal came;

  private:
    static void Fault(int, siginfo_t *info, void *)
    {
        int error = errno;
        auto *at = static_cast<unsigned char *>(info->si_addr);
        unsigned char *page = held_up_;
        if (!page || at < page || at >= page + kPage) {
            signal(SIGSEGV, SIG_DFL);
            return;
        }
        mprotect(page, kPage, PROT_READ | PROT_WRITE);
        if (!called_.exchange(true)) {
            hook_();
        }
        errno = error;
    }
    struct sigaction before_ = {};
    static inline std::atomic<unsigned char *> held_up_;
    static inline std::function<void()> hook_;
    static inline std::atomic<bool> called_;

  public:
    SnapshotOrder()
    {
        held_up_ = nullptr;
        called_ = false;
    }
};

// A writer of the file is in the middle of a chunk; a write hits a later page of it.
TEST_F(SnapshotOrder, WhatIsReadInOrderIsTakenAfterItsCopy)
{
    haul_options options = SnapshotOptions();
    options.channels = 1;
    Make({4 * kMiB}, true, options);
    HeldWrite write(Page(kHeldUp + 2 * kClusterPages));
    guest->on_state = [&](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            HoldUp([&] { EXPECT_TRUE(write.Ends()); });
        }
    };
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
    EXPECT_EQ(end->stats.write_faults, 1u);
    ExpectRestoresTheMoment(directory / "a");
}

// The fault thread is in the middle of a cluster; a writer of the file comes to it, and the write goes on.
TEST_F(SnapshotOrder, WhatIsWrittenIsTakenAfterItsCopy)
{
    Make({4 * kMiB}, true);
    Signal released;
    HeldWrite write(Page(kHeldUp + 1));
    guard->after_release = [&](uint64_t first, uint64_t count) {
        if (first == 0 && count == kChunkPages) {
            released.Set();
        }
    };
    guest->on_state = [&](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            HoldUp([&] {
                came.Set();
                EXPECT_TRUE(released.Wait());
                EXPECT_TRUE(write.Ends());
            });
            write.Go();
            EXPECT_TRUE(came.Wait());
        }
    };
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
    EXPECT_EQ(end->stats.write_faults, 1u);
    ExpectRestoresTheMoment(directory / "a");
}

// What is released is written at once.
TEST_F(SnapshotOrder, WhatIsReleasedWasCopied)
{
    Make({4 * kMiB}, true);
    HeldWrite write(Page(kHeldUp));
    guard->after_release = [&](uint64_t first, uint64_t count) {
        if (first == kHeldUp && count == kClusterPages) { // the fault thread
            EXPECT_TRUE(write.Ends());
        } else if (count == kChunkPages) {
            memset(Page(first), 0xdd, count * kPage);
        }
    };
    guest->on_state = [&](haul_state to) {
        if (to == HAUL_STATE_ACTIVE) {
            EXPECT_TRUE(write.Ends());
        }
    };
    ASSERT_EQ(Run(directory / "a"), 0) << end->message();
    EXPECT_EQ(end->stats.write_faults, 1u);
    ExpectRestoresTheMoment(directory / "a");
}

} // namespace
