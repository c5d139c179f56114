// SPDX-License-Identifier: Apache-2.0
// State handlers' bytes, from a save hook through frames to a load hook.
#include "engine/state_stream.h"
#include "tests/engine/fake_migration.h"
#include "tests/engine/frame_peer.h"

#include <cerrno>
#include <functional>
#include <random>
#include <thread>

using haul_test::Bytes;
using haul_test::Frame;
using haul_test::FramePeer;

namespace
{

struct Hooks {
    std::function<int(haul_state_writer *, haul_error *)> save;
    std::function<int(haul_state_reader *, haul_error *)> load;
};

int Save(void *opaque, haul_state_writer *writer, haul_error *error)
{
    return static_cast<Hooks *>(opaque)->save(writer, error);
}

int Load(void *opaque, haul_state_reader *reader, haul_error *error)
{
    return static_cast<Hooks *>(opaque)->load(reader, error);
}

const haul_state_ops kOps = {.name = "device", .save = Save, .load = Load};
const haul_state_ops kNothing = {.name = "nothing"};

class StateStream : public testing::Test
{
  protected:
    StateStream()
    {
        int ends[2];
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        peer_.Take(ends[1]);
        haul_control_options options = {.fd = ends[0],
                                        .thread_name = "test-control",
                                        .silence_timeout_ms = 10000,
                                        .notify = [](void *) {},
                                        .opaque = nullptr};
        EXPECT_EQ(haul_control_new(&options, &control_, &error_), 0) << error_.message;
    }
    ~StateStream() override
    {
        haul_control_free(control_);
    }
    int LoadIt(int timeout_ms = 10000)
    {
        error_ = {};
        return haul_state_load(control_, &handler_, timeout_ms, &error_);
    }
    // A load hook that reads all in pieces of `piece` bytes.
    void ReadAll(size_t piece)
    {
        hooks_.load = [this, piece](haul_state_reader *reader, haul_error *error) {
            std::vector<unsigned char> buffer(piece);
            for (;;) {
                ptrdiff_t n = haul_state_read(reader, buffer.data(), piece, error);
                if (n <= 0) {
                    return static_cast<int>(n);
                }
                EXPECT_LE(n, static_cast<ptrdiff_t>(piece));
                got_.insert(got_.end(), buffer.begin(), buffer.begin() + n);
            }
        };
    }
    void ReadExactly(size_t bytes)
    {
        hooks_.load = [bytes](haul_state_reader *reader, haul_error *error) {
            size_t done = 0;
            unsigned char byte;
            while (done < bytes) {
                ptrdiff_t n = haul_state_read(reader, &byte, 1, error);
                if (n <= 0) {
                    return n < 0 ? static_cast<int>(n)
                                 : haul_error_set(error, EPROTO, "short by %zu", bytes - done);
                }
                done++;
            }
            return 0;
        };
    }

    Hooks hooks_;
    haul_handler handler_ = {.ops = &kOps, .opaque = &hooks_};
    haul_control *control_ = nullptr;
    FramePeer peer_;
    std::vector<unsigned char> got_;
    haul_error error_{};
};

TEST_F(StateStream, SavedBytesAreFramesInPiecesWithTheirTotal)
{
    std::vector<unsigned char> state(600000);
    std::mt19937 random(3);
    for (auto &byte : state) {
        byte = static_cast<unsigned char>(random());
    }
    hooks_.save = [&](haul_state_writer *writer, haul_error *error) {
        for (size_t at = 0; at < state.size(); at += 7777) {
            size_t n = std::min<size_t>(7777, state.size() - at);
            int rc = haul_state_write(writer, state.data() + at, n, error);
            if (rc < 0) {
                return rc;
            }
        }
        return haul_state_write(writer, nullptr, 0, error);
    };
    std::thread saver(
        [&] { EXPECT_EQ(haul_state_save(control_, &handler_, 42, &error_), 0) << error_.message; });
    Frame frame;
    ASSERT_EQ(peer_.ReceiveReal(&frame), 0);
    ASSERT_EQ(frame.type, HAUL_FRAME_STATE_BEGIN);
    EXPECT_EQ(frame.payload, Bytes().u32(42).text("device").data);
    std::vector<unsigned char> all;
    for (;;) {
        ASSERT_EQ(peer_.ReceiveReal(&frame), 0);
        if (frame.type != HAUL_FRAME_STATE) {
            break;
        }
        EXPECT_LE(frame.payload.size(), HAUL_FRAME_MAX);
        all.insert(all.end(), frame.payload.begin(), frame.payload.end());
    }
    saver.join();
    EXPECT_EQ(frame.type, HAUL_FRAME_STATE_END);
    EXPECT_EQ(frame.payload, Bytes().u64(state.size()).data);
    EXPECT_EQ(all, state);
}

TEST_F(StateStream, AHandlerWithoutSaveSendsNothing)
{
    haul_handler silent = {.ops = &kNothing, .opaque = nullptr};
    EXPECT_EQ(haul_state_save(control_, &silent, 1, &error_), 0);
    haul_error reason{};
    haul_error_set(&reason, EIO, "the next frame");
    haul_control_fail(control_, &reason);
    Frame frame;
    ASSERT_EQ(peer_.ReceiveReal(&frame), 0);
    EXPECT_EQ(frame.type, HAUL_FRAME_FAILED);
}

TEST_F(StateStream, AFailedSaveEndsWithoutStateEnd)
{
    hooks_.save = [](haul_state_writer *writer, haul_error *error) {
        haul_state_write(writer, "half", 4, error);
        return haul_error_set(error, EIO, "the device does not answer");
    };
    EXPECT_EQ(haul_state_save(control_, &handler_, 1, &error_), -EIO);
    EXPECT_STREQ(error_.message, "the device does not answer");
    haul_control_free(control_);
    control_ = nullptr;
    Frame frame;
    ASSERT_EQ(peer_.ReceiveReal(&frame, 10000, false), 0);
    EXPECT_EQ(frame.type, HAUL_FRAME_STATE_BEGIN);
    EXPECT_LT(peer_.ReceiveReal(&frame, 10000, false), 0);
}

TEST_F(StateStream, ShortReadsGetEveryByte)
{
    peer_.Send(HAUL_FRAME_STATE, {1, 2, 3, 4, 5});
    peer_.Send(HAUL_FRAME_STATE, {}); // an empty piece is nothing
    peer_.Send(HAUL_FRAME_STATE, {6, 7});
    peer_.Send(HAUL_FRAME_STATE_END, Bytes().u64(7).data);
    ReadAll(3);
    EXPECT_EQ(LoadIt(), 0) << error_.message;
    EXPECT_EQ(got_, (std::vector<unsigned char>{1, 2, 3, 4, 5, 6, 7}));
}

TEST_F(StateStream, NoStateAtAll)
{
    peer_.Send(HAUL_FRAME_STATE_END, Bytes().u64(0).data);
    ReadAll(10);
    EXPECT_EQ(LoadIt(), 0) << error_.message;
    EXPECT_TRUE(got_.empty());
}

TEST_F(StateStream, ReadingExactlyToTheEndIsEnough)
{
    peer_.Send(HAUL_FRAME_STATE, {1, 2, 3});
    peer_.Send(HAUL_FRAME_STATE_END, Bytes().u64(3).data);
    ReadExactly(3);
    EXPECT_EQ(LoadIt(), 0) << error_.message;
}

TEST_F(StateStream, AHandlerThatReadsTooLittle)
{
    peer_.Send(HAUL_FRAME_STATE, {1, 2, 3});
    peer_.Send(HAUL_FRAME_STATE_END, Bytes().u64(3).data);
    ReadExactly(2);
    EXPECT_EQ(LoadIt(), -EPROTO);
    EXPECT_STREQ(error_.message, "the source sent more state than the handler reads");
}

TEST_F(StateStream, AHandlerThatReadsTooMuch)
{
    peer_.Send(HAUL_FRAME_STATE, {1, 2, 3});
    peer_.Send(HAUL_FRAME_STATE_END, Bytes().u64(3).data);
    ReadExactly(5);
    EXPECT_EQ(LoadIt(), -EPROTO);
    EXPECT_STREQ(error_.message, "short by 2");
}

TEST_F(StateStream, AHandlerWithoutLoadTakesOnlyNothing)
{
    handler_ = {.ops = &kNothing, .opaque = nullptr};
    peer_.Send(HAUL_FRAME_STATE_END, Bytes().u64(0).data);
    EXPECT_EQ(LoadIt(), 0) << error_.message;
    peer_.Send(HAUL_FRAME_STATE, {1});
    peer_.Send(HAUL_FRAME_STATE_END, Bytes().u64(1).data);
    EXPECT_EQ(LoadIt(), -EPROTO);
    EXPECT_STREQ(error_.message, "the source sent more state than the handler reads");
}

TEST_F(StateStream, AWrongTotal)
{
    for (uint64_t total : {0ull, 2ull, 4ull, ~0ull}) {
        peer_.Send(HAUL_FRAME_STATE, {1, 2, 3});
        peer_.Send(HAUL_FRAME_STATE_END, Bytes().u64(total).data);
        ReadAll(10);
        EXPECT_EQ(LoadIt(), -EPROTO) << total;
        EXPECT_STREQ(error_.message, "STATE_END does not fit the 3 bytes of state before it");
    }
}

TEST_F(StateStream, AMalformedEnd)
{
    for (const auto &payload :
         {std::vector<unsigned char>{}, Bytes().u32(0).data, Bytes().u64(0).raw(1, 0).data}) {
        peer_.Send(HAUL_FRAME_STATE_END, payload);
        ReadAll(10);
        EXPECT_EQ(LoadIt(), -EPROTO);
    }
}

TEST_F(StateStream, AnotherFrameInTheMiddle)
{
    peer_.Send(HAUL_FRAME_STATE, {1, 2, 3});
    peer_.Send(HAUL_FRAME_HANDOVER);
    ReadAll(10);
    EXPECT_EQ(LoadIt(), -EPROTO);
    EXPECT_STREQ(error_.message, "HANDOVER does not fit the 3 bytes of state before it");
}

TEST_F(StateStream, AHandlerThatIgnoresAnErrorDoesNotSucceed)
{
    peer_.Send(HAUL_FRAME_STATE, {1});
    peer_.Send(HAUL_FRAME_HANDOVER);
    hooks_.load = [](haul_state_reader *reader, haul_error *) {
        unsigned char bytes[10];
        while (haul_state_read(reader, bytes, sizeof bytes, nullptr) > 0) {
        }
        return 0;
    };
    EXPECT_LT(LoadIt(200), 0) << "the stream was broken";
}

TEST_F(StateStream, SilenceInTheMiddle)
{
    peer_.Send(HAUL_FRAME_STATE, {1, 2, 3});
    ReadAll(10);
    EXPECT_EQ(LoadIt(100), -ETIMEDOUT);
}

TEST_F(StateStream, AFailedInTheMiddleIsTheReason)
{
    peer_.Send(HAUL_FRAME_STATE, {1, 2, 3});
    peer_.Send(HAUL_FRAME_FAILED, Bytes().u32(EIO).text("gave up").data);
    ReadAll(10);
    EXPECT_EQ(LoadIt(), -EIO);
    EXPECT_NE(std::string(error_.message).find("gave up"), std::string::npos) << error_.message;
}

// As the control connection makes them: the payload behind the header, in one allocation.
__attribute__((noinline)) haul_frame *MakeFrame(const std::vector<unsigned char> &payload)
{
    auto *memory = static_cast<unsigned char *>(calloc(1, sizeof(haul_frame) + payload.size()));
    auto *frame = reinterpret_cast<haul_frame *>(memory);
    frame->type = HAUL_FRAME_STATE_BEGIN;
    frame->length = payload.size();
    for (size_t i = 0; i < payload.size(); i++) {
        memory[offsetof(haul_frame, payload) + i] = payload[i];
    }
    return frame;
}

TEST_F(StateStream, BeginIsChecked)
{
    char name[HAUL_NAME_MAX + 1];
    uint32_t round;
    auto decode = [&](const std::vector<unsigned char> &payload) {
        haul_frame *frame = MakeFrame(payload);
        int rc = haul_state_begin_decode(frame, &round, name, sizeof name, &error_);
        free(frame);
        return rc;
    };
    ASSERT_EQ(decode(Bytes().u32(9).text("device").data), 0);
    EXPECT_EQ(round, 9u);
    EXPECT_STREQ(name, "device");
    EXPECT_EQ(decode({}), -EPROTO);
    EXPECT_STREQ(error_.message, "STATE_BEGIN is malformed");
    EXPECT_EQ(decode(Bytes().u32(9).data), -EPROTO);
    EXPECT_EQ(decode(Bytes().u32(9).text(std::string(256, 'x')).data), -EPROTO);
    EXPECT_EQ(decode(Bytes().u32(9).text("device").raw(1, 0).data), -EPROTO);
}

} // namespace
