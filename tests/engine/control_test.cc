// SPDX-License-Identifier: Apache-2.0
// The control connection: frames in and out, pings, silence, failures, and what a hostile peer may not do.
#include "engine/control.h"
#include "tests/engine/fake_migration.h"
#include "tests/engine/frame_peer.h"
#include "tests/waiting.h"

#include <atomic>
#include <cerrno>
#include <thread>

using haul_test::Bytes;
using haul_test::Clock;
using haul_test::Eventually;
using haul_test::Frame;
using haul_test::FramePeer;
using haul_test::MsSince;

namespace
{

class Control : public testing::Test
{
  protected:
    void Open(uint32_t silence_timeout_ms = 10000)
    {
        int ends[2];
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        peer_.Take(ends[1]);
        haul_control_options options = {
            .fd = ends[0],
            .thread_name = "test-control",
            .silence_timeout_ms = silence_timeout_ms,
            .notify = [](void *opaque) { (*static_cast<std::atomic<int> *>(opaque))++; },
            .opaque = &notified_};
        ASSERT_EQ(haul_control_new(&options, &control_, &error_), 0) << error_.message;
    }
    ~Control() override
    {
        haul_control_free(control_);
    }
    int Next(int timeout_ms = 10000)
    {
        error_ = {};
        free(frame_);
        frame_ = nullptr;
        int rc = haul_control_next(control_, timeout_ms, &frame_, &error_);
        held_.reset(frame_);
        haul_frame *got = frame_;
        frame_ = nullptr;
        last_ = got;
        return rc;
    }
    bool Says(const char *text) const
    {
        return std::string(error_.message).find(text) != std::string::npos;
    }

    struct Free {
        void operator()(void *memory) const
        {
            free(memory);
        }
    };
    haul_control *control_ = nullptr;
    FramePeer peer_;
    std::atomic<int> notified_{0};
    haul_frame *frame_ = nullptr;
    haul_frame *last_ = nullptr; // owned by held_
    std::unique_ptr<haul_frame, Free> held_;
    haul_error error_{};
};

TEST_F(Control, FramesArriveInOrderWithTheirPayload)
{
    Open();
    peer_.Send(HAUL_FRAME_BLOCKS_OK);
    peer_.Send(HAUL_FRAME_ROUND_DONE, Bytes().u32(7).data);
    ASSERT_EQ(Next(), 0) << error_.message;
    EXPECT_EQ(last_->type, HAUL_FRAME_BLOCKS_OK);
    EXPECT_EQ(last_->length, 0u);
    ASSERT_EQ(Next(), 0) << error_.message;
    EXPECT_EQ(last_->type, HAUL_FRAME_ROUND_DONE);
    ASSERT_EQ(last_->length, 4u);
    EXPECT_EQ(last_->payload[0], 7);
    EXPECT_TRUE(Eventually([this] { return notified_ == 2; })) << "each is announced once it was queued";
}

TEST_F(Control, SendingReachesThePeer)
{
    Open();
    ASSERT_EQ(haul_control_send(control_, HAUL_FRAME_STATE, "abc", 3, &error_), 0) << error_.message;
    Frame frame;
    ASSERT_EQ(peer_.ReceiveReal(&frame), 0);
    EXPECT_EQ(frame.type, HAUL_FRAME_STATE);
    EXPECT_EQ(frame.payload, (std::vector<unsigned char>{'a', 'b', 'c'}));
}

TEST_F(Control, FramesOfSeveralThreadsDoNotMix)
{
    Open();
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; t++) {
        threads.emplace_back([this, t] {
            std::vector<unsigned char> payload(1000 + t, static_cast<unsigned char>(t));
            for (int i = 0; i < 50; i++) {
                EXPECT_EQ(
                    haul_control_send(control_, HAUL_FRAME_STATE, payload.data(), payload.size(), nullptr),
                    0);
            }
        });
    }
    for (int i = 0; i < 200; i++) {
        Frame frame;
        ASSERT_EQ(peer_.ReceiveReal(&frame), 0); // a mixed frame has a wrong checksum
        ASSERT_EQ(frame.type, HAUL_FRAME_STATE);
    }
    for (auto &thread : threads) {
        thread.join();
    }
}

TEST_F(Control, NoAnswerInTime)
{
    Open();
    EXPECT_EQ(Next(20), -ETIMEDOUT);
    EXPECT_TRUE(Says("no answer within 20 ms")) << error_.message;
    EXPECT_EQ(Next(0), -ETIMEDOUT);
}

TEST_F(Control, ExpectRefusesAnotherFrame)
{
    Open();
    peer_.Send(HAUL_FRAME_RUNNING);
    haul_frame *frame = nullptr;
    EXPECT_EQ(haul_control_expect(control_, HAUL_FRAME_PREPARED, 10000, &frame, &error_), -EPROTO);
    EXPECT_TRUE(Says("RUNNING came where PREPARED was due")) << error_.message;
    EXPECT_EQ(frame, nullptr);
}

TEST_F(Control, PingIsAnsweredAndMeasuresTheRoundTrip)
{
    Open();
    EXPECT_EQ(haul_control_round_trip_ns(control_), 0u);
    Frame frame;
    ASSERT_EQ(peer_.Receive(&frame), 0);
    ASSERT_EQ(frame.type, HAUL_FRAME_PING);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    peer_.Send(HAUL_FRAME_PONG, frame.payload);
    // Ours, answered with the same bytes.
    std::vector<unsigned char> mine{1, 2, 3, 4, 5, 6, 7, 8};
    peer_.Send(HAUL_FRAME_PING, mine);
    do {
        ASSERT_EQ(peer_.Receive(&frame), 0);
    } while (frame.type == HAUL_FRAME_PING);
    EXPECT_EQ(frame.type, HAUL_FRAME_PONG);
    EXPECT_EQ(frame.payload, mine);
    EXPECT_GE(haul_control_round_trip_ns(control_), 5000000u);
    EXPECT_LT(haul_control_round_trip_ns(control_), 10000000000u);
    EXPECT_EQ(Next(0), -ETIMEDOUT) << "pings and pongs are not for the owner";
}

TEST_F(Control, PongsThatNobodyAskedForChangeNothing)
{
    Open();
    peer_.Send(HAUL_FRAME_PONG, Bytes().u64(UINT64_MAX).data); // sent in the future
    peer_.Send(HAUL_FRAME_PONG, Bytes().u32(1).data);
    peer_.Send(HAUL_FRAME_PONG, std::vector<unsigned char>(100));
    peer_.Send(HAUL_FRAME_BLOCKS_OK);
    ASSERT_EQ(Next(), 0) << error_.message;
    EXPECT_EQ(haul_control_round_trip_ns(control_), 0u);
}

TEST_F(Control, PingOfAnotherSizeEndsIt)
{
    Open();
    peer_.Send(HAUL_FRAME_PING, Bytes().u32(1).data);
    EXPECT_EQ(Next(), -EPROTO);
    EXPECT_TRUE(Says("a PING of 4 bytes")) << error_.message;
}

TEST_F(Control, SilenceIsNoticed)
{
    auto begun = Clock::now();
    Open(2000);
    EXPECT_EQ(Next(20000), -ETIMEDOUT);
    EXPECT_TRUE(Says("nothing heard for 2 s; is the peer or the network down?")) << error_.message;
    EXPECT_GE(MsSince(begun), 1900);
    EXPECT_LT(MsSince(begun), 10000);
    EXPECT_EQ(haul_control_status(control_, &error_), -ETIMEDOUT);
}

TEST_F(Control, APeerThatOnlyAnswersPingsIsNotSilent)
{
    Open(3000);
    auto begun = Clock::now();
    std::thread answers([this] {
        Frame frame;
        while (peer_.ReceiveReal(&frame) == 0) {
        }
    });
    while (MsSince(begun) < 5000) {
        ASSERT_EQ(Next(100), -ETIMEDOUT);
        ASSERT_TRUE(Says("no answer within")) << error_.message;
    }
    EXPECT_EQ(haul_control_status(control_, &error_), 0);
    haul_control_free(control_);
    control_ = nullptr;
    answers.join();
}

TEST_F(Control, AFrameThatStopsInTheMiddleIsSilence)
{
    Open(1000);
    // Eight bytes of a header, and then nothing.
    unsigned char part[8] = {'H', 'A', 'L', 'F', 4, 0, 0, 0};
    ASSERT_EQ(send(peer_.fd(), part, sizeof part, 0), 8);
    auto begun = Clock::now();
    EXPECT_EQ(Next(20000), -ETIMEDOUT);
    EXPECT_LT(MsSince(begun), 10000);
}

TEST_F(Control, QueuedFramesComeBeforeTheEndOfTheConnection)
{
    Open();
    peer_.Send(HAUL_FRAME_RUNNING);
    peer_.Close();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ASSERT_EQ(Next(), 0) << error_.message;
    EXPECT_EQ(last_->type, HAUL_FRAME_RUNNING);
    EXPECT_LT(Next(), 0);
    EXPECT_NE(error_.code, ETIMEDOUT) << error_.message;
    EXPECT_LT(haul_control_status(control_, &error_), 0);
}

TEST_F(Control, APeerThatHasClosedIsSeenAtOnce)
{
    Open();
    EXPECT_EQ(haul_control_check_peer(control_, &error_), 0) << error_.message;
    peer_.Close();
    EXPECT_LT(haul_control_check_peer(control_, &error_), 0); // whether its reader knows or not
    EXPECT_TRUE(Says("closed the connection") || Says("Connection reset")) << error_.message;
}

TEST_F(Control, GarbageEndsIt)
{
    Open();
    ASSERT_EQ(send(peer_.fd(), "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
    EXPECT_EQ(Next(), -EPROTO);
    EXPECT_TRUE(Says("does not speak haul's protocol")) << error_.message;
}

TEST_F(Control, FailedIsThePeersErrorAndText)
{
    Open();
    peer_.Send(HAUL_FRAME_FAILED, Bytes().u32(ENOSPC).text("the disk is full").data);
    EXPECT_EQ(Next(), -ENOSPC);
    EXPECT_TRUE(Says("reports: the disk is full")) << error_.message;
}

TEST_F(Control, StatusShowsAFailedThatWaitsBehindOtherFrames)
{
    Open();
    EXPECT_EQ(haul_control_status(control_, &error_), 0);
    peer_.Send(HAUL_FRAME_ROUND_DONE, Bytes().u32(1).data);
    peer_.Send(HAUL_FRAME_FAILED, Bytes().u32(EIO).text("no").data);
    ASSERT_TRUE(Eventually([this] { return notified_ == 2; }));
    EXPECT_EQ(haul_control_status(control_, &error_), -EIO);
    EXPECT_TRUE(Says("reports: no")) << error_.message;
    EXPECT_EQ(haul_control_status(control_, &error_), -EIO) << "it stays";
    ASSERT_EQ(Next(), 0) << error_.message;
    EXPECT_EQ(last_->type, HAUL_FRAME_ROUND_DONE);
    EXPECT_EQ(Next(), -EIO);
    peer_.Close();
    EXPECT_EQ(haul_control_status(control_, &error_), -EIO)
        << "also when it was taken and the connection closed";
    EXPECT_TRUE(Says("reports: no")) << error_.message;
}

TEST_F(Control, ReasonWaitsAMomentForFailed)
{
    Open();
    haul_error_set(&error_, EPIPE, "broken");
    EXPECT_EQ(haul_control_reason(control_, 300, &error_), 0) << "nothing came";
    EXPECT_STREQ(error_.message, "broken");
    haul_control_wake(control_); // does not matter
    std::thread late([this] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        peer_.Send(HAUL_FRAME_FAILED, Bytes().u32(ENOSPC).text("the disk is full").data);
    });
    EXPECT_EQ(haul_control_reason(control_, 30000, &error_), -ENOSPC);
    EXPECT_TRUE(Says("reports: the disk is full")) << error_.message;
    late.join();
}

TEST_F(Control, ReasonDoesNotWaitForAClosedConnection)
{
    Open();
    peer_.Close();
    haul_error_set(&error_, EPIPE, "broken");
    auto begun = Clock::now();
    EXPECT_EQ(haul_control_reason(control_, 30000, &error_), 0);
    EXPECT_LT(MsSince(begun), 20000) << "less than it waits for one that is open";
    EXPECT_STREQ(error_.message, "broken");
}

// The text goes to a terminal: no byte of it may command one.
TEST_F(Control, FailedTextIsHarmless)
{
    std::string text = "a\x1b[2Jb\r\nc\td\x7f"
                       "e\x9b"
                       "1mf";
    auto payload = Bytes().u32(EIO).text(text).data;
    EXPECT_EQ(haul_control_read_failure(payload.data(), payload.size(), "peer", &error_), -EIO);
    for (const char *at = error_.message; *at; at++) {
        EXPECT_TRUE(static_cast<unsigned char>(*at) >= ' ' && *at != 0x7f &&
                    static_cast<unsigned char>(*at) != 0x9b)
            << "byte " << static_cast<int>(static_cast<unsigned char>(*at));
    }
    EXPECT_TRUE(Says("peer reports: a")) << error_.message;
}

TEST_F(Control, FailedThatCannotBeReadIsStillAFailure)
{
    const std::vector<unsigned char> payloads[] = {
        {},
        Bytes().u32(EIO).data,                // no text
        Bytes().u32(0).text("no error").data, // a failure with code 0 would be none
        Bytes().u32(4096).text("no errno").data,
        Bytes().u32(0xfffffffb).text("negative").data,
        Bytes().u32(EIO).text(std::string(1000, 'x')).data, // longer than we take
        Bytes().u32(EIO).text(std::string("a\0b", 3)).data,
        Bytes().u32(EIO).text("left over").raw(1, 0).data,
    };
    for (const auto &payload : payloads) {
        EXPECT_EQ(haul_control_read_failure(payload.data(), payload.size(), "peer", &error_), -EPROTO);
        EXPECT_STREQ(error_.message, "peer failed and sent no readable reason");
    }
}

TEST_F(Control, FailIsReadByTheOtherSide)
{
    Open();
    haul_error reason{};
    haul_error_set(&reason, ENODEV, "no such device at the destination");
    haul_control_fail(control_, &reason);
    Frame frame;
    ASSERT_EQ(peer_.ReceiveReal(&frame), 0);
    EXPECT_EQ(frame.type, HAUL_FRAME_FAILED);
    EXPECT_EQ(haul_control_read_failure(frame.payload.data(), frame.payload.size(), "x", &error_), -ENODEV);
    EXPECT_STREQ(error_.message, "x reports: no such device at the destination");
}

TEST_F(Control, TheLongestMessageStillArrives)
{
    Open();
    haul_error reason{};
    haul_error_set(&reason, EIO, "%s", std::string(sizeof reason.message - 1, 'y').c_str());
    haul_control_fail(control_, &reason);
    Frame frame;
    ASSERT_EQ(peer_.ReceiveReal(&frame), 0);
    EXPECT_EQ(haul_control_read_failure(frame.payload.data(), frame.payload.size(), "x", &error_), -EIO)
        << error_.message;
}

// A FAILED must arrive although bytes of the peer were never read.
TEST_F(Control, FailedArrivesAlthoughTheSenderFreesAtOnce)
{
    for (int i = 0; i < 20; i++) {
        Open();
        for (int k = 0; k < 20; k++) {
            peer_.Send(HAUL_FRAME_STATE, std::vector<unsigned char>(1000));
        }
        haul_error reason{};
        haul_error_set(&reason, EIO, "why");
        haul_control_fail(control_, &reason);
        haul_control_free(control_);
        control_ = nullptr;
        Frame frame;
        ASSERT_EQ(peer_.ReceiveReal(&frame, 10000, false), 0);
        EXPECT_EQ(frame.type, HAUL_FRAME_FAILED);
    }
}

TEST_F(Control, TheQueueIsBounded)
{
    Open();
    timeval patience = {.tv_sec = 1, .tv_usec = 500000};
    ASSERT_EQ(setsockopt(peer_.fd(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience), 0);
    std::vector<unsigned char> big(HAUL_FRAME_MAX);
    unsigned sent = 0;
    while (sent < 100 && peer_.Send(HAUL_FRAME_STATE, big) == 0) {
        sent++;
    }
    EXPECT_LE(sent, 12u) << "frames are taken without an end";
    EXPECT_GE(sent, 8u);
}

// A loader that is busy for longer than the silence timeout is not silent.
TEST_F(Control, APeerThatWaitsForAFullQueueStillHearsPings)
{
    Open(2000);
    for (int i = 0; i < 20; i++) {
        ASSERT_EQ(peer_.Send(HAUL_FRAME_STATE, {1}), 0);
    }
    int pings = 0;
    auto begun = Clock::now();
    EXPECT_TRUE(Eventually([&] {
        Frame frame;
        pings += peer_.Receive(&frame, 500) == 0 && frame.type == HAUL_FRAME_PING && MsSince(begun) > 1200;
        return pings >= 2 && MsSince(begun) > 3500;
    }));
    for (int i = 0; i < 20; i++) {
        ASSERT_EQ(Next(), 0) << error_.message;
    }
}

TEST_F(Control, WakeEndsEveryWaitPresentAndLater)
{
    Open();
    std::thread waker([this] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        haul_control_wake(control_);
    });
    EXPECT_EQ(Next(-1), -ECANCELED);
    waker.join();
    peer_.Send(HAUL_FRAME_RUNNING);
    ASSERT_TRUE(Eventually([this] { return notified_ == 1; }));
    EXPECT_EQ(Next(-1), -ECANCELED);
    EXPECT_EQ(Next(0), -ECANCELED);
    EXPECT_STREQ(error_.message, "cancelled");
}

TEST_F(Control, FreeingWhileThePeerSendsEndsAtOnce)
{
    Open();
    std::atomic<bool> stop{false};
    std::thread sender([&] {
        while (!stop && peer_.Send(HAUL_FRAME_STATE, std::vector<unsigned char>(5000)) == 0) {
        }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    auto begun = Clock::now();
    haul_control_free(control_);
    control_ = nullptr;
    EXPECT_LT(MsSince(begun), 5000);
    stop = true;
    sender.join();
    haul_control_free(nullptr);
}

} // namespace
