/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/tools/program.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <spawn.h>
#include <sstream>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace
{

using Clock = std::chrono::steady_clock;

void Pause()
{
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

std::string ReadFile(const std::string &path)
{
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

} // namespace

std::string MakeDirectory()
{
    std::string path = ::testing::TempDir() + "/cli.XXXXXX";
    EXPECT_NE(mkdtemp(path.data()), nullptr) << path;
    return path;
}

Failing::Failing() : path_(MakeDirectory() + "/fails")
{
    setenv("HAUL_TEST_FAILS", path_.c_str(), 1);
}

Failing::~Failing()
{
    End();
    unsetenv("HAUL_TEST_FAILS");
}

void Failing::Begin(const std::string &what)
{
    std::ofstream(path_) << what;
}

void Failing::End()
{
    unlink(path_.c_str());
}

std::string Runfile(const std::string &path)
{
    const char *root = getenv("TEST_SRCDIR");
    const char *workspace = getenv("TEST_WORKSPACE");
    return root && workspace ? std::string(root) + "/" + workspace + "/" + path : path;
}

Program::Program(const Options &options, const std::vector<std::string> &arguments)
{
    std::string directory = MakeDirectory();
    out_ = directory + "/out";
    err_ = directory + "/err";
    std::vector<std::string> words = {Runfile("tools/haul/haul")};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char *> argv;
    for (std::string &word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);

    std::vector<std::string> variables = {"HAUL_STATE_DIR=" + options.state_directory, "TERM=xterm"};
    if (!options.preload.empty()) {
        variables.push_back("LD_PRELOAD=" + options.preload);
    }
    std::vector<char *> environment;
    for (std::string &variable : variables) {
        environment.push_back(variable.data());
    }
    for (char **variable = environ; *variable; variable++) {
        environment.push_back(*variable); /* later duplicates lose */
    }
    environment.push_back(nullptr);

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (options.error_fd >= 0) {
        posix_spawn_file_actions_adddup2(&actions, options.error_fd, 2);
    } else {
        posix_spawn_file_actions_addopen(&actions, 2, err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    }
    for (int fd : options.keep) {
        posix_spawn_file_actions_adddup2(&actions, fd, fd); /* takes close-on-exec away */
    }
    /* A test runner may have SIGINT ignored, and children inherit that. */
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGINT);
    sigaddset(&defaults, SIGHUP);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    int failure = posix_spawn(&pid_, argv[0], &actions, &attributes, argv.data(), environment.data());
    EXPECT_EQ(failure, 0) << argv[0];
    ended_ = failure != 0;
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
}

Program::~Program()
{
    if (!Ended()) {
        Signal(SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
}

bool Program::Ended()
{
    if (!ended_) {
        int status = 0;
        if (waitpid(pid_, &status, WNOHANG) == pid_) {
            ended_ = true;
            status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    }
    return ended_;
}

int Program::Wait(int seconds)
{
    auto end = Clock::now() + std::chrono::seconds(seconds);
    while (!Ended() && Clock::now() < end) {
        Pause();
    }
    if (!ended_) {
        Signal(SIGKILL);
        waitpid(pid_, nullptr, 0);
        ended_ = true;
    }
    return status_;
}

void Program::Signal(int number)
{
    kill(pid_, number);
}

std::string Program::Out() const
{
    return ReadFile(out_);
}

std::string Program::Err() const
{
    return ReadFile(err_);
}

bool Program::WaitFor(const std::string &text)
{
    auto end = Clock::now() + std::chrono::seconds(30);
    for (;;) {
        bool last = Ended() || Clock::now() > end;
        if (Err().find(text) != std::string::npos || Out().find(text) != std::string::npos) {
            return true;
        }
        if (last) {
            return false;
        }
        Pause();
    }
}

std::string Program::Address()
{
    const std::string lead = "listening on ";
    if (!WaitFor(lead)) {
        return "";
    }
    for (;;) { /* the line may be half there */
        std::string text = Err();
        size_t at = text.find(lead) + lead.size();
        size_t end = text.find('\n', at);
        if (end != std::string::npos) {
            return text.substr(at, end - at);
        }
        Pause();
    }
}

std::string WaitForRecord(const std::string &directory, const std::string &tail)
{
    for (auto end = Clock::now() + std::chrono::seconds(30); Clock::now() < end; Pause()) {
        DIR *listing = opendir(directory.c_str());
        if (!listing) {
            continue;
        }
        std::string id;
        for (struct dirent *entry; (entry = readdir(listing));) {
            std::string name = entry->d_name;
            if (name.size() == 32 + tail.size() && name.substr(32) == tail) {
                id = name.substr(0, 32);
            }
        }
        closedir(listing);
        if (!id.empty()) {
            return id;
        }
    }
    return "";
}
