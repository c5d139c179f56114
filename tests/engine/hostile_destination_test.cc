// SPDX-License-Identifier: Apache-2.0
// Rule R4 the other way round: a destination that lies, against a real source. Whatever it says, the guest
// goes on at the source before HANDOVER, and stays paused after it unless RUNNING came.
#include "channels/receiver.h"
#include "engine/state.h"
#include "frame_peer.h"
#include "hostile.h"
#include "move.h"
#include "resources.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <poll.h>
#include <thread>

using namespace haul_test;

namespace
{

constexpr size_t kBytes = 1 << 20;
using Clock = std::chrono::steady_clock;

int64_t MsSince(Clock::time_point begun)
{
    return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun).count();
}

// What the raw destination does instead of the right answer to a frame; true when it said all there is to
// say.
using Lie = std::function<bool(FramePeer &peer, const Frame &frame)>;

// A destination with one channel that answers each frame of the source as it should, unless the lie comes
// first. The frame of a data connection's HELLO is answered by `data_lie`.
class RawDestination
{
  public:
    RawDestination(Lie lie, Lie data_lie = nullptr) : lie_(std::move(lie)), data_lie_(std::move(data_lie))
    {
        uri = UnixUri();
        listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_un address = UnixAddress(uri);
        EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
        EXPECT_EQ(listen(listener_, 10), 0);
        thread_ = std::thread([this] { Serve(); });
    }
    ~RawDestination()
    {
        Stop();
        haul_receiver_free(receiver_);
        close(listener_);
        unlink(uri.c_str() + strlen("unix:"));
    }
    void Stop()
    {
        stop_ = true;
        if (thread_.joinable()) {
            thread_.join();
        }
    }

    std::string uri;
    std::atomic<bool> handover{false}; // the source sent it

  private:
    bool AcceptWithin(FramePeer *peer)
    {
        while (!stop_) {
            pollfd poller = {.fd = listener_, .events = POLLIN, .revents = 0};
            if (poll(&poller, 1, 10) > 0) {
                peer->Take(accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC));
                return true;
            }
        }
        return false;
    }

    // The next frame that is no PING or PONG; those are answered.
    bool Next(FramePeer &peer, Frame *frame)
    {
        while (!stop_) {
            pollfd poller = {.fd = peer.fd(), .events = POLLIN, .revents = 0};
            if (poll(&poller, 1, 10) <= 0) {
                continue;
            }
            if (peer.Receive(frame, 1000) < 0) {
                return false;
            }
            if (frame->type == HAUL_FRAME_PING) {
                std::lock_guard<std::mutex> hold(send_);
                peer.Send(HAUL_FRAME_PONG, frame->payload);
            } else if (frame->type != HAUL_FRAME_PONG) {
                return true;
            }
        }
        return false;
    }

    static int OnRound(void *opaque, unsigned, uint32_t round, haul_error *)
    {
        auto *self = static_cast<RawDestination *>(opaque);
        Frame mark{HAUL_FRAME_ROUND_DONE, {}};
        Append(&mark.payload, round, 4);
        std::lock_guard<std::mutex> hold(self->send_);
        if (!self->lie_ || !self->lie_(self->control_, mark)) {
            self->control_.Send(HAUL_FRAME_ROUND_DONE, mark.payload);
        }
        return 0;
    }

    bool OpenChannel()
    {
        FramePeer data;
        Frame frame;
        if (!AcceptWithin(&data) || !Next(data, &frame)) {
            return false;
        }
        if (data_lie_ && data_lie_(data, frame)) {
            Next(data, &frame); // until the source closes it
            return false;
        }
        data.Send(HAUL_FRAME_WELCOME);
        view_.host = memory_.data;
        view_.pages = kBytes / 4096;
        haul_receiver_options options{};
        options.fd = dup(data.fd());
        options.blocks = &view_;
        options.block_count = 1;
        options.opaque = this;
        options.round = OnRound;
        return haul_receiver_new(&options, &receiver_, nullptr) == 0;
    }

    void Answer(const Frame &frame)
    {
        switch (frame.type) {
        case HAUL_FRAME_VERIFY:
            control_.Send(HAUL_FRAME_HASHES, Payload(16));
            break;
        case HAUL_FRAME_PREPARE:
            control_.Send(HAUL_FRAME_PREPARED);
            break;
        case HAUL_FRAME_HANDOVER:
            control_.Send(HAUL_FRAME_RUNNING);
            break;
        default:
            break;
        }
    }

    void Serve()
    {
        Frame frame;
        if (!AcceptWithin(&control_)) {
            return;
        }
        // A source that ended takes nothing more.
        timeval patience = {.tv_sec = 0, .tv_usec = 500000};
        setsockopt(control_.fd(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        bool open = false;
        while (Next(control_, &frame)) {
            handover = handover || frame.type == HAUL_FRAME_HANDOVER;
            std::unique_lock<std::mutex> hold(send_);
            if (lie_ && lie_(control_, frame)) {
                continue;
            }
            if (frame.type == HAUL_FRAME_HELLO) {
                control_.Send(HAUL_FRAME_WELCOME);
            } else if (frame.type == HAUL_FRAME_BLOCKS) {
                control_.Send(HAUL_FRAME_BLOCKS_OK);
            } else if (frame.type == HAUL_FRAME_PRESENT && !open) {
                hold.unlock();
                open = true;
                if (!OpenChannel()) {
                    continue;
                }
            } else {
                Answer(frame);
            }
        }
    }

    Lie lie_, data_lie_;
    int listener_;
    GuardedMemory memory_{kBytes};
    haul_block_view view_{};
    haul_receiver *receiver_ = nullptr;
    FramePeer control_;
    std::mutex send_; // one frame at a time, and one lie
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

struct Source {
    explicit Source(const RawDestination &destination, bool verify = false, uint32_t timeout_s = 1)
    {
        guest.Run(5, 1000);
        haul_options options;
        haul_options_default(&options);
        options.channels = 1;
        options.timeout_s = timeout_s;
        options.placement = "none";
        options.verify = verify;
        EXPECT_EQ(haul_source_new(&options, &migration, &error), 0) << error.message;
        guest.Attach(migration, true);
        EXPECT_EQ(haul_start(migration, destination.uri.c_str(), &error), 0) << error.message;
    }
    ~Source()
    {
        haul_free(migration);
    }
    int Wait()
    {
        result = haul_wait(migration, &error);
        haul_get_stats(migration, &stats);
        return result;
    }

    Guest guest{{kBytes}, true};
    haul_migration *migration = nullptr;
    haul_error error{};
    haul_stats stats{};
    int result = 1;
};

// What holds after any lie: the guest runs where it is owned, and nowhere once HANDOVER may have arrived and
// RUNNING did not come.
void ExpectOwnership(Source &source, const RawDestination &destination)
{
    const std::string message = source.error.message;
    bool at_source = source.stats.ownership == HAUL_OWNER_SOURCE;
    EXPECT_EQ(source.guest.running(), at_source) << message;
    EXPECT_EQ(source.result == 0, source.stats.ownership == HAUL_OWNER_DESTINATION) << message;
    if (destination.handover) {
        EXPECT_FALSE(at_source) << "two owners: " << message;
    } else {
        EXPECT_NE(source.result, 0) << "completed without a HANDOVER";
    }
    if (source.stats.ownership == HAUL_OWNER_UNCERTAIN) {
        const auto &steps = source.guest.steps;
        EXPECT_EQ(std::count(steps.begin(), steps.end(), HAUL_STEP_HANDOVER_SENDING), 1) << message;
        EXPECT_NE(message.find("stays paused"), std::string::npos) << message;
    }
    if (source.result < 0) {
        EXPECT_NE(message, "");
        EXPECT_EQ(source.guest.handed_over, 0u);
    }
}

// The lie is told in answer to the first frame of type `when` (ROUND_DONE: in place of it).
void ExpectFailure(haul_frame_type when, const std::function<void(FramePeer &)> &tell, int code,
                   const char *text, bool verify = false)
{
    bool told = false;
    RawDestination destination([&](FramePeer &peer, const Frame &frame) {
        bool now = frame.type == when && !told;
        if (now) {
            told = true;
            tell(peer);
        }
        return now;
    });
    Source source(destination, verify);
    auto begun = Clock::now();
    EXPECT_EQ(source.Wait(), -code) << source.error.message;
    EXPECT_LT(MsSince(begun), 8000);
    destination.Stop();
    EXPECT_NE(std::string(source.error.message).find(text), std::string::npos) << source.error.message;
    ExpectOwnership(source, destination);
}

Payload FailedPayload(uint32_t code, const std::string &text)
{
    Payload payload;
    Append(&payload, code, 4);
    AppendText(&payload, text);
    return payload;
}

Payload Number(uint32_t value)
{
    Payload payload;
    Append(&payload, value, 4);
    return payload;
}

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
        Source source(destination);
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

// Once HANDOVER is out nothing but RUNNING says where the guest is.
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

TEST(HostileDestination, RandomLies)
{
    const char *wish = getenv("HAUL_TEST_ITERATIONS");
    int iterations = wish ? atoi(wish) : 400;
    setenv("HWLOC_SYNTHETIC", "numa:1 pu:2", 1);
    std::mt19937 random(77);
    int completed = 0, stayed = 0, uncertain = 0;
    Resources before{};
    for (int i = 0; i < iterations; i++) {
        SCOPED_TRACE("iteration " + std::to_string(i));
        if (i == 10) {
            before = Resources::Now();
        }
        // One answer in sixteen is a lie: another frame, a broken payload, garbage, or the end.
        auto lie = [&](FramePeer &peer, const Frame &) {
            if (random() % 16 != 0) {
                return false;
            }
            Payload bytes(random() % 64);
            for (auto &byte : bytes) {
                byte = static_cast<unsigned char>(random());
            }
            switch (random() % 3) {
            case 0:
                peer.Send(static_cast<haul_frame_type>(1 + random() % 19), bytes);
                break;
            case 1:
                (void)!send(peer.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
                shutdown(peer.fd(), SHUT_WR);
                break;
            default:
                shutdown(peer.fd(), SHUT_RDWR);
            }
            return true;
        };
        RawDestination destination(lie);
        Source source(destination);
        auto begun = Clock::now();
        source.Wait();
        ASSERT_LT(MsSince(begun), 8000) << "it hung: " << source.error.message;
        destination.Stop();
        ExpectOwnership(source, destination);
        completed += source.result == 0;
        uncertain += source.stats.ownership == HAUL_OWNER_UNCERTAIN;
        stayed += source.stats.ownership == HAUL_OWNER_SOURCE;
        ASSERT_FALSE(HasFailure());
    }
    ExpectNoMoreThan(before);
    EXPECT_GT(completed, iterations / 10);
    EXPECT_GT(stayed, iterations / 10);
    EXPECT_GT(uncertain, 0);
}

} // namespace
