// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_MOVE_H
#define HAUL_TESTS_MACHINES_MOVE_H

// Moves of real machines: two movers (mover.cc), what they print, and a proxy that can break their
// connection.

#include "tests/machines/mover_process.h"
#include "tests/machines/qemu.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

namespace haul_test
{

// What a source's haul says of a QEMU that is gone.
inline const char kUntracked[] = "whose memory is tracked, has exited or replaced its program";

// A TCP proxy in front of the destination that can cut every connection at once.
class Proxy
{
  public:
    explicit Proxy(const std::string &uri); // of the destination
    ~Proxy();
    const std::string &uri() const
    {
        return uri_;
    }
    void cut();

  private:
    void run();
    std::string uri_;
    int target_port_ = 0;
    int listener_ = -1;
    int wake_[2];
    std::vector<std::pair<int, int>> pairs_;
    std::thread thread_;
};

struct MoveOptions {
    std::vector<std::string> source;      // NAME=VALUE for the source's mover
    std::vector<std::string> destination; // and the destination's
    bool proxy = false;
    bool cpr = false;  // mode cpr-transfer on both sides, by a unix socket
    bool rdma = false; // rdma: with libfabric's tcp provider
};

// A started move; the destination listens already when the constructor returns.
class Move
{
  public:
    Move(const Machine &from, const Machine &to, const MoveOptions &options = {});
    std::unique_ptr<Mover> destination;
    std::unique_ptr<Proxy> proxy;
    std::unique_ptr<Mover> source;
    std::string log() const
    {
        return "source:\n" + (source ? source->output() : "-") + "destination:\n" + destination->output();
    }
};

} // namespace haul_test

#endif
