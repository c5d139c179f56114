// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_CHANNELS_TCP_PAIR_H
#define HAUL_TESTS_CHANNELS_TCP_PAIR_H

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

/*
 * Two ends of one tcp connection within this process. Addresses are numeric; connect_to may name a link-local
 * scope
 * ("fe80::1%eth0").
 */
class TcpPair
{
  public:
    struct Options {
        int listen_namespace = -1; /* descriptors of network namespaces; the thread is left in the latter */
        int connect_namespace = -1;
        std::string bind_to;     /* the connecting side's own address */
        std::string bind_device; /* and interface */
    };

    TcpPair(const std::string &listen_at, const std::string &connect_to)
        : TcpPair(listen_at, connect_to, Options())
    {
    }
    TcpPair(const std::string &listen_at, const std::string &connect_to, const Options &options)
    {
        why = Listen(listen_at, options);
        if (why.empty()) {
            why = Connect(connect_to, options);
        }
    }
    ~TcpPair()
    {
        for (int fd : {listener, client, server}) {
            if (fd >= 0) {
                close(fd);
            }
        }
    }
    TcpPair(const TcpPair &) = delete;
    TcpPair &operator=(const TcpPair &) = delete;

    bool Ok() const
    {
        return server >= 0;
    }
    const std::string &Why() const
    {
        return why;
    }

    int client = -1;
    int server = -1;

  private:
    static sockaddr *Sock(sockaddr_storage *address)
    {
        return reinterpret_cast<sockaddr *>(address);
    }
    static socklen_t Parse(const std::string &text, int port, sockaddr_storage *address)
    {
        *address = {};
        if (text.find(':') == std::string::npos) {
            auto *v4 = reinterpret_cast<sockaddr_in *>(address);
            v4->sin_family = AF_INET;
            v4->sin_port = htons((uint16_t)port);
            inet_pton(AF_INET, text.c_str(), &v4->sin_addr);
            return sizeof *v4;
        }
        auto *v6 = reinterpret_cast<sockaddr_in6 *>(address);
        size_t percent = text.find('%');
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        inet_pton(AF_INET6, text.substr(0, percent).c_str(), &v6->sin6_addr);
        if (percent != std::string::npos) {
            v6->sin6_scope_id = if_nametoindex(text.substr(percent + 1).c_str());
        }
        return sizeof *v6;
    }
    static std::string Failed(const char *step)
    {
        return std::string(step) + ": " + strerror(errno);
    }
    std::string Listen(const std::string &at, const Options &options)
    {
        if (options.listen_namespace >= 0 && setns(options.listen_namespace, CLONE_NEWNET) != 0) {
            return Failed("setns");
        }
        sockaddr_storage address = {};
        socklen_t length = Parse(at, 0, &address);
        listener = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int off = 0;
        if (address.ss_family == AF_INET6) {
            setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
        }
        if (listener < 0 || bind(listener, Sock(&address), length) != 0 || listen(listener, 1) != 0 ||
            getsockname(listener, Sock(&address), &length) != 0) {
            return Failed("listen");
        }
        port = ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6 *>(&address)->sin6_port
                                                   : reinterpret_cast<sockaddr_in *>(&address)->sin_port);
        return "";
    }
    std::string Connect(const std::string &to, const Options &options)
    {
        if (options.connect_namespace >= 0 && setns(options.connect_namespace, CLONE_NEWNET) != 0) {
            return Failed("setns");
        }
        sockaddr_storage address = {}, own = {};
        socklen_t length = Parse(to, port, &address);
        socklen_t own_length = Parse(options.bind_to, 0, &own);
        client = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (!options.bind_to.empty() && bind(client, Sock(&own), own_length) != 0) {
            return Failed("bind");
        }
        if (!options.bind_device.empty() &&
            setsockopt(client, SOL_SOCKET, SO_BINDTODEVICE, options.bind_device.c_str(),
                       (socklen_t)options.bind_device.size()) != 0) {
            return Failed("bind to device");
        }
        if (client < 0 || connect(client, Sock(&address), length) != 0) {
            return Failed("connect");
        }
        server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        return server >= 0 ? "" : Failed("accept");
    }
    int port = 0;
    int listener = -1;
    std::string why;
};

#endif
