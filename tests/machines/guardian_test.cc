// SPDX-License-Identifier: Apache-2.0
// What a guardian says to a monitor once haul is gone.
#include "tests/machines/fake_monitor.h"
#include "tools/machines/qemu/guardian.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace
{

using namespace haul_test;

// The commands that a monitor hears which refuses these.
std::vector<std::string> heard(const char *script, const std::set<std::string> &refused)
{
    std::vector<std::string> all;
    auto talk = [&](int fd) {
        greet(fd);
        std::string command;
        for (hear(fd, &command); !command.empty(); hear(fd, &command)) {
            all.push_back(command);
            say(fd, refused.count(command) ? "{\"error\": {}}\r\n" : "{\"return\": {}}\r\n");
        }
    };
    { // until the guardian hangs up
        FakeMonitor monitor(talk);
        haul_guardian *guardian = nullptr;
        haul_error error = {};
        EXPECT_EQ(haul_guardian_new(monitor.path(), &guardian, &error), 0) << error.message;
        EXPECT_EQ(haul_guardian_arm(guardian, script, &error), 0) << error.message;
        haul_guardian_leave(guardian);
    }
    return all;
}

using Commands = std::vector<std::string>;

constexpr char kScript[] = "2{a}\n?{b}\n{c}\n{d}\n";

TEST(Guardian, LeavesLinesOutBehindOneThatIsAccepted)
{
    EXPECT_EQ(heard(kScript, {}), (Commands{"{a}", "{d}"}));
}

TEST(Guardian, SaysThemWhereItIsRefused)
{
    EXPECT_EQ(heard(kScript, {"{a}", "{b}"}), (Commands{"{a}", "{b}", "{c}", "{d}"}));
}

TEST(Guardian, MayBeToldToLeaveOutMoreThanThereIs)
{
    EXPECT_EQ(heard("{a}\n9{b}\n{c}\n", {}), (Commands{"{a}", "{b}"}));
}

} // namespace
