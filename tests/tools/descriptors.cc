/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/tools/descriptors.h"

#include <gtest/gtest.h>

#include <csignal>
#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace
{

/* A process that copies from `in` to `out`, and ends with either. */
pid_t StartRelay(int in, int out)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    char name[] = "cat";
    char *arguments[] = {name, nullptr};
    pid_t pid = -1;
    EXPECT_EQ(posix_spawn(&pid, "/bin/cat", &actions, nullptr, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

} // namespace

Descriptors::Descriptors(Kind kind, unsigned count) : kind_(kind)
{
    for (unsigned i = 0; i < count; i++) {
        if (kind == kSockets) {
            int pair[2] = {-1, -1};
            EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
            source_.push_back(pair[0]);
            destination_.push_back(pair[1]);
        } else {
            /* IN/OUT on both sides. */
            std::vector<int> there, back;
            MakePipe(&source_, &back);
            MakePipe(&destination_, &there);
            source_.push_back(there[0]);
            destination_.push_back(back[0]);
        }
    }
}

void Descriptors::MakePipe(std::vector<int> *in, std::vector<int> *out)
{
    int near[2] = {-1, -1}, far[2] = {-1, -1};
    EXPECT_EQ(pipe2(near, O_CLOEXEC), 0);
    if (kind_ == kRelayedPipes) {
        EXPECT_EQ(pipe2(far, O_CLOEXEC), 0);
        relays_.push_back(StartRelay(far[0], near[1]));
        close(far[0]);
        close(near[1]);
        near[1] = far[1];
    }
    in->push_back(near[0]);
    out->push_back(near[1]);
}

Descriptors::~Descriptors()
{
    CloseOwn();
    for (pid_t relay : relays_) {
        kill(relay, SIGKILL);
        waitpid(relay, nullptr, 0);
    }
}

std::string Descriptors::Uri(const std::vector<int> &fds) const
{
    std::string text = "fd:";
    for (size_t i = 0; i < fds.size(); i++) {
        text += i == 0 ? "" : kind_ != kSockets && i % 2 ? "/" : ",";
        text += std::to_string(fds[i]);
    }
    return text;
}

std::string Descriptors::SourceUri() const
{
    return Uri(source_);
}

std::string Descriptors::DestinationUri() const
{
    return Uri(destination_);
}

void Descriptors::CloseOwn()
{
    for (const auto *fds : {&source_, &destination_}) {
        for (size_t i = 0; open_ && i < fds->size(); i++) {
            close((*fds)[i]);
        }
    }
    open_ = false;
}

void Descriptors::CloseDestination()
{
    for (int fd : destination_) {
        close(fd);
    }
    destination_.clear();
}

void Descriptors::Cut()
{
    for (size_t i = 0; kind_ == kSockets && open_ && i < source_.size(); i++) {
        shutdown(source_[i], SHUT_RDWR);
    }
    for (pid_t relay : relays_) {
        kill(relay, SIGKILL);
    }
    CloseOwn();
}
