// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_HOSTILE_HOSTILE_DESTINATION_H
#define HAUL_TESTS_ENGINE_HOSTILE_HOSTILE_DESTINATION_H

// A real source, and a destination that tells it what a test wants.

#include "channels/receiver.h"
#include "engine/migration.h"
#include "tests/engine/frame_peer.h"
#include "tests/engine/hostile/hostile.h"
#include "tests/engine/move.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <poll.h>
#include <string>
#include <thread>
#include <vector>

namespace haul_test
{

constexpr size_t kBytes = 1 << 20;

// What the raw destination does instead of the right answer to a frame; true when it said all there is to
// say.
using Lie = std::function<bool(FramePeer &peer, const Frame &frame)>;

// A destination with one channel that answers each frame of the source as it should, unless the lie comes
// first. The frame of a data connection's HELLO is answered by `data_lie`. With `disks` the source moves one
// of kBytes, too.
class RawDestination
{
  public:
    RawDestination(Lie lie, Lie data_lie = nullptr, unsigned disks = 0)
        : lie_(std::move(lie)), data_lie_(std::move(data_lie)), views_(1 + disks)
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

    // The source's senders meet a broken connection. Only once the channel is open.
    void CutChannel()
    {
        EXPECT_EQ(shutdown(data_fd_, SHUT_RDWR), 0);
    }
    void Say(haul_frame_type type, const Payload &payload)
    {
        std::lock_guard<std::mutex> hold(send_);
        control_.Send(type, payload);
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
        for (haul_block_view &view : views_) { // a disk may well be received into memory
            view.host = memory_.data;
            view.pages = kBytes / 4096;
        }
        haul_receiver_options options{};
        options.fd = data_fd_ = dup(data.fd());
        options.blocks = views_.data();
        options.block_count = static_cast<uint32_t>(views_.size());
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
                control_.Send(HAUL_FRAME_BLOCKS_OK, Payload(4));
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
    std::vector<haul_block_view> views_;
    haul_receiver *receiver_ = nullptr;
    FramePeer control_;
    std::atomic<int> data_fd_{-1};
    std::mutex send_; // one frame at a time, and one lie
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

struct Source {
    // Impatient (1000) only where the test is about that.
    explicit Source(const RawDestination &destination, bool verify = false, uint32_t timeout_ms = 20000,
                    const std::function<void(Guest &)> &prepare = nullptr)
    {
        if (prepare) {
            prepare(guest);
        }
        guest.Run(5, 1000);
        haul_options options;
        haul_options_default(&options);
        options.channels = 1;
        options.placement = "none";
        options.verify = verify;
        EXPECT_EQ(haul_source_new(&options, &migration, &error), 0) << error.message;
        migration->limits = {timeout_ms, timeout_ms};
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
inline void ExpectOwnership(Source &source, const RawDestination &destination)
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
inline void ExpectFailure(haul_frame_type when, const std::function<void(FramePeer &)> &tell, int code,
                          const char *text, bool verify = false, uint32_t timeout_ms = 20000)
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
    Source source(destination, verify, code == ETIMEDOUT ? 1000 : timeout_ms);
    auto begun = Clock::now();
    EXPECT_EQ(source.Wait(), -code) << source.error.message;
    EXPECT_LT(MsSince(begun), 15000);
    destination.Stop();
    EXPECT_NE(std::string(source.error.message).find(text), std::string::npos) << source.error.message;
    ExpectOwnership(source, destination);
}

inline Payload FailedPayload(uint32_t code, const std::string &text)
{
    Payload payload;
    Append(&payload, code, 4);
    AppendText(&payload, text);
    return payload;
}

inline Payload Number(uint32_t value)
{
    Payload payload;
    Append(&payload, value, 4);
    return payload;
}

} // namespace haul_test

#endif
