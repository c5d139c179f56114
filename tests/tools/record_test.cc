#include "tools/session/orders.h"
#include "tools/session/record.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace
{

std::function<void()> before_listening;

} // namespace

extern "C" int listen(int fd, int backlog) noexcept
{
    if (before_listening) {
        before_listening();
    }
    return (int)syscall(SYS_listen, fd, backlog);
}

namespace
{

class Record : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        std::string pattern = ::testing::TempDir() + "record.XXXXXX";
        base_ = pattern;
        ASSERT_NE(mkdtemp(base_.data()), nullptr);
        directory_ = base_ + "/state";
        setenv("HAUL_STATE_DIR", directory_.c_str(), 1);
    }
    void TearDown() override
    {
        haul_store_close(store_);
        std::string command = "rm -rf '" + base_ + "'";
        EXPECT_EQ(system(command.c_str()), 0);
    }
    void Open()
    {
        ASSERT_EQ(haul_store_open(&store_, &error_), 0) << error_.message;
    }
    static haul_record Sample(const char *id, bool source, const char *step)
    {
        haul_record record = {};
        strcpy(record.id, id);
        record.source = source;
        strcpy(record.step, step);
        strcpy(record.peer, "tcp:[::1]:7000");
        strcpy(record.machine, "memory");
        strcpy(record.locator, "/dev/shm/a \"quoted\" path");
        record.haul_pid = getpid();
        record.haul_start = haul_record_process_start(getpid());
        return record;
    }
    void Write(const haul_record &record)
    {
        haul_record copy = record;
        ASSERT_EQ(haul_record_write(store_, &copy, &error_), 0) << error_.message;
    }
    std::vector<haul_record> List()
    {
        haul_record *records = nullptr;
        size_t count = 0;
        EXPECT_EQ(haul_record_list(store_, &records, &count, &error_), 0) << error_.message;
        std::vector<haul_record> list(records, records + count);
        free(records);
        return list;
    }
    haul_record Only()
    {
        std::vector<haul_record> list = List();
        EXPECT_EQ(list.size(), 1u);
        return list.empty() ? haul_record{} : list[0];
    }
    /* What it does to this process and its user stays in a child. */
    template <typename Function> static void ExpectTrueInAChild(Function function)
    {
        pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            _exit(function() ? 0 : 1);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_EQ(status, 0);
    }
    static constexpr const char *kId = "0123456789abcdef0123456789abcdef";
    std::string base_, directory_;
    haul_store *store_ = nullptr;
    haul_error error_ = {};
};

TEST_F(Record, ComesBackAsItWasWritten)
{
    Open();
    Write(Sample(kId, true, HAUL_RECORDED_SENDING));
    haul_record read = Only();
    EXPECT_STREQ(read.id, kId);
    EXPECT_TRUE(read.source);
    EXPECT_STREQ(read.step, "handover-sending");
    EXPECT_STREQ(read.peer, "tcp:[::1]:7000");
    EXPECT_STREQ(read.machine, "memory");
    EXPECT_STREQ(read.locator, "/dev/shm/a \"quoted\" path");
    EXPECT_TRUE(haul_record_process_alive(read.haul_pid, read.haul_start));
    EXPECT_EQ(strlen(read.time), strlen("2024-01-01T00:00:00Z"));
}

/* Paths are bytes, JSON is UTF-8: what finds the machine again must come back as it was. */
TEST_F(Record, PathsOfAnyBytesComeBackAsTheyWereWritten)
{
    Open();
    haul_record written = Sample(kId, true, HAUL_RECORDED_SENDING);
    std::string peer = "file:/\xff\xfe" + std::string(sizeof written.peer - 10, 'x') + "\xc3";
    std::string locator = "/tmp/caf\xe9\x01\t\x80";
    ASSERT_EQ(peer.size(), sizeof written.peer - 1);
    strcpy(written.peer, peer.c_str());
    strcpy(written.locator, locator.c_str());
    Write(written);
    haul_record read = Only();
    EXPECT_EQ(read.peer, peer);
    EXPECT_EQ(read.locator, locator);
}

TEST_F(Record, BytesThatAreNotHexadecimalAreNoRecord)
{
    Open();
    for (const char *hex : {"2f7", "2g", "2F", "00", "-1"}) {
        std::ofstream(directory_ + "/" + kId + ".source.json")
            << R"({"version": 1, "id": ")" << kId
            << R"(", "side": "source", "step": "uncertain", "time": "t", "machine": "memory", "peer": "?",)"
            << R"("locator": "?", "locator-hex": ")" << hex << R"(", "haul-pid": 1, "haul-start": 1})";
        EXPECT_EQ(List().size(), 0u) << hex;
    }
}

TEST_F(Record, IsPrivateAndLeavesNoOtherFile)
{
    Open();
    Write(Sample(kId, false, HAUL_RECORDED_RECEIVED));
    struct stat status;
    ASSERT_EQ(stat(directory_.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0700u);
    std::string file = directory_ + "/" + kId + ".destination.json";
    ASSERT_EQ(stat(file.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
    EXPECT_NE(access((file + ".new").c_str(), F_OK), 0);
}

TEST_F(Record, ATrialLeavesNothing)
{
    Open();
    EXPECT_EQ(haul_record_try(store_, &error_), 0) << error_.message;
    EXPECT_EQ(rmdir(directory_.c_str()), 0) << strerror(errno);
    EXPECT_EQ(haul_record_try(store_, &error_), -ENOENT);
    EXPECT_NE(std::string(error_.message).find("cannot be written"), std::string::npos) << error_.message;
}

TEST_F(Record, ATrialOfTheSocketForOrdersLeavesNothingAndFindsWhatIsInItsWay)
{
    Open();
    EXPECT_EQ(haul_orders_try(store_, &error_), 0) << error_.message;
    EXPECT_EQ(rmdir(directory_.c_str()), 0) << strerror(errno);
    EXPECT_EQ(haul_orders_try(store_, &error_), -ENOENT);
    EXPECT_NE(std::string(error_.message).find("no socket can be made in state directory " + directory_),
              std::string::npos)
        << error_.message;
}

/* Who asks before takes it for one that a killed process left, and removes it. */
TEST_F(Record, TheSocketForOrdersGetsItsNameOnceSomebodyListens)
{
    Open();
    const std::string path = directory_ + "/" + kId + ".source.sock";
    bool named = true;
    before_listening = [&] { named = access(path.c_str(), F_OK) == 0; };
    haul_orders *orders = nullptr;
    ASSERT_EQ(haul_orders_open(store_, kId, true, &orders, &error_), 0) << error_.message;
    before_listening = nullptr;
    EXPECT_FALSE(named);
    EXPECT_EQ(access(path.c_str(), F_OK), 0);
    haul_orders_close(orders);
    EXPECT_EQ(rmdir(directory_.c_str()), 0) << strerror(errno);
}

TEST_F(Record, BothSidesOfAMoveOnOneHostKeepTheirOwn)
{
    Open();
    Write(Sample(kId, true, HAUL_RECORDED_SENDING));
    Write(Sample(kId, false, HAUL_RECORDED_RUNNING));
    EXPECT_EQ(List().size(), 2u);
    EXPECT_EQ(haul_record_remove(store_, kId, true, &error_), 0);
    EXPECT_EQ(List().size(), 1u);
    EXPECT_EQ(haul_record_remove(store_, kId, true, &error_), 0) << "removing twice is no error";
}

TEST_F(Record, ForeignAndDamagedFilesArePassedOver)
{
    Open();
    std::ofstream(directory_ + "/notes.txt") << "hello";
    std::ofstream(directory_ + "/" + kId + ".source.json") << "{\"version\": 1, \"id\":";
    std::ofstream(directory_ + "/" + kId + ".destination.json") << "[1, 2]";
    EXPECT_EQ(List().size(), 0u);
}

TEST_F(Record, ARecordUnderAnotherNameIsNoRecord)
{
    Open();
    Write(Sample(kId, true, HAUL_RECORDED_SENDING));
    std::string from = directory_ + "/" + kId + ".source.json";
    std::string to = directory_ + "/ffffffffffffffffffffffffffffffff.source.json";
    ASSERT_EQ(rename(from.c_str(), to.c_str()), 0);
    EXPECT_EQ(List().size(), 0u);
}

TEST_F(Record, ADirectoryThatOthersCanWriteIsRefused)
{
    ASSERT_EQ(mkdir(directory_.c_str(), 0700), 0);
    ASSERT_EQ(chmod(directory_.c_str(), 0770), 0);
    EXPECT_EQ(haul_store_open(&store_, &error_), -EPERM);
    EXPECT_NE(strstr(error_.message, "chmod it to 700"), nullptr) << error_.message;
}

TEST_F(Record, AFileInPlaceOfTheDirectoryIsRefused)
{
    std::ofstream(directory_) << "x";
    EXPECT_EQ(haul_store_open(&store_, &error_), -ENOTDIR);
    EXPECT_NE(strstr(error_.message, directory_.c_str()), nullptr) << error_.message;
}

TEST_F(Record, AMissingParentIsSaidPlainly)
{
    setenv("HAUL_STATE_DIR", (base_ + "/a/b").c_str(), 1);
    EXPECT_EQ(haul_store_open(&store_, &error_), -ENOENT);
    EXPECT_NE(strstr(error_.message, "HAUL_STATE_DIR"), nullptr) << error_.message;
}

TEST_F(Record, ADirectoryThatVanishedFailsTheWrite)
{
    Open();
    ASSERT_EQ(rmdir(directory_.c_str()), 0);
    haul_record record = Sample(kId, true, HAUL_RECORDED_SENDING);
    EXPECT_EQ(haul_record_write(store_, &record, &error_), -ENOENT);
    EXPECT_NE(strstr(error_.message, "record"), nullptr) << error_.message;
}

/* A full disk, played by a file size limit: the write fails half way, and the older record must survive. */
TEST_F(Record, AFailedWriteLeavesTheOlderRecord)
{
    Open();
    Write(Sample(kId, true, HAUL_RECORDED_SENDING));
    ExpectTrueInAChild([&] {
        signal(SIGXFSZ, SIG_IGN);
        struct rlimit limit = {10, 10};
        setrlimit(RLIMIT_FSIZE, &limit);
        haul_record record = Sample(kId, true, HAUL_RECORDED_UNCERTAIN);
        return haul_record_write(store_, &record, &error_) == -EFBIG;
    });
    EXPECT_STREQ(Only().step, HAUL_RECORDED_SENDING);
    EXPECT_NE(access((directory_ + "/" + kId + ".source.json.new").c_str(), F_OK), 0);
}

TEST_F(Record, PruneTakesOnlyOldDestinationsThatRan)
{
    Open();
    Write(Sample(kId, true, HAUL_RECORDED_UNCERTAIN));
    Write(Sample(kId, false, HAUL_RECORDED_RUNNING));
    Write(Sample("ffffffffffffffffffffffffffffffff", false, HAUL_RECORDED_RECEIVED));
    haul_record_prune(store_, 3600);
    EXPECT_EQ(List().size(), 3u);
    haul_record_prune(store_, -10);
    EXPECT_EQ(List().size(), 2u);
}

TEST_F(Record, WithoutAnyDirectoryTheVariablesAreNamed)
{
    ExpectTrueInAChild([&] {
        unsetenv("HAUL_STATE_DIR");
        unsetenv("XDG_RUNTIME_DIR");
        return (geteuid() != 0 || seteuid(65534) == 0) && haul_store_open(&store_, &error_) == -ENOENT &&
               strstr(error_.message, "XDG_RUNTIME_DIR");
    });
}

TEST(Process, IsKnownByItsStartTime)
{
    uint64_t start = haul_record_process_start(getpid());
    EXPECT_NE(start, 0u);
    EXPECT_TRUE(haul_record_process_alive(getpid(), start));
    EXPECT_FALSE(haul_record_process_alive(getpid(), start + 1)) << "a reused pid";
    EXPECT_FALSE(haul_record_process_alive(0, 0));
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        _exit(0);
    }
    siginfo_t info;
    ASSERT_EQ(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    EXPECT_EQ(haul_record_process_start(child), 0u) << "a zombie runs nothing";
    waitpid(child, nullptr, 0);
}

} // namespace
