// SPDX-License-Identifier: Apache-2.0
// Rule R4: whoever else connects to a destination. A stranger's connection disturbs nothing and delays
// nobody.
#include "tests/engine/hostile/hostile_source.h"
#include "tests/engine/resources.h"

#include <cerrno>
#include <memory>
#include <random>
#include <thread>
#include <vector>

using namespace haul_test;

namespace
{

// Each is refused without an end to the waiting: a good source comes afterwards.
TEST(StrangersToo, HelloVariantsAreRefusedAndTheRightOneStillServed)
{
    Destination destination(10000);
    auto refused = [&](const Payload &hello, const char *reason) {
        FramePeer peer(ConnectTo(destination.uri));
        ASSERT_EQ(peer.Send(HAUL_FRAME_HELLO, hello), 0);
        Frame frame;
        ASSERT_EQ(peer.Receive(&frame), 0) << reason;
        EXPECT_EQ(frame.type, HAUL_FRAME_FAILED) << reason;
        std::string text(frame.payload.begin(), frame.payload.end());
        EXPECT_NE(text.find(reason), std::string::npos) << text;
    };
    refused(HelloPayload(HAUL_CONTROL_CHANNEL, 0), "0 channels");
    refused(HelloPayload(HAUL_CONTROL_CHANNEL, 129), "129 channels");
    refused(HelloPayload(HAUL_CONTROL_CHANNEL, 0xffff), "65535 channels");
    refused(HelloPayload(0, 1), "channel 0 connected before the control connection");
    refused({}, "");
    refused(Payload(200, 0xff), "");
    haul_hello hello{};
    Payload payload(256);
    auto encoded = [&] {
        Payload bytes = payload;
        bytes.resize(haul_hello_encode(&hello, bytes.data(), bytes.size()));
        return bytes;
    };
    hello.version = HAUL_WIRE_VERSION + 1;
    hello.channel = HAUL_CONTROL_CHANNEL;
    hello.channels = 1;
    hello.page_size = 4096;
    refused(encoded(), "version");
    hello.version = HAUL_WIRE_VERSION;
    hello.capabilities = 0x80000000;
    refused(encoded(), "capabilit");
    hello.capabilities = 0;
    hello.page_size = 16384;
    refused(encoded(), "16384");
    RawSource source(destination);
    source.Hello();
    source.Blocks();
}

TEST(StrangersToo, ManyStrangersDoNotEndTheWaiting)
{
    Destination destination(10000);
    Resources before = Resources::Now();
    std::mt19937 random(11);
    for (int i = 0; i < 300; i++) {
        FramePeer peer(ConnectTo(destination.uri));
        ASSERT_GE(peer.fd(), 0);
        Payload bytes(random() % 300);
        for (auto &byte : bytes) {
            byte = static_cast<unsigned char>(random());
        }
        if (i % 3 == 0) {
            peer.Send(static_cast<haul_frame_type>(random() % 20), bytes);
        } else if (i % 3 == 1) {
            (void)!send(peer.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (i % 2) {
                shutdown(peer.fd(), SHUT_WR);
            }
        }
    }
    RawSource source(destination);
    source.Hello();
    source.Blocks();
    before.descriptors += 2; // the two ends of the control connection
    before.threads += 1;
    ExpectNoMoreThan(before);
}

// ---- strangers during a move ----

struct Stranger {
    const char *name;
    void (*say)(FramePeer &);
};

class Strangers : public testing::TestWithParam<Stranger>
{
};

TEST_P(Strangers, DoNotDisturbAMove)
{
    Destination destination(10000);
    {
        FramePeer first(ConnectTo(destination.uri));
        GetParam().say(first); // before the source: to a waiting destination
    }
    RawSource source(destination);
    source.Hello();
    FramePeer second(ConnectTo(destination.uri));
    GetParam().say(second); // between the control connection and the channels
    source.Blocks();
    source.Channel(RecordChannel(kPages, 2, HAUL_CODEC_LZ4));
    source.ExpectReply(HAUL_FRAME_ROUND_DONE);
    source.ExpectReply(HAUL_FRAME_ROUND_DONE);
    FramePeer third(ConnectTo(destination.uri));
    if (third.fd() >= 0) {
        GetParam().say(third); // while it runs
    }
    source.State();
    source.control().Send(HAUL_FRAME_PREPARE);
    source.ExpectReply(HAUL_FRAME_PREPARED);
    source.control().Send(HAUL_FRAME_HANDOVER);
    source.ExpectReply(HAUL_FRAME_RUNNING);
    EXPECT_EQ(destination.Wait(), 0) << destination.error.message;
    EXPECT_EQ(destination.starts, 1);
}

INSTANTIATE_TEST_SUITE_P(
    All, Strangers,
    testing::Values(
        Stranger{"Silent", [](FramePeer &) {}},
        Stranger{"Garbage",
                 [](FramePeer &peer) { (void)!send(peer.fd(), "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL); }},
        Stranger{"WrongId", [](FramePeer &peer) { peer.Send(HAUL_FRAME_HELLO, HelloPayload(0, 1, 99)); }},
        Stranger{"ChannelOutOfRange",
                 [](FramePeer &peer) { peer.Send(HAUL_FRAME_HELLO, HelloPayload(1, 1)); }},
        Stranger{"HalfAHello",
                 [](FramePeer &peer) { (void)!send(peer.fd(), "HALF\1\0\0\0", 8, MSG_NOSIGNAL); }}),
    [](const auto &info) { return std::string(info.param.name); });

// Whoever connects and stays silent takes no turn that another has to wait for, at any time.
TEST(StrangersToo, ManySilentOnesDelayNobody)
{
    Destination destination(20000);
    auto begun = Clock::now();
    std::vector<std::unique_ptr<FramePeer>> silent;
    auto ten_more = [&] {
        for (int i = 0; i < 10; i++) {
            silent.push_back(std::make_unique<FramePeer>(ConnectTo(destination.uri)));
            ASSERT_GE(silent.back()->fd(), 0);
        }
    };
    ten_more();
    RawSource source(destination);
    source.Hello();
    ten_more();
    source.Blocks();
    source.Channel(RecordChannel(kPages, 2, HAUL_CODEC_RAW));
    source.ExpectReply(HAUL_FRAME_ROUND_DONE);
    EXPECT_LT(MsSince(begun), 10000) << "one after the other they take twenty times two seconds";
    Frame frame;
    EXPECT_EQ(silent.back()->Receive(&frame), 0) << "it was not told that nobody listens to it any longer";
    EXPECT_EQ(frame.type, HAUL_FRAME_FAILED);
}

// One that says its HELLO byte by byte is only slow.
TEST(StrangersToo, AHelloInPiecesIsTaken)
{
    Destination destination(10000);
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    {
        FramePeer recorder(ends[0]);
        recorder.Send(HAUL_FRAME_HELLO, HelloPayload(HAUL_CONTROL_CHANNEL, 1));
    }
    unsigned char hello[512];
    ssize_t length = recv(ends[1], hello, sizeof hello, 0);
    close(ends[1]);
    ASSERT_GT(length, 16);
    RawSource source(destination);
    for (ssize_t at = 0; at < length; at++) {
        ASSERT_EQ(send(source.control().fd(), hello + at, 1, MSG_NOSIGNAL), 1);
        usleep(1000);
    }
    source.ExpectReply(HAUL_FRAME_WELCOME);
    source.Blocks();
}

TEST(StrangersToo, ASecondSourceIsToldThatTheDestinationIsTaken)
{
    Destination destination(10000);
    RawSource source(destination);
    source.Hello();
    source.Blocks();
    FramePeer second(ConnectTo(destination.uri));
    second.Send(HAUL_FRAME_HELLO, HelloPayload(HAUL_CONTROL_CHANNEL, 1, 7));
    Frame frame;
    ASSERT_EQ(second.Receive(&frame), 0);
    EXPECT_EQ(frame.type, HAUL_FRAME_FAILED);
    std::string text(frame.payload.begin(), frame.payload.end());
    EXPECT_NE(text.find("this destination is taken by another migration"), std::string::npos) << text;
    source.Channel(RecordChannel(kPages, 2, HAUL_CODEC_RAW));
    source.ExpectReply(HAUL_FRAME_ROUND_DONE);
}

// A stream of strangers, each with a HELLO that is well formed, does not keep a destination waiting for a
// channel that does not come.
TEST(StrangersToo, ThatKeepComingDoNotKeepItWaiting)
{
    Destination destination(1000);
    RawSource source(destination);
    source.Hello();
    source.Blocks();
    std::atomic<bool> flood{true};
    std::thread strangers([&] {
        for (auto begun = Clock::now(); flood && MsSince(begun) < 20000;) {
            FramePeer stranger(ConnectTo(destination.uri));
            if (stranger.fd() >= 0) {
                stranger.Send(HAUL_FRAME_HELLO, HelloPayload(0, 1, 99));
            }
            usleep(10000);
        }
        flood = false;
    });
    StaysAlive alive(source);
    EXPECT_EQ(destination.Wait(), -ETIMEDOUT);
    EXPECT_TRUE(flood) << "it waited until no stranger came any more";
    EXPECT_STREQ(destination.error.message, "0 of 1 channels connected in time");
    flood = false;
    strangers.join();
}

TEST(StrangersToo, ASecondConnectionForAChannelIsRefused)
{
    Destination destination(10000);
    RawSource source(destination);
    source.Hello(2); // channel 1 is still to come
    source.Blocks();
    source.Channel({});
    FramePeer second(ConnectTo(destination.uri));
    second.Send(HAUL_FRAME_HELLO, HelloPayload(0, 2));
    Frame frame;
    ASSERT_EQ(second.Receive(&frame), 0);
    EXPECT_EQ(frame.type, HAUL_FRAME_FAILED);
}

} // namespace
