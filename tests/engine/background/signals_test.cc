// SPDX-License-Identifier: Apache-2.0
// Signals are the application's: no thread of a migration takes one, but for what the thread does itself.
#include "tests/engine/background/background.h"
#include "tests/engine/move.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <sys/syscall.h>
#include <unistd.h>

using namespace haul_test;

namespace
{

// Looks at every thread that came to this process since, until the end.
class Watch
{
  public:
    Watch()
    {
        Look([this](int tid, const std::string &, uint64_t) { known_.insert(tid); });
        thread_ = std::thread([this] {
            int self = static_cast<int>(syscall(SYS_gettid));
            while (!done_) {
                Look([&](int tid, const std::string &name, uint64_t blocked) {
                    if (tid != self && !known_.count(tid)) {
                        Note(name, blocked);
                    }
                });
                usleep(1000);
            }
        });
    }
    ~Watch()
    {
        done_ = true;
        thread_.join();
    }
    // Whether a thread of this name comes, or is there.
    bool Sees(const std::string &name)
    {
        awaited_.insert(name);
        return Eventually([&] {
            std::lock_guard<std::mutex> hold(lock_);
            return seen_.count(name) > 0;
        });
    }
    void ExpectNoneTakesSignals()
    {
        std::lock_guard<std::mutex> hold(lock_);
        for (const auto &[name, blocked] : seen_) {
            for (int number : {SIGUSR1, SIGALRM, SIGPIPE, SIGTERM, SIGINT, SIGCHLD, SIGRTMIN, SIGRTMAX}) {
                EXPECT_TRUE(blocked >> (number - 1) & 1) << name << " takes signal " << number;
            }
        }
        for (const std::string &name : awaited_) { // these have come so far that their mask is their own
            for (int number : {SIGSEGV, SIGBUS}) {
                EXPECT_FALSE(seen_[name] >> (number - 1) & 1) << name << " crashes without signal " << number;
            }
        }
    }

  private:
    void Note(const std::string &name, uint64_t blocked)
    {
        std::lock_guard<std::mutex> hold(lock_);
        seen_.emplace(name, blocked).first->second &= blocked;
    }
    static void Look(const std::function<void(int, const std::string &, uint64_t)> &visit)
    {
        for (const auto &entry : std::filesystem::directory_iterator("/proc/self/task")) {
            std::ifstream status(entry.path() / "status");
            std::string name, blocked;
            for (std::string line; std::getline(status, line);) {
                if (line.rfind("Name:\t", 0) == 0) {
                    name = line.substr(6);
                } else if (line.rfind("SigBlk:\t", 0) == 0) {
                    blocked = line.substr(8);
                } else if (line == "Threads:\t0") { // it is ending: the kernel has no mask of it any more
                    break;
                }
            }
            if (!blocked.empty()) { // else it has ended meanwhile
                visit(std::stoi(entry.path().filename()), name, std::stoull(blocked, nullptr, 16));
            }
        }
    }
    std::set<int> known_;
    std::set<std::string> awaited_;
    std::mutex lock_;
    std::map<std::string, uint64_t> seen_; // blocked by all threads of that name
    std::atomic<bool> done_{false};
    std::thread thread_;
};

TEST(Signals, NoThreadOfAMoveTakesThem)
{
    Watch watch;
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.on_stop = [&] {
        for (const char *name :
             {"migration", "return-path", "multifdsend_0", "loader", "control", "multifdrecv_0"}) {
            EXPECT_TRUE(watch.Sees(name)) << name;
        }
    };
    haul_options options = Options();
    options.verify = true;
    Move move(from, to, options);
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    watch.ExpectNoneTakesSignals();
}

TEST_F(Snapshot, NoThreadTakesSignals)
{
    Watch watch;
    Make({4 * kMiB}, true);
    guest->on_stop = [&] {
        for (const char *name : {"bg-migration", "bg-save_0", "bg-faults"}) {
            EXPECT_TRUE(watch.Sees(name)) << name;
        }
    };
    EXPECT_EQ(Run(directory / "a"), 0) << end->message();
    watch.ExpectNoneTakesSignals();
}

} // namespace
