/* SPDX-License-Identifier: Apache-2.0 */
/* Senders and receivers together, over every kind of socket. */
#include "channels/doorbell.h"
#include "channels/receiver.h"
#include "channels/sender.h"
#include "channels/transport/transport.h"
#include "tests/channels/guarded_memory.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

using namespace std::chrono_literals;

/* The engine's part on the destination: the barrier of a round, and who failed. */
class Barrier
{
  public:
    explicit Barrier(unsigned channels) : channels_(channels)
    {
    }
    static int on_round(void *opaque, unsigned index, uint32_t round, haul_error *error)
    {
        return static_cast<Barrier *>(opaque)->arrive(index, round, error);
    }
    static void on_failed(void *opaque, unsigned, const haul_error *error)
    {
        auto *self = static_cast<Barrier *>(opaque);
        std::lock_guard lock(self->mutex_);
        self->failures_.push_back(*error);
        self->changed_.notify_all();
    }
    bool wait_round(uint32_t round, std::chrono::milliseconds limit = 20s)
    {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, limit, [&] { return done_ >= round || !failures_.empty(); }) &&
               done_ >= round;
    }
    haul_error wait_failure()
    {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, 20s, [&] { return !failures_.empty(); });
        return failures_.empty() ? haul_error{} : failures_.front();
    }
    size_t failures()
    {
        std::lock_guard lock(mutex_);
        return failures_.size();
    }
    void end()
    {
        std::lock_guard lock(mutex_);
        ended_ = true;
        changed_.notify_all();
    }
    void refuse()
    {
        std::lock_guard lock(mutex_);
        refuse_ = true;
    }

  private:
    int arrive(unsigned index, uint32_t round, haul_error *error)
    {
        std::unique_lock lock(mutex_);
        if (refuse_)
            return haul_error_set(error, EIO, "no more rounds for channel %u", index);
        if (++arrived_ == channels_) {
            arrived_ = 0;
            done_ = round;
            changed_.notify_all();
        }
        changed_.wait(lock, [&] { return done_ >= round || ended_; });
        return ended_ && done_ < round ? -ECANCELED : 0;
    }

    const unsigned channels_;
    unsigned arrived_ = 0;
    uint32_t done_ = 0;
    bool ended_ = false;
    bool refuse_ = false;
    std::vector<haul_error> failures_;
    std::mutex mutex_;
    std::condition_variable changed_;
};

const haul_transport_options kTransport = {{5000, 5000}};

/* Both ends of one connection; the listener is closed again. */
std::pair<int, int> connected(const std::string &uri, const haul_transport_options &options)
{
    haul_error error{};
    haul_listener *listener = nullptr;
    haul_connector *connector = nullptr;
    std::pair<int, int> sockets{-1, -1};
    EXPECT_EQ(0, haul_listener_open(uri.c_str(), &options, &listener, &error)) << error.message;
    EXPECT_EQ(0, haul_connector_open(haul_listener_uri(listener), &options, &connector, &error))
        << error.message;
    EXPECT_EQ(0, haul_connector_connect(connector, 0, -1, &sockets.first, &error)) << error.message;
    EXPECT_EQ(0, haul_listener_accept(listener, 0, 5000, -1, &sockets.second, &error)) << error.message;
    haul_connector_close(connector);
    haul_listener_close(listener);
    return sockets;
}

/* Connected sockets {sender's, receiver's} over the transport that `uri` names. */
std::pair<int, int> connect_pair(const std::string &uri)
{
    if (uri == "pair") {
        int both[2] = {-1, -1};
        EXPECT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, both));
        return {both[0], both[1]};
    }
    return connected(uri, kTransport);
}

/* How many channels a test will add to a link by itself. */
struct Later {
    unsigned channels;
};

/* N channels between a source block and a destination block. */
class Link
{
  public:
    Link(Later later, uint64_t pages) : source(pages, false), destination(pages), barrier(later.channels)
    {
        haul_doorbell_init(&bell);
    }
    Link(unsigned channels, uint64_t pages, haul_compress_mode mode = HAUL_COMPRESS_NONE,
         const std::string &uri = "pair")
        : Link(Later{channels}, pages)
    {
        for (unsigned i = 0; i < channels; i++) {
            auto [out, in] = connect_pair(uri);
            add_sender(i, out, mode);
            add_receiver(i, in);
        }
    }
    ~Link()
    {
        barrier.end();
        for (auto *sender : senders) {
            haul_sender_abort(sender);
            haul_sender_free(sender);
        }
        for (auto *receiver : receivers)
            haul_receiver_free(receiver);
    }
    void add_sender(unsigned index, int fd, haul_compress_mode mode)
    {
        haul_error error{};
        haul_sender_options options{};
        options.index = index;
        ASSERT_EQ(0, haul_carrier_stream_new(fd, &options.carrier, &error)) << error.message;
        options.compress = mode;
        options.blocks = &source.view;
        options.block_count = 1;
        options.completion_bell = &bell;
        haul_sender *sender = nullptr;
        ASSERT_EQ(0, haul_sender_new(&options, &sender, &error)) << error.message;
        senders.push_back(sender);
    }
    void add_receiver(unsigned index, int fd)
    {
        haul_error error{};
        haul_receiver_options options{};
        options.index = index;
        options.fd = fd;
        options.blocks = &destination.view;
        options.block_count = 1;
        options.opaque = &barrier;
        options.round = Barrier::on_round;
        options.failed = Barrier::on_failed;
        haul_receiver *receiver = nullptr;
        ASSERT_EQ(0, haul_receiver_new(&options, &receiver, &error)) << error.message;
        receivers.push_back(receiver);
    }
    haul_batch *acquire(unsigned channel)
    {
        for (;;) {
            uint32_t ticket = haul_doorbell_ticket(&bell);
            if (haul_batch *batch = haul_sender_acquire(senders[channel]))
                return batch;
            haul_doorbell_wait(&bell, ticket, UINT64_MAX);
        }
    }
    void submit(unsigned channel, haul_batch_kind kind, uint32_t round, const std::vector<haul_run> &runs)
    {
        haul_batch *batch = acquire(channel);
        batch->kind = kind;
        batch->round = round;
        batch->block = 0;
        batch->run_count = static_cast<uint32_t>(runs.size());
        batch->page_count = 0;
        for (size_t i = 0; i < runs.size(); i++) {
            batch->runs[i] = runs[i];
            batch->page_count += static_cast<uint32_t>(runs[i].count);
        }
        haul_sender_submit(senders[channel], batch);
    }
    /* All pages in turn over all channels, in full batches. */
    void submit_all(uint32_t round)
    {
        unsigned channel = 0;
        for (uint64_t first = 0; first < source.view.pages; first += HAUL_BATCH_PAGES) {
            uint64_t left = source.view.pages - first;
            uint64_t count = left < HAUL_BATCH_PAGES ? left : HAUL_BATCH_PAGES;
            submit(channel++ % senders.size(), HAUL_BATCH_KIND_PAGES, round, {{first, count}});
        }
    }
    void mark(uint32_t round)
    {
        for (unsigned i = 0; i < senders.size(); i++)
            submit(i, HAUL_BATCH_KIND_ROUND, round, {});
    }
    void drain(unsigned channel)
    {
        for (;;) {
            uint32_t ticket = haul_doorbell_ticket(&bell);
            if (haul_sender_in_flight(senders[channel]) == 0)
                return;
            haul_doorbell_wait(&bell, ticket, UINT64_MAX);
        }
    }
    bool same() const
    {
        return memcmp(source.view.host, destination.view.host, source.view.pages * HAUL_PAGE_SIZE) == 0;
    }

    GuardedBlock source;
    GuardedBlock destination;
    Barrier barrier;
    haul_doorbell bell;
    std::vector<haul_sender *> senders;
    std::vector<haul_receiver *> receivers;
};

struct Case {
    const char *uri;
    haul_compress_mode mode;
    unsigned channels;
};

class Move : public ::testing::TestWithParam<Case>
{
};

std::string uri_of(const Case &the_case)
{
    if (std::string(the_case.uri) != "unix")
        return the_case.uri;
    return "unix:/tmp/haul_channel_test." + std::to_string(getpid());
}

TEST_P(Move, MixedMemoryArrives)
{
    const uint64_t pages = 3000;
    Link link(GetParam().channels, pages, GetParam().mode, uri_of(GetParam()));
    for (uint64_t i = 0; i < pages; i++) {
        if (i % 7 == 0)
            link.source.fill_random(i, 1);
        else if (i % 3 != 0)
            link.source.fill(i, static_cast<int>(i));
        link.destination.fill(i, 0x55);
        link.destination.set_bit(i);
    }
    link.submit_all(1);
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    EXPECT_TRUE(link.same());
    uint64_t zero = 0, raw = 0, compressed = 0, written = 0, read = 0;
    for (unsigned i = 0; i < GetParam().channels; i++) {
        link.drain(i);
        haul_channel_counters sent, received;
        haul_sender_counters(link.senders[i], &sent);
        haul_receiver_counters(link.receivers[i], &received);
        EXPECT_EQ(sent.bytes_written, received.bytes_written);
        EXPECT_EQ(sent.bytes_written, sent.bytes_delivered);
        EXPECT_EQ(sent.pages, received.pages);
        EXPECT_EQ(sent.compressed_bytes, received.compressed_bytes);
        EXPECT_EQ(sent.pages, sent.zero_pages + sent.raw_pages + sent.compressed_pages);
        EXPECT_GT(sent.tid, 0);
        EXPECT_GE(sent.cpu, 0);
        EXPECT_GT(sent.busy_ns, 0u);
        EXPECT_LE(sent.encode_ns, sent.busy_ns);
        zero += sent.zero_pages;
        raw += sent.raw_pages;
        compressed += sent.compressed_pages;
        written += sent.bytes_written;
        read += received.bytes_written;
    }
    EXPECT_EQ(pages, zero + raw + compressed);
    EXPECT_GT(zero, pages / 4);
    EXPECT_EQ(written, read);
    if (GetParam().mode == HAUL_COMPRESS_NONE) {
        EXPECT_EQ(0u, compressed);
        EXPECT_GE(written, raw * HAUL_PAGE_SIZE);
    } else if (GetParam().mode == HAUL_COMPRESS_LZ4) {
        EXPECT_GT(compressed, 0u);
        EXPECT_LT(written, (raw + compressed) * HAUL_PAGE_SIZE / 2);
    }
    EXPECT_EQ(0u, link.barrier.failures());
}

INSTANTIATE_TEST_SUITE_P(
    Channels, Move,
    ::testing::Values(Case{"pair", HAUL_COMPRESS_NONE, 1}, Case{"pair", HAUL_COMPRESS_LZ4, 1},
                      Case{"tcp:127.0.0.1:0", HAUL_COMPRESS_NONE, 4},
                      Case{"tcp:127.0.0.1:0", HAUL_COMPRESS_LZ4, 2},
                      Case{"tcp:127.0.0.1:0", HAUL_COMPRESS_AUTO, 2}, Case{"unix", HAUL_COMPRESS_NONE, 2},
                      Case{"unix", HAUL_COMPRESS_LZ4, 1}, Case{"unix", HAUL_COMPRESS_AUTO, 3}));

class Compressed : public ::testing::TestWithParam<haul_compress_mode>
{
};

/* Single pages far apart: as many runs as a batch can have, chunks that span runs. */
TEST_P(Compressed, ScatteredRunsArrive)
{
    const uint64_t pages = 2 * HAUL_BATCH_RUNS + 50;
    Link link(1, pages, GetParam());
    std::vector<haul_run> single, mixed;
    for (uint64_t i = 0; i < HAUL_BATCH_RUNS; i++) {
        single.push_back({2 * i, 1});
        i % 5 ? link.source.fill(2 * i, static_cast<int>(i + 1)) : link.source.fill_random(2 * i, 9);
    }
    /* Runs of 1, 2, 3 ... pages, of which the odd ones are new. */
    for (uint64_t first = 1, length = 1; first + length < pages && length < 20;
         first += length + 3, length++) {
        mixed.push_back({first, length});
        for (uint64_t i = 0; i < length; i++)
            link.source.fill_random(first + i, 4);
    }
    link.submit(0, HAUL_BATCH_KIND_PAGES, 1, single);
    link.mark(1);
    link.submit(0, HAUL_BATCH_KIND_PAGES, 2, mixed);
    link.mark(2);
    ASSERT_TRUE(link.barrier.wait_round(2));
    EXPECT_TRUE(link.same());
}

/* Trap T5, on both ways that a zero page can travel. */
TEST_P(Compressed, ZeroPageThatWasNotIsCleared)
{
    const uint64_t pages = 200;
    Link link(1, pages, GetParam());
    for (uint64_t i = 0; i < pages; i++)
        link.source.fill(i, 7);
    link.submit_all(1);
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    ASSERT_TRUE(link.same());
    link.source.fill(3, 0);
    for (uint64_t i = 60; i < 195; i++)
        link.source.fill(i, 0);
    link.submit(0, HAUL_BATCH_KIND_PAGES, 2, {{3, 1}});
    link.submit(0, HAUL_BATCH_KIND_ZERO, 2, {{60, 135}});
    link.mark(2);
    ASSERT_TRUE(link.barrier.wait_round(2));
    EXPECT_TRUE(link.same());
    for (uint64_t i = 0; i < pages; i++)
        EXPECT_EQ(i != 3 && !(i >= 60 && i < 195), link.destination.bit(i)) << i;
}

INSTANTIATE_TEST_SUITE_P(Channels, Compressed,
                         ::testing::Values(HAUL_COMPRESS_NONE, HAUL_COMPRESS_LZ4, HAUL_COMPRESS_AUTO));

/* Pages whose bit is clear are known to be zero: they stay untouched, which keeps them unpopulated. */
TEST(Channel, ZeroRunLeavesUntouchedPagesAlone)
{
    Link link(1, 130);
    link.destination.fill(64, 0xaa); /* no bit: a write here would show */
    link.destination.fill(65, 0xaa);
    link.destination.set_bit(65);
    link.submit(0, HAUL_BATCH_KIND_ZERO, 1, {{0, 130}});
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    EXPECT_EQ(0xaa, link.destination.page(64)[0]);
    EXPECT_EQ(0, link.destination.page(65)[0]);
    EXPECT_EQ(0, link.destination.page(65)[HAUL_PAGE_SIZE - 1]);
    EXPECT_FALSE(link.destination.bit(65));
}

/* A hole is never read: here reading would be fatal. */
TEST(Channel, ZeroBatchNeverReadsMemory)
{
    Link link(1, 5000);
    mprotect(link.source.view.host, 5000 * HAUL_PAGE_SIZE, PROT_NONE);
    link.submit(0, HAUL_BATCH_KIND_ZERO, 1, {{0, 4000}, {4500, 500}});
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    haul_channel_counters counters;
    link.drain(0);
    haul_sender_counters(link.senders[0], &counters);
    EXPECT_EQ(4500u, counters.zero_pages);
    EXPECT_LT(counters.bytes_written, 1000u);
    mprotect(link.source.view.host, 5000 * HAUL_PAGE_SIZE, PROT_READ);
}

/* Takes all that comes in at `from`, and passes nothing on to `to` until it is released. */
class Relay
{
  public:
    Relay(int from, int to) : from_(from), to_(to), reader_([this] { read_all(); })
    {
    }
    ~Relay()
    {
        release();
        shutdown(from_, SHUT_RDWR);
        reader_.join();
        close(from_);
        close(to_);
    }
    void release()
    {
        std::lock_guard lock(mutex_);
        released_ = true;
        pass_on();
    }

  private:
    void read_all()
    {
        char bytes[65536];
        ssize_t length;
        while ((length = read(from_, bytes, sizeof bytes)) > 0) {
            std::lock_guard lock(mutex_);
            held_.insert(held_.end(), bytes, bytes + length);
            if (released_)
                pass_on();
        }
    }
    void pass_on()
    {
        for (size_t done = 0; done < held_.size();) {
            ssize_t sent = send(to_, held_.data() + done, held_.size() - done, MSG_NOSIGNAL);
            if (sent <= 0)
                break;
            done += static_cast<size_t>(sent);
        }
        held_.clear();
    }

    int from_, to_;
    bool released_ = false;
    std::vector<char> held_;
    std::mutex mutex_;
    std::thread reader_;
};

/* Rule R2: the newest version of a page wins although the old one's channel is slower by far. */
TEST(Channel, DelayedChannelCannotBringBackAnOldPage)
{
    Link link(Later{2}, 250);
    auto [out0, relay_in] = connect_pair("pair");
    auto [relay_out, in0] = connect_pair("pair");
    auto [out1, in1] = connect_pair("pair");
    Relay relay(relay_in, relay_out);
    link.add_sender(0, out0, HAUL_COMPRESS_NONE);
    link.add_sender(1, out1, HAUL_COMPRESS_NONE);
    link.add_receiver(0, in0);
    link.add_receiver(1, in1);
    /* The old version is under way on the slow channel, */
    for (uint64_t i = 0; i < 250; i++)
        link.source.fill(i, 1);
    link.submit(0, HAUL_BATCH_KIND_PAGES, 1, {{0, 250}});
    link.mark(1);
    link.drain(0); /* the source may change the pages only after they were read */
    link.drain(1);
    /* and the new one has the fast channel to itself, for as long as it could need to overtake. */
    for (uint64_t i = 0; i < 250; i++)
        link.source.fill(i, 2);
    link.submit(1, HAUL_BATCH_KIND_PAGES, 2, {{0, 250}});
    link.mark(2);
    haul_channel_counters fast;
    for (int i = 0; i < 20; i++) {
        std::this_thread::sleep_for(10ms);
        haul_receiver_counters(link.receivers[1], &fast);
        ASSERT_EQ(0u, fast.raw_pages) << "a channel went past the mark of round 1 alone";
    }
    relay.release();
    ASSERT_TRUE(link.barrier.wait_round(2));
    EXPECT_TRUE(link.same());
}

TEST(Channel, RoundWaitsForEveryChannel)
{
    Link link(3, 10);
    link.submit(0, HAUL_BATCH_KIND_ROUND, 1, {});
    link.submit(2, HAUL_BATCH_KIND_ROUND, 1, {});
    EXPECT_FALSE(link.barrier.wait_round(1, 50ms));
    link.submit(1, HAUL_BATCH_KIND_ROUND, 1, {});
    EXPECT_TRUE(link.barrier.wait_round(1));
}

TEST(Channel, SlowReceiverHoldsTheSenderBack)
{
    Link link(Later{1}, 4096);
    auto [out, in] = connect_pair("pair");
    link.add_sender(0, out, HAUL_COMPRESS_NONE);
    for (uint64_t i = 0; i < 4096; i++)
        link.source.fill(i, 1);
    /* Nobody reads: the depth of the ring is all that can be submitted. */
    unsigned taken = 0;
    while (haul_batch *batch = haul_sender_acquire(link.senders[0])) {
        *batch = haul_batch{HAUL_BATCH_KIND_PAGES, 1, 0, 1, 256, false, {{taken * 256u, 256}}};
        haul_sender_submit(link.senders[0], batch);
        if (++taken == 16)
            break;
    }
    EXPECT_LE(taken, 9u); /* one may have fitted into the socket's buffer */
    haul_channel_counters before, after;
    std::this_thread::sleep_for(20ms);
    haul_sender_counters(link.senders[0], &before);
    std::this_thread::sleep_for(20ms);
    haul_sender_counters(link.senders[0], &after);
    /* A blocked call counts as busy while it lasts, and what nobody read is not delivered (rule R7). */
    EXPECT_GE(after.busy_ns, before.busy_ns + 15000000);
    EXPECT_EQ(0u, after.bytes_delivered);
    link.add_receiver(0, in);
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    EXPECT_EQ(0, memcmp(link.source.view.host, link.destination.view.host, taken * 256 * HAUL_PAGE_SIZE));
}

TEST(Channel, BellRingsOnceTheRingRunsLow)
{
    Link link(Later{1}, 256 * HAUL_SENDER_DEPTH);
    auto [out, in] = connect_pair("pair");
    link.add_sender(0, out, HAUL_COMPRESS_NONE);
    for (uint64_t i = 0; i < link.source.view.pages; i++)
        link.source.fill(i, 1);
    uint32_t ticket = haul_doorbell_ticket(&link.bell);
    for (unsigned i = 0; i < HAUL_SENDER_DEPTH; i++) {
        link.submit(0, HAUL_BATCH_KIND_PAGES, 1, {{i * 256u, 256}});
    }
    // Nobody reads yet: the first batch fills the socket, the others wait in the ring.
    std::vector<char> bytes(1 << 20);
    size_t read = 0;
    haul_channel_counters counters{};
    while (counters.batches == 0) {
        ASSERT_EQ(recv(in, bytes.data(), 65536, MSG_WAITALL), 65536);
        read += 65536;
        haul_sender_counters(link.senders[0], &counters);
    }
    EXPECT_FALSE(haul_doorbell_wait(&link.bell, ticket, 20'000'000)) << "the ring is nearly full";
    std::thread reader([&] {
        while (recv(in, bytes.data(), bytes.size(), 0) > 0) {
        }
    });
    EXPECT_TRUE(haul_doorbell_wait(&link.bell, ticket, 10'000'000'000)) << "the ring has run low";
    link.drain(0);
    haul_sender_abort(link.senders[0]);
    reader.join();
    close(in);
}

TEST(Channel, PeerClosingInTheMiddleFailsTheSender)
{
    Link link(Later{1}, 2048);
    auto [out, in] = connect_pair("tcp:127.0.0.1:0");
    link.add_sender(7, out, HAUL_COMPRESS_NONE);
    for (uint64_t i = 0; i < 2048; i++)
        link.source.fill(i, 1);
    char some[100];
    std::thread peer([&, in = in] {
        EXPECT_EQ(100, recv(in, some, sizeof some, MSG_WAITALL));
        close(in);
    });
    haul_error error{};
    for (int i = 0; i < 200 && haul_sender_error(link.senders[0], &error) == 0; i++)
        link.submit(0, HAUL_BATCH_KIND_PAGES, 2, {{0, 256}});
    peer.join();
    link.drain(0); /* what was submitted after the failure completes unsent */
    int result = haul_sender_error(link.senders[0], &error);
    EXPECT_TRUE(result == -EPIPE || result == -ECONNRESET) << result;
    EXPECT_EQ(-result, error.code);
    EXPECT_NE(nullptr, strstr(error.message, "channel 7 to 127.0.0.1:")) << error.message;
    EXPECT_NE(nullptr, strstr(error.message, ": sending round 2: ")) << error.message;
}

TEST(Channel, PeerClosingInTheMiddleFailsTheReceiver)
{
    Link link(1, 10, HAUL_COMPRESS_NONE, "tcp:127.0.0.1:0");
    link.mark(1);
    ASSERT_TRUE(link.barrier.wait_round(1));
    haul_sender_abort(link.senders[0]);
    haul_error error = link.barrier.wait_failure();
    EXPECT_EQ(ECONNRESET, error.code);
    EXPECT_NE(nullptr, strstr(error.message, "channel 0 from 127.0.0.1:")) << error.message;
    EXPECT_NE(nullptr, strstr(error.message, ": receiving round 2: the peer closed the connection"))
        << error.message;
}

TEST(Channel, SilentPeerTimesOut)
{
    haul_error error{};
    auto [out, in] = connected("tcp:127.0.0.1:0", {{5000, 100}});
    Link link(Later{1}, 2048);
    link.add_sender(0, out, HAUL_COMPRESS_NONE);
    for (uint64_t i = 0; i < 2048; i++)
        link.source.fill(i, 1);
    for (int i = 0; i < 200 && haul_sender_error(link.senders[0], &error) == 0; i++)
        link.submit(0, HAUL_BATCH_KIND_PAGES, 1, {{0, 256}});
    EXPECT_EQ(-ETIMEDOUT, haul_sender_error(link.senders[0], &error));
    EXPECT_NE(nullptr, strstr(error.message, "sending round 1: the peer took nothing for too long"))
        << error.message;
    close(in);
}

class Abort : public ::testing::TestWithParam<const char *>
{
};

TEST_P(Abort, WhileBlockedReturnsAtOnce)
{
    Link link(Later{1}, 4096);
    auto [out, in] = connect_pair(GetParam());
    link.add_sender(0, out, HAUL_COMPRESS_NONE);
    for (uint64_t i = 0; i < 4096; i++)
        link.source.fill(i, 1);
    for (uint64_t i = 0; i < HAUL_SENDER_DEPTH; i++)
        link.submit(0, HAUL_BATCH_KIND_PAGES, 1, {{i * 256, 256}});
    std::this_thread::sleep_for(20ms);
    auto start = std::chrono::steady_clock::now();
    haul_sender_abort(link.senders[0]);
    link.drain(0);
    haul_error error{};
    EXPECT_EQ(-ECANCELED, haul_sender_error(link.senders[0], &error));
    EXPECT_NE(nullptr, strstr(error.message, ": aborted")) << error.message;
    haul_sender_free(link.senders[0]);
    link.senders.clear();
    EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
    close(in);
}

TEST_P(Abort, ReceiverThatWaitsReturnsAtOnceAndReportsNothing)
{
    Link link(1, 10, HAUL_COMPRESS_NONE, GetParam());
    auto start = std::chrono::steady_clock::now();
    haul_receiver_abort(link.receivers[0]);
    haul_receiver_free(link.receivers[0]);
    link.receivers.clear();
    EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
    EXPECT_EQ(0u, link.barrier.failures());
}

INSTANTIATE_TEST_SUITE_P(Channels, Abort, ::testing::Values("pair", "tcp:127.0.0.1:0"));

TEST(Channel, FreeSendsWhatIsInFlight)
{
    Link link(1, 2048);
    for (uint64_t i = 0; i < 2048; i++)
        link.source.fill_random(i, 3);
    link.submit_all(1);
    haul_sender_free(link.senders[0]);
    link.senders.clear();
    haul_error error = link.barrier.wait_failure(); /* the end of the stream, after all pages */
    EXPECT_EQ(ECONNRESET, error.code);
    EXPECT_TRUE(link.same());
}

TEST(Channel, FailedBarrierEndsTheReceiver)
{
    Link link(1, 10);
    link.barrier.refuse();
    link.mark(1);
    haul_error error = link.barrier.wait_failure();
    EXPECT_EQ(EIO, error.code);
    EXPECT_NE(nullptr, strstr(error.message, "channel 0 from the peer: no more rounds for channel 0"))
        << error.message;
}

TEST(Channel, BatchThatBreaksItsContractIsRefused)
{
    const std::vector<std::vector<haul_run>> bad = {
        {{10, 1}}, {{0, 0}}, {{5, 6}}, {{UINT64_MAX, 2}}, {{1, UINT64_MAX}}};
    for (const auto &runs : bad) {
        Link link(1, 10);
        link.submit(0, HAUL_BATCH_KIND_PAGES, 1, runs);
        link.drain(0);
        haul_error error{};
        EXPECT_EQ(-EINVAL, haul_sender_error(link.senders[0], &error));
        EXPECT_NE(nullptr, strstr(error.message, "of a block of 10")) << error.message;
    }
    Link link(1, 1000);
    link.submit(0, HAUL_BATCH_KIND_PAGES, 1, {{0, 200}, {300, 57}});
    link.drain(0);
    EXPECT_EQ(-EINVAL, haul_sender_error(link.senders[0], nullptr));
}

TEST(Channel, CountersNeverGoBack)
{
    Link link(1, 2048, HAUL_COMPRESS_NONE, "tcp:127.0.0.1:0");
    for (uint64_t i = 0; i < 2048; i++)
        link.source.fill(i, 1);
    HAUL_ATOMIC(bool) stop{false};
    std::thread watcher([&] {
        haul_channel_counters last{}, now{};
        while (!stop) {
            haul_sender_counters(link.senders[0], &now);
            EXPECT_GE(now.bytes_delivered, last.bytes_delivered);
            EXPECT_GE(now.bytes_written, now.bytes_delivered);
            EXPECT_GE(now.busy_ns, last.busy_ns);
            EXPECT_GE(now.stalled_ns, last.stalled_ns);
            last = now;
        }
    });
    for (uint32_t round = 1; round <= 10; round++) {
        link.submit_all(round);
        link.mark(round);
    }
    EXPECT_TRUE(link.barrier.wait_round(10));
    stop = true;
    watcher.join();
}

} // namespace
