// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_FRAME_PEER_H
#define HAUL_TESTS_ENGINE_FRAME_PEER_H

// The other end of a control connection, played by the test frame by frame.

#include "channels/wire.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace haul_test
{

struct Frame {
    enum haul_frame_type type;
    std::vector<unsigned char> payload;
};

// Owns the descriptor.
class FramePeer
{
  public:
    explicit FramePeer(int fd = -1) : fd_(fd)
    {
    }
    ~FramePeer()
    {
        Close();
    }
    FramePeer(const FramePeer &) = delete;

    void Take(int fd)
    {
        Close();
        fd_ = fd;
    }
    void Close()
    {
        if (fd_ >= 0) {
            close(fd_);
        }
        fd_ = -1;
    }
    int fd() const
    {
        return fd_;
    }

    int Send(enum haul_frame_type type, const std::vector<unsigned char> &payload = {})
    {
        return haul_frame_send(fd_, type, payload.data(), payload.size(), nullptr);
    }

    // The next frame; negative errno when none comes in time.
    int Receive(Frame *frame, int timeout_ms = 10000)
    {
        if (!buffer_) {
            buffer_.reset(new unsigned char[HAUL_FRAME_MAX]); // most of it is never touched
        }
        size_t length = 0;
        int rc =
            haul_frame_recv(fd_, &frame->type, buffer_.get(), HAUL_FRAME_MAX, &length, timeout_ms, nullptr);
        frame->payload.assign(buffer_.get(), buffer_.get() + (rc == 0 ? length : 0));
        return rc;
    }

    // The next frame that is no PING (answered when `answer`) and no PONG.
    int ReceiveReal(Frame *frame, int timeout_ms = 10000, bool answer = true)
    {
        for (;;) {
            int rc = Receive(frame, timeout_ms);
            if (rc < 0) {
                return rc;
            }
            if (frame->type == HAUL_FRAME_PING && answer) {
                Send(HAUL_FRAME_PONG, frame->payload);
            } else if (frame->type != HAUL_FRAME_PING && frame->type != HAUL_FRAME_PONG) {
                return 0;
            }
        }
    }

  private:
    int fd_;
    std::unique_ptr<unsigned char[]> buffer_;
};

} // namespace haul_test

#endif
