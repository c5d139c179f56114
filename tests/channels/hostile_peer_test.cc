/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rule R4: real receivers against peers that send broken, mutated and random packets. The blocks lie between
 * pages that nobody may touch, and each receiver must end by itself, with a reason.
 */
#include "channels/packet.h"
#include "channels/receiver.h"
#include "tests/channels/guarded_memory.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <condition_variable>
#include <lz4.h>
#include <mutex>
#include <random>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace
{

using Bytes = std::vector<unsigned char>;

constexpr uint64_t kFirstPages = 300;

/* A disk in place of the first block: nothing may be asked of it that lies outside. */
const haul_block_io kDisk = {
    .read = nullptr,
    .write =
        [](void *opaque, uint64_t first, uint32_t pages, const void *bytes, haul_error *) {
            EXPECT_TRUE(pages >= 1 && pages <= HAUL_BATCH_PAGES && first < kFirstPages &&
                        pages <= kFirstPages - first);
            auto *disk = static_cast<Bytes *>(opaque);
            memcpy(disk->data() + first * HAUL_PAGE_SIZE, bytes, pages * HAUL_PAGE_SIZE);
            return 0;
        },
    .zero =
        [](void *opaque, uint64_t first, uint64_t pages, haul_error *) {
            EXPECT_TRUE(pages >= 1 && first < kFirstPages && pages <= kFirstPages - first);
            auto *disk = static_cast<Bytes *>(opaque);
            memset(disk->data() + first * HAUL_PAGE_SIZE, 0, pages * HAUL_PAGE_SIZE);
            return 0;
        },
};

/* A receiver over two blocks that ends as soon as its peer has sent everything. */
class Victim
{
  public:
    explicit Victim(bool disk = false) : first_(kFirstPages), second_(65)
    {
        views_[0] = first_.view;
        views_[1] = second_.view;
        if (disk) {
            disk_.resize(kFirstPages * HAUL_PAGE_SIZE);
            views_[0].host = nullptr;
            views_[0].io = &kDisk;
            views_[0].io_opaque = &disk_;
        }
    }
    const Bytes &disk() const
    {
        return disk_;
    }
    void use(const haul_block_io *io)
    {
        views_[0].io = io;
    }

    /* What the receiver says after it read `stream` and then the end of the connection. */
    haul_error swallow(const Bytes &stream)
    {
        int ends[2];
        EXPECT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
        haul_receiver_options options{};
        options.index = 5;
        options.fd = ends[1];
        options.blocks = views_;
        options.block_count = 2;
        options.opaque = this;
        options.round = [](void *, unsigned, uint32_t, haul_error *) { return 0; };
        options.failed = [](void *opaque, unsigned, const haul_error *error) {
            static_cast<Victim *>(opaque)->fail(*error);
        };
        ended_ = false;
        haul_receiver *receiver = nullptr;
        haul_error error{};
        EXPECT_EQ(0, haul_receiver_new(&options, &receiver, &error)) << error.message;
        for (size_t done = 0; done < stream.size();) {
            ssize_t sent = send(ends[0], stream.data() + done, stream.size() - done, MSG_NOSIGNAL);
            if (sent <= 0)
                break; /* it gave up already */
            done += static_cast<size_t>(sent);
        }
        shutdown(ends[0], SHUT_WR);
        wait();
        haul_receiver_free(receiver);
        close(ends[0]);
        return error_;
    }

  private:
    void fail(const haul_error &error)
    {
        std::lock_guard lock(mutex_);
        error_ = error;
        ended_ = true;
        changed_.notify_all();
    }
    void wait()
    {
        std::unique_lock lock(mutex_);
        ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(20), [&] { return ended_; }))
            << "the receiver hangs";
    }

    GuardedBlock first_, second_;
    Bytes disk_;
    haul_block_view views_[2];
    haul_error error_{};
    bool ended_ = false;
    std::mutex mutex_;
    std::condition_variable changed_;
};

/* Header and table of a packet, then its payload. */
Bytes bytes_of(const haul_packet &packet, const Bytes &payload = {})
{
    Bytes bytes(HAUL_PACKET_HEAD_MAX);
    bytes.resize(haul_packet_encode(&packet, bytes.data(), bytes.size()));
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    return bytes;
}

haul_packet pages_packet(std::vector<haul_run> data, std::vector<haul_run> zero, uint32_t block = 0)
{
    haul_packet packet{};
    packet.type = HAUL_PACKET_PAGES;
    packet.round = 1;
    packet.block = block;
    packet.data_runs = static_cast<uint32_t>(data.size());
    packet.zero_runs = static_cast<uint32_t>(zero.size());
    uint32_t at = 0;
    for (const haul_run &run : data) {
        packet.data_pages += static_cast<uint32_t>(run.count);
        packet.runs[at++] = run;
    }
    for (const haul_run &run : zero) {
        packet.zero_pages += run.count;
        packet.runs[at++] = run;
    }
    packet.payload_bytes = static_cast<uint32_t>(packet.data_pages * HAUL_PAGE_SIZE);
    return packet;
}

haul_packet mark(uint32_t round)
{
    haul_packet packet{};
    packet.type = HAUL_PACKET_ROUND;
    packet.round = round;
    return packet;
}

/* A compressed packet of pages that all hold one value, and its payload. */
haul_packet lz4_packet(std::vector<haul_run> data, Bytes *payload)
{
    haul_packet packet = pages_packet(std::move(data), {});
    packet.codec = HAUL_CODEC_LZ4;
    payload->clear();
    for (uint32_t i = 0; i < haul_packet_chunk_count(&packet); i++) {
        std::vector<char> pages(haul_packet_chunk_pages(&packet, i) * HAUL_PAGE_SIZE, 'x');
        std::vector<char> packed(pages.size());
        int size = LZ4_compress_default(pages.data(), packed.data(), static_cast<int>(pages.size()),
                                        static_cast<int>(packed.size()));
        EXPECT_GT(size, 0);
        packet.chunks[i] = static_cast<uint32_t>(size);
        payload->insert(payload->end(), packed.begin(), packed.begin() + size);
    }
    packet.payload_bytes = static_cast<uint32_t>(payload->size());
    packet.payload_checksum = haul_packet_payload_checksum(payload->data(), payload->size());
    return packet;
}

void expect(const haul_error &error, int code, const char *text)
{
    EXPECT_EQ(code, error.code) << error.message;
    EXPECT_EQ(error.message, strstr(error.message, "channel 5 from ")) << error.message;
    EXPECT_NE(nullptr, strstr(error.message, text)) << error.message;
}

TEST(HostilePeer, PagesCannotBePlacedWithoutRdma)
{
    Victim victim;
    haul_packet packet = pages_packet({{0, 2}}, {});
    packet.placed = true;
    expect(victim.swallow(bytes_of(packet)), EPROTO,
           "receiving round 1: pages that are said to be in memory already, without rdma");
}

TEST(HostilePeer, GoodPacketsPassUntilTheStreamEnds)
{
    for (bool disk : {false, true}) {
        Victim victim(disk);
        Bytes payload, stream = bytes_of(pages_packet({{0, 2}}, {{10, 290}}), Bytes(2 * HAUL_PAGE_SIZE, 1));
        haul_packet packed = lz4_packet({{2, 5}, {9, 20}}, &payload);
        for (const Bytes &more : {bytes_of(packed, payload), bytes_of(mark(1))})
            stream.insert(stream.end(), more.begin(), more.end());
        expect(victim.swallow(stream), ECONNRESET, "receiving round 2: the peer closed the connection");
        if (disk) {
            EXPECT_EQ(1, victim.disk()[2 * HAUL_PAGE_SIZE - 1]);
            for (uint64_t page : {2, 6, 9, 28})
                EXPECT_EQ('x', victim.disk()[page * HAUL_PAGE_SIZE]) << page;
            for (uint64_t page : {7, 8, 29, 299})
                EXPECT_EQ(0, victim.disk()[page * HAUL_PAGE_SIZE]) << page;
        }
    }
}

TEST(HostilePeer, FailuresOfADiskEndTheReceiver)
{
    haul_block_io failing = kDisk;
    failing.write = [](void *, uint64_t, uint32_t, const void *, haul_error *error) {
        return haul_error_set(error, ENOSPC, "disk x is full");
    };
    failing.zero = [](void *, uint64_t, uint64_t, haul_error *error) {
        return haul_error_set(error, EROFS, "disk x cannot be zeroed");
    };
    Victim victim(true);
    victim.use(&failing);
    Bytes payload;
    haul_packet packed = lz4_packet({{0, 20}}, &payload);
    expect(victim.swallow(bytes_of(packed, payload)), ENOSPC, "disk x is full");
    expect(victim.swallow(bytes_of(pages_packet({{0, 2}}, {}), Bytes(2 * HAUL_PAGE_SIZE, 1))), ENOSPC,
           "disk x is full");
    expect(victim.swallow(bytes_of(pages_packet({}, {{0, 2}}))), EROFS, "disk x cannot be zeroed");
}

/* A refused peer learns it at once: its blocked send returns, or this test would hang. */
TEST(HostilePeer, RefusedPeerIsNotLeftBlocked)
{
    Victim victim;
    expect(victim.swallow(Bytes(8 << 20, 0xee)), EPROTO, "not a packet (magic 0xeeeeeeee)");
}

TEST(HostilePeer, WrongContextIsRefused)
{
    Victim victim;
    haul_packet early = pages_packet({}, {{0, 1}});
    early.round = 2;
    expect(victim.swallow(bytes_of(early)), EPROTO, "receiving round 1: packet of round 2");
    expect(victim.swallow(bytes_of(mark(2))), EPROTO, "receiving round 1: packet of round 2");
    expect(victim.swallow(bytes_of(pages_packet({}, {{0, 1}}, 2))), EPROTO, "packet for block 2 of 2");
    expect(victim.swallow(bytes_of(pages_packet({}, {{0, 1}}, UINT32_MAX))), EPROTO, "block 4294967295 of 2");
    expect(victim.swallow(bytes_of(pages_packet({}, {{0, 66}}, 1))), EPROTO,
           "outside their block of 65 pages");
    expect(victim.swallow(bytes_of(pages_packet({{299, 2}}, {}))), EPROTO,
           "outside their block of 300 pages");
    Bytes twice = bytes_of(mark(1)), again = twice;
    twice.insert(twice.end(), again.begin(), again.end());
    expect(victim.swallow(twice), EPROTO, "receiving round 2: packet of round 1");
}

TEST(HostilePeer, WrongCompressedPayloadIsRefused)
{
    Victim victim;
    Bytes payload;
    haul_packet packet = lz4_packet({{0, 20}}, &payload);
    Bytes broken = payload;
    broken[3] ^= 1;
    expect(victim.swallow(bytes_of(packet, broken)), EPROTO, "wrong payload checksum");
    packet.payload_checksum = haul_packet_payload_checksum(broken.data(), broken.size());
    for (auto &byte : broken)
        byte = 0xff;
    packet.payload_checksum = haul_packet_payload_checksum(broken.data(), broken.size());
    expect(victim.swallow(bytes_of(packet, broken)), EPROTO, "chunk 0 is not valid lz4");
}

TEST(HostilePeer, EveryTruncationEndsTheReceiver)
{
    Victim victim;
    Bytes payload;
    haul_packet packet = lz4_packet({{0, 5}, {7, 20}}, &payload);
    Bytes whole = bytes_of(packet, payload);
    for (size_t length = 0; length < whole.size(); length++)
        expect(victim.swallow(Bytes(whole.begin(), whole.begin() + static_cast<long>(length))), ECONNRESET,
               "receiving round 1: the peer closed the connection");
}

/* Two to four packets each, of which some bytes are changed, with checksums that fit as often as not. */
class Attacker
{
  public:
    explicit Attacker(uint64_t seed) : random_(seed)
    {
    }

    Bytes stream()
    {
        Bytes all;
        for (unsigned packets = 2 + below(3); packets > 0; packets--) {
            Bytes next = packet();
            all.insert(all.end(), next.begin(), next.end());
        }
        if (below(10) == 0)
            all.resize(below(static_cast<unsigned>(all.size())));
        return all;
    }

  private:
    unsigned below(unsigned limit)
    {
        return static_cast<unsigned>(random_() % limit);
    }

    haul_run run(unsigned longest)
    {
        static const uint64_t edges[] = {0, 63, 64, 255, 256, 299, 300, 301, UINT64_MAX, UINT64_MAX - 1};
        if (below(15) == 0)
            return {edges[below(10)], 1 + below(longest)};
        uint64_t first = below(290);
        return {first, 1 + below(below(8) ? static_cast<unsigned>(299 - first) % longest + 1 : longest)};
    }

    Bytes packet()
    {
        std::vector<haul_run> data, zero;
        for (unsigned runs = 1 + below(5); runs > 0; runs--)
            (below(2) ? data : zero).push_back(run(16));
        haul_packet packet;
        Bytes payload;
        switch (below(4)) {
        case 0:
            packet = mark(1 + below(5) / 4);
            break;
        case 1:
            if (!data.empty()) {
                packet = lz4_packet(data, &payload);
                corrupt(payload, 4);
                if (below(2))
                    packet.payload_checksum = haul_packet_payload_checksum(payload.data(), payload.size());
                break;
            }
            [[fallthrough]];
        default:
            packet = pages_packet(data, zero, below(12) == 0 ? below(4) : 0);
            payload.assign(packet.payload_bytes, static_cast<unsigned char>(below(256)));
        }
        Bytes head = bytes_of(packet);
        corrupt(head, 4);
        if (below(4))
            haul_packet_seal(head.data(), head.data() + HAUL_PACKET_HEADER_SIZE,
                             head.size() - HAUL_PACKET_HEADER_SIZE);
        head.insert(head.end(), payload.begin(), payload.end());
        return head;
    }

    /* Every `one_in`-th time changes up to three bytes. */
    void corrupt(Bytes &bytes, unsigned one_in)
    {
        static const unsigned char edges[] = {0, 1, 2, 0x7f, 0x80, 0xff};
        if (bytes.empty() || below(one_in))
            return;
        for (unsigned changes = 1 + below(3); changes > 0; changes--)
            bytes[below(static_cast<unsigned>(bytes.size()))] =
                below(2) ? edges[below(6)] : static_cast<unsigned char>(below(256));
    }

    std::mt19937_64 random_;
};

void attack(bool disk)
{
    Victim victim(disk);
    Attacker attacker(20240608);
    unsigned refused = 0, ended = 0;
    for (int i = 0; i < 5000; i++) {
        haul_error error = victim.swallow(attacker.stream());
        ASSERT_TRUE(error.code == EPROTO || error.code == ECONNRESET) << error.message;
        (error.code == EPROTO ? refused : ended)++;
    }
    /* The attack is worth something only if it gets to the checks and past them. */
    EXPECT_GT(refused, 1000u);
    EXPECT_GT(ended, 200u);
}

TEST(HostilePeer, ThousandsOfMutatedStreamsEndInAnError)
{
    attack(false);
}

TEST(HostilePeer, ThousandsOfMutatedStreamsForADiskEndInAnError)
{
    attack(true);
}

TEST(HostilePeer, NoiseEndsInAnError)
{
    Victim victim;
    std::mt19937_64 random(99);
    for (int i = 0; i < 1000; i++) {
        Bytes noise(random() % 500);
        for (auto &byte : noise)
            byte = static_cast<unsigned char>(random());
        haul_error error = victim.swallow(noise);
        ASSERT_TRUE(error.code == EPROTO || error.code == ECONNRESET) << error.message;
    }
}

} // namespace
