// SPDX-License-Identifier: Apache-2.0
#include "tests/machines/mover_process.h"

#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdexcept>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace haul_test
{

std::string Mover::program()
{
    const char *folder = getenv("TEST_SRCDIR");
    return std::string(folder ? folder : ".") + "/haul/tests/machines/mover";
}

Mover::Mover(const std::vector<std::string> &words, const std::vector<int> &keep)
{
    std::vector<std::string> list = words;
    list.insert(list.begin(), program());
    std::vector<char *> argv;
    for (std::string &word : list) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    int ends[2], orders[2];
    if (pipe2(ends, O_CLOEXEC) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, orders) < 0) {
        throw std::runtime_error("pipe");
    }
    pid_ = fork();
    if (pid_ == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(orders[0], 0);
        dup2(ends[1], 1);
        for (int fd : keep) {
            fcntl(fd, F_SETFD, 0);
        }
        execv(argv[0], argv.data());
        _exit(127);
    }
    close(ends[1]);
    close(orders[0]);
    pipe_ = ends[0];
    orders_ = orders[1];
}

Mover::~Mover()
{
    kill(SIGKILL);
    wait();
    close(pipe_);
    close(orders_);
}

void Mover::tell(const std::string &order)
{
    std::string line = order + "\n";
    if (send(orders_, line.data(), line.size(), MSG_NOSIGNAL) < 0) {
        output_ += "(it was gone before it could be told to " + order + ")\n";
    }
}

void Mover::kill(int signal)
{
    if (pid_ > 0) {
        ::kill(pid_, signal);
    }
}

std::string Mover::expect(const std::string &prefix)
{
    for (;;) {
        size_t end;
        while ((end = pending_.find('\n')) != std::string::npos) {
            std::string line = pending_.substr(0, end);
            pending_.erase(0, end + 1);
            if (line.rfind(prefix, 0) == 0) {
                return line.substr(prefix.size());
            }
        }
        pollfd poller = {pipe_, POLLIN, 0};
        char bytes[4096];
        ssize_t count = poll(&poller, 1, 90000) == 1 ? read(pipe_, bytes, sizeof bytes) : 0;
        if (count <= 0) {
            return "";
        }
        pending_.append(bytes, (size_t)count);
        output_.append(bytes, (size_t)count);
    }
}

int Mover::wait()
{
    if (pid_ > 0) {
        expect("\n"); // no such line: reads to the end
        int how = 0;
        waitpid(pid_, &how, 0);
        pid_ = -1;
        code_ = WIFEXITED(how) ? WEXITSTATUS(how) : -WTERMSIG(how);
    }
    return code_;
}

} // namespace haul_test
