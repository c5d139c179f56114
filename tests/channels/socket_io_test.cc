// SPDX-License-Identifier: Apache-2.0
#include "channels/socket_io.h"

#include "tests/channels/tcp_pair.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

constexpr size_t kBatch = 512 << 10;

/* The parameter: over tcp, or else over a unix socket. */
class SocketIo : public ::testing::TestWithParam<bool>
{
  protected:
    void SetUp() override
    {
        if (GetParam()) {
            tcp_ = std::make_unique<TcpPair>("127.0.0.1", "127.0.0.1");
            ASSERT_TRUE(tcp_->Ok()) << tcp_->Why();
            here_ = tcp_->server;
            there_ = tcp_->client;
        } else {
            ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, unix_));
            here_ = unix_[0];
            there_ = unix_[1];
        }
        for (size_t i = 0; i < bytes_.size(); i++)
            bytes_[i] = (unsigned char)(i * 31 + (i >> 12));
    }
    void TearDown() override
    {
        for (int fd : unix_)
            if (fd >= 0)
                close(fd);
    }
    /* The first `length` bytes, `piece` by `piece`. */
    void trickle(size_t length, size_t piece) const
    {
        for (size_t at = 0; at < length; at += piece) {
            ASSERT_EQ((ssize_t)std::min(piece, length - at),
                      send(there_, bytes_.data() + at, std::min(piece, length - at), MSG_NOSIGNAL));
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }
    int receive(size_t length)
    {
        iovec parts[3] = {{got_.data(), 1}, {got_.data() + 1, 0}, {got_.data() + 1, length - 1}};
        return haul_io_receive(here_, parts, 3);
    }

    int here_ = -1, there_ = -1;
    std::vector<unsigned char> bytes_ = std::vector<unsigned char>(2 * kBatch), got_ = bytes_;

  private:
    std::unique_ptr<TcpPair> tcp_;
    int unix_[2] = {-1, -1};
};

long sleeps_of_this_thread()
{
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
}

// Sizes that no low-water mark divides; nothing follows that could wake a receiver that waits for too much.
TEST_P(SocketIo, ReceivesAllHoweverItComes)
{
    const struct {
        size_t length, piece;
    } cases[] = {{1, 1}, {40, 7}, {(64 << 10) + 1, 50001}, {kBatch - 3, 100001}, {2 * kBatch, 65536 + 13}};
    for (const auto &each : cases) {
        std::fill(got_.begin(), got_.end(), 0);
        std::thread sender([&] { trickle(each.length, each.piece); });
        EXPECT_EQ(0, receive(each.length)) << each.length;
        sender.join();
        EXPECT_EQ(0, memcmp(bytes_.data(), got_.data(), each.length)) << each.length;
    }
}

TEST_P(SocketIo, ReceivesWhatIsThereAlreadyWithoutSleeping)
{
    ASSERT_EQ(4096, send(there_, bytes_.data(), 4096, 0));
    int there = 0; // a busy kernel may hand it over a little later
    ASSERT_TRUE(haul_test::Eventually([&] { return ioctl(here_, FIONREAD, &there) == 0 && there == 4096; }));
    long before = sleeps_of_this_thread();
    EXPECT_EQ(0, receive(4096));
    EXPECT_EQ(before, sleeps_of_this_thread());
}

/* Other sockets have no low-water mark. */
class TcpSocketIo : public SocketIo
{
};

// Each wake-up costs the sender one.
TEST_P(TcpSocketIo, SleepsUntilTheRestIsThere)
{
    long slept = -1;
    std::thread receiver([&] {
        long before = sleeps_of_this_thread();
        EXPECT_EQ(0, receive(kBatch));
        slept = sleeps_of_this_thread() - before;
    });
    trickle(kBatch, kBatch / 64);
    receiver.join();
    EXPECT_LT(slept, 32) << "64 pieces came";
}

// A header that comes alone after a batch must not wait for as much as the batch did.
TEST_P(SocketIo, ALittleAfterMuchComesAtOnce)
{
    std::thread sender([&] {
        trickle(kBatch, kBatch / 2);
        trickle(40, 40);
    });
    EXPECT_EQ(0, receive(kBatch));
    EXPECT_EQ(0, receive(40));
    sender.join();
    EXPECT_EQ(0, memcmp(bytes_.data(), got_.data(), 40));
}

TEST_P(SocketIo, AnEndInTheMiddleIsTold)
{
    std::thread sender([&] {
        trickle(kBatch / 2 + 5, 30000);
        shutdown(there_, SHUT_WR);
    });
    EXPECT_EQ(-HAUL_IO_END, receive(kBatch));
    sender.join();
}

TEST_P(SocketIo, AShutdownWakesTheReceiver)
{
    for (size_t length : {(size_t)40, kBatch}) {
        std::thread receiver([&] { EXPECT_EQ(-HAUL_IO_END, receive(length)); });
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        shutdown(here_, SHUT_RDWR);
        receiver.join();
    }
}

INSTANTIATE_TEST_SUITE_P(Over, SocketIo, ::testing::Bool(),
                         [](const auto &info) { return info.param ? "Tcp" : "Unix"; });
INSTANTIATE_TEST_SUITE_P(Over, TcpSocketIo, ::testing::Values(true));

} // namespace
