// SPDX-License-Identifier: Apache-2.0
// Rule R4: a source that says the right frames at the wrong time. The destination starts the guest only after
// everything came in order.
#include "tests/engine/hostile/hostile_source.h"

#include <cerrno>

using namespace haul_test;

namespace
{

TEST(HostileSource, TheRawSourceIsAValidOneWhenItWantsTo)
{
    Destination destination;
    RawSource source(destination);
    source.Rounds();
    source.State();
    source.control().Send(HAUL_FRAME_VERIFY);
    source.ExpectReply(HAUL_FRAME_HASHES);
    source.control().Send(HAUL_FRAME_PREPARE);
    source.ExpectReply(HAUL_FRAME_PREPARED);
    EXPECT_EQ(destination.starts, 0);
    source.control().Send(HAUL_FRAME_HANDOVER);
    source.ExpectReply(HAUL_FRAME_RUNNING);
    EXPECT_EQ(destination.Wait(), 0) << destination.error.message;
    EXPECT_EQ(destination.starts, 1);
}

// ---- out of order ----

TEST(HostileSource, HandoverBeforePrepare)
{
    Destination destination;
    RawSource source(destination);
    source.Rounds();
    source.State();
    source.control().Send(HAUL_FRAME_HANDOVER);
    ExpectFailure(destination, EPROTO, "HANDOVER came before PREPARE");
}

TEST(HostileSource, HandoverFirstOfAll)
{
    Destination destination;
    RawSource source(destination);
    source.Hello();
    source.control().Send(HAUL_FRAME_HANDOVER);
    ExpectFailure(destination, EPROTO, "HANDOVER came where BLOCKS was due");
}

TEST(HostileSource, HandoverBeforeTheChannels)
{
    Destination destination(1000);
    RawSource source(destination);
    source.Hello();
    source.Blocks();
    source.control().Send(HAUL_FRAME_PREPARE);
    source.control().Send(HAUL_FRAME_HANDOVER);
    StaysAlive alive(source);
    ExpectFailure(destination, ETIMEDOUT, "0 of 1 channels connected in time");
}

TEST(HostileSource, StateBeforeBlocks)
{
    Destination destination;
    RawSource source(destination);
    source.Hello();
    source.State();
    ExpectFailure(destination, EPROTO, "STATE_BEGIN came where BLOCKS was due");
}

TEST(HostileSource, PrepareBeforeAnyRound)
{
    Destination destination;
    RawSource source(destination);
    source.Hello();
    source.Blocks();
    source.Channel({});
    source.control().Send(HAUL_FRAME_PREPARE);
    ExpectFailure(destination, EPROTO, "PREPARE came before any round was complete");
}

TEST(HostileSource, PrepareWithoutState)
{
    Destination destination;
    RawSource source(destination);
    source.Rounds();
    source.control().Send(HAUL_FRAME_PREPARE);
    ExpectFailure(destination, EPROTO, "PREPARE came and the state of device did not");
}

TEST(HostileSource, StateTwice)
{
    Destination destination;
    RawSource source(destination);
    source.Rounds();
    source.State();
    source.State();
    ExpectFailure(destination, EPROTO, "the state of device came twice");
}

TEST(HostileSource, StateThatNobodyHas)
{
    Destination destination;
    RawSource source(destination);
    source.Rounds();
    source.State("gadget");
    ExpectFailure(destination, EINVAL,
                  "the source sends the state of gadget, which this destination does not have");
}

TEST(HostileSource, StateForARoundThatNeverComes)
{
    Destination destination(1000);
    RawSource source(destination);
    source.Rounds();
    auto begun = Clock::now();
    source.control().Send(HAUL_FRAME_STATE_BEGIN, BeginPayload(0xffffffff));
    StaysAlive alive(source);
    ExpectFailure(destination, ETIMEDOUT, "round 4294967295 did not arrive before the state of device");
    EXPECT_LT(MsSince(begun), 15000);
}

TEST(HostileSource, CancelEndsTheWaitForARoundThatNeverComes)
{
    Destination destination(60000);
    RawSource source(destination);
    source.Rounds();
    source.control().Send(HAUL_FRAME_STATE_BEGIN, BeginPayload(99));
    usleep(100000);
    auto begun = Clock::now();
    EXPECT_EQ(haul_cancel(destination.migration), 0);
    EXPECT_EQ(destination.Wait(), -ECANCELED) << destination.error.message;
    EXPECT_LT(MsSince(begun), 5000);
}

TEST(HostileSource, AWrongTotal)
{
    Destination destination;
    RawSource source(destination);
    source.Rounds();
    source.control().Send(HAUL_FRAME_STATE_BEGIN, BeginPayload(2));
    source.control().Send(HAUL_FRAME_STATE, {1, 2, 3});
    source.control().Send(HAUL_FRAME_STATE_END, EndPayload(UINT64_MAX));
    ExpectFailure(destination, EPROTO, "STATE_END does not fit the 3 bytes of state before it");
}

// HANDOVER may be on its way when the destination gives up: it says that the guest never ran here.
TEST(HostileSource, GivingUpAfterPreparedIsNotStarted)
{
    Destination destination;
    RawSource source(destination);
    source.Rounds();
    source.State();
    source.control().Send(HAUL_FRAME_PREPARE);
    source.ExpectReply(HAUL_FRAME_PREPARED);
    EXPECT_EQ(haul_cancel(destination.migration), 0);
    source.ExpectReply(HAUL_FRAME_NOT_STARTED);
    source.control().Send(HAUL_FRAME_HANDOVER);
    EXPECT_EQ(destination.Wait(), -ECANCELED) << destination.error.message;
    EXPECT_EQ(destination.starts, 0);
}

TEST(HostileSource, AnythingButHandoverAfterPrepared)
{
    for (haul_frame_type type :
         {HAUL_FRAME_VERIFY, HAUL_FRAME_PREPARE, HAUL_FRAME_STATE_BEGIN, HAUL_FRAME_PRESENT}) {
        Destination destination;
        RawSource source(destination);
        source.Rounds();
        source.State();
        source.control().Send(HAUL_FRAME_PREPARE);
        source.ExpectReply(HAUL_FRAME_PREPARED);
        source.control().Send(type);
        std::string text = std::string(haul_frame_name(type)) + " came where HANDOVER was due";
        ExpectFailure(destination, EPROTO, text.c_str());
    }
}

TEST(HostileSource, FramesThatOnlyADestinationSends)
{
    for (haul_frame_type type : {HAUL_FRAME_WELCOME, HAUL_FRAME_BLOCKS_OK, HAUL_FRAME_ROUND_DONE,
                                 HAUL_FRAME_HASHES, HAUL_FRAME_RUNNING, HAUL_FRAME_PREPARED, HAUL_FRAME_HELLO,
                                 HAUL_FRAME_BLOCKS, HAUL_FRAME_STATE, HAUL_FRAME_STATE_END}) {
        Destination destination;
        RawSource source(destination);
        source.Rounds();
        source.control().Send(type);
        std::string text = std::string("an unexpected ") + haul_frame_name(type) + " came";
        ExpectFailure(destination, EPROTO, text.c_str());
    }
}

// Loading that takes long is no silence: the source hears that it goes on.
TEST(HostileSource, SlowLoadingIsToldToTheSource)
{
    Destination destination(1000);
    destination.load_pause_us = 50000;
    RawSource source(destination);
    source.Rounds();
    source.control().Send(HAUL_FRAME_STATE_BEGIN, BeginPayload(2));
    for (int i = 0; i < 20; i++) {
        source.control().Send(HAUL_FRAME_STATE, Payload(100));
    }
    source.control().Send(HAUL_FRAME_STATE_END, EndPayload(2000));
    source.control().Send(HAUL_FRAME_PREPARE);
    Frame frame;
    unsigned working = 0;
    while (source.control().ReceiveReal(&frame) == 0 && frame.type == HAUL_FRAME_WORKING) {
        working++;
    }
    EXPECT_GE(working, 1u);
    EXPECT_STREQ(haul_frame_name(frame.type), "PREPARED");
}

TEST(HostileSource, PagesAfterPreparedDoNotReachTheGuest)
{
    Destination destination;
    RawSource source(destination);
    source.Hello();
    source.Blocks();
    Payload record = RecordChannel(kPages, 2, HAUL_CODEC_RAW);
    Payload round1(record.begin(), record.begin() + static_cast<ptrdiff_t>(record.size() / 2));
    Payload round2(record.begin() + static_cast<ptrdiff_t>(record.size() / 2), record.end());
    FramePeer data(ConnectTo(destination.uri));
    data.Send(HAUL_FRAME_HELLO, HelloPayload(0, 1));
    Frame frame;
    ASSERT_EQ(data.Receive(&frame), 0);
    ASSERT_EQ(send(data.fd(), round1.data(), round1.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(round1.size()));
    source.ExpectReply(HAUL_FRAME_ROUND_DONE);
    source.control().Send(HAUL_FRAME_STATE_BEGIN, BeginPayload(1));
    source.control().Send(HAUL_FRAME_STATE_END, EndPayload(0));
    source.control().Send(HAUL_FRAME_PREPARE);
    source.ExpectReply(HAUL_FRAME_PREPARED);
    memset(destination.memory.data, 0xee, kBytes); // the guest's own writes
    (void)!send(data.fd(), round2.data(), round2.size(), MSG_NOSIGNAL);
    usleep(100000);
    source.control().Send(HAUL_FRAME_HANDOVER);
    source.ExpectReply(HAUL_FRAME_RUNNING);
    EXPECT_EQ(destination.Wait(), 0) << destination.error.message;
    for (size_t at = 0; at < kBytes; at++) {
        ASSERT_EQ(destination.memory.data[at], 0xee) << at;
    }
}

} // namespace
