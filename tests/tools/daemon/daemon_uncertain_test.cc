// SPDX-License-Identifier: Apache-2.0
// Rule R1: the destination dies between HANDOVER and RUNNING, and the operator decides.
#include "tests/tools/daemon/daemon.h"

namespace
{

class DaemonUncertain : public ::testing::Test
{
  protected:
    DaemonUncertain()
    {
        there_.state_directory = MakeDirectory();
    }
    // Moves the guest to a destination that dies, until the daemon waits for orders.
    void MoveInVain(const std::string &guest = "")
    {
        LoseTheDestination(guest);
        ASSERT_TRUE(from_.program->WaitFor("and waits for 'haul resume " + id_)) << from_.program->Err();
    }
    void LoseTheDestination(const std::string &guest)
    {
        there_.preload = Runfile("tests/tools/die_at_handover.so");
        Program receive(there_, Listening());
        Migrate(receive, guest);
        ASSERT_TRUE(from_->Reaches("a", "failed")) << from_.program->Err();
        EXPECT_EQ(from_->Of("a", "ownership"), "uncertain");
        id_ = from_->Of("a", "migration-id");
    }
    void ExpectMoves(const std::string &guest = "")
    {
        there_.preload = "";
        Words listening = Listening();
        listening.insert(listening.end(), {"--run-for", "1"});
        Program receive(there_, listening);
        Migrate(receive, guest);
        EXPECT_TRUE(from_->Reaches("a", "completed")) << from_.program->Err();
        EXPECT_EQ(receive.Wait(), 0) << receive.Err();
    }
    void Resume()
    {
        Program resume(from_.options, {"resume", id_});
        EXPECT_EQ(resume.Wait(), 0) << resume.Err();
        EXPECT_TRUE(from_->Until([&] { return from_->Guest("a") == "running"; }));
        EXPECT_EQ(from_->Of("a", "ownership"), "source");
    }
    // What the command is answered once the last move has let go of its guest.
    std::string Says(const std::string &command, const std::string &arguments)
    {
        std::string answer;
        from_->Until([&] {
            answer = from_->Fails(command, arguments);
            return answer != "There's a migration process in progress";
        });
        return answer;
    }
    Failing failing_;
    Daemon from_{Runfile("tests/tools/fail_on_demand.so")};
    std::string id_;

  private:
    static Words Listening()
    {
        return {"receive",        "--listen", "tcp:127.0.0.1:0", "--guest",
                "--guest-memory", "16M",      "--guest-vcpu",    "thread"};
    }
    void Migrate(Program &receive, const std::string &guest)
    {
        std::string arguments =
            "\"uri\": \"" + receive.Address() + "\"" + (guest.empty() ? "" : ", ") + guest;
        EXPECT_EQ(Says("migrate", Named("a", arguments)), "");
    }
    Program::Options there_;
};

TEST_F(DaemonUncertain, HoldsThePausedGuestForTheOperator)
{
    MoveInVain(kSourceGuest);
    EXPECT_EQ(from_->Guest("a"), "paused");
    EXPECT_TRUE(Has(from_->Fails("quit"), "haul resume or haul abandon it first"));
    EXPECT_EQ(from_->Fails("migrate", Named("a", R"("uri": "tcp:127.0.0.1:1")")),
              "There's a migration process in progress");
    Resume();
    from_->Get("quit");
    EXPECT_EQ(from_.program->Wait(), 0);
}

TEST_F(DaemonUncertain, KeepsTheGuestWhileNoOrderCanReachIt)
{
    failing_.Begin("bind .source.sock");
    LoseTheDestination(kSourceGuest);
    ASSERT_TRUE(from_.program->WaitFor("haul resume and haul abandon cannot reach it"));
    EXPECT_EQ(from_->Guest("a"), "paused");
    EXPECT_TRUE(Has(from_->Fails("quit"), "its paused guest lives in this process"));
    EXPECT_EQ(from_->Fails("migrate-forget", Named("a")), "There's a migration process in progress");
    failing_.End();
    ASSERT_TRUE(from_.program->WaitFor("and waits for 'haul resume " + id_)) << from_.program->Err();
    Resume();
    ExpectMoves();
}

TEST_F(DaemonUncertain, AMoveThatCannotStartLeavesNothing)
{
    EXPECT_EQ(from_->Fails("migrate-set-parameters", Named("a", R"("max-rounds": 50)")), "");
    failing_.Begin("pthread_create");
    for (const char *name : {"a", "b"}) {
        EXPECT_EQ(
            from_->Fails("migrate", Named(name, std::string(R"("uri": "tcp:127.0.0.1:1", )") + kSourceGuest)),
            "cannot start a thread for the move: Resource temporarily unavailable");
    }
    EXPECT_EQ(json_array_size(from_->Get("query-migrations").get()), 1u) << "only what had parameters";
    failing_.End();
    ExpectMoves(kSourceGuest);
}

TEST_F(DaemonUncertain, EachMoveOfAGuestWaitsForItsOwnOrders)
{
    MoveInVain(kSourceGuest);
    std::string first = id_;
    Resume();
    MoveInVain();
    EXPECT_NE(id_, first);
    Resume();
    ExpectMoves();
}

TEST_F(DaemonUncertain, ACancelThatCameTooLateIsNotForTheNextMove)
{
    MoveInVain(kSourceGuest);
    EXPECT_EQ(from_->Fails("migrate_cancel", Named("a")),
              "Too late to cancel: the guest is being handed over");
    Resume();
    ExpectMoves();
}

TEST_F(DaemonUncertain, AHeldGuestIsNotThrottled)
{
    MoveInVain(kSourceGuest);
    EXPECT_EQ(from_->Fails("migrate-set-parameters", Named("a", R"("cpu-throttle-percentage": 30)")),
              "cpu-throttle-percentage is for a migration that runs");
    Resume();
    EXPECT_EQ(Says("migrate-set-capabilities",
                   Named("a", R"("capabilities": [{"capability": "verify", "state": true}])")),
              "");
}

TEST_F(DaemonUncertain, AnAbandonedGuestIsGivenUpAndTheDaemonGoesOn)
{
    MoveInVain(kSourceGuest);
    Program abandon(from_.options, {"abandon", id_});
    EXPECT_EQ(abandon.Wait(), 0) << abandon.Err();
    EXPECT_TRUE(Has(abandon.Out(), "was given up")) << abandon.Out();
    EXPECT_FALSE(Has(abandon.Out(), "process ends")) << abandon.Out();
    EXPECT_EQ(Says("migrate-forget", Named("a")), "");
    EXPECT_EQ(json_array_size(from_->Get("query-migrations").get()), 0u);
}

} // namespace
