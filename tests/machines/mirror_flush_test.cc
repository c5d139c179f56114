// SPDX-License-Identifier: Apache-2.0
// How often a mirror's destination is flushed: QEMU's main loop waits meanwhile. On a scripted monitor.
#include "tests/machines/fake_monitor.h"
#include "tests/waiting.h"
#include "tools/machines/qemu/mirror.h"

#include <atomic>
#include <chrono>

namespace
{

using namespace haul_test;

constexpr uint64_t kSecond = 1000000000;

class MirrorFlush : public ::testing::Test
{
  protected:
    // Each flush takes so long.
    void Start(std::chrono::milliseconds takes)
    {
        monitor_ = std::make_unique<FakeMonitor>([this, takes](int fd) {
            greet(fd);
            for (std::string id; !(id = hear(fd)).empty();) {
                std::this_thread::sleep_for(takes);
                asked_++;
                haul_test::say(fd, R"({"return": "", "id": )" + id + "}\r\n");
            }
        });
        haul_qemu_mirror_init(&mirror_);
        mirror_.drives.count = 1;
        client_ = std::make_unique<Client>();
        ASSERT_EQ(0, client_->open(monitor_->path())) << client_->error.message;
    }
    void TearDown() override
    {
        client_.reset();
        monitor_.reset();
    }
    int Flush()
    {
        EXPECT_EQ(0, haul_qemu_mirror_flush(&mirror_, client_->qmp, &client_->error))
            << client_->error.message;
        return asked_;
    }
    std::atomic<int> asked_{0};
    haul_qemu_mirror mirror_ = {};
    std::unique_ptr<FakeMonitor> monitor_;
    std::unique_ptr<Client> client_;
};

TEST_F(MirrorFlush, AShortOneIsNotRepeatedAtOnce)
{
    Start(std::chrono::milliseconds(0));
    int asked, again;
    Clock::time_point begun;
    do { // for as long as this machine is busy meanwhile
        asked_ = 0;
        mirror_.flushed_ns = 0;
        begun = Clock::now();
        asked = Flush();
        again = Flush();
    } while (mirror_.flush_ns > 5000000 || MsSince(begun) > 400);
    EXPECT_EQ(1, asked);
    EXPECT_EQ(mirror_.flush_ns, mirror_.reflush_ns);
    EXPECT_EQ(1, again) << "a moment later";
    mirror_.flush_last_ns = 1000000;
    mirror_.flushed_ns -= kSecond;
    EXPECT_LT(1, Flush());
}

TEST_F(MirrorFlush, ALongOneLeavesQemuTenTimesAsLong)
{
    Start(std::chrono::milliseconds(60));
    EXPECT_EQ(2, Flush());
    EXPECT_GE(mirror_.flush_ns, 60000000u);
    EXPECT_GE(mirror_.flush_last_ns, 120000000u);
    mirror_.flush_last_ns = 10 * kSecond;
    mirror_.flushed_ns -= 50 * kSecond;
    EXPECT_EQ(2, Flush());
    mirror_.flushed_ns -= 60 * kSecond;
    EXPECT_EQ(4, Flush());
    EXPECT_EQ(2u, mirror_.flushes);
    EXPECT_GE(mirror_.flush_total_ns, 240000000u);
    EXPECT_GE(mirror_.flush_longest_ns, 120000000u);
    EXPECT_LT(mirror_.flush_longest_ns, mirror_.flush_total_ns);
}

} // namespace
