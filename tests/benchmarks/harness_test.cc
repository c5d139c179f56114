// SPDX-License-Identifier: Apache-2.0
// The benchmarks' Python: that each script starts, and that nothing of a run outlives it, however it ends.
#include "tests/tools/program.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <signal.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace
{

namespace fs = std::filesystem;

std::string Content(const fs::path &path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// One run of a script, with all that it writes in folders of its own.
class Script
{
  public:
    Script(const std::string &name, std::vector<std::string> words, bool folders = true)
    {
        if (folders) {
            words.insert(words.end(), {"--memory-dir", memory_});
        }
        words.insert(words.begin(), {"python3", Runfile("benchmarks/" + name)});
        pid_ = fork();
        if (pid_ == 0) {
            setenv("TMPDIR", temporary_.c_str(), 1);
            setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
            int out = open(output_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
            dup2(out, STDOUT_FILENO);
            dup2(out, STDERR_FILENO);
            signal(SIGINT, SIG_DFL);
            std::vector<char *> arguments;
            for (std::string &word : words) {
                arguments.push_back(word.data());
            }
            arguments.push_back(nullptr);
            execvp(arguments[0], arguments.data());
            _exit(127);
        }
    }
    ~Script()
    {
        if (!ended_) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
        std::error_code none;
        fs::remove_all(temporary_, none);
    }
    // False when it ends or two minutes pass before.
    bool Until(const std::function<bool()> &reached)
    {
        for (int i = 0; i < 12000 && !reached(); i++) {
            if (Ended()) {
                return false;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        return reached();
    }
    bool HasMemory(const std::string &tail) const
    {
        for (const fs::directory_entry &entry : fs::directory_iterator(memory_)) {
            std::string name = entry.path().filename();
            if (name.size() > tail.size() && name.substr(name.size() - tail.size()) == tail) {
                return true;
            }
        }
        return false;
    }
    void Signal(int number) const
    {
        kill(pid_, number);
    }
    // Exit status, 128 + signal, or -1 when it does not end.
    int Wait()
    {
        Until([] { return false; });
        return ended_ ? status_ : -1;
    }
    std::string Output() const
    {
        return Content(output_);
    }
    // What it left behind: files, and processes that were told of its folders. One that looks after a haul
    // that was killed needs a moment to see that there is nothing to do.
    std::vector<std::string> Left() const
    {
        std::vector<std::string> left;
        for (const std::string &folder : {memory_, temporary_}) {
            for (const fs::directory_entry &entry : fs::directory_iterator(folder)) {
                left.push_back(entry.path());
            }
        }
        for (int i = 0; i < 300 && !Processes().empty(); i++) {
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
        }
        for (const std::string &process : Processes()) {
            left.push_back(process);
        }
        return left;
    }

  private:
    std::vector<std::string> Processes() const
    {
        std::vector<std::string> found;
        std::error_code none;
        for (const fs::directory_entry &entry : fs::directory_iterator("/proc", none)) {
            std::string line = Content(entry.path() / "cmdline");
            if (line.find(memory_) != std::string::npos || line.find(temporary_) != std::string::npos) {
                found.push_back(line);
            }
        }
        return found;
    }
    bool Ended()
    {
        int status = 0;
        if (!ended_ && waitpid(pid_, &status, WNOHANG) == pid_) {
            ended_ = true;
            status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        return ended_;
    }
    static std::string ShortDirectory() // a socket's path is short
    {
        char path[] = "/tmp/haul-harness-XXXXXX";
        EXPECT_NE(nullptr, mkdtemp(path));
        return path;
    }
    const std::string memory_ = MakeDirectory(), temporary_ = ShortDirectory(),
                      output_ = MakeDirectory() + "/output";
    pid_t pid_ = -1;
    bool ended_ = false;
    int status_ = -1;
};

const std::vector<std::string> kNone;

class Harness : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (system("qemu-system-x86_64 --version > /dev/null 2>&1") != 0) {
            GTEST_SKIP() << "qemu-system-x86_64 is not installed";
        }
    }
    static std::vector<std::string> Words(const std::string &repeat)
    {
        return {"--haul", Runfile("tools/haul/haul"), "--sizes", "32", "--repeat", repeat};
    }
};

TEST(Benchmarks, EachTellsWhatItMeasures)
{
    unsigned count = 0;
    for (const fs::directory_entry &entry : fs::directory_iterator(Runfile("benchmarks"))) {
        std::string name = entry.path().filename();
        if (entry.path().extension() != ".py" ||
            Content(entry.path()).find("__main__") == std::string::npos) {
            continue;
        }
        Script script(name, {"--help"}, false);
        EXPECT_EQ(0, script.Wait()) << name << ": " << script.Output();
        EXPECT_NE(std::string::npos, script.Output().find("--json FILE")) << script.Output();
        count++;
    }
    EXPECT_GE(count, 9u);
}

TEST_F(Harness, ARunPrintsItsRowsAndLeavesNothing)
{
    std::string json = MakeDirectory() + "/rows.json";
    std::vector<std::string> words = Words("1");
    words.insert(words.end(), {"--json", json});
    Script script("same_host.py", words);
    EXPECT_EQ(0, script.Wait()) << script.Output();
    for (const char *way : {"handed", "same", "copied", "qemu"}) {
        EXPECT_NE(std::string::npos, script.Output().find(std::string("32  ") + way)) << script.Output();
    }
    EXPECT_NE(std::string::npos, Content(json).find("downtime_ms")) << Content(json);
    EXPECT_EQ(kNone, script.Left());
}

TEST_F(Harness, AFailureLeavesNothing)
{
    Script script("same_host.py", {"--haul", "/bin/false", "--sizes", "32"});
    EXPECT_EQ(1, script.Wait()) << script.Output();
    EXPECT_NE(std::string::npos, script.Output().find("haul receive did not listen")) << script.Output();
    EXPECT_EQ(kNone, script.Left());
}

TEST_F(Harness, ASignalLeavesNothing)
{
    for (int number : {SIGINT, SIGTERM, SIGHUP}) {
        for (const char *moment : {"-state", "-new"}) { // as early as can be, and in the middle of a move
            Script script("same_host.py", Words("100000"));
            ASSERT_TRUE(script.Until([&] { return script.HasMemory(moment); })) << script.Output();
            script.Signal(number);
            EXPECT_EQ(128 + number, script.Wait()) << script.Output();
            EXPECT_EQ(kNone, script.Left()) << number << " at " << moment;
            EXPECT_EQ(std::string::npos, script.Output().find("Traceback")) << script.Output();
        }
    }
}

} // namespace
