// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_HOSTILE_HOSTILE_SOURCE_H
#define HAUL_TESTS_ENGINE_HOSTILE_HOSTILE_SOURCE_H

// A real destination, and a source that says exactly what a test wants it to.

#include "engine/migration.h"
#include "tests/engine/frame_peer.h"
#include "tests/engine/hostile/hostile.h"
#include "tests/engine/move.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

namespace haul_test
{

constexpr uint64_t kPages =
    16; // two rounds of them fit a socket buffer, so that nothing here waits for the destination
constexpr size_t kBytes = kPages * 4096;

// ---- the victim ----

struct Destination {
    // Impatient (1000) only where the test is about that.
    explicit Destination(uint32_t timeout_ms = 20000)
    {
        haul_options options;
        haul_options_default(&options);
        options.placement = "none";
        options.populate_threads = 1;
        EXPECT_EQ(haul_destination_new(&options, &migration, &error), 0) << error.message;
        migration->limits = {timeout_ms, timeout_ms};
        haul_ram_block block = {.name = "block0",
                                .host = memory.data,
                                .length = kBytes,
                                .page_size = 4096,
                                .fd = -1,
                                .fd_offset = 0};
        EXPECT_EQ(haul_add_ram(migration, &block, &error), 0) << error.message;
        static const haul_state_ops state = {.name = "device", .load = Load};
        static const haul_guest_ops guest = {.start = Start};
        EXPECT_EQ(haul_add_state(migration, &state, this, &error), 0);
        EXPECT_EQ(haul_set_guest(migration, &guest, this, &error), 0);
        EXPECT_EQ(haul_start(migration, UnixUri().c_str(), &error), 0) << error.message;
        uri = haul_local_uri(migration);
    }
    ~Destination()
    {
        haul_free(migration);
    }
    int Wait()
    {
        result = haul_wait(migration, &error);
        return result;
    }
    static int Load(void *opaque, haul_state_reader *reader, haul_error *reason)
    {
        auto *self = static_cast<Destination *>(opaque);
        unsigned char bytes[100];
        for (;;) {
            usleep(self->load_pause_us);
            ptrdiff_t got = haul_state_read(reader, bytes, sizeof bytes, reason);
            if (got <= 0) {
                self->loads++;
                return static_cast<int>(got);
            }
        }
    }
    static int Start(void *opaque, haul_error *)
    {
        static_cast<Destination *>(opaque)->starts++;
        return 0;
    }

    GuardedMemory memory{kBytes};
    haul_migration *migration = nullptr;
    haul_error error{};
    std::string uri;
    int result = 1;
    std::atomic<int> starts{0}, loads{0};
    std::atomic<unsigned> load_pause_us{0};
};

// ---- what a well-behaved source says ----

inline Payload BlocksPayload(uint64_t bytes = kBytes)
{
    Payload payload;
    Append(&payload, 1, 4);
    AppendText(&payload, "block0");
    Append(&payload, bytes, 8);
    Append(&payload, 4096, 4);
    return payload;
}

inline Payload PresentPayload()
{
    Payload payload;
    Append(&payload, 0, 4);
    Append(&payload, 1, 8);
    Append(&payload, 1, 1);
    return payload;
}

inline Payload BeginPayload(uint32_t round, const std::string &name = "device")
{
    Payload payload;
    Append(&payload, round, 4);
    AppendText(&payload, name);
    return payload;
}

inline Payload EndPayload(uint64_t total)
{
    Payload payload;
    Append(&payload, total, 8);
    return payload;
}

// A source that does exactly what the test says.
class RawSource
{
  public:
    explicit RawSource(const Destination &destination) : uri_(destination.uri), control_(ConnectTo(uri_))
    {
    }

    FramePeer &control()
    {
        return control_;
    }
    void Hello(uint16_t channels = 1)
    {
        EXPECT_EQ(control_.Send(HAUL_FRAME_HELLO, HelloPayload(HAUL_CONTROL_CHANNEL, channels)), 0);
        ExpectReply(HAUL_FRAME_WELCOME);
    }
    void Blocks()
    {
        EXPECT_EQ(control_.Send(HAUL_FRAME_BLOCKS, BlocksPayload()), 0);
        ExpectReply(HAUL_FRAME_BLOCKS_OK);
    }
    void Channel(const Payload &bytes)
    {
        data_.Take(ConnectTo(uri_));
        EXPECT_EQ(data_.Send(HAUL_FRAME_HELLO, HelloPayload(0, 1)), 0);
        Frame frame;
        EXPECT_EQ(data_.Receive(&frame), 0);
        EXPECT_EQ(frame.type, HAUL_FRAME_WELCOME);
        EXPECT_EQ(send(data_.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(bytes.size()));
    }
    // Up to where every round arrived.
    void Rounds()
    {
        const Payload &record = RecordChannel(kPages, 2, HAUL_CODEC_RAW); // before anybody waits for it
        Hello();
        Blocks();
        Channel(record);
        ExpectReply(HAUL_FRAME_ROUND_DONE);
        ExpectReply(HAUL_FRAME_ROUND_DONE);
    }
    void State(const std::string &name = "device")
    {
        EXPECT_EQ(control_.Send(HAUL_FRAME_STATE_BEGIN, BeginPayload(2, name)), 0);
        control_.Send(HAUL_FRAME_STATE, {1, 2, 3});
        control_.Send(HAUL_FRAME_STATE_END, EndPayload(3));
    }
    void ExpectReply(haul_frame_type type)
    {
        Frame frame;
        ASSERT_EQ(control_.ReceiveReal(&frame), 0) << haul_frame_name(type) << " never came";
        EXPECT_STREQ(haul_frame_name(frame.type), haul_frame_name(type));
    }

  private:
    std::string uri_;
    FramePeer control_, data_;
};

// Answers for its source, until the destination says that it failed: one that is late is not silent.
class StaysAlive
{
  public:
    explicit StaysAlive(RawSource &source)
        : thread_([&source] {
              Frame frame;
              while (source.control().ReceiveReal(&frame) == 0 && frame.type != HAUL_FRAME_FAILED) {
              }
          })
    {
    }
    ~StaysAlive()
    {
        thread_.join();
    }
    StaysAlive(const StaysAlive &) = delete;

  private:
    std::thread thread_;
};

inline void ExpectFailure(Destination &destination, int code, const char *text)
{
    EXPECT_EQ(destination.Wait(), -code) << destination.error.message;
    EXPECT_NE(std::string(destination.error.message).find(text), std::string::npos)
        << destination.error.message;
    EXPECT_EQ(destination.starts, 0);
    EXPECT_EQ(haul_get_state(destination.migration), HAUL_STATE_FAILED);
}

} // namespace haul_test

#endif
