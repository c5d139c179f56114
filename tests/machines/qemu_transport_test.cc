// SPDX-License-Identifier: Apache-2.0
// The haul program moves a QEMU machine with its drives over each transport, after a cancel and after a death
// on the other side. One machine is booted and goes from place to place. (qemu_transport_state_test breaks
// the move of one without drives in every state.)
#include "tests/machines/disks.h"
#include "tests/tools/descriptors.h"
#include "tests/tools/program.h"
#include "tests/tools/ssh_server.h"

#include <gtest/gtest.h>

#include <csignal>
#include <unistd.h>

namespace
{

using namespace haul_test;

using Words = std::vector<std::string>;

constexpr unsigned kChannels = 2;
constexpr unsigned kDrives = 2;

class QemuTransport : public ::testing::TestWithParam<const char *>
{
  protected:
    static void SetUpTestSuite()
    {
        if (missing_for_disks().empty()) {
            drives = new Drives;
            here = drives->source();
        }
    }
    static void TearDownTestSuite()
    {
        if (here) {
            expect_healthy(*here); // after all its moves
        }
        here.reset();
        delete drives;
        drives = nullptr;
    }
    void SetUp() override
    {
        if (!missing_for_disks().empty()) {
            GTEST_SKIP() << missing_for_disks();
        }
        if (transport() == "Ssh") {
            server_ = std::make_unique<SshServer>();
            if (!server_->Missing().empty()) {
                GTEST_SKIP() << server_->Missing();
            }
        }
        ASSERT_EQ("running", here->status()) << here->last_words() << here->errors();
        source_.state_directory = MakeDirectory();
        destination_.state_directory = MakeDirectory();
    }
    static std::string transport()
    {
        return GetParam();
    }
    void receive(const std::string &uri, const std::vector<int> &keep = {}, const Words &more = {})
    {
        destination_.keep = keep;
        Words words = {"receive", "--listen", uri, "--qemu", to_->qmp(), "--disks", "--timeout", "20"};
        words.insert(words.end(), more.begin(), more.end());
        receive_ = std::make_unique<Program>(destination_, words);
        ASSERT_NE(receive_->Address(), "") << receive_->Err();
    }
    void send(const std::string &uri, const Words &more, const std::vector<int> &keep = {})
    {
        Words words = {"send",
                       uri,
                       "--qemu",
                       here->qmp(),
                       "--disks",
                       "--timeout",
                       "20",
                       "--downtime-limit",
                       "1000",
                       "--channels",
                       std::to_string(kChannels)};
        words.insert(words.end(), more.begin(), more.end());
        source_.keep = keep;
        send_ = std::make_unique<Program>(source_, words);
    }
    // A new QEMU that waits, and a move to it.
    void begin(Words more = {})
    {
        static int number;
        std::string name = "to" + std::to_string(number++);
        drives->make_images(name);
        MachineOptions options = drives->options(name);
        options.incoming = true;
        options.paused = true;
        to_ = std::make_unique<Machine>(drives->folder, name, options);
        std::string path = drives->folder / "s";
        if (transport() == "Unix") {
            receive("unix:" + path);
            send("unix:" + path, more);
        } else if (transport() == "Rdma") {
            Words provider = {"--rdma-provider", "tcp;ofi_rxm"};
            receive("rdma:127.0.0.1:0", {}, provider);
            more.insert(more.end(), provider.begin(), provider.end());
            send(receive_->Address(), more);
        } else if (transport() == "Exec") {
            receive("unix:" + path);
            send("exec:" + Runfile("tools/haul/haul") + " relay unix:" + path, more);
        } else if (transport() == "Ssh") {
            more.insert(more.end(), {"--ssh", server_->Client(), "--remote-haul",
                                     "env HAUL_STATE_DIR=" + destination_.state_directory + " " +
                                         Runfile("tools/haul/haul"),
                                     "--", "--qemu", to_->qmp(), "--disks"});
            send(server_->Uri(), more);
        } else if (transport() == "Tcp" || transport() == "Networks") {
            receive(transport() == "Tcp" ? "tcp:[::1]:0" : "tcp:127.0.0.1:0,127.0.0.2:0");
            send(receive_->Address(), more);
        } else {
            Descriptors between(transport() == "Pipes" ? Descriptors::kPipes : Descriptors::kSockets,
                                1 + kChannels + kDrives);
            receive(between.DestinationUri(), between.Destination());
            send(between.SourceUri(), more, between.Source());
        }
    }
    // One that is in the middle of its drives for a long time.
    void begin_slowly()
    {
        begin({"--max-bandwidth", "1M"});
        ASSERT_TRUE(send_->WaitFor("copying 2 drives")) << send_->Err();
    }
    // The machine runs where it was, and nowhere else.
    void expect_back()
    {
        EXPECT_EQ(send_->Wait(), 1) << send_->Err();
        EXPECT_NE(send_->Out().find("Not moved"), std::string::npos) << send_->Out();
        if (receive_) {
            EXPECT_NE(receive_->Wait(), 0) << receive_->Err();
        }
        EXPECT_EQ("running", here->status());
        EXPECT_TRUE(here->counts()) << here->last_words();
        EXPECT_FALSE(here->says_bad()) << here->last_words();
        EXPECT_NE("running", to_->status());
        expect_clean(*here);
        expect_clean(*to_);
        unlink((drives->folder / "s").c_str()); // of a receiver that was killed
    }
    void expect_moved()
    {
        long before = here->last_ok();
        EXPECT_EQ(send_->Wait(), 0) << send_->Err();
        if (receive_) {
            EXPECT_EQ(receive_->Wait(), 0) << receive_->Err();
        }
        EXPECT_EQ("postmigrate", here->status());
        EXPECT_EQ("running", to_->status());
        ASSERT_TRUE(to_->counts()) << to_->last_words();
        EXPECT_GE(to_->last_ok(), before);
        EXPECT_TRUE(to_->wait_for("sweep", 60)) << to_->last_words();
        EXPECT_FALSE(to_->says_bad()) << to_->last_words();
        EXPECT_LT(access((drives->folder / "s").c_str(), F_OK), 0) << "a socket is left";
        expect_clean(*here);
        expect_clean(*to_);
        here = std::move(to_);
    }
    static Drives *drives;
    static std::unique_ptr<Machine> here; // where the guest runs
    std::unique_ptr<Machine> to_;
    std::unique_ptr<SshServer> server_;
    std::unique_ptr<Program> receive_, send_;
    Program::Options source_, destination_;
};

Drives *QemuTransport::drives;
std::unique_ptr<Machine> QemuTransport::here;

TEST_P(QemuTransport, AfterACancelAndADeathTheMachineMoves)
{
    begin_slowly();
    send_->Signal(SIGINT);
    expect_back();
    begin_slowly();
    server_ ? server_->Cut() : receive_->Signal(SIGKILL);
    expect_back();
    begin();
    expect_moved();
}

INSTANTIATE_TEST_SUITE_P(Over, QemuTransport,
                         ::testing::Values("Unix", "Exec", "Sockets", "Pipes", "Ssh", "Rdma", "Tcp",
                                           "Networks"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
