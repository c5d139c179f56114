// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/proxy.h"

#include <gtest/gtest.h>

#include <arpa/inet.h>
#include <chrono>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace haul_test
{

static sockaddr_in Loopback(int port)
{
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    return address;
}

std::string Proxy::Open(const std::string &uri)
{
    target_port_ = std::stoi(uri.substr(uri.rfind(':') + 1));
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr *>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 200), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr *>(&address), &size), 0);
    acceptor_ = std::thread([this] { Accept(); });
    return "tcp:127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

void Proxy::Accept()
{
    while (!closing_) {
        pollfd poller = {.fd = listener_, .events = POLLIN, .revents = 0};
        if (poll(&poller, 1, 20) <= 0) {
            continue;
        }
        int near = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        int far = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in target = Loopback(target_port_);
        if (near < 0 || made_ == kMost ||
            connect(far, reinterpret_cast<sockaddr *>(&target), sizeof target) < 0) {
            close(near);
            close(far);
            continue;
        }
        int yes = 1;
        setsockopt(near, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        setsockopt(far, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        std::lock_guard<std::mutex> hold(lock_);
        unsigned number = made_++;
        Link &link = links_.emplace_back();
        link.ends[0] = near;
        link.ends[1] = far;
        link.pumps[0] = std::thread([=] { Carry(number, near, far); });
        link.pumps[1] = std::thread([=] { Pump(number, far, near); });
    }
}

void Proxy::Pump(unsigned connection, int from, int to)
{
    Orders &orders = orders_[connection];
    std::vector<char> piece(65536);
    while (!closing_ && !orders.cut) {
        pollfd poller = {.fd = from, .events = POLLIN, .revents = 0};
        if (orders.stalled) {
            usleep(5000);
            continue;
        }
        if (poll(&poller, 1, 10) <= 0) {
            continue;
        }
        ssize_t got = recv(from, piece.data(), piece.size(), 0);
        if (got <= 0) {
            break;
        }
        unsigned delay = orders.delay_ms;
        usleep(delay * 1000);
        while (orders.stalled && !closing_ && !orders.cut) {
            usleep(5000);
        }
        ssize_t done = 0;
        while (done < got && !closing_ && !orders.cut) {
            // Never blocked in send: a stalled receiver must not keep the proxy from ending.
            ssize_t sent =
                send(to, piece.data() + done, static_cast<size_t>(got - done), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent > 0) {
                done += sent;
            } else if (sent < 0 && errno == EAGAIN) {
                pollfd room = {.fd = to, .events = POLLOUT, .revents = 0};
                poll(&room, 1, 10);
            } else {
                break;
            }
        }
        if (done < got) {
            break;
        }
    }
    shutdown(to, SHUT_WR);
    if (orders.cut || closing_) {
        shutdown(from, SHUT_RDWR);
        shutdown(to, SHUT_RDWR);
    }
}

void Proxy::Carry(unsigned connection, int from, int to)
{
    if (!carrier_) {
        Pump(connection, from, to);
        return;
    }
    carrier_(from, to);
    shutdown(from, SHUT_RD); // a source that is still sending must not wait for a carrier that gave up
    shutdown(to, SHUT_WR);
}

void Proxy::Delay(unsigned connection, unsigned ms_per_piece)
{
    orders_[connection].delay_ms = ms_per_piece;
}

void Proxy::Stall(unsigned connection)
{
    orders_[connection].stalled = true;
}

void Proxy::Cut(unsigned connection)
{
    orders_[connection].cut = true;
}

void Proxy::StallAll()
{
    for (unsigned i = 0; i < kMost; i++) {
        Stall(i);
    }
}

void Proxy::CutAll()
{
    for (unsigned i = 0; i < kMost; i++) {
        Cut(i);
    }
}

Proxy::~Proxy()
{
    closing_ = true;
    if (acceptor_.joinable()) {
        acceptor_.join();
    }
    for (Link &link : links_) {
        for (int end : link.ends) {
            shutdown(end, SHUT_RDWR); // wakes a carrier that waits
        }
        for (auto &pump : link.pumps) {
            pump.join();
        }
        close(link.ends[0]);
        close(link.ends[1]);
    }
    if (listener_ >= 0) {
        close(listener_);
    }
}

} // namespace haul_test
