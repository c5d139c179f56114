/* SPDX-License-Identifier: Apache-2.0 */
/* Rounds, queues and counters: what waits for what, and what tells whom. */
#include "tests/channels/link.h"
#include "tests/waiting.h"

#include <cstring>
#include <thread>

namespace
{

using namespace haul_test;

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
    link.add_sender(0, out0, HAUL_CODEC_RAW);
    link.add_sender(1, out1, HAUL_CODEC_RAW);
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
    link.add_sender(0, out, HAUL_CODEC_RAW);
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
    /* A blocked call counts as busy while it lasts, and what nobody read is not delivered (rule R7). */
    haul_channel_counters before, after;
    EXPECT_TRUE(Eventually([&] {
        haul_sender_counters(link.senders[0], &before);
        std::this_thread::sleep_for(20ms);
        haul_sender_counters(link.senders[0], &after);
        return after.batches == before.batches && after.busy_ns >= before.busy_ns + 15000000;
    }));
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
    link.add_sender(0, out, HAUL_CODEC_RAW);
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

TEST(Channel, CountersNeverGoBack)
{
    Link link(1, 2048, HAUL_CODEC_RAW, "tcp:127.0.0.1:0");
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
