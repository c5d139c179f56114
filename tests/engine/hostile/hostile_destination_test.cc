// SPDX-License-Identifier: Apache-2.0
// Rule R4 the other way round: a destination that lies, against a real source. Whatever it says, the guest
// goes on at the source before HANDOVER, and stays paused after it unless RUNNING or NOT_STARTED came.
#include "tests/engine/disk/disk.h"
#include "tests/engine/hostile/hostile_destination.h"

#include <cerrno>

using namespace haul_test;

namespace
{

TEST(HostileDestination, TheRawDestinationIsAValidOneWhenItWantsTo)
{
    RawDestination destination(nullptr);
    Source source(destination);
    EXPECT_EQ(source.Wait(), 0) << source.error.message;
    destination.Stop();
    ExpectOwnership(source, destination);
}

TEST(HostileDestination, SilentToHello)
{
    ExpectFailure(
        HAUL_FRAME_HELLO, [](FramePeer &) {}, ETIMEDOUT, "handshake with unix:");
}

// A source that is cancelled knows why its channel broke, and does not wait for the destination to tell it:
// both would wait, and the destination might give up first.
TEST(HostileDestination, ACancelIsToldAtOnce)
{
    constexpr int64_t kEnough = 900;
    int64_t least_ms = BestOfTries(kEnough, [](int) {
        std::atomic<haul_migration *> cancelled{nullptr};
        std::atomic<bool> told{false};
        RawDestination destination(
            [&](FramePeer &, const Frame &frame) {
                told = told || frame.type == HAUL_FRAME_FAILED;
                return false;
            },
            [&](FramePeer &, const Frame &) {
                EXPECT_TRUE(Eventually([&] { return cancelled != nullptr; }));
                haul_cancel(cancelled);
                return true; // and its HELLO is never answered
            });
        Source source(destination, false, 1000);
        auto begun = Clock::now();
        cancelled = source.migration;
        EXPECT_EQ(source.Wait(), -ECANCELED) << source.error.message;
        int64_t ms = MsSince(begun);
        EXPECT_TRUE(Eventually([&] { return told.load(); }));
        ExpectOwnership(source, destination);
        return ms;
    });
    EXPECT_LT(least_ms, kEnough);
}

TEST(HostileDestination, OtherAnswersToHello)
{
    ExpectFailure(
        HAUL_FRAME_HELLO, [](FramePeer &peer) { peer.Send(HAUL_FRAME_RUNNING); }, EPROTO,
        "RUNNING came where WELCOME was due");
    ExpectFailure(
        HAUL_FRAME_HELLO,
        [](FramePeer &peer) { peer.Send(HAUL_FRAME_FAILED, FailedPayload(EBUSY, "taken")); }, EBUSY, "taken");
    ExpectFailure(
        HAUL_FRAME_HELLO, [](FramePeer &peer) { peer.Send(HAUL_FRAME_FAILED, Payload(1000, 0xff)); }, EPROTO,
        "failed and sent no readable reason");
    ExpectFailure(
        HAUL_FRAME_HELLO, [](FramePeer &peer) { peer.Close(); }, ECONNRESET,
        "the peer closed the connection");
    ExpectFailure(
        HAUL_FRAME_HELLO,
        [](FramePeer &peer) { (void)!send(peer.fd(), "220 mail ESMTP ready\r\n", 22, MSG_NOSIGNAL); }, EPROTO,
        "does not speak haul's protocol");
}

TEST(HostileDestination, OtherAnswersToBlocks)
{
    ExpectFailure(
        HAUL_FRAME_BLOCKS, [](FramePeer &peer) { peer.Send(HAUL_FRAME_RUNNING); }, EPROTO,
        "RUNNING came where BLOCKS_OK was due");
    ExpectFailure(
        HAUL_FRAME_BLOCKS,
        [](FramePeer &peer) { peer.Send(HAUL_FRAME_FAILED, FailedPayload(EINVAL, "too big")); }, EINVAL,
        "reports: too big");
    ExpectFailure(
        HAUL_FRAME_BLOCKS, [](FramePeer &) {}, ETIMEDOUT, "no answer within 1000 ms");
    for (const Payload &payload : {Payload(0), Payload(3), Payload(5), Payload(4, 0xff)}) {
        ExpectFailure(
            HAUL_FRAME_BLOCKS, [&](FramePeer &peer) { peer.Send(HAUL_FRAME_BLOCKS_OK, payload); }, EPROTO,
            "the destination sent a malformed BLOCKS_OK");
    }
}

TEST(HostileDestination, OtherAnswersToAChannel)
{
    const std::pair<Lie, const char *> lies[] = {
        {[](FramePeer &, const Frame &) { return true; }, "channel 0: handshake"},
        {[](FramePeer &peer, const Frame &) {
             peer.Close();
             return true;
         },
         "channel 0: handshake"},
        {[](FramePeer &peer, const Frame &) {
             peer.Send(HAUL_FRAME_ROUND_DONE);
             return true;
         },
         "ROUND_DONE came where WELCOME was due"},
        {[](FramePeer &peer, const Frame &) {
             peer.Send(HAUL_FRAME_FAILED, FailedPayload(EBUSY, "no room"));
             return true;
         },
         "no room"},
    };
    for (const auto &lie : lies) {
        RawDestination destination(nullptr, lie.first);
        Source source(destination, false, 1000);
        EXPECT_LT(source.Wait(), 0);
        EXPECT_NE(std::string(source.error.message).find(lie.second), std::string::npos)
            << source.error.message;
        destination.Stop();
        ExpectOwnership(source, destination);
    }
}

TEST(HostileDestination, RoundDoneOfAnotherRound)
{
    for (uint32_t round : {0u, 2u, 1000u, 0xffffffffu}) {
        ExpectFailure(
            HAUL_FRAME_ROUND_DONE,
            [round](FramePeer &peer) { peer.Send(HAUL_FRAME_ROUND_DONE, Number(round)); }, EPROTO,
            "the destination sent an unexpected ROUND_DONE");
    }
}

TEST(HostileDestination, RoundDoneOfAnotherSize)
{
    for (size_t size : {0, 3, 5, 100000}) {
        ExpectFailure(
            HAUL_FRAME_ROUND_DONE,
            [size](FramePeer &peer) { peer.Send(HAUL_FRAME_ROUND_DONE, Payload(size, 0)); }, EPROTO,
            "the destination sent an unexpected ROUND_DONE");
    }
}

TEST(HostileDestination, RoundDoneTwice)
{
    ExpectFailure(
        HAUL_FRAME_ROUND_DONE,
        [](FramePeer &peer) {
            peer.Send(HAUL_FRAME_ROUND_DONE, Number(1));
            peer.Send(HAUL_FRAME_ROUND_DONE, Number(1));
        },
        EPROTO, "unexpected ROUND_DONE");
}

// What a flush took is taken out of what the round took.
TEST(HostileDestination, RoundDoneWithAFlushThatCannotBe)
{
    const std::pair<uint64_t, const char *> lies[] = {
        {UINT64_MAX, "the destination says that round 1 flushed its disks for 18446744073709 ms"},
        {UINT64_C(3600000000000), "flushed its disks for 3600000 ms, which is longer than the round took"},
    };
    for (const auto &lie : lies) {
        RawDestination destination(
            [&](FramePeer &peer, const Frame &frame) {
                Payload payload = frame.payload;
                Append(&payload, lie.first, 8);
                bool now = frame.type == HAUL_FRAME_ROUND_DONE;
                if (now) {
                    peer.Send(HAUL_FRAME_ROUND_DONE, payload);
                }
                return now;
            },
            nullptr, 1);
        Directory directory;
        MakeImage(directory / "disk", kBytes, [](uint64_t block) { return block < 4; });
        Disk disk(directory / "disk", true);
        Source source(destination, false, 20000, [&](Guest &guest) { disk.Plug(guest); });
        EXPECT_EQ(source.Wait(), -EPROTO) << source.error.message;
        EXPECT_NE(std::string(source.error.message).find(lie.second), std::string::npos)
            << source.error.message;
        destination.Stop();
        ExpectOwnership(source, destination);
    }
}

TEST(HostileDestination, RoundDoneWithoutTheFlush)
{
    RawDestination destination(nullptr, nullptr, 1);
    Directory directory;
    MakeImage(directory / "disk", kBytes, [](uint64_t block) { return block < 4; });
    Disk disk(directory / "disk", true);
    Source source(destination, false, 20000, [&](Guest &guest) { disk.Plug(guest); });
    EXPECT_EQ(source.Wait(), -EPROTO) << source.error.message;
    EXPECT_NE(std::string(source.error.message).find("unexpected ROUND_DONE"), std::string::npos)
        << source.error.message;
    destination.Stop();
    ExpectOwnership(source, destination);
}

TEST(HostileDestination, RoundDoneNever)
{
    ExpectFailure(
        HAUL_FRAME_ROUND_DONE, [](FramePeer &) {}, ETIMEDOUT,
        "round 1: the destination answers but has not confirmed the round");
}

TEST(HostileDestination, OtherFramesInARound)
{
    for (haul_frame_type type :
         {HAUL_FRAME_RUNNING, HAUL_FRAME_PREPARED, HAUL_FRAME_HANDOVER, HAUL_FRAME_STATE, HAUL_FRAME_HELLO,
          HAUL_FRAME_HASHES, HAUL_FRAME_BLOCKS_OK, HAUL_FRAME_VERIFY}) {
        std::string text = std::string("unexpected ") + haul_frame_name(type);
        ExpectFailure(
            HAUL_FRAME_ROUND_DONE, [type](FramePeer &peer) { peer.Send(type, Number(1)); }, EPROTO,
            text.c_str());
    }
}

TEST(HostileDestination, FailedWithATextThatIsNone)
{
    ExpectFailure(
        HAUL_FRAME_ROUND_DONE,
        [](FramePeer &peer) { peer.Send(HAUL_FRAME_FAILED, FailedPayload(EIO, "a\x1b[31mb")); }, EIO,
        "reports: a [31mb");
    ExpectFailure(
        HAUL_FRAME_ROUND_DONE,
        [](FramePeer &peer) { peer.Send(HAUL_FRAME_FAILED, Payload(HAUL_FRAME_MAX, 'x')); }, EPROTO,
        "sent no readable reason");
}

TEST(HostileDestination, HashesOfAnotherSize)
{
    for (size_t size : {0, 15, 17, 32, 1 << 20}) {
        ExpectFailure(
            HAUL_FRAME_VERIFY, [size](FramePeer &peer) { peer.Send(HAUL_FRAME_HASHES, Payload(size)); },
            EPROTO, "bytes where 16 are due", true);
    }
}

TEST(HostileDestination, WrongHashes)
{
    ExpectFailure(
        HAUL_FRAME_VERIFY, [](FramePeer &peer) { peer.Send(HAUL_FRAME_HASHES, Payload(16, 1)); }, EBADMSG,
        "verify: RAM block block0 differs at the destination", true);
}

TEST(HostileDestination, OtherAnswersToPrepare)
{
    ExpectFailure(
        HAUL_FRAME_PREPARE, [](FramePeer &peer) { peer.Send(HAUL_FRAME_RUNNING); }, EPROTO,
        "RUNNING came where PREPARED was due");
    ExpectFailure(
        HAUL_FRAME_PREPARE,
        [](FramePeer &peer) { peer.Send(HAUL_FRAME_FAILED, FailedPayload(ENOMEM, "no")); }, ENOMEM,
        "reports: no");
    ExpectFailure(
        HAUL_FRAME_PREPARE, [](FramePeer &) {}, ETIMEDOUT, "no answer within");
    ExpectFailure(
        HAUL_FRAME_PREPARE, [](FramePeer &peer) { shutdown(peer.fd(), SHUT_RDWR); }, ECONNRESET, "closed");
}

// Once HANDOVER is out nothing but RUNNING and NOT_STARTED say where the guest is.
TEST(HostileDestination, OtherAnswersToHandover)
{
    ExpectFailure(
        HAUL_FRAME_HANDOVER, [](FramePeer &peer) { peer.Send(HAUL_FRAME_PREPARED); }, EPROTO,
        "PREPARED came where RUNNING was due");
    ExpectFailure(
        HAUL_FRAME_HANDOVER, [](FramePeer &peer) { peer.Send(HAUL_FRAME_FAILED, FailedPayload(EIO, "no")); },
        EIO, "reports: no");
    ExpectFailure(
        HAUL_FRAME_HANDOVER, [](FramePeer &) {}, ETIMEDOUT, "look at the destination");
    ExpectFailure(
        HAUL_FRAME_HANDOVER, [](FramePeer &peer) { shutdown(peer.fd(), SHUT_RDWR); }, ECONNRESET,
        "stays paused");
    // A cancel of the destination after HANDOVER is no cancel of the move.
    ExpectFailure(
        HAUL_FRAME_HANDOVER,
        [](FramePeer &peer) { peer.Send(HAUL_FRAME_FAILED, FailedPayload(ECANCELED, "changed my mind")); },
        EIO, "stays paused");
    ExpectFailure(
        HAUL_FRAME_HANDOVER,
        [](FramePeer &peer) {
            peer.Send(HAUL_FRAME_NOT_STARTED, {1, 2, 3}); // certain of what?
        },
        EPROTO, "stays paused");
}

// The destination is certain that the guest never ran: it runs here again, also if that was the last word.
TEST(HostileDestination, NotStartedGivesTheGuestBack)
{
    for (bool dies : {false, true}) {
        RawDestination destination([dies](FramePeer &peer, const Frame &frame) {
            if (frame.type != HAUL_FRAME_HANDOVER) {
                return false;
            }
            peer.Send(HAUL_FRAME_NOT_STARTED, FailedPayload(ENOSPC, "no record"));
            if (dies) {
                shutdown(peer.fd(), SHUT_RDWR);
            }
            return true;
        });
        Source source(destination);
        EXPECT_EQ(source.Wait(), -ENOSPC) << source.error.message;
        EXPECT_NE(std::string(source.error.message).find("reports: no record"), std::string::npos)
            << source.error.message;
        EXPECT_EQ(source.stats.ownership, HAUL_OWNER_SOURCE);
        EXPECT_TRUE(source.guest.running());
        EXPECT_EQ(source.guest.resumes, 1u);
        EXPECT_EQ(source.guest.steps.back(), HAUL_STEP_RESUMED);
    }
}

// It said that the guest runs, if in another frame's place: nothing that it says later takes that back.
TEST(HostileDestination, NotStartedAfterRunningIsNotBelieved)
{
    RawDestination destination([](FramePeer &peer, const Frame &frame) {
        if (frame.type != HAUL_FRAME_HANDOVER) {
            return false;
        }
        peer.Send(HAUL_FRAME_PREPARED);
        peer.Send(HAUL_FRAME_RUNNING);
        peer.Send(HAUL_FRAME_NOT_STARTED, FailedPayload(ENOSPC, "no record"));
        return true;
    });
    Source source(destination);
    EXPECT_LT(source.Wait(), 0);
    EXPECT_NE(std::string(source.error.message).find("stays paused"), std::string::npos)
        << source.error.message;
    EXPECT_EQ(source.stats.ownership, HAUL_OWNER_UNCERTAIN);
    EXPECT_FALSE(source.guest.running());
}

// Why a channel broke can wait, the guest cannot: this destination answers only once the guest runs again.
TEST(HostileDestination, TheGuestRunsBeforeTheReasonIsAskedFor)
{
    RawDestination destination(nullptr);
    Source source(destination, false, 20000, [&](Guest &guest) {
        guest.on_stop = [&] { destination.CutChannel(); };
        guest.on_resume = [&] { destination.Say(HAUL_FRAME_FAILED, FailedPayload(ENOSPC, "no room")); };
    });
    EXPECT_EQ(source.Wait(), -ENOSPC) << source.error.message;
    EXPECT_NE(std::string(source.error.message).find("reports: no room"), std::string::npos)
        << source.error.message;
    EXPECT_EQ(source.guest.stops, 1u);
    ExpectOwnership(source, destination);
}

Payload Steps(uint64_t count)
{
    Payload payload;
    Append(&payload, count, 8);
    return payload;
}

// An answer may take longer than the timeout while the destination gets on with it.
TEST(HostileDestination, WorkingAsksForPatience)
{
    auto begun = Clock::now();
    ExpectFailure(
        HAUL_FRAME_VERIFY,
        [](FramePeer &peer) {
            for (unsigned i = 1; i <= 8; i++) {
                peer.Send(HAUL_FRAME_WORKING, Steps(i * 100));
                usleep(300000);
            }
            peer.Send(HAUL_FRAME_HASHES, Payload(16));
        },
        EBADMSG, "verify: RAM block block0 differs", true, 2000);
    EXPECT_GE(MsSince(begun), 2000) << "longer than the timeout";
}

TEST(HostileDestination, WorkingThatGetsNoFurtherIsRefused)
{
    for (const Payload &second : {Steps(7), Steps(6), Steps(0), Payload(7), Payload(9)}) {
        ExpectFailure(
            HAUL_FRAME_VERIFY,
            [&](FramePeer &peer) {
                peer.Send(HAUL_FRAME_WORKING, Steps(7));
                peer.Send(HAUL_FRAME_WORKING, second);
            },
            EPROTO, "a WORKING that got no further", true);
    }
}

TEST(HostileDestination, WorkingOnceIsNoAnswer)
{
    ExpectFailure(
        HAUL_FRAME_PREPARE, [](FramePeer &peer) { peer.Send(HAUL_FRAME_WORKING, Steps(7)); }, ETIMEDOUT,
        "no answer within 1000 ms");
}

// It says so in the moment before HANDOVER goes out, or where it may not: no guest is lost by that.
TEST(HostileDestination, NotStartedAtOtherTimesFailsTheMove)
{
    for (haul_frame_type when : {HAUL_FRAME_BLOCKS, HAUL_FRAME_ROUND_DONE, HAUL_FRAME_PREPARE}) {
        ExpectFailure(
            when, [](FramePeer &peer) { peer.Send(HAUL_FRAME_NOT_STARTED, FailedPayload(ENOMEM, "no")); },
            ENOMEM, "reports: no");
    }
}

TEST(HostileDestination, AFloodOfFramesEndsWithAnError)
{
    ExpectFailure(
        HAUL_FRAME_ROUND_DONE,
        [](FramePeer &peer) {
            for (int i = 0; i < 2000 && peer.Send(HAUL_FRAME_STATE, Payload(100)) == 0; i++) {
            }
        },
        EPROTO, "unexpected STATE");
}

} // namespace
