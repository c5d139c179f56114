// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_FAKE_MONITOR_H
#define HAUL_TESTS_MACHINES_FAKE_MONITOR_H

// A scripted monitor, and a client of it.
#include "tools/machines/qemu/qmp.h"

#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

namespace haul_test
{

constexpr char GREETING[] = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

// A monitor on a socket of its own; `talk` runs on a thread with the first connection.
class FakeMonitor
{
  public:
    explicit FakeMonitor(std::function<void(int)> talk)
    {
        char folder[] = "/tmp/haul-qmp-XXXXXX";
        folder_ = mkdtemp(folder);
        path_ = folder_ + "/qmp";
        listener_ = socket(AF_UNIX, SOCK_STREAM, 0);
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        snprintf(address.sun_path, sizeof address.sun_path, "%s", path_.c_str());
        EXPECT_EQ(0, bind(listener_, (sockaddr *)&address, sizeof address));
        EXPECT_EQ(0, listen(listener_, 1));
        thread_ = std::thread([this, talk] {
            int fd = accept(listener_, nullptr, nullptr);
            talk(fd);
            close(fd);
        });
    }
    ~FakeMonitor()
    {
        thread_.join();
        close(listener_);
        unlink(path_.c_str());
        rmdir(folder_.c_str());
    }
    const char *path() const
    {
        return path_.c_str();
    }

  private:
    std::string folder_, path_;
    int listener_;
    std::thread thread_;
};

inline void say(int fd, const std::string &text)
{
    send(fd, text.data(), text.size(), MSG_NOSIGNAL);
}

// Reads a command and returns its id, "" at the end.
inline std::string hear(int fd, std::string *command = nullptr)
{
    std::string line;
    char byte;
    while (recv(fd, &byte, 1, 0) == 1 && byte != '\n') {
        line += byte;
    }
    size_t at = line.find("\"id\":");
    if (command) {
        *command = line;
    }
    return at == std::string::npos ? "" : line.substr(at + 5, line.find_first_of(",}", at) - at - 5);
}

inline void greet(int fd)
{
    say(fd, GREETING);
    std::string id = hear(fd);
    say(fd, "{\"return\": {}, \"id\": " + id + "}\r\n");
}

inline void wait_end(int fd)
{
    char byte;
    while (recv(fd, &byte, 1, 0) > 0) {
    }
}

class Client
{
  public:
    int open(const char *path, int timeout_ms = 30000)
    {
        return haul_qmp_open(path, timeout_ms, &qmp, &error);
    }
    ~Client()
    {
        haul_qmp_close(qmp);
    }
    haul_qmp *qmp = nullptr;
    haul_error error = {};
};

} // namespace haul_test

#endif
