// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/qmp/client.h"

#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <cstring>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

RawClient::RawClient(const std::string &path, bool patient)
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path.c_str());
    auto connects = [&] {
        fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd_, reinterpret_cast<sockaddr *>(&address), sizeof address) < 0) {
            close(fd_);
            fd_ = -1;
        }
        return fd_ >= 0;
    };
    patient ? haul_test::Eventually(connects) : connects();
}

RawClient::~RawClient()
{
    if (fd_ >= 0)
        close(fd_);
}

bool RawClient::send(const std::string &bytes)
{
    for (size_t done = 0; done < bytes.size();) {
        ssize_t count = ::send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
        if (count < 0)
            return false;
        done += static_cast<size_t>(count);
    }
    return true;
}

void RawClient::send_with_fd(const std::string &bytes, int fd)
{
    union {
        cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control{};
    iovec part{const_cast<char *>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    ASSERT_EQ(static_cast<ssize_t>(bytes.size()), sendmsg(fd_, &message, MSG_NOSIGNAL));
}

void RawClient::finish()
{
    shutdown(fd_, SHUT_WR);
}

std::string RawClient::line(int timeout_ms)
{
    size_t end;
    while ((end = buffer_.find('\n')) == std::string::npos) {
        pollfd poller{fd_, POLLIN, 0};
        if (poll(&poller, 1, timeout_ms) <= 0)
            return "";
        char bytes[65536];
        ssize_t count = recv(fd_, bytes, sizeof bytes, 0);
        if (count <= 0)
            return "";
        buffer_.append(bytes, static_cast<size_t>(count));
    }
    std::string text = buffer_.substr(0, end);
    buffer_.erase(0, end + 1);
    EXPECT_TRUE(!text.empty() && text.back() == '\r') << "QMP lines end with CR LF: " << text;
    return text.substr(0, text.size() - 1);
}

Json RawClient::object(int timeout_ms)
{
    std::string text = line(timeout_ms);
    return Json(json_loadb(text.data(), text.size(), JSON_ALLOW_NUL, nullptr));
}

void RawClient::negotiate()
{
    EXPECT_NE(std::string::npos, line().find("\"QMP\""));
    EXPECT_EQ("{\"return\": {}}", ask("{\"execute\": \"qmp_capabilities\"}"));
}

bool RawClient::at_end()
{
    for (;;) {
        pollfd poller{fd_, POLLIN, 0};
        char bytes[65536];
        if (poll(&poller, 1, 30000) <= 0)
            return false;
        if (recv(fd_, bytes, sizeof bytes, 0) <= 0)
            return true;
    }
}
