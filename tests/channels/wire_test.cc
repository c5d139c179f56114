/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/wire.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

TEST(Cursor, ReadsLittleEndian)
{
    const unsigned char bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    haul_cursor cursor;
    haul_cursor_init(&cursor, bytes, sizeof bytes);
    EXPECT_EQ(0x01, haul_cursor_u8(&cursor));
    EXPECT_EQ(0x0302, haul_cursor_u16(&cursor));
    EXPECT_EQ(0x07060504u, haul_cursor_u32(&cursor));
    EXPECT_EQ(0x0f0e0d0c0b0a0908u, haul_cursor_u64(&cursor));
    EXPECT_TRUE(haul_cursor_done(&cursor));
}

TEST(Cursor, StaysFailedAfterReadingPastTheEnd)
{
    const unsigned char bytes[] = {1, 2, 3};
    haul_cursor cursor;
    haul_cursor_init(&cursor, bytes, sizeof bytes);
    EXPECT_EQ(0u, haul_cursor_u32(&cursor));
    EXPECT_EQ(0, haul_cursor_u8(&cursor));
    EXPECT_EQ(nullptr, haul_cursor_bytes(&cursor, 0));
    EXPECT_FALSE(haul_cursor_done(&cursor));
    haul_cursor_init(&cursor, bytes, sizeof bytes);
    EXPECT_EQ(nullptr, haul_cursor_bytes(&cursor, SIZE_MAX));
    haul_cursor_init(&cursor, nullptr, 0);
    EXPECT_TRUE(haul_cursor_done(&cursor));
}

TEST(Cursor, LeftoverIsNotDone)
{
    haul_cursor cursor;
    haul_cursor_init(&cursor, "ab", 2);
    haul_cursor_u8(&cursor);
    EXPECT_FALSE(haul_cursor_done(&cursor));
}

std::vector<unsigned char> encoded(const std::string &text)
{
    std::vector<unsigned char> bytes(text.size() + 2);
    haul_writer writer;
    haul_writer_init(&writer, bytes.data(), bytes.size());
    haul_writer_u16(&writer, static_cast<uint16_t>(text.size()));
    haul_writer_bytes(&writer, text.data(), text.size());
    return bytes;
}

TEST(Cursor, StringsAreBoundedAndWhole)
{
    char text[8];
    haul_cursor cursor;
    auto good = encoded("seven77");
    haul_cursor_init(&cursor, good.data(), good.size());
    EXPECT_TRUE(haul_cursor_string(&cursor, text, sizeof text));
    EXPECT_STREQ("seven77", text);
    EXPECT_TRUE(haul_cursor_done(&cursor));
    for (const std::string &bad : {std::string("eight888"), std::string("a\0b", 3)}) {
        auto bytes = encoded(bad);
        haul_cursor_init(&cursor, bytes.data(), bytes.size());
        EXPECT_FALSE(haul_cursor_string(&cursor, text, sizeof text));
        EXPECT_TRUE(cursor.failed);
        EXPECT_STREQ("", text);
    }
    for (size_t length = 0; length < good.size(); length++) {
        std::vector<unsigned char> cut(good.begin(), good.begin() + static_cast<long>(length));
        haul_cursor_init(&cursor, cut.data(), cut.size());
        EXPECT_FALSE(haul_cursor_string(&cursor, text, sizeof text)) << length;
    }
}

TEST(Writer, StopsAtTheEndOfItsBuffer)
{
    unsigned char bytes[5] = {0, 0, 0, 0, 0xee};
    haul_writer writer;
    haul_writer_init(&writer, bytes, 4);
    haul_writer_u16(&writer, 0x1234);
    haul_writer_u32(&writer, 1);
    haul_writer_u8(&writer, 9);
    EXPECT_EQ(0u, haul_writer_length(&writer));
    EXPECT_EQ(0x34, bytes[0]);
    EXPECT_EQ(0, bytes[2]);
    EXPECT_EQ(0xee, bytes[4]);
    haul_writer_init(&writer, bytes, 4);
    haul_writer_string(&writer, "ab");
    EXPECT_EQ(4u, haul_writer_length(&writer));
    std::string endless(70000, 'x');
    std::vector<unsigned char> room(80000);
    haul_writer_init(&writer, room.data(), room.size());
    haul_writer_string(&writer, endless.c_str());
    EXPECT_EQ(0u, haul_writer_length(&writer));
}

/* ---- hello ---- */

haul_hello good_hello()
{
    haul_hello hello{};
    hello.version = HAUL_WIRE_VERSION;
    hello.capabilities = HAUL_CAPABILITY_VERIFY;
    memset(hello.id, 0x5a, sizeof hello.id);
    hello.channel = 3;
    hello.channels = 4;
    hello.page_size = HAUL_PAGE_SIZE;
    return hello;
}

int decode(const haul_hello &hello, std::string *message)
{
    unsigned char bytes[64];
    size_t length = haul_hello_encode(&hello, bytes, sizeof bytes);
    EXPECT_EQ(32u, length);
    haul_hello out;
    haul_error error{};
    int result = haul_hello_decode(bytes, length, &out, &error);
    EXPECT_EQ(-result, error.code);
    *message = error.message;
    if (result == 0) {
        EXPECT_EQ(0, memcmp(&hello, &out, sizeof out));
    }
    return result;
}

TEST(Hello, RoundTrips)
{
    std::string message;
    haul_hello hello = good_hello();
    EXPECT_EQ(0, decode(hello, &message)) << message;
    hello.channel = HAUL_CONTROL_CHANNEL;
    hello.channels = HAUL_CHANNELS_MAX;
    EXPECT_EQ(0, decode(hello, &message)) << message;
}

TEST(Hello, EveryTruncationAndExtensionIsRefused)
{
    unsigned char bytes[64] = {};
    haul_hello hello = good_hello(), out;
    size_t length = haul_hello_encode(&hello, bytes, sizeof bytes);
    haul_error error;
    for (size_t cut = 0; cut < length; cut++) {
        EXPECT_EQ(-EPROTO, haul_hello_decode(bytes, cut, &out, &error)) << cut;
        EXPECT_EQ(0u, haul_hello_encode(&hello, bytes, cut));
    }
    haul_hello_encode(&hello, bytes, sizeof bytes);
    EXPECT_EQ(-EPROTO, haul_hello_decode(bytes, length + 1, &out, &error));
    EXPECT_STREQ("HELLO has 33 bytes, expected 32", error.message);
}

TEST(Hello, FieldsOutOfRangeAreRefused)
{
    const struct {
        void (*spoil)(haul_hello &);
        int result;
        const char *message;
    } cases[] = {
        {[](haul_hello &h) { h.version = 2; }, -EPROTONOSUPPORT, "protocol version 2, this side version 1"},
        {[](haul_hello &h) { h.version = 0; }, -EPROTONOSUPPORT, "protocol version 0"},
        {[](haul_hello &h) { h.capabilities = 0x81; }, -EPROTONOSUPPORT, "capabilities 0x80"},
        {[](haul_hello &h) { h.channels = 0; }, -EPROTO, "announces 0 channels, allowed are 1 to 128"},
        {[](haul_hello &h) { h.channels = 129; }, -EPROTO, "announces 129 channels"},
        {[](haul_hello &h) { h.channel = 4; }, -EPROTO, "HELLO is for channel 4 of 4"},
        {[](haul_hello &h) { h.channel = 0xfffe; }, -EPROTO, "HELLO is for channel 65534 of 4"},
        {[](haul_hello &h) { h.page_size = 16384; }, -EPROTONOSUPPORT,
         "pages of 16384 bytes, this side in 4096"},
    };
    for (const auto &the_case : cases) {
        haul_hello hello = good_hello();
        the_case.spoil(hello);
        std::string message;
        EXPECT_EQ(the_case.result, decode(hello, &message));
        EXPECT_NE(std::string::npos, message.find(the_case.message)) << message;
    }
}

/* ---- frames ---- */

class Frame : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, ends_));
    }
    void TearDown() override
    {
        close(ends_[0]);
        close_peer();
    }
    void close_peer()
    {
        if (ends_[1] >= 0)
            close(ends_[1]);
        ends_[1] = -1;
    }
    int receive(int timeout_ms = 2000)
    {
        return haul_frame_recv(ends_[0], &type_, payload_, sizeof payload_, &length_, timeout_ms, &error_);
    }
    /* The bytes of one frame. */
    std::vector<unsigned char> bytes_of(haul_frame_type type, const std::string &payload)
    {
        std::vector<unsigned char> bytes(16 + payload.size());
        EXPECT_EQ(0, haul_frame_send(ends_[1], type, payload.data(), payload.size(), &error_));
        EXPECT_EQ(static_cast<ssize_t>(bytes.size()),
                  recv(ends_[0], bytes.data(), bytes.size(), MSG_WAITALL));
        return bytes;
    }
    void send_bytes(const std::vector<unsigned char> &bytes)
    {
        EXPECT_EQ(static_cast<ssize_t>(bytes.size()),
                  send(ends_[1], bytes.data(), bytes.size(), MSG_NOSIGNAL));
    }

    int ends_[2];
    haul_frame_type type_;
    unsigned char payload_[64];
    size_t length_;
    haul_error error_{};
};

TEST_F(Frame, RoundTripsEveryType)
{
#define X(number, name)                                                                                      \
    EXPECT_EQ(0, haul_frame_send(ends_[1], HAUL_FRAME_##name, "some text", 9, &error_));                     \
    ASSERT_EQ(0, receive()) << error_.message;                                                               \
    EXPECT_EQ(number, type_);                                                                                \
    EXPECT_EQ(9u, length_);                                                                                  \
    EXPECT_EQ(0, memcmp("some text", payload_, 9));                                                          \
    EXPECT_STREQ(#name, haul_frame_name(number));
    HAUL_FRAMES(X)
#undef X
    EXPECT_STREQ("unknown", haul_frame_name(0));
    EXPECT_STREQ("unknown", haul_frame_name(999));
}

TEST_F(Frame, EmptyPayloadRoundTrips)
{
    EXPECT_EQ(0, haul_frame_send(ends_[1], HAUL_FRAME_PING, nullptr, 0, &error_));
    ASSERT_EQ(0, receive()) << error_.message;
    EXPECT_EQ(HAUL_FRAME_PING, type_);
    EXPECT_EQ(0u, length_);
}

TEST_F(Frame, EveryTruncationIsAnEndOfTheConnection)
{
    std::vector<unsigned char> whole = bytes_of(HAUL_FRAME_BLOCKS, "payload");
    for (size_t cut = 0; cut < whole.size(); cut++) {
        TearDown();
        SetUp();
        send_bytes({whole.begin(), whole.begin() + static_cast<long>(cut)});
        close_peer();
        EXPECT_EQ(-ECONNRESET, receive()) << cut;
        EXPECT_NE(nullptr, strstr(error_.message, "the peer closed the connection")) << error_.message;
        EXPECT_NE(nullptr, strstr(error_.message, cut < 16 ? "receiving a frame" : "receiving BLOCKS"));
    }
}

TEST_F(Frame, EveryFlippedBitIsRefused)
{
    std::vector<unsigned char> whole = bytes_of(HAUL_FRAME_BLOCKS, "payload");
    for (size_t bit = 0; bit < whole.size() * 8; bit++) {
        TearDown();
        SetUp();
        auto bad = whole;
        bad[bit / 8] = static_cast<unsigned char>(bad[bit / 8] ^ 1 << bit % 8);
        send_bytes(bad);
        close_peer();
        int result = receive();
        /* A longer length runs into the end of the stream. */
        EXPECT_TRUE(result == -EPROTO || (result == -ECONNRESET && bit / 8 >= 8 && bit / 8 < 12)) << bit;
    }
}

TEST_F(Frame, BadFieldsHaveTheirMessages)
{
    const struct {
        size_t at;
        unsigned char value;
        const char *message;
    } cases[] = {
        {0, 'h', "does not speak haul's protocol"},
        {4, 200, "unknown frame type 200"},
        {4, 0, "unknown frame type 0"},
        {6, 1, "BLOCKS: reserved field is 1, not 0"},
        {8, 65, "BLOCKS: 65 bytes are more than the 64 allowed here"},
        {11, 0x80, "more than the 64 allowed here"},
        {12, 0, "BLOCKS: wrong checksum"},
        {16, 'P', "BLOCKS: wrong checksum"},
    };
    std::vector<unsigned char> whole = bytes_of(HAUL_FRAME_BLOCKS, "payload");
    for (const auto &the_case : cases) {
        TearDown();
        SetUp();
        auto bad = whole;
        bad[the_case.at] = static_cast<unsigned char>(the_case.at == 12 ? ~bad[12] : the_case.value);
        send_bytes(bad);
        EXPECT_EQ(-EPROTO, receive());
        EXPECT_NE(nullptr, strstr(error_.message, the_case.message)) << error_.message;
    }
}

TEST_F(Frame, WaitIsBounded)
{
    EXPECT_EQ(-ETIMEDOUT, receive(20));
    EXPECT_NE(nullptr, strstr(error_.message, "receiving a frame")) << error_.message;
    EXPECT_EQ(-ETIMEDOUT, receive(0));
}

/* A peer that sends a byte now and then does not get more time than the whole frame has. */
TEST_F(Frame, DripDoesNotExtendTheWait)
{
    constexpr size_t kBytes = 100; /* seconds in all */
    std::vector<unsigned char> whole = bytes_of(HAUL_FRAME_BLOCKS, std::string(2 * kBytes, 'x'));
    std::atomic<bool> stop{false};
    std::atomic<size_t> sent{0};
    std::thread drip([&] {
        for (; sent < kBytes && !stop; sent++) {
            send(ends_[1], &whole[sent], 1, MSG_NOSIGNAL);
            std::this_thread::sleep_for(std::chrono::milliseconds(60));
        }
    });
    EXPECT_EQ(-ETIMEDOUT, receive(100));
    EXPECT_LT(sent, kBytes);
    stop = true;
    drip.join();
}

TEST_F(Frame, TooLargeIsNotSent)
{
    EXPECT_EQ(-EMSGSIZE, haul_frame_send(ends_[1], HAUL_FRAME_STATE, nullptr, HAUL_FRAME_MAX + 1, &error_));
    EXPECT_STREQ("sending STATE: 1048577 bytes are more than a frame's 1048576", error_.message);
}

TEST_F(Frame, ClosedPeerIsAnErrorNotASignal)
{
    close_peer();
    EXPECT_EQ(-EPIPE, haul_frame_send(ends_[0], HAUL_FRAME_PING, nullptr, 0, &error_));
    EXPECT_STREQ("sending PING: Broken pipe", error_.message);
}

} // namespace
