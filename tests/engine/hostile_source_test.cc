// SPDX-License-Identifier: Apache-2.0
// Rule R4: a source that lies, against a real destination. It never crashes, hangs or leaks, starts the guest
// only after everything came in order, and a stranger's connection disturbs nothing.
#include "frame_peer.h"
#include "hostile.h"
#include "move.h"
#include "resources.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>

using namespace haul_test;

namespace
{

constexpr uint64_t kPages =
    16; // two rounds of them fit a socket buffer, so that nothing here waits for the destination
constexpr size_t kBytes = kPages * 4096;
using Clock = std::chrono::steady_clock;

int64_t MsSince(Clock::time_point begun)
{
    return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun).count();
}

// ---- the victim ----

struct Destination {
    explicit Destination(uint32_t timeout_s = 1)
    {
        haul_options options;
        haul_options_default(&options);
        options.timeout_s = timeout_s;
        options.placement = "none";
        options.populate_threads = 1;
        EXPECT_EQ(haul_destination_new(&options, &migration, &error), 0) << error.message;
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
};

// ---- what a well-behaved source says ----

Payload BlocksPayload(uint64_t bytes = kBytes)
{
    Payload payload;
    Append(&payload, 1, 4);
    AppendText(&payload, "block0");
    Append(&payload, bytes, 8);
    Append(&payload, 4096, 4);
    return payload;
}

Payload PresentPayload()
{
    Payload payload;
    Append(&payload, 0, 4);
    Append(&payload, 1, 8);
    Append(&payload, 1, 1);
    return payload;
}

Payload BeginPayload(uint32_t round, const std::string &name = "device")
{
    Payload payload;
    Append(&payload, round, 4);
    AppendText(&payload, name);
    return payload;
}

Payload EndPayload(uint64_t total)
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
        Hello();
        Blocks();
        Channel(RecordChannel(kPages, 2, HAUL_COMPRESS_NONE));
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

void ExpectFailure(Destination &destination, int code, const char *text)
{
    EXPECT_EQ(destination.Wait(), -code) << destination.error.message;
    EXPECT_NE(std::string(destination.error.message).find(text), std::string::npos)
        << destination.error.message;
    EXPECT_EQ(destination.starts, 0);
    EXPECT_EQ(haul_get_state(destination.migration), HAUL_STATE_FAILED);
}

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
    Destination destination;
    RawSource source(destination);
    source.Hello();
    source.Blocks();
    source.control().Send(HAUL_FRAME_PREPARE);
    source.control().Send(HAUL_FRAME_HANDOVER);
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
    Destination destination;
    RawSource source(destination);
    source.Rounds();
    auto begun = Clock::now();
    source.control().Send(HAUL_FRAME_STATE_BEGIN, BeginPayload(0xffffffff));
    std::thread alive([&] {
        Frame frame;
        while (source.control().ReceiveReal(&frame) == 0 && frame.type != HAUL_FRAME_FAILED) {
        }
    });
    ExpectFailure(destination, ETIMEDOUT, "round 4294967295 did not arrive before the state of device");
    EXPECT_LT(MsSince(begun), 5000);
    alive.join();
}

TEST(HostileSource, CancelEndsTheWaitForARoundThatNeverComes)
{
    Destination destination(60);
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

TEST(HostileSource, PagesAfterPreparedDoNotReachTheGuest)
{
    Destination destination;
    RawSource source(destination);
    source.Hello();
    source.Blocks();
    Payload record = RecordChannel(kPages, 2, HAUL_COMPRESS_NONE);
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

// ---- hello ----

// Each is refused without an end to the waiting: a good source comes afterwards.
TEST(HostileSource, HelloVariantsAreRefusedAndTheRightOneStillServed)
{
    Destination destination(10);
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

TEST(HostileSource, ManyStrangersDoNotEndTheWaiting)
{
    Destination destination(10);
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
    Destination destination(10);
    {
        FramePeer first(ConnectTo(destination.uri));
        GetParam().say(first); // before the source: to a waiting destination
    }
    RawSource source(destination);
    source.Hello();
    FramePeer second(ConnectTo(destination.uri));
    GetParam().say(second); // between the control connection and the channels
    source.Blocks();
    source.Channel(RecordChannel(kPages, 2, HAUL_COMPRESS_LZ4));
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

TEST(StrangersToo, ASecondSourceIsToldThatTheDestinationIsTaken)
{
    Destination destination(10);
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
    source.Channel(RecordChannel(kPages, 2, HAUL_COMPRESS_NONE));
    source.ExpectReply(HAUL_FRAME_ROUND_DONE);
}

TEST(StrangersToo, ASecondConnectionForAChannelIsRefused)
{
    Destination destination(10);
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

// ---- at random ----

struct Action {
    enum Kind { kFrame, kGarbage, kOpenChannel, kData } kind;
    haul_frame_type type;
    Payload payload;
};

std::vector<Action> ValidScript(const Payload &record)
{
    return {
        {Action::kFrame, HAUL_FRAME_HELLO, HelloPayload(HAUL_CONTROL_CHANNEL, 1)},
        {Action::kFrame, HAUL_FRAME_BLOCKS, BlocksPayload()},
        {Action::kFrame, HAUL_FRAME_PRESENT, PresentPayload()},
        {Action::kOpenChannel, HAUL_FRAME_HELLO, HelloPayload(0, 1)},
        {Action::kData, HAUL_FRAME_HELLO, record},
        {Action::kFrame, HAUL_FRAME_STATE_BEGIN, BeginPayload(1)},
        {Action::kFrame, HAUL_FRAME_STATE, Payload(300, 7)},
        {Action::kFrame, HAUL_FRAME_STATE_END, EndPayload(300)},
        {Action::kFrame, HAUL_FRAME_VERIFY, {}},
        {Action::kFrame, HAUL_FRAME_PING, Payload(8, 1)},
        {Action::kFrame, HAUL_FRAME_PREPARE, {}},
        {Action::kFrame, HAUL_FRAME_HANDOVER, {}},
    };
}

void MutatePayload(Payload *payload, std::mt19937 &random)
{
    switch (random() % 4) {
    case 0: // flips bytes
        for (unsigned n = 1 + random() % 4; n > 0 && !payload->empty(); n--) {
            (*payload)[random() % payload->size()] = static_cast<unsigned char>(random());
        }
        break;
    case 1: // cuts
        payload->resize(payload->empty() ? 0 : random() % payload->size());
        break;
    case 2: // adds
        payload->resize(payload->size() + 1 + random() % 100, static_cast<unsigned char>(random()));
        break;
    default: // a number at its extreme
        for (unsigned n = 0; n < 8 && !payload->empty(); n++) {
            size_t at = random() % payload->size();
            (*payload)[at] = random() % 2 ? 0xff : 0x7f;
        }
    }
}

void Mutate(std::vector<Action> *script, std::mt19937 &random)
{
    size_t at = random() % script->size();
    switch (random() % 7) {
    case 0:
        script->erase(script->begin() + static_cast<ptrdiff_t>(at));
        break;
    case 1:
        script->insert(script->begin() + static_cast<ptrdiff_t>(at), (*script)[random() % script->size()]);
        break;
    case 2:
        std::swap((*script)[at], (*script)[random() % script->size()]);
        break;
    case 3:
    case 4:
        MutatePayload(&(*script)[at].payload, random);
        break;
    case 5:
        (*script)[at].type = static_cast<haul_frame_type>(1 + random() % 20);
        break;
    default: {
        Payload bytes(random() % 64);
        for (auto &byte : bytes) {
            byte = static_cast<unsigned char>(random());
        }
        script->insert(script->begin() + static_cast<ptrdiff_t>(at),
                       {Action::kGarbage, HAUL_FRAME_HELLO, bytes});
    }
    }
    if (script->empty()) {
        script->push_back({Action::kGarbage, HAUL_FRAME_HELLO, {1}});
    }
}

// A destination that ended takes nothing more.
void Hurry(const FramePeer &peer)
{
    timeval patience = {.tv_sec = 0, .tv_usec = 300000};
    setsockopt(peer.fd(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

// Says the script without waiting for answers; returns true when PREPARED was among them.
bool Play(const std::vector<Action> &script, Destination &destination, bool *served)
{
    FramePeer control(ConnectTo(destination.uri)), data;
    Hurry(control);
    for (const Action &action : script) {
        switch (action.kind) {
        case Action::kFrame:
            control.Send(action.type, action.payload);
            break;
        case Action::kGarbage:
            (void)!send(control.fd(), action.payload.data(), action.payload.size(), MSG_NOSIGNAL);
            break;
        case Action::kOpenChannel:
            data.Take(ConnectTo(destination.uri));
            Hurry(data);
            data.Send(action.type, action.payload);
            break;
        case Action::kData:
            if (data.fd() >= 0) {
                (void)!send(data.fd(), action.payload.data(), action.payload.size(), MSG_NOSIGNAL);
            }
            break;
        }
    }
    shutdown(control.fd(), SHUT_WR);
    *served = false;
    bool prepared = false;
    // Until the destination ends: a stranger's connection is closed, the source's stays open until the object
    // is freed.
    for (auto begun = Clock::now();;) {
        if (MsSince(begun) > 30) {
            data.Close(); // whatever the destination still waits for does not come
        }
        bool ended = haul_get_state(destination.migration) >= HAUL_STATE_COMPLETED; // all was said before
        Frame frame;
        int rc = control.Receive(&frame, 2);
        if (rc == 0) {
            *served |= frame.type == HAUL_FRAME_WELCOME;
            prepared |= frame.type == HAUL_FRAME_PREPARED;
        } else if ((rc != -ETIMEDOUT && !*served) || ended) {
            return prepared;
        }
    }
}

TEST(HostileSource, ThousandsOfBrokenConversations)
{
    const Payload records[] = {RecordChannel(kPages, 2, HAUL_COMPRESS_NONE),
                               RecordChannel(kPages, 2, HAUL_COMPRESS_LZ4)};
    const char *wish = getenv("HAUL_TEST_ITERATIONS");
    int iterations = wish ? atoi(wish) : 2000;
    // Reading the machine's real topology would take most of the time.
    setenv("HWLOC_SYNTHETIC", "numa:1 pu:2", 1);
    std::mt19937 random(20240607);
    int started = 0, refused = 0;
    Resources before{};
    for (int i = 0; i < iterations; i++) {
        SCOPED_TRACE("iteration " + std::to_string(i));
        if (i == 10) {
            before = Resources::Now();
        }
        std::vector<Action> script = ValidScript(records[i % 2]);
        for (unsigned n = random() % 4; n > 0; n--) {
            Mutate(&script, random);
        }
        Destination destination;
        bool served;
        auto begun = Clock::now();
        bool prepared = Play(script, destination, &served);
        if (!served) {
            haul_cancel(destination.migration); // it still waits for somebody who speaks the protocol
            refused++;
        }
        destination.Wait();
        ASSERT_LT(MsSince(begun), 8000) << "it hung: " << destination.error.message;
        ASSERT_EQ(destination.starts != 0, destination.result == 0) << destination.error.message;
        if (destination.starts) {
            ASSERT_TRUE(prepared) << "the guest was started without PREPARED";
            ASSERT_EQ(destination.loads, 1);
            started++;
        } else {
            ASSERT_STRNE(destination.error.message, "");
        }
    }
    ExpectNoMoreThan(before);
    // The test would show nothing if every conversation ended at the first frame, or none did.
    EXPECT_GT(started, iterations / 10);
    EXPECT_LT(started, iterations * 9 / 10);
    EXPECT_GT(refused, 0);
}

} // namespace
