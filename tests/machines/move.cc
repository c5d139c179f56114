// SPDX-License-Identifier: Apache-2.0
#include "tests/machines/move.h"

#include <arpa/inet.h>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdexcept>
#include <sys/socket.h>
#include <unistd.h>

namespace haul_test
{

Proxy::Proxy(const std::string &uri)
{
    target_port_ = atoi(uri.substr(uri.rfind(':') + 1).c_str());
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(listener_, (sockaddr *)&address, length) < 0 || listen(listener_, 128) < 0 ||
        getsockname(listener_, (sockaddr *)&address, &length) < 0 || pipe2(wake_, O_CLOEXEC) < 0) {
        throw std::runtime_error("proxy");
    }
    uri_ = "tcp:127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this] { run(); });
}

Proxy::~Proxy()
{
    cut();
    thread_.join();
    close(listener_);
    close(wake_[0]);
    close(wake_[1]);
}

void Proxy::cut()
{
    if (write(wake_[1], "x", 1) < 0) {
        abort();
    }
}

static bool forward(int from, int to)
{
    static thread_local char bytes[1 << 18];
    ssize_t count = recv(from, bytes, sizeof bytes, 0);
    for (ssize_t done = 0; done < count;) {
        ssize_t sent = send(to, bytes + done, (size_t)(count - done), MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        done += sent;
    }
    return count > 0;
}

void Proxy::run()
{
    for (bool on = true; on;) {
        std::vector<pollfd> pollers = {{wake_[0], POLLIN, 0}, {listener_, POLLIN, 0}};
        for (auto &pair : pairs_) {
            pollers.push_back({pair.first, POLLIN, 0});
            pollers.push_back({pair.second, POLLIN, 0});
        }
        poll(pollers.data(), pollers.size(), -1);
        on = !(pollers[0].revents);
        for (size_t i = 0; i < pairs_.size() && on; i++) {
            auto pair = pairs_[i];
            if (pollers[2 + 2 * i].revents) {
                on = forward(pair.first, pair.second);
            }
            if (on && pollers[3 + 2 * i].revents) {
                on = forward(pair.second, pair.first);
            }
        }
        if (on && pollers[1].revents) {
            sockaddr_in address = {};
            address.sin_family = AF_INET;
            address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            address.sin_port = htons((uint16_t)target_port_);
            int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            int at_once = 1; // as haul's own sockets: small messages do not wait for acknowledgements
            setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
            setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
            pairs_.push_back({client, server});
            on = connect(server, (sockaddr *)&address, sizeof address) == 0;
        }
    }
    for (auto &pair : pairs_) {
        close(pair.first);
        close(pair.second);
    }
    pairs_.clear();
}

Move::Move(const Machine &from, const Machine &to, const MoveOptions &options)
{
    std::vector<std::string> words = {"receive", to.qmp(),
                                      options.cpr    ? "unix:" + to.qmp() + ".haul"
                                      : options.rdma ? "rdma:127.0.0.1:0"
                                                     : "tcp:127.0.0.1:0"};
    words.insert(words.end(), options.destination.begin(), options.destination.end());
    if (options.cpr) {
        words.push_back("mode=cpr-transfer");
    }
    destination = std::make_unique<Mover>(words);
    std::string uri = destination->expect("LISTEN ");
    if (uri.empty()) {
        throw std::runtime_error("the destination does not listen: " + destination->output());
    }
    if (options.proxy) {
        proxy = std::make_unique<Proxy>(uri);
        uri = proxy->uri();
    }
    words = {"send", from.qmp(), uri};
    words.insert(words.end(), options.source.begin(), options.source.end());
    if (options.cpr) {
        words.push_back("mode=cpr-transfer");
    }
    source = std::make_unique<Mover>(words);
}

} // namespace haul_test
