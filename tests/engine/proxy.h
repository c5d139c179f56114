// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_PROXY_H
#define HAUL_TESTS_ENGINE_PROXY_H

// Stands between the two ends of a move and does to each connection what a network can do: delay it, stall
// it, cut it. Connections are numbered as they come: 0 is the control connection, then channel by channel.

#include <atomic>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace haul_test
{

class Proxy
{
  public:
    static constexpr unsigned kControl = 0;
    static constexpr unsigned Channel(unsigned index)
    {
        return index + 1;
    }

    Proxy() = default;
    ~Proxy();
    Proxy(const Proxy &) = delete;

    // Carries what the source sends on one connection, from `from` to `to`, until either end is closed (which
    // the proxy's own end does too). Called on that connection's thread.
    using Carrier = std::function<void(int from, int to)>;
    // Before Open: replaces the byte-wise forwarding from the source, and what may be ordered below with it.
    void CarryWith(Carrier carrier)
    {
        carrier_ = std::move(carrier);
    }

    // Starts to listen, forwarding to `uri` ("tcp:127.0.0.1:PORT"); returns the proxy's own URI.
    std::string Open(const std::string &uri);

    // May be called before the connection exists, and from any thread.
    void Delay(unsigned connection, unsigned ms_per_piece);
    void
    Stall(unsigned connection);    // nothing gets through from now on, in both directions; nothing is closed
    void Cut(unsigned connection); // both ends see it closed
    void StallAll();
    void CutAll();
    unsigned connections() const
    {
        return made_;
    }

  private:
    static constexpr unsigned kMost = 140;
    struct Link {
        int ends[2] = {-1, -1};
        std::thread pumps[2];
    };
    void Accept();
    void Pump(unsigned connection, int from, int to);
    void Carry(unsigned connection, int from, int to);

    struct Orders {
        std::atomic<unsigned> delay_ms{0};
        std::atomic<bool> stalled{false};
        std::atomic<bool> cut{false};
    };
    Orders orders_[kMost];
    Carrier carrier_;
    int listener_ = -1;
    int target_port_ = 0;
    std::atomic<bool> closing_{false};
    std::atomic<unsigned> made_{0};
    std::mutex lock_; // links_
    std::list<Link> links_;
    std::thread acceptor_;
};

} // namespace haul_test

#endif
