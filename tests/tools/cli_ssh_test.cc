/* SPDX-License-Identifier: Apache-2.0 */
/* haul send ssh: against Debian's sshd on loopback. */
#include "tests/tools/loopback.h"
#include "tests/tools/ssh_server.h"
#include "tests/waiting.h"

#include <csignal>
#include <cstring>
#include <dirent.h>
#include <fstream>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>

namespace
{

std::string Content(const std::string &path)
{
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf(); // a process that ends meanwhile only leaves less to read
    return text.str();
}

/* The socket of the haul receive that keeps its records in `state_directory`. */
std::string SocketOf(const std::string &state_directory)
{
    std::string path;
    DIR *directory = opendir("/proc");
    for (dirent *entry; directory && (entry = readdir(directory));) {
        std::string process = std::string("/proc/") + entry->d_name;
        std::string words = Content(process + "/cmdline");
        size_t at = words.find("stdio:/tmp/haul-");
        if (at != std::string::npos &&
            Content(process + "/environ").find(state_directory) != std::string::npos) {
            path = words.c_str() + at + strlen("stdio:");
        }
    }
    if (directory) {
        closedir(directory);
    }
    return path;
}

class Ssh : public Move
{
  protected:
    void SetUp() override
    {
        Move::SetUp();
        if (!server_.Missing().empty()) {
            GTEST_SKIP() << server_.Missing();
        }
    }
    /* `options`: for the source; `there`: for the haul receive on the other side. */
    std::unique_ptr<Program> SendThere(const Words &options, const Words &there)
    {
        address_ = server_.Uri();
        Words words = {"--remote-haul", "env HAUL_STATE_DIR=" + destination_.state_directory + " " +
                                            Runfile("tools/haul/haul")};
        if (options.empty() || options[0] != "--ssh") {
            words.insert(words.end(), {"--ssh", server_.Client()});
        }
        words.insert(words.end(), options.begin(), options.end());
        words.push_back("--");
        words.insert(words.end(), there.begin(), there.end());
        return SendGuest(words);
    }
    /* The client, but for the words that `cases` is for. */
    std::string Script(const std::string &cases)
    {
        std::string path = MakeDirectory() + "/ssh";
        std::ofstream(path) << "#!/bin/sh\ncase \"$*\" in\n"
                            << cases << "\nesac\nexec " << server_.Client() << " \"$@\"\n";
        chmod(path.c_str(), 0755);
        return path;
    }
    /* To be called while the move runs. */
    void NoteSocket()
    {
        socket_ = SocketOf(destination_.state_directory);
        ASSERT_NE(socket_, "");
        EXPECT_TRUE(haul_test::Eventually([this] { return access(socket_.c_str(), F_OK) != 0; }))
            << "nobody else is to come, once all channels are there";
    }
    /* Everything on the other side is gone: no connection is served any more, no socket left. */
    void ExpectNothingIsLeft()
    {
        using haul_test::Eventually;
        EXPECT_TRUE(Eventually([this] { return server_.Connections() == 0; }));
        Eventually([this] { return SocketOf(destination_.state_directory).empty(); }); // its last moment
        EXPECT_EQ(SocketOf(destination_.state_directory), "") << "haul receive still runs there";
        EXPECT_NE(access(socket_.c_str(), F_OK), 0) << socket_;
    }
    std::string socket_;
    SshServer server_;
};

TEST_F(Ssh, MovesWithAChildForEachChannel)
{
    auto send = SendThere(
        {"--channels", "3", "--verify", "--max-bandwidth", "2M", "--guest-dirty-rate", "256K"}, Guest({}));
    ASSERT_TRUE(send->WaitFor("round 1")) << send->Err();
    NoteSocket();
    EXPECT_EQ(server_.Connections(), 4);
    EXPECT_EQ(send->Wait(), 0) << send->Err() << server_.Log();
    EXPECT_TRUE(Has(send->Out(), "Moved: the guest is now at " + server_.Uri())) << send->Out();
    EXPECT_TRUE(Has(send->Out(), "\n        2 ")) << send->Out();
    EXPECT_EQ(Files(source_.state_directory), 0u);
    EXPECT_EQ(Files(destination_.state_directory), 0u);
    ExpectNothingIsLeft();
}

TEST_F(Ssh, TheSameMachineIsMeantWithoutOptionsForTheOtherSide)
{
    address_ = server_.Uri();
    auto send =
        SendGuest({"--ssh", server_.Client(), "--remote-haul",
                   "env HAUL_STATE_DIR=" + destination_.state_directory + " " + Runfile("tools/haul/haul")});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
}

TEST_F(Ssh, WordsReachTheOtherSideAsTheyAre)
{
    auto send = SendThere({"--quiet"}, {"--memory", "/no such/$(touch x)'\"*"});
    EXPECT_EQ(send->Wait(), 1);
    EXPECT_TRUE(Has(send->Err(), "/no such/$(touch x)'\"*")) << send->Err();
}

TEST_F(Ssh, FailuresNameTheirEnd)
{
    auto usage = SendThere({}, {"--nothing"});
    EXPECT_EQ(usage->Wait(), 1);
    EXPECT_TRUE(Has(usage->Err(), "unknown option '--nothing'")) << usage->Err();
    EXPECT_TRUE(Has(usage->Err(), "ssh, or haul on the other host (see above): the command of the control "
                                  "connection exited with status 2: "))
        << usage->Err();
    auto smaller = SendThere({}, {"--guest", "--guest-vcpu", "thread", "--guest-memory", "8M"});
    EXPECT_EQ(smaller->Wait(), 1);
    EXPECT_TRUE(Has(smaller->Err(), "start the destination with the same memory size")) << smaller->Err();
    ExpectNothingIsLeft();
    server_.Kill();
    auto refused = SendThere({}, Guest({}));
    EXPECT_EQ(refused->Wait(), 1);
    EXPECT_TRUE(Has(refused->Err(), "the command of the control connection exited with status 255: "))
        << refused->Err();
    EXPECT_TRUE(Has(refused->Err(), "Connection refused")) << refused->Err();
}

TEST_F(Ssh, ChannelsThatWouldHaveToAskConnectOneAfterTheOther)
{
    /* As if there were no key, only a password. */
    auto send = SendThere(
        {"--ssh", Script("*BatchMode=yes*) echo denied >&2; exit 255 ;;"), "--channels", "3"}, Guest({}));
    EXPECT_EQ(send->Wait(), 0) << send->Err() << server_.Log();
    EXPECT_TRUE(Has(send->Err(), "denied")) << send->Err();
    ExpectNothingIsLeft();
}

TEST_F(Ssh, AChannelThatCannotConnectIsNamed)
{
    auto send = SendThere({"--ssh", Script("*relay*) exit 7 ;;"), "--channels", "3"}, Guest({}));
    EXPECT_EQ(send->Wait(), 1);
    EXPECT_TRUE(Has(send->Err(), "the command of channel ")) << send->Err();
    EXPECT_TRUE(Has(send->Err(), "exited with status 7: channel 0: ")) << send->Err();
    ExpectNothingIsLeft();
}

TEST_F(Ssh, CancelWhileChannelsConnect)
{
    std::string asked = MakeDirectory() + "/asked";
    auto send = SendThere({"--ssh", Script("*relay*) touch " + asked + "; exec sleep 60 ;;"), "--channels",
                           "3", "--timeout", "60"},
                          Guest({}));
    ASSERT_TRUE(haul_test::Eventually([&] { return access(asked.c_str(), F_OK) == 0; })) << send->Err();
    send->Signal(SIGINT);
    ExpectGoesOnAtSource(*send);
    EXPECT_TRUE(Has(send->Out() + send->Err(), "cancelled")) << send->Out() << send->Err();
    ExpectNothingIsLeft();
}

TEST_F(Ssh, CancelAndDeathOfTheSourceEndEverythingThere)
{
    for (int number : {SIGINT, SIGKILL}) {
        auto send = SendThere({"--max-bandwidth", "1M"}, Guest({}));
        ASSERT_TRUE(send->WaitFor("round 1")) << send->Err();
        NoteSocket();
        send->Signal(number);
        if (number == SIGINT) {
            ExpectGoesOnAtSource(*send);
        }
        ExpectNothingIsLeft();
    }
}

TEST_F(Ssh, TheServersDeathLeavesTheGuestRunningHere)
{
    auto send = SendThere({"--max-bandwidth", "1M"}, Guest({}));
    ASSERT_TRUE(send->WaitFor("round 1")) << send->Err();
    NoteSocket();
    server_.Kill();
    ExpectGoesOnAtSource(*send);
    EXPECT_TRUE(Has(send->Err(), "exited with status 255")) << send->Err();
    ExpectNothingIsLeft();
}

} // namespace
