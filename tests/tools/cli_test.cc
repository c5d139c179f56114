/* SPDX-License-Identifier: Apache-2.0 */
/* The program without a move: usage, help, and what resume and abandon make of records. */
#include "engine/haul.h"
#include "tests/tools/program.h"
#include "tools/session/record.h"

#include <gtest/gtest.h>
#include <jansson.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace
{

class Cli : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        options_.state_directory = MakeDirectory();
    }
    /* Runs to the end; keeps both outputs. */
    int Run(const std::vector<std::string> &arguments)
    {
        Program program(options_, arguments);
        int status = program.Wait();
        out_ = program.Out();
        err_ = program.Err();
        return status;
    }
    void ExpectUsageError(const std::vector<std::string> &arguments, const std::string &line)
    {
        EXPECT_EQ(Run(arguments), 2) << line;
        EXPECT_EQ(err_, line + "\n");
        EXPECT_EQ(out_, "");
    }
    /* Writes a record as a dead haul would have left it. */
    void Record(const char *id, bool source, const char *step, const char *machine,
                const std::string &locator, bool alive = false)
    {
        setenv("HAUL_STATE_DIR", options_.state_directory.c_str(), 1);
        haul_store *store = nullptr;
        haul_error error = {};
        ASSERT_EQ(haul_store_open(&store, &error), 0) << error.message;
        haul_record record = {};
        snprintf(record.id, sizeof record.id, "%s", id);
        snprintf(record.step, sizeof record.step, "%s", step);
        snprintf(record.machine, sizeof record.machine, "%s", machine);
        snprintf(record.locator, sizeof record.locator, "%s", locator.c_str());
        snprintf(record.peer, sizeof record.peer, "tcp:peer:7000");
        record.source = source;
        record.haul_pid = getpid();
        record.haul_start = haul_record_process_start(getpid()) + (alive ? 0 : 1);
        ASSERT_EQ(haul_record_write(store, &record, &error), 0) << error.message;
        haul_store_close(store);
    }
    bool HasRecord(const char *id, const char *side)
    {
        std::string path = options_.state_directory + "/" + id + "." + side + ".json";
        return access(path.c_str(), F_OK) == 0;
    }
    static constexpr const char *kFirst = "11111111111111111111111111111111";
    static constexpr const char *kSecond = "22222222222222222222222222222222";
    Program::Options options_;
    std::string out_, err_;
};

/* ---- usage and help ---- */

TEST_F(Cli, VersionAndGeneralHelp)
{
    EXPECT_EQ(Run({"--version"}), 0);
    EXPECT_EQ(out_, "haul " HAUL_VERSION "\n");
    for (const std::vector<std::string> &words :
         {std::vector<std::string>{"help"}, {"help", "help"}, {"help", "--help"}, {"--help"}, {"-h"}}) {
        EXPECT_EQ(Run(words), 0);
        for (const char *command : {"send", "receive", "topology", "resume", "abandon", "help"}) {
            EXPECT_NE(out_.find(std::string("\n  ") + command + " "), std::string::npos) << command;
        }
        EXPECT_EQ(err_, "");
    }
}

TEST_F(Cli, AnswersThatNobodyGetsAreAFailure)
{
    std::string haul = Runfile("tools/haul/haul");
    std::string said = MakeDirectory() + "/said";
    for (const char *words : {" --version", " help", " help send", " topology"}) {
        int status = system((haul + words + " >/dev/full 2>" + said).c_str());
        EXPECT_EQ(WEXITSTATUS(status), 1) << words;
        std::ifstream file(said);
        std::string line;
        std::getline(file, line);
        EXPECT_EQ(line, "haul: standard output cannot be written: No space left on device") << words;
    }
}

TEST_F(Cli, HelpOfEachCommandIsTheSameBothWays)
{
    for (const char *command :
         {"send", "receive", "snapshot", "restore", "inspect", "topology", "resume", "abandon", "daemon",
          "query", "set", "cancel", "continue", "watch", "relay"}) {
        EXPECT_EQ(Run({"help", command}), 0);
        std::string text = out_;
        EXPECT_EQ(text.rfind(std::string("Usage: haul ") + command, 0), 0u) << text;
        EXPECT_NE(text.find("\nExamples:\n  "), std::string::npos) << text;
        EXPECT_NE(text.find(std::string("\n    haul ") + command), std::string::npos)
            << "none shows the command: " << text;
        EXPECT_EQ(Run({command, "--help"}), 0);
        EXPECT_EQ(out_, text);
    }
}

TEST_F(Cli, WrongUsageIsOneSentenceAndExitStatus2)
{
    ExpectUsageError({},
                     "haul: say what to do: send, receive, query, watch or another command; try 'haul help'");
    ExpectUsageError({"fly"}, "haul: there is no command 'fly'; try 'haul help'");
    ExpectUsageError({"help", "fly"}, "haul: there is no command 'fly'; try 'haul help'");
    ExpectUsageError({"--json", "send"},
                     "haul: unknown option '--json'; the command comes first; try 'haul help'");
    ExpectUsageError({"send", "tcp:a:1", "--guest", "--fast"},
                     "haul: unknown option '--fast'; try 'haul help send'");
    ExpectUsageError({"send", "tcp:a:1", "--guest", "--channels", "0"},
                     "haul: option --channels takes a number from 1 to 128, not '0'; try 'haul help send'");
    ExpectUsageError({"send", "tcp:a:1", "--guest", "--channels"},
                     "haul: option --channels needs a value: --channels N; try 'haul help send'");
    ExpectUsageError(
        {"receive", "--listen", "tcp:a:1", "--guest", "--qemu", "q"},
        "haul: options --qemu and --guest exclude each other: one machine moves at a time; try 'haul help "
        "receive'");
    ExpectUsageError({"resume", "a", "b"}, "haul: 'b' is one word too many; try 'haul help resume'");
    ExpectUsageError(
        {"topology", "--placement", "x"},
        "haul: option --placement takes auto, none or a CPU list such as 0-3,8, not 'x'; try 'haul help "
        "topology'");
}

TEST_F(Cli, WrongUsageIsAJsonObjectWhereOneWasAskedFor)
{
    for (const std::vector<std::string> &words :
         {std::vector<std::string>{"send", "--json", "--guest", "nowhere"},
          std::vector<std::string>{"send", "tcp:127.0.0.1:1", "--guest", "--channels", "0", "--json"},
          std::vector<std::string>{"receive", "--no-such-option", "--json"}}) {
        EXPECT_EQ(Run(words), 2);
        json_t *json = json_loads(out_.c_str(), JSON_REJECT_DUPLICATES, nullptr);
        ASSERT_NE(json, nullptr) << out_;
        EXPECT_STREQ(json_string_value(json_object_get(json, "status")), "failed");
        std::string reason = json_string_value(json_object_get(json, "error-desc"));
        EXPECT_NE(reason, "");
        EXPECT_EQ(err_.rfind("haul: " + reason + "; try 'haul help", 0), 0u) << err_;
        json_t *error = json_object_get(json, "error");
        EXPECT_STREQ(json_string_value(json_object_get(error, "code")), "EINVAL");
        EXPECT_EQ(json_string_value(json_object_get(error, "desc")), reason);
        json_decref(json);
    }
}

TEST_F(Cli, TheManualKnowsEveryOptionThatHelpKnows)
{
    std::ifstream file(Runfile("docs/haul.1"));
    std::string manual((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    ASSERT_FALSE(manual.empty());
    unsigned seen = 0;
    for (const char *command : {"send", "receive", "snapshot", "topology", "resume", "abandon"}) {
        EXPECT_EQ(Run({"help", command}), 0);
        for (size_t at = 0; (at = out_.find("--", at)) != std::string::npos; at += 2) {
            size_t line = out_.rfind('\n', at);
            if (out_.find_first_not_of(' ', line + 1) != at) {
                continue; /* in a sentence */
            }
            std::string name = out_.substr(at + 2, out_.find_first_of(" \n", at) - at - 2);
            EXPECT_NE(manual.find("Fl Fl " + name), std::string::npos) << name;
            seen++;
        }
        EXPECT_NE(manual.find(std::string(".Cm ") + command), std::string::npos) << command;
    }
    EXPECT_GT(seen, 30u);
}

TEST_F(Cli, TheManualFormatsWithoutAWarning)
{
    if (system("command -v groff >/dev/null") != 0) {
        GTEST_SKIP() << "groff is not installed";
    }
    std::string command = "groff -mdoc -Tutf8 -ww '" + Runfile("docs/haul.1") + "' 2>&1 >/dev/null";
    FILE *pipe = popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    char text[1000];
    size_t length = fread(text, 1, sizeof text, pipe);
    EXPECT_EQ(pclose(pipe), 0);
    EXPECT_EQ(std::string(text, length), "");
}

TEST_F(Cli, TopologyShowsNodesAndThePlan)
{
    EXPECT_EQ(Run({"topology", "--channels", "3", "--placement", "none", "--to", "127.0.0.1"}), 0) << err_;
    EXPECT_NE(out_.find("NUMA node"), std::string::npos) << out_;
    EXPECT_NE(out_.find("The way to 127.0.0.1: lo"), std::string::npos) << out_;
    EXPECT_NE(out_.find("Placement of 3 channels"), std::string::npos) << out_;
    EXPECT_EQ(Run({"topology", "--placement", "4095"}), 1);
    EXPECT_NE(err_.find("4095"), std::string::npos) << err_;
}

/* ---- failures before a move ---- */

TEST_F(Cli, NobodyListensIsOneSentenceAndExitStatus1)
{
    EXPECT_EQ(
        Run({"send", "tcp:127.0.0.1:1", "--guest", "--guest-memory", "1M", "--run-for", "0", "--quiet"}), 1);
    EXPECT_NE(err_.find("haul: "), std::string::npos) << err_;
    EXPECT_NE(err_.find("tcp:127.0.0.1:1: connection refused"), std::string::npos) << err_;
    EXPECT_EQ(std::count(err_.begin(), err_.end(), '\n'), 1) << err_;
    EXPECT_EQ(out_.rfind("Not moved (failed): the guest goes on here.\n", 0), 0u) << out_;
}

TEST_F(Cli, AWrongAddressSaysWhatToDo)
{
    auto fails = [&](const std::vector<std::string> &words, const std::string &sentence) {
        std::vector<std::string> all = words;
        all.insert(all.end(), {"--guest", "--guest-memory", "1M", "--run-for", "0", "--quiet"});
        EXPECT_EQ(Run(all), 1);
        EXPECT_NE(err_.find("haul: " + sentence), std::string::npos) << err_;
    };
    fails({"receive", "--listen", "tcp:192.0.2.1:0"}, "listening on tcp:192.0.2.1:0: this host does not have "
                                                      "that address; `ip address` lists those it has, "
                                                      "and tcp:0.0.0.0:PORT is all of them\n");
    fails({"receive", "--listen", "unix:/no/such/folder/s"},
          "listening on unix:/no/such/folder/s: the folder does not exist; make it first\n");
    fails({"send", "unix:/no/such/folder/s"}, "connecting to unix:/no/such/folder/s: ");
    std::string nobody(64, 'a'); // too long to ask a name server for
    fails({"send", "tcp:" + nobody + ":1"},
          "tcp:" + nobody + ":1: the host \"" + nobody + "\" is not known: ");
    EXPECT_NE(err_.find("; check the name, or give its address\n"), std::string::npos) << err_;
}

TEST_F(Cli, AFailureIsOneJsonObjectToo)
{
    EXPECT_EQ(Run({"send", "tcp:127.0.0.1:1", "--guest", "--guest-memory", "1M", "--run-for", "0", "--json"}),
              1);
    json_t *json = json_loads(out_.c_str(), JSON_REJECT_DUPLICATES, nullptr);
    ASSERT_NE(json, nullptr) << out_;
    const char *status, *ownership, *code;
    ASSERT_EQ(json_unpack(json, "{s:s s:s s:{s:s}}", "status", &status, "ownership", &ownership, "error",
                          "code", &code),
              0)
        << out_;
    EXPECT_STREQ(status, "failed");
    EXPECT_STREQ(ownership, "source");
    EXPECT_STREQ(code, "ECONNREFUSED");
    json_decref(json);
}

TEST_F(Cli, AMachineThatIsNotThereFailsBothSides)
{
    EXPECT_EQ(Run({"send", "tcp:127.0.0.1:1", "--qemu", "/no/such/qmp"}), 1);
    EXPECT_NE(err_.find("/no/such/qmp"), std::string::npos) << err_;
    EXPECT_EQ(Run({"receive", "--listen", "tcp:127.0.0.1:0", "--memory", "/no/such/file"}), 1);
    EXPECT_EQ(
        err_.rfind(
            "haul: there is no file /no/such/file; make it with the source's size, or let haul receive do "
            "so: --memory-size SIZE\n",
            0),
        0u)
        << err_;
    EXPECT_EQ(out_.rfind("Not received (failed): the memory stays with the source.\n", 0), 0u) << out_;
}

TEST_F(Cli, AStateDirectoryThatCannotBeWrittenFailsAtOnce)
{
    options_.state_directory = "/proc/no/such";
    EXPECT_EQ(Run({"send", "tcp:127.0.0.1:1", "--guest", "--guest-memory", "1M"}), 1);
    EXPECT_NE(err_.find("haul: state directory /proc/no/such cannot be made"), std::string::npos) << err_;
}

/* ---- resume and abandon ---- */

TEST_F(Cli, NothingRecordedIsSaid)
{
    for (const char *command : {"resume", "abandon"}) {
        EXPECT_EQ(Run({command}), 1);
        EXPECT_EQ(err_, "haul: no uncertain move is recorded in " + options_.state_directory + "\n");
        EXPECT_EQ(Run({command, "abc"}), 1);
        EXPECT_EQ(err_, "haul: no uncertain move abc is recorded in " + options_.state_directory + "\n");
    }
    EXPECT_EQ(Run({"resume", "--list"}), 0);
    EXPECT_EQ(out_, "no move is recorded in " + options_.state_directory + "\n");
}

TEST_F(Cli, SeveralMovesAreListedAndNoneIsTouched)
{
    Record(kFirst, true, HAUL_RECORDED_SENDING, "guest", "guest");
    Record(kSecond, false, HAUL_RECORDED_RECEIVED, "guest", "guest");
    EXPECT_EQ(Run({"abandon"}), 1);
    EXPECT_NE(err_.find("haul: no ID given; uncertain moves: "), std::string::npos) << err_;
    EXPECT_NE(err_.find(std::string(kFirst) + ".source (guest, handover-sending, "), std::string::npos)
        << err_;
    EXPECT_NE(err_.find(std::string(kSecond) + ".destination (guest, handover-received, "), std::string::npos)
        << err_;
    EXPECT_EQ(Run({"resume", "--list"}), 0);
    EXPECT_EQ(std::count(out_.begin(), out_.end(), '\n'), 2) << out_;
    EXPECT_TRUE(HasRecord(kFirst, "source"));
    EXPECT_TRUE(HasRecord(kSecond, "destination"));
}

TEST_F(Cli, TheBeginningOfAnIdIsEnough)
{
    Record(kFirst, true, HAUL_RECORDED_SENDING, "guest", "guest");
    Record(kSecond, true, HAUL_RECORDED_SENDING, "guest", "guest");
    EXPECT_EQ(Run({"abandon", "22"}), 0) << err_;
    EXPECT_NE(out_.find("had ended with the process"), std::string::npos) << out_;
    EXPECT_TRUE(HasRecord(kFirst, "source"));
    EXPECT_FALSE(HasRecord(kSecond, "source"));
}

TEST_F(Cli, BothSidesOnOneHostAreToldApartBySuffix)
{
    Record(kFirst, true, HAUL_RECORDED_UNCERTAIN, "guest", "guest");
    Record(kFirst, false, HAUL_RECORDED_RECEIVED, "guest", "guest");
    EXPECT_EQ(Run({"abandon", kFirst}), 1);
    EXPECT_NE(err_.find("that ID names more than one"), std::string::npos) << err_;
    EXPECT_EQ(Run({"abandon", std::string(kFirst) + ".destination"}), 0) << err_;
    EXPECT_TRUE(HasRecord(kFirst, "source"));
    EXPECT_FALSE(HasRecord(kFirst, "destination"));
}

TEST_F(Cli, AGuestThatDiedWithItsProcessCannotBeResumed)
{
    Record(kFirst, true, HAUL_RECORDED_SENDING, "guest", "guest");
    EXPECT_EQ(Run({"resume"}), 1);
    EXPECT_NE(err_.find("only haul abandon is left"), std::string::npos) << err_;
    EXPECT_TRUE(HasRecord(kFirst, "source"));
}

TEST_F(Cli, AHandoverUnderWayIsLeftAlone)
{
    Record(kFirst, true, HAUL_RECORDED_SENDING, "guest", "guest", true);
    for (const char *command : {"resume", "abandon"}) {
        EXPECT_EQ(Run({command}), 1);
        EXPECT_NE(err_.find("is still being handed over by process"), std::string::npos) << err_;
    }
    EXPECT_TRUE(HasRecord(kFirst, "source"));
}

TEST_F(Cli, WhatRunsAtTheDestinationIsNotResumedAtTheSource)
{
    Record(kFirst, true, HAUL_RECORDED_UNCERTAIN, "qemu", "/no/such/qmp");
    Record(kFirst, false, HAUL_RECORDED_RUNNING, "qemu", "/no/other/qmp");
    EXPECT_EQ(Run({"resume", kFirst}), 1);
    EXPECT_NE(err_.find("runs already, at the destination on this same host"), std::string::npos) << err_;
}

TEST_F(Cli, ADestinationThatRunsItsGuestHasNothingUncertain)
{
    Record(kFirst, false, HAUL_RECORDED_RUNNING, "qemu", "/no/such/qmp");
    EXPECT_EQ(Run({"resume"}), 1);
    EXPECT_NE(err_.find("nothing is uncertain here; moves whose guest runs here: "), std::string::npos)
        << err_;
    EXPECT_EQ(Run({"abandon", kFirst}), 1);
    EXPECT_TRUE(HasRecord(kFirst, "destination"));
}

TEST_F(Cli, AQemuThatIsGoneKeepsItsRecord)
{
    Record(kFirst, true, HAUL_RECORDED_SENDING, "qemu", "/no/such/qmp");
    EXPECT_EQ(Run({"resume", "--qemu", "/no/such/qmp"}), 1);
    EXPECT_NE(err_.find("/no/such/qmp"), std::string::npos) << err_;
    EXPECT_TRUE(HasRecord(kFirst, "source"));
}

/* A process as haul leaves it after an uncertain move: stopped, its memory in a file. */
class Stopped
{
  public:
    Stopped()
    {
        path_ = "/dev/shm/haul-cli-test-" + std::to_string(getpid());
        int fd = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        EXPECT_EQ(ftruncate(fd, 65536), 0);
        void *memory = mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        pid_ = fork();
        if (pid_ == 0) {
            for (;;) {
                pause();
            }
        }
        munmap(memory, 65536);
        kill(pid_, SIGSTOP);
        int status;
        waitpid(pid_, &status, WUNTRACED);
    }
    ~Stopped()
    {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
        unlink(path_.c_str());
    }
    std::string Locator() const
    {
        return std::to_string(pid_) + " " + std::to_string(haul_record_process_start(pid_)) + " " + path_;
    }
    bool Continued() const
    {
        int status = 0;
        return waitpid(pid_, &status, WCONTINUED | WNOHANG) == pid_ && WIFCONTINUED(status);
    }

  private:
    std::string path_;
    pid_t pid_;
};

TEST_F(Cli, ResumeLetsAStoppedWriterGoOn)
{
    Stopped writer;
    Record(kFirst, true, HAUL_RECORDED_UNCERTAIN, "memory", writer.Locator());
    EXPECT_EQ(Run({"resume"}), 0) << err_;
    EXPECT_NE(out_.find("goes on"), std::string::npos) << out_;
    EXPECT_TRUE(writer.Continued());
    EXPECT_FALSE(HasRecord(kFirst, "source"));
}

TEST_F(Cli, AbandonLeavesAStoppedWriterStopped)
{
    Stopped writer;
    Record(kFirst, true, HAUL_RECORDED_UNCERTAIN, "memory", writer.Locator());
    EXPECT_EQ(Run({"abandon", kFirst}), 0) << err_;
    EXPECT_NE(out_.find("was given up"), std::string::npos) << out_;
    EXPECT_FALSE(writer.Continued());
    EXPECT_FALSE(HasRecord(kFirst, "source"));
}

} // namespace
