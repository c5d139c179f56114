/* SPDX-License-Identifier: Apache-2.0 */
/* A destination that dies between HANDOVER and RUNNING, over each transport: the source holds its guest,
 * paused, until the operator decides (rule R1). cli_uncertain_test has tcp, and all else about it. */
#include "tests/tools/ssh_server.h"
#include "tests/tools/transport_move.h"

#include <csignal>
#include <unistd.h>

namespace
{

using Case = std::tuple<const char *, const char *>;

class UncertainOver : public TransportMove, public ::testing::WithParamInterface<Case>
{
  protected:
    void SetUp() override
    {
        TransportMove::SetUp();
        destination_.preload = Runfile("tests/tools/die_at_handover.so");
        Start(std::get<0>(GetParam()));
        if (IsSkipped()) {
            return;
        }
        if (receive_) {
            EXPECT_EQ(receive_->Wait(), 128 + SIGKILL) << receive_->Err();
        }
        ASSERT_TRUE(send_->WaitFor("and waits for 'haul resume")) << send_->Err();
        EXPECT_TRUE(Has(send_->Err(), "stays paused here")) << send_->Err();
        id_ = WaitForRecord(source_.state_directory, ".source.json");
        ASSERT_EQ(id_.size(), 32u);
    }
    void TearDown() override
    {
        unlink(Path().c_str()); /* of the receiver that was killed */
        TransportMove::TearDown();
    }
    void Start(const std::string &transport)
    {
        if (transport == "Unix" || transport == "Exec") {
            receive_ = ReceiveAt("unix:" + Path());
            send_ = SendTo(transport == "Unix" ? "unix:" + Path() : ExecRelay());
        } else if (transport == "Rdma") {
            const Words provider = {"--rdma-provider", "tcp;ofi_rxm"};
            receive_ = ReceiveAt("rdma:127.0.0.1:0", provider);
            send_ = SendTo(address_, provider);
        } else if (transport == "Ssh") {
            server_ = std::make_unique<SshServer>();
            if (!server_->Missing().empty()) {
                GTEST_SKIP() << server_->Missing();
            }
            Words there = Guest({});
            there.insert(there.begin(),
                         {"--ssh", server_->Client(), "--remote-haul",
                          "env HAUL_STATE_DIR=" + destination_.state_directory +
                              " LD_PRELOAD=" + destination_.preload + " " + Runfile("tools/haul/haul"),
                          "--"});
            send_ = SendTo(server_->Uri(), there);
        } else {
            Descriptors between(transport == "Pipes" ? Descriptors::kPipes : Descriptors::kSockets, 3);
            MoveThrough(between, &send_, &receive_);
        }
    }
    std::string id_;
    std::unique_ptr<SshServer> server_;
    std::unique_ptr<Program> receive_, send_;
};

TEST_P(UncertainOver, TheOperatorDecides)
{
    bool resumes = std::get<1>(GetParam()) == std::string("Resume");
    EXPECT_EQ(Recover(resumes ? "resume" : "abandon", id_), 0) << recovery_;
    if (resumes) {
        ExpectGoesOnAtSource(*send_);
    } else {
        EXPECT_EQ(send_->Wait(), 3) << send_->Err();
        EXPECT_TRUE(Has(send_->Out(), "this copy was given up")) << send_->Out();
        EXPECT_FALSE(Has(send_->Out(), "self-check")) << send_->Out();
    }
    EXPECT_EQ(Files(source_.state_directory), 0u);
}

INSTANTIATE_TEST_SUITE_P(
    All, UncertainOver,
    ::testing::Combine(::testing::Values("Unix", "Exec", "Sockets", "Pipes", "Ssh", "Rdma"),
                       ::testing::Values("Resume", "Abandon")),
    [](const auto &info) { return std::string(std::get<0>(info.param)) + std::get<1>(info.param); });

} // namespace
