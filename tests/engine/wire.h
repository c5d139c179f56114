// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_WIRE_H
#define HAUL_TESTS_ENGINE_WIRE_H

#include "tests/engine/proxy.h"
#include "tests/waiting.h"

#include <atomic>
#include <cstdint>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace haul_test
{

// A link that counts what passes, and carries so many bytes per second on each connection (0: all it can).
class Wire
{
  public:
    explicit Wire(uint64_t bytes_per_s = 0) : rate_(bytes_per_s)
    {
        proxy_.CarryWith([this](int from, int to) { Carry(from, to); });
    }
    // Starts to listen, forwarding to `uri` ("tcp:127.0.0.1:PORT"); returns its own URI.
    std::string Open(const std::string &uri)
    {
        return proxy_.Open(uri);
    }
    uint64_t bytes() const
    {
        return bytes_;
    }
    // What passes in `ms` from now on.
    uint64_t BytesIn(int64_t ms) const
    {
        uint64_t before = bytes_;
        auto begun = Clock::now();
        usleep(static_cast<useconds_t>(ms) * 1000);
        uint64_t passed = bytes_ - before;
        return passed * static_cast<uint64_t>(ms) / static_cast<uint64_t>(MsSince(begun) + 1);
    }
    // From now on it carries all it can.
    void Lift()
    {
        rate_ = 0;
    }

  private:
    void Carry(int from, int to)
    {
        // What a real link's far end holds is past the wire, so this end must hold next to nothing.
        int small = 32768;
        if (rate_ > 0) {
            setsockopt(from, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        }
        std::vector<char> piece(16384);
        for (ssize_t got; (got = recv(from, piece.data(), piece.size(), 0)) > 0;) {
            uint64_t rate = rate_;
            if (rate > 0) {
                usleep(static_cast<useconds_t>(static_cast<uint64_t>(got) * 1000000 / rate));
            }
            bytes_ += static_cast<uint64_t>(got);
            for (ssize_t done = 0; done < got;) {
                ssize_t sent = send(to, piece.data() + done, static_cast<size_t>(got - done), MSG_NOSIGNAL);
                if (sent <= 0) {
                    return;
                }
                done += sent;
            }
        }
    }
    std::atomic<uint64_t> rate_;
    std::atomic<uint64_t> bytes_{0};
    Proxy proxy_; // ends before what its threads use
};

} // namespace haul_test

#endif
