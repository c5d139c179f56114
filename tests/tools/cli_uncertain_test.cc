/* SPDX-License-Identifier: Apache-2.0 */
/* A destination that dies between HANDOVER and RUNNING, and what the operator can do then (rule R1). */
#include "tests/tools/loopback.h"

#include <csignal>

namespace
{

class Uncertain : public Move
{
  protected:
    /* The destination dies between HANDOVER and RUNNING; the source waits for orders with its guest paused.
     */
    void SetUp() override
    {
        Move::SetUp();
        destination_.preload = Runfile("tests/tools/die_at_handover.so");
        auto receive = Receive(Guest({}));
        send_ = SendGuest({});
        EXPECT_EQ(receive->Wait(), 128 + SIGKILL) << receive->Err();
        ASSERT_TRUE(send_->WaitFor("and waits for 'haul resume")) << send_->Err();
        id_ = WaitForRecord(source_.state_directory, ".source.json");
        ASSERT_EQ(id_.size(), 32u);
    }
    std::unique_ptr<Program> send_;
    std::string id_;
};

TEST_F(Uncertain, ResumeRunsTheSourcesGuestAgain)
{
    EXPECT_TRUE(Has(send_->Err(), "in the middle of the handover of move " + id_)) << send_->Err();
    EXPECT_EQ(Recover("resume", id_), 0) << recovery_;
    EXPECT_TRUE(Has(recovery_, "the guest runs again in process " + std::to_string(send_->pid())))
        << recovery_;
    ExpectGoesOnAtSource(*send_);
    EXPECT_EQ(Files(source_.state_directory), 0u);
}

TEST_F(Uncertain, AbandonEndsTheSourceAndStaysUncertain)
{
    EXPECT_EQ(Recover("abandon", id_.substr(0, 8)), 0) << recovery_;
    EXPECT_EQ(send_->Wait(), 3) << send_->Err();
    EXPECT_TRUE(Has(send_->Out(), "this copy was given up")) << send_->Out();
    EXPECT_EQ(Files(source_.state_directory), 0u);
}

TEST_F(Uncertain, OneInterruptWarnsAndASecondGivesTheCopyUp)
{
    send_->Signal(SIGINT);
    EXPECT_TRUE(send_->WaitFor("once more gives it up")) << send_->Err();
    EXPECT_FALSE(send_->Ended());
    send_->Signal(SIGINT);
    EXPECT_EQ(send_->Wait(), 3) << send_->Err();
}

TEST_F(Uncertain, TheDestinationsRecordSaysHowFarItCame)
{
    Program list(destination_, {"resume", "--list"});
    EXPECT_EQ(list.Wait(), 0);
    EXPECT_TRUE(Has(list.Out(), id_ + ".destination")) << list.Out();
    EXPECT_TRUE(Has(list.Out(), "handover-received")) << list.Out();
}

TEST_F(Uncertain, AKilledSourceLeavesItsRecord)
{
    send_->Signal(SIGKILL);
    EXPECT_EQ(send_->Wait(), 128 + SIGKILL);
    EXPECT_EQ(Recover("resume", id_), 1);
    EXPECT_TRUE(Has(recovery_, "only haul abandon is left")) << recovery_;
    EXPECT_EQ(Recover("abandon", id_), 0) << recovery_;
    EXPECT_EQ(Files(source_.state_directory), 0u);
}

/* The socket by which orders come cannot be made, when the guest is held or from the beginning. */
class Unreachable : public Move
{
  protected:
    void SetUp() override
    {
        Move::SetUp();
        destination_.preload = Runfile("tests/tools/die_at_handover.so");
        source_.preload = Runfile("tests/tools/fail_on_demand.so");
    }
    void LoseTheDestination()
    {
        failing_.Begin("bind .source.sock");
        receive_ = Receive(Guest({}));
        send_ = SendGuest({});
        ASSERT_TRUE(send_->WaitFor("haul resume and haul abandon cannot reach it")) << send_->Err();
        EXPECT_TRUE(Has(send_->Err(), "No space left on device; tried again every second")) << send_->Err();
        EXPECT_FALSE(send_->Ended());
    }
    Failing failing_;
    std::unique_ptr<Program> receive_, send_;
};

TEST_F(Unreachable, TheGuestStaysAndIsReachedOnceItCanBe)
{
    LoseTheDestination();
    std::string id = WaitForRecord(source_.state_directory, ".source.json");
    failing_.End();
    ASSERT_TRUE(send_->WaitFor("and waits for 'haul resume " + id)) << send_->Err();
    EXPECT_EQ(Recover("resume", id), 0) << recovery_;
    ExpectGoesOnAtSource(*send_);
}

TEST_F(Unreachable, OnlyTwoSignalsGiveTheGuestUp)
{
    LoseTheDestination();
    send_->Signal(SIGTERM);
    EXPECT_TRUE(send_->WaitFor("once more gives it up")) << send_->Err();
    EXPECT_FALSE(send_->Ended());
    send_->Signal(SIGTERM);
    EXPECT_EQ(send_->Wait(), 3) << send_->Err();
    EXPECT_TRUE(Has(send_->Out(), "this copy was given up")) << send_->Out();
}

TEST_F(Unreachable, AStateDirectoryWithoutSocketsIsRefusedAtOnce)
{
    auto receive = Receive(Guest({}));
    failing_.Begin("bind .trial-");
    auto send = SendGuest({});
    EXPECT_EQ(send->Wait(), 1);
    EXPECT_TRUE(Has(send->Err(), "no socket can be made in state directory " + source_.state_directory +
                                     ": No space left on device; set HAUL_STATE_DIR to another"))
        << send->Err();
}

/* A destination that cannot write its record when HANDOVER comes does not start the guest, and says so. */
class NotStarted : public Move
{
  protected:
    void SetUp() override
    {
        Move::SetUp();
        destination_.preload = Runfile("tests/tools/no_record_at_handover.so");
    }
};

TEST_F(NotStarted, TheGuestGoesOnAtTheSource)
{
    auto receive = Receive(Guest({}));
    auto send = SendGuest({});
    ExpectGoesOnAtSource(*send);
    EXPECT_TRUE(Has(send->Err(), "reports: no handover: the move's record")) << send->Err();
    EXPECT_TRUE(Has(send->Err(), "No space left on device")) << send->Err();
    EXPECT_EQ(receive->Wait(), 1) << receive->Err();
    EXPECT_TRUE(Has(receive->Out(), "the guest stays with the source")) << receive->Out();
    EXPECT_EQ(Files(source_.state_directory), 0u);
    EXPECT_EQ(Files(destination_.state_directory), 0u);
}

/* Its record might say otherwise one day: nothing is certain. */
TEST_F(NotStarted, ARecordThatCannotBeWithdrawnLeavesItUncertain)
{
    setenv("HAUL_TEST_KEEP", "1", 1);
    auto receive = Receive(Guest({}));
    unsetenv("HAUL_TEST_KEEP");
    auto send = SendGuest({});
    ASSERT_TRUE(send->WaitFor("and waits for 'haul resume")) << send->Err();
    std::string id = WaitForRecord(source_.state_directory, ".source.json");
    EXPECT_EQ(Recover("resume", id), 0) << recovery_;
    ExpectGoesOnAtSource(*send);
    ASSERT_TRUE(receive->WaitFor("and waits for 'haul resume")) << receive->Err();
    receive->Signal(SIGINT);
    ASSERT_TRUE(receive->WaitFor("once more gives it up")) << receive->Err();
    receive->Signal(SIGINT);
    EXPECT_EQ(receive->Wait(), 3) << receive->Err();
}

} // namespace
