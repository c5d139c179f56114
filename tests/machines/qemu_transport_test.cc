// SPDX-License-Identifier: Apache-2.0
// The haul program moves a QEMU machine over each transport but tcp.
#include "tests/machines/qemu.h"
#include "tests/tools/program.h"
#include "tests/tools/ssh_server.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace
{

using namespace haul_test;

class QemuTransport : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing().empty()) {
            GTEST_SKIP() << missing();
        }
        MachineOptions options;
        from_ = std::make_unique<Machine>(folder_, "from", options);
        options.incoming = true;
        options.paused = true;
        to_ = std::make_unique<Machine>(folder_, "to", options);
        source_.state_directory = MakeDirectory();
        destination_.state_directory = MakeDirectory();
        char path[] = "/tmp/haul-qemu-XXXXXX"; // short enough for a socket's path
        ASSERT_NE(mkdtemp(path), nullptr);
        path_ = path;
        ASSERT_TRUE(from_->wait_for("sweep 1 ok", kBootSeconds)) << from_->console() << from_->errors();
        before_ = from_->last_ok();
    }
    void TearDown() override
    {
        if (!path_.empty()) {
            EXPECT_EQ(rmdir(path_.c_str()), 0) << "something is left in " << path_;
        }
    }
    void receive(const std::string &uri)
    {
        receive_ = std::make_unique<Program>(
            destination_,
            std::vector<std::string>{"receive", "--listen", uri, "--qemu", to_->qmp(), "--timeout", "20"});
        ASSERT_NE(receive_->Address(), "") << receive_->Err();
    }
    void send(const std::string &uri, const std::vector<std::string> &more = {})
    {
        std::vector<std::string> words = {"send", uri, "--qemu", from_->qmp(), "--timeout", "20"};
        words.insert(words.end(), more.begin(), more.end());
        send_ = std::make_unique<Program>(source_, words);
    }
    void expect_moved()
    {
        EXPECT_EQ(send_->Wait(), 0) << send_->Err();
        if (receive_) {
            EXPECT_EQ(receive_->Wait(), 0) << receive_->Err();
        }
        EXPECT_EQ("postmigrate", from_->status());
        EXPECT_EQ("running", to_->status());
        ASSERT_TRUE(to_->counts()) << to_->console();
        EXPECT_GE(to_->last_ok(), before_);
        EXPECT_TRUE(to_->wait_for("sweep", 60)) << to_->console();
        EXPECT_FALSE(to_->says_bad()) << to_->console();
    }
    Folder folder_;
    std::unique_ptr<Machine> from_, to_;
    std::unique_ptr<Program> receive_, send_;
    Program::Options source_, destination_;
    std::string path_;
    long before_ = 0;
};

TEST_F(QemuTransport, Unix)
{
    receive("unix:" + path_ + "/s");
    send("unix:" + path_ + "/s");
    expect_moved();
}

TEST_F(QemuTransport, Exec)
{
    receive("unix:" + path_ + "/s");
    send("exec:" + Runfile("tools/haul/haul") + " relay unix:" + path_ + "/s");
    expect_moved();
}

TEST_F(QemuTransport, Descriptors)
{
    std::string here = "fd:", there = "fd:";
    for (int i = 0; i < 3; i++) {
        int pair[2];
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        source_.keep.push_back(pair[0]);
        destination_.keep.push_back(pair[1]);
        here += (i ? "," : "") + std::to_string(pair[0]);
        there += (i ? "," : "") + std::to_string(pair[1]);
    }
    receive(there);
    send(here);
    for (int i = 0; i < 3; i++) {
        close(source_.keep[i]);
        close(destination_.keep[i]);
    }
    expect_moved();
}

TEST_F(QemuTransport, Ssh)
{
    SshServer server;
    if (!server.Missing().empty()) {
        GTEST_SKIP() << server.Missing();
    }
    send(server.Uri(),
         {"--ssh", server.Client(), "--remote-haul",
          "env HAUL_STATE_DIR=" + destination_.state_directory + " " + Runfile("tools/haul/haul"), "--",
          "--qemu", to_->qmp()});
    expect_moved();
}

} // namespace
