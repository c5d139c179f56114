// SPDX-License-Identifier: Apache-2.0
// Commands of exec: and ssh: that have ended before HELLO is written to them. On its own that is a race of
// microseconds: here the engine's pidfd_open, which it calls in between, waits until they have.
#include "channels/wire.h"
#include "tests/engine/move.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;
constexpr int kEndMs = 20000;

// What the command line of a child has that will end by itself. Read by the engine's thread while it runs.
std::string ends_early;
std::atomic<unsigned> awaited;

std::string CommandLine(pid_t pid)
{
    std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline", std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

} // namespace

extern "C" int pidfd_open(pid_t pid, unsigned flags) noexcept
{
    pollfd polled = {(int)syscall(SYS_pidfd_open, pid, flags), POLLIN, 0};
    // A child has none while it becomes another program, and none any more when it has ended.
    std::string words;
    bool ended = false;
    while ((words = CommandLine(pid)).empty() && !ended && polled.fd >= 0) {
        ended = poll(&polled, 1, 1) == 1;
    }
    if (ended || words.find(ends_early) != std::string::npos) {
        awaited += poll(&polled, 1, kEndMs) == 1;
    }
    return polled.fd;
}

namespace
{

class EarlyEnd : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        char path[] = "/tmp/haul-early-XXXXXX";
        ASSERT_NE(mkdtemp(path), nullptr);
        folder_ = path;
        awaited = 0;
    }
    void TearDown() override
    {
        std::filesystem::remove_all(folder_);
    }
    // An ssh to nowhere: it leads to the destination at `uri`, unless `cases` has another end for it.
    std::string FakeSsh(const std::string &uri, const std::string &cases)
    {
        const char *runfiles = getenv("TEST_SRCDIR");
        std::string haul = std::string(runfiles ? runfiles : ".") + "/haul/tools/haul/haul";
        ssh_ = folder_ + "/ssh";
        std::ofstream(ssh_) << "#!/bin/sh\ncase \"$*\" in\n"
                            << cases << "\nesac\nexec " << haul << " relay " << uri << "\n";
        chmod(ssh_.c_str(), 0755);
        return "ssh:nowhere";
    }
    haul_options SshOptions(unsigned channels)
    {
        ssh_ = folder_ + "/ssh";
        haul_options options = Options();
        options.channels = channels;
        options.ssh = ssh_.c_str();
        options.remote_options = "--guest";
        return options;
    }
    // What a source says that finds `command` at the other end.
    std::string Meet(const std::string &command, int code)
    {
        Guest from({kMiB}, true);
        haul_options options = Options();
        haul_migration *source = nullptr;
        haul_error error{};
        EXPECT_EQ(haul_source_new(&options, &source, &error), 0) << error.message;
        from.Attach(source, true);
        EXPECT_EQ(haul_start(source, ("exec:" + command).c_str(), &error), 0) << error.message;
        EXPECT_EQ(haul_wait(source, &error), -code) << error.message;
        haul_free(source);
        EXPECT_EQ(awaited, 1u);
        return error.message;
    }
    std::string folder_, ssh_;
};

// As if there were no key, only a password: each channel asks for it, and so does a drive's connection.
TEST_F(EarlyEnd, ChannelsThatCouldNotAskAreConnectedAgain)
{
    ends_early = "BatchMode=yes";
    Guest from({kMiB}, true), to({kMiB}, false);
    int here[2], there[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, here), 0);
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, there), 0);
    from.side_streams = {{"disk0", here[0]}};
    to.on_streams = [&](const haul_stream *, unsigned, int *fds, haul_error *) {
        fds[0] = there[0];
        return 0;
    };
    bool carried = false;
    from.on_ready = [&](haul_error *) {
        char byte = 'd';
        carried = carried || (send(here[1], &byte, 1, MSG_NOSIGNAL) == 1 && recv(there[1], &byte, 1, 0) == 1);
        return 1;
    };
    Move move(from, to, SshOptions(3), "",
              [this](const std::string &uri) { return FakeSsh(uri, "*BatchMode=yes*) exit 255 ;;"); });
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(awaited, 4u);
    EXPECT_TRUE(carried);
    std::string where;
    EXPECT_TRUE(SameMemory(from, to, &where)) << where;
    close(here[1]);
    close(there[1]);
}

// The others, which could not ask either, have their turn only after the first.
TEST_F(EarlyEnd, TheChannelWhoseSecondTryFailsIsNamed)
{
    ends_early = "BatchMode=yes";
    for (const char *status : {"255", "7"}) {
        awaited = 0;
        Guest from({kMiB}, true), to({kMiB}, false);
        Move move(from, to, SshOptions(3), "", [&](const std::string &uri) {
            return FakeSsh(uri, std::string("*BatchMode=yes*) exit 255 ;;\n*relay*) exit ") + status + " ;;");
        });
        EXPECT_LT(move.Wait(), 0);
        EXPECT_GE(awaited, 3u);
        EXPECT_NE(std::string(move.source_error.message)
                      .find(std::string("the command of channel 0 exited with status ") + status +
                            ": channel 0: handshake with ssh:nowhere: "),
                  std::string::npos)
            << move.source_error.message;
        EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
    }
}

// It could ask at once: to be asked again for what was wrong the first time would be a surprise.
TEST_F(EarlyEnd, TheControlConnectionIsTriedOnce)
{
    ends_early = "ssh";
    Guest from({kMiB}, true);
    haul_options options = SshOptions(1);
    std::string calls = folder_ + "/calls";
    haul_migration *source = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_source_new(&options, &source, &error), 0) << error.message;
    from.Attach(source, true);
    ASSERT_EQ(haul_start(source, FakeSsh("", "*) echo x >>" + calls + "; exit 255 ;;").c_str(), &error), 0);
    EXPECT_EQ(haul_wait(source, &error), -ECONNRESET);
    haul_free(source);
    EXPECT_NE(std::string(error.message)
                  .find("the command of the control connection exited with status 255: handshake with"),
              std::string::npos)
        << error.message;
    EXPECT_EQ(std::filesystem::file_size(calls), 2u) << "one line";
}

TEST_F(EarlyEnd, TheExitStatusIsTold)
{
    ends_early = "exit 7";
    EXPECT_NE(Meet("exit 7", ECONNRESET)
                  .find("the command of the control connection exited with status 7: handshake with exec:"),
              std::string::npos);
}

TEST_F(EarlyEnd, AReasonThatWasLeftIsTold)
{
    ends_early = "cat";
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    unsigned char payload[64];
    haul_writer writer;
    haul_writer_init(&writer, payload, sizeof payload);
    haul_writer_u32(&writer, ENOSPC);
    haul_writer_string(&writer, "the disk is full");
    ASSERT_EQ(haul_frame_send(pair[0], HAUL_FRAME_FAILED, payload, haul_writer_length(&writer), nullptr), 0);
    char frame[256];
    ssize_t length = recv(pair[1], frame, sizeof frame, 0);
    ASSERT_GT(length, 0);
    std::ofstream(folder_ + "/frame", std::ios::binary).write(frame, length);
    EXPECT_NE(
        Meet("exec cat " + folder_ + "/frame", ENOSPC).find("the destination reports: the disk is full"),
        std::string::npos);
    close(pair[0]);
    close(pair[1]);
}

} // namespace
