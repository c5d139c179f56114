// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_WAYS_H
#define HAUL_TESTS_MACHINES_WAYS_H

// Moves by two movers over each transport, and what can be done to them in each state.
#include "tests/machines/mover_process.h"

#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <string>
#include <vector>

namespace haul_test
{

// What moves from where to where: "guest", or the monitors of two QEMU machines.
struct Ends {
    std::string from = "guest", to = "guest";
};

// A destination that waits, and how a source gets there.
class Transport
{
  public:
    virtual ~Transport() = default;
    // Starts both ends, with these NAME=VALUE for the source; "" or why it cannot be.
    virtual std::string start(const Ends &ends, std::vector<std::string> settings) = 0;
    // Breaks all connections.
    virtual void cut()
    {
        FAIL() << "there is nothing to cut";
    }
    virtual void kill_destination()
    {
        destination->kill(SIGKILL);
    }
    // The destination has ended, and did not run the guest.
    virtual void expect_destination_failed(bool killed)
    {
        EXPECT_EQ(destination->wait(), killed ? -SIGKILL : 1) << log();
        EXPECT_EQ(destination->output().find("CHECK"), std::string::npos) << log();
    }
    std::string log() const
    {
        return "source:\n" + (source ? source->output() : "-") + "destination:\n" +
               (destination ? destination->output() : "-");
    }
    std::unique_ptr<Mover> source, destination;
    std::vector<std::string> there; // NAME=VALUE for the destination, before it starts

  protected:
    // Where it listens.
    std::string receive(const Ends &ends, const std::string &uri, const std::vector<int> &keep = {},
                        std::vector<std::string> settings = {})
    {
        settings.insert(settings.begin(), {"receive", ends.to, uri, "timeout=10"});
        settings.insert(settings.end(), there.begin(), there.end());
        destination = std::make_unique<Mover>(settings, keep);
        std::string where = destination->expect("LISTEN ");
        EXPECT_NE(where, "") << destination->output();
        return where;
    }
    void send(const Ends &ends, const std::string &uri, std::vector<std::string> settings,
              const std::vector<int> &keep = {})
    {
        settings.insert(settings.begin(), {"send", ends.from, uri, "timeout=10"});
        source = std::make_unique<Mover>(settings, keep);
    }
};

enum class Memory { kCopied, kHandedOver, kSaved };

struct Way {
    const char *name;
    std::unique_ptr<Transport> (*make)();
    Memory memory = Memory::kCopied;
};

// Those whose connections are made of processes or descriptors, and rdma.
std::vector<Way> ways_of_processes();
// Those that are sockets of the kernel: unix, and vsock where there is a loopback for it.
std::vector<Way> ways_of_sockets();
bool has_vsock();
Way way_tcp();
Way way_file(); // no other side: what a save that failed must not leave is a file

// Where it happens, what brings the source there, and whether the source stands still in it.
struct Moment {
    const char *name;
    const char *state;
    std::vector<std::string> settings;
    bool held;
};

enum class Fault { kCancel, kSourceDies, kDestinationDies, kCut };

// A move that meets `fault` at `moment`.
struct Ending {
    Way way;
    Moment moment;
    Fault fault;
    std::string name() const;
};
// How a test names its parameter.
std::ostream &operator<<(std::ostream &out, const Ending &ending);

// Each fault at each moment up to HANDOVER, over each of the ways; but a file has no other side that could
// die or be cut off.
std::vector<Ending> every_ending(const std::vector<Way> &ways);

// What a started move comes to that ends like this: the exit code of the source's mover.
int end_early(Transport &transport, const Ending &ending);

// The same for a destination that dies with HANDOVER in its hands, and nobody knows what it did with it. To
// be started with kDiesWithTheMachine in `there`.
inline constexpr const char *kDiesWithTheMachine = "die=handover-received";
int end_uncertain(Transport &transport);

} // namespace haul_test

#endif
