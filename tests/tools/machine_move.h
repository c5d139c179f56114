// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_MACHINE_MOVE_H
#define HAUL_TESTS_TOOLS_MACHINE_MOVE_H

// Moves one machine to another through the engine, both ends in this process.

#include "tests/waiting.h"
#include "tools/machines/machine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include <unistd.h>

namespace haul_test
{

struct MachineFree {
    void operator()(haul_machine *machine) const
    {
        machine->ops->free(machine);
    }
};
using Machine = std::unique_ptr<haul_machine, MachineFree>;

inline haul_options move_options()
{
    haul_options options;
    haul_options_default(&options);
    options.placement = "none";
    options.timeout_s = 10;
    return options;
}

class MachineMove
{
  public:
    // What the source connects to, made of the destination's URI: something between the two.
    using Detour = std::function<std::string(const std::string &)>;
    MachineMove(const Machine &from, const Machine &to, const haul_options &options = move_options(),
                const Detour &through = nullptr)
    {
        static std::atomic<unsigned> number{0};
        std::string uri = "tcp:127.0.0.1:0";
        if (!through) {
            uri = "unix:/tmp/haul-machine-" + std::to_string(getpid()) + "-" + std::to_string(number++);
        }
        haul_error error = {};
        EXPECT_EQ(haul_destination_new(&options, &destination_, &error), 0) << error.message;
        EXPECT_EQ(haul_source_new(&options, &source_, &error), 0) << error.message;
        EXPECT_EQ(to->ops->attach(to.get(), destination_, &error), 0) << error.message;
        EXPECT_EQ(from->ops->attach(from.get(), source_, &error), 0) << error.message;
        EXPECT_EQ(haul_start(destination_, uri.c_str(), &error), 0) << error.message;
        if (through) {
            uri = through(haul_local_uri(destination_));
        }
        EXPECT_EQ(haul_start(source_, uri.c_str(), &error), 0) << error.message;
    }
    ~MachineMove()
    {
        haul_free(source_);
        haul_free(destination_);
    }
    MachineMove(const MachineMove &) = delete;
    MachineMove &operator=(const MachineMove &) = delete;

    haul_migration *source() const
    {
        return source_;
    }
    // Waits until the source comes to `state`.
    bool comes_to(haul_state state) const
    {
        return Eventually([&] { return haul_get_state(source_) == state; });
    }
    // "" when the machine runs at the destination, else why not.
    std::string wait()
    {
        haul_error error = {}, other = {};
        int result = haul_wait(source_, &error), other_result = haul_wait(destination_, &other);
        EXPECT_EQ(result == 0, other_result == 0) << error.message << " / " << other.message;
        haul_get_stats(source_, &stats);
        code = result;
        return result ? error.message : "";
    }

    haul_stats stats = {};
    int code = 0;

  private:
    haul_migration *source_ = nullptr, *destination_ = nullptr;
};

} // namespace haul_test

#endif
