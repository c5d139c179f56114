/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TESTS_CHANNELS_LINK_H
#define HAUL_TESTS_CHANNELS_LINK_H

/* Senders and receivers on the two ends of real connections, with the engine's part played by the test. */
#include "channels/doorbell.h"
#include "channels/receiver.h"
#include "channels/sender.h"
#include "channels/transport/transport.h"
#include "tests/channels/guarded_memory.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace haul_test
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

constexpr haul_transport_options kTransport = {{5000, 5000}};

/* Both ends of one connection; the listener is closed again. */
inline std::pair<int, int> connected(const std::string &uri, const haul_transport_options &options)
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
inline std::pair<int, int> connect_pair(const std::string &uri)
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
    Link(unsigned channels, uint64_t pages, int mode = HAUL_CODEC_RAW, const std::string &uri = "pair")
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
    void add_sender(unsigned index, int fd, int mode)
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

} // namespace haul_test

#endif
