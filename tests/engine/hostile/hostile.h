// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_HOSTILE_HOSTILE_H
#define HAUL_TESTS_ENGINE_HOSTILE_HOSTILE_H

// What both hostile peers need: sockets by URI, little-endian payloads, and a valid recording of a data
// channel.

#include "channels/sender.h"
#include "channels/wire.h"

#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <string>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <tuple>
#include <unistd.h>
#include <vector>

namespace haul_test
{

using Payload = std::vector<unsigned char>;

inline sockaddr_un UnixAddress(const std::string &uri)
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, uri.c_str() + strlen("unix:"), sizeof address.sun_path - 1);
    return address;
}

// A socket connected to a unix: URI, or -1.
inline int ConnectTo(const std::string &uri)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = UnixAddress(uri);
    if (connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

inline void Append(Payload *payload, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        payload->push_back(static_cast<unsigned char>(value >> (8 * i)));
    }
}

inline void AppendText(Payload *payload, const std::string &text)
{
    Append(payload, text.size(), 2);
    payload->insert(payload->end(), text.begin(), text.end());
}

inline Payload HelloPayload(uint16_t channel, uint16_t channels, unsigned char id = 1)
{
    haul_hello hello{};
    hello.version = HAUL_WIRE_VERSION;
    memset(hello.id, id, sizeof hello.id);
    hello.channel = channel;
    hello.channels = channels;
    hello.page_size = 4096;
    Payload payload(256);
    payload.resize(haul_hello_encode(&hello, payload.data(), payload.size()));
    return payload;
}

// Memory between two pages that nobody may touch: whoever leaves it crashes.
class GuardedMemory
{
  public:
    explicit GuardedMemory(size_t bytes) : size(bytes)
    {
        whole_ = static_cast<unsigned char *>(
            mmap(nullptr, bytes + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        EXPECT_NE(static_cast<void *>(whole_), MAP_FAILED);
        data = whole_ + 4096;
        EXPECT_EQ(mprotect(data, bytes, PROT_READ | PROT_WRITE), 0);
    }
    ~GuardedMemory()
    {
        munmap(whole_, size + 8192);
    }
    GuardedMemory(const GuardedMemory &) = delete;
    unsigned char *data;
    size_t size;

  private:
    unsigned char *whole_;
};

inline Payload MakeRecord(uint64_t pages, unsigned rounds, int compress)
{
    GuardedMemory memory(pages * 4096);
    std::mt19937 random(5);
    for (size_t at = 0; at < memory.size; at++) {
        // A third zero pages, a third that compress, a third that do not.
        size_t kind = at / 4096 % 3;
        memory.data[at] = kind == 0   ? 0
                          : kind == 1 ? static_cast<unsigned char>(at / 64)
                                      : static_cast<unsigned char>(random());
    }
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    haul_doorbell bell;
    haul_doorbell_init(&bell);
    haul_block_view view{};
    view.host = memory.data;
    view.pages = pages;
    haul_sender_options options{};
    haul_error error{};
    EXPECT_EQ(haul_carrier_stream_new(ends[0], &options.carrier, &error), 0) << error.message;
    options.compress = compress;
    options.blocks = &view;
    options.block_count = 1;
    options.completion_bell = &bell;
    haul_sender *sender = nullptr;
    EXPECT_EQ(haul_sender_new(&options, &sender, &error), 0) << error.message;
    for (unsigned round = 1; round <= rounds; round++) {
        haul_batch *batch = haul_sender_acquire(sender);
        batch->kind = HAUL_BATCH_KIND_PAGES;
        batch->round = round;
        batch->block = 0;
        batch->runs[0] = {0, pages};
        batch->run_count = 1;
        batch->page_count = static_cast<uint32_t>(pages);
        haul_sender_submit(sender, batch);
        batch = haul_sender_acquire(sender);
        batch->kind = HAUL_BATCH_KIND_ROUND;
        batch->round = round;
        batch->run_count = 0;
        batch->page_count = 0;
        haul_sender_submit(sender, batch);
    }
    std::thread finish([sender] { haul_sender_free(sender); }); // sends it all, and closes its end
    Payload all;
    std::vector<unsigned char> piece(65536);
    for (ssize_t got; (got = recv(ends[1], piece.data(), piece.size(), 0)) > 0;) {
        all.insert(all.end(), piece.begin(), piece.begin() + got);
    }
    finish.join();
    close(ends[1]);
    return all;
}

// The bytes that a sender writes for `rounds` rounds of all pages of one block: what a hostile source starts
// from. Each is recorded once.
inline const Payload &RecordChannel(uint64_t pages, unsigned rounds, int compress)
{
    static std::map<std::tuple<uint64_t, unsigned, int>, Payload> records;
    Payload &record = records[{pages, rounds, static_cast<int>(compress)}];
    if (record.empty()) {
        record = MakeRecord(pages, rounds, compress);
    }
    return record;
}

} // namespace haul_test

#endif
