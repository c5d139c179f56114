// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_CHANNELS_TRANSPORT_SUPPORT_H
#define HAUL_TESTS_CHANNELS_TRANSPORT_SUPPORT_H

#include "channels/transport/transport.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace haul_test
{

inline const haul_transport_options kOptions = {{5000, 9000}};

// One listener, and a folder for its unix socket, which has to be empty at the end.
class Transport : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        char path[] = "/tmp/haul_transport_XXXXXX";
        ASSERT_NE(nullptr, mkdtemp(path));
        folder_ = path;
    }
    void TearDown() override
    {
        haul_listener_close(listener_);
        unlink((folder_ + "/s").c_str());
        EXPECT_EQ(0, rmdir(folder_.c_str())) << "something was left in " << folder_;
    }
    std::string unix_uri() const
    {
        return "unix:" + folder_ + "/s";
    }
    void open(const std::string &uri)
    {
        ASSERT_EQ(0, haul_listener_open(uri.c_str(), &kOptions, &listener_, &error_)) << error_.message;
    }
    int connect(const std::string &uri, int *fd, uint32_t timeout_ms = 5000, int cancel_fd = -1)
    {
        haul_transport_options options = {{timeout_ms, 9000}, bind_.empty() ? nullptr : bind_.c_str()};
        haul_connector *connector = nullptr;
        int result = haul_connector_open(uri.c_str(), &options, &connector, &error_);
        if (result == 0)
            result = haul_connector_connect(connector, HAUL_CONTROL_CHANNEL, cancel_fd, fd, &error_);
        haul_connector_close(connector);
        EXPECT_TRUE(result == 0 || error_.code == -result);
        return result;
    }
    bool message_has(const std::string &text) const
    {
        return strstr(error_.message, text.c_str()) != nullptr;
    }
    /* Both ends of a connection to listener_ carry data and the options they must have. */
    void exchange()
    {
        int out = -1, in = -1;
        ASSERT_EQ(0, connect(haul_listener_uri(listener_), &out)) << error_.message;
        ASSERT_EQ(0, haul_listener_accept(listener_, HAUL_CONTROL_CHANNEL, 5000, -1, &in, &error_))
            << error_.message;
        char text[6] = "";
        EXPECT_EQ(6, send(out, "hello", 6, 0));
        EXPECT_EQ(6, recv(in, text, 6, MSG_WAITALL));
        EXPECT_STREQ("hello", text);
        for (int fd : {out, in}) {
            EXPECT_EQ(0, fcntl(fd, F_GETFL) & O_NONBLOCK);
            EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
            timeval silence{};
            socklen_t size = sizeof silence;
            EXPECT_EQ(0, getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &silence, &size));
            EXPECT_EQ(9, silence.tv_sec);
        }
        haul_peer_name(out, peer_, sizeof peer_);
        close(out);
        close(in);
    }

    std::string folder_, bind_;
    haul_listener *listener_ = nullptr;
    haul_error error_{};
    char peer_[128] = "";
};

} // namespace haul_test

#endif
