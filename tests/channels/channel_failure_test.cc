/* SPDX-License-Identifier: Apache-2.0 */
/* Channels that break, fall silent, are aborted, or are given what they must refuse. */
#include "tests/channels/link.h"

#include <cerrno>
#include <thread>

namespace
{

using namespace haul_test;

TEST(Channel, PeerClosingInTheMiddleFailsTheSender)
{
    Link link(Later{1}, 2048);
    auto [out, in] = connect_pair("tcp:127.0.0.1:0");
    link.add_sender(7, out, HAUL_CODEC_RAW);
    for (uint64_t i = 0; i < 2048; i++)
        link.source.fill(i, 1);
    char some[100];
    std::thread peer([&, in = in] {
        EXPECT_EQ(100, recv(in, some, sizeof some, MSG_WAITALL));
        close(in);
    });
    haul_error error{};
    for (int i = 0; i < 200 && haul_sender_error(link.senders[0], &error) == 0; i++)
        link.submit(0, HAUL_BATCH_KIND_PAGES, 2, {{0, 256}});
    peer.join();
    link.drain(0); /* what was submitted after the failure completes unsent */
    int result = haul_sender_error(link.senders[0], &error);
    EXPECT_TRUE(result == -EPIPE || result == -ECONNRESET) << result;
    EXPECT_EQ(-result, error.code);
    EXPECT_NE(nullptr, strstr(error.message, "channel 7 to 127.0.0.1:")) << error.message;
    EXPECT_NE(nullptr, strstr(error.message, ": sending round 2: ")) << error.message;
}

TEST(Channel, PeerClosingInTheMiddleFailsTheReceiver)
{
    Link link(1, 10, HAUL_CODEC_RAW, "tcp:127.0.0.1:0");
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    haul_sender_abort(link.senders[0]);
    haul_error error = link.barrier.wait_failure();
    EXPECT_EQ(ECONNRESET, error.code);
    EXPECT_NE(nullptr, strstr(error.message, "channel 0 from 127.0.0.1:")) << error.message;
    EXPECT_NE(nullptr, strstr(error.message, ": receiving round 2: the peer closed the connection"))
        << error.message;
}

TEST(Channel, SilentPeerTimesOut)
{
    haul_error error{};
    auto [out, in] = connected("tcp:127.0.0.1:0", {{5000, 100}});
    Link link(Later{1}, 2048);
    link.add_sender(0, out, HAUL_CODEC_RAW);
    for (uint64_t i = 0; i < 2048; i++)
        link.source.fill(i, 1);
    for (int i = 0; i < 200 && haul_sender_error(link.senders[0], &error) == 0; i++)
        link.submit(0, HAUL_BATCH_KIND_PAGES, 1, {{0, 256}});
    EXPECT_EQ(-ETIMEDOUT, haul_sender_error(link.senders[0], &error));
    EXPECT_NE(nullptr, strstr(error.message, "sending round 1: the peer took nothing for too long"))
        << error.message;
    close(in);
}

class Abort : public ::testing::TestWithParam<const char *>
{
};

TEST_P(Abort, WhileBlockedReturnsAtOnce)
{
    Link link(Later{1}, 4096);
    auto [out, in] = connect_pair(GetParam());
    link.add_sender(0, out, HAUL_CODEC_RAW);
    for (uint64_t i = 0; i < 4096; i++)
        link.source.fill(i, 1);
    for (uint64_t i = 0; i < HAUL_SENDER_DEPTH; i++)
        link.submit(0, HAUL_BATCH_KIND_PAGES, 1, {{i * 256, 256}});
    std::this_thread::sleep_for(20ms);
    auto start = std::chrono::steady_clock::now();
    haul_sender_abort(link.senders[0]);
    link.drain(0);
    haul_error error{};
    EXPECT_EQ(-ECANCELED, haul_sender_error(link.senders[0], &error));
    EXPECT_NE(nullptr, strstr(error.message, ": aborted")) << error.message;
    haul_sender_free(link.senders[0]);
    link.senders.clear();
    EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
    close(in);
}

TEST_P(Abort, ReceiverThatWaitsReturnsAtOnceAndReportsNothing)
{
    Link link(1, 10, HAUL_CODEC_RAW, GetParam());
    auto start = std::chrono::steady_clock::now();
    haul_receiver_abort(link.receivers[0]);
    haul_receiver_free(link.receivers[0]);
    link.receivers.clear();
    EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
    EXPECT_EQ(0u, link.barrier.failures());
}

INSTANTIATE_TEST_SUITE_P(Channels, Abort, ::testing::Values("pair", "tcp:127.0.0.1:0"));

TEST(Channel, FailedBarrierEndsTheReceiver)
{
    Link link(1, 10);
    link.barrier.refuse();
    link.mark(1);
    haul_error error = link.barrier.wait_failure();
    EXPECT_EQ(EIO, error.code);
    EXPECT_NE(nullptr, strstr(error.message, "channel 0 from the peer: no more rounds for channel 0"))
        << error.message;
}

TEST(Channel, BatchThatBreaksItsContractIsRefused)
{
    const std::vector<std::vector<haul_run>> bad = {
        {{10, 1}}, {{0, 0}}, {{5, 6}}, {{UINT64_MAX, 2}}, {{1, UINT64_MAX}}};
    for (const auto &runs : bad) {
        Link link(1, 10);
        link.submit(0, HAUL_BATCH_KIND_PAGES, 1, runs);
        link.drain(0);
        haul_error error{};
        EXPECT_EQ(-EINVAL, haul_sender_error(link.senders[0], &error));
        EXPECT_NE(nullptr, strstr(error.message, "of a block of 10")) << error.message;
    }
    Link link(1, 1000);
    link.submit(0, HAUL_BATCH_KIND_PAGES, 1, {{0, 200}, {300, 57}});
    link.drain(0);
    EXPECT_EQ(-EINVAL, haul_sender_error(link.senders[0], nullptr));
}

} // namespace
