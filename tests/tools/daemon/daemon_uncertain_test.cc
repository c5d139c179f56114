// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/daemon/daemon.h"

namespace
{

// Rule R1: the destination dies between HANDOVER and RUNNING, and the operator decides.
TEST(DaemonUncertain, HoldsThePausedGuestForTheOperator)
{
    Daemon from;
    Program::Options options;
    options.state_directory = MakeDirectory();
    options.preload = Runfile("tests/tools/die_at_handover.so");
    Program receive(options, {"receive", "--listen", "tcp:127.0.0.1:0", "--guest", "--guest-memory", "16M",
                              "--guest-vcpu", "thread"});
    from->Get("migrate", Named("a", "\"uri\": \"" + receive.Address() + "\", " + kSourceGuest));
    ASSERT_TRUE(from->Reaches("a", "failed")) << from.program->Err();
    ASSERT_TRUE(from.program->WaitFor("and waits for 'haul resume"));
    EXPECT_EQ(from->Of("a", "ownership"), "uncertain");
    EXPECT_EQ(from->Guest("a"), "paused");
    EXPECT_TRUE(Has(from->Fails("quit"), "haul resume or haul abandon it first"));
    EXPECT_EQ(from->Fails("migrate", Named("a", R"("uri": "tcp:127.0.0.1:1")")),
              "There's a migration process in progress");
    Program resume(from.options, {"resume"});
    EXPECT_EQ(resume.Wait(), 0) << resume.Err();
    EXPECT_TRUE(from->Until([&] { return from->Guest("a") == "running"; }));
    EXPECT_EQ(from->Of("a", "ownership"), "source");
    from->Get("quit");
    EXPECT_EQ(from.program->Wait(10), 0);
}

} // namespace
