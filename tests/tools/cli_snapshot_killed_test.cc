/* SPDX-License-Identifier: Apache-2.0 */
/* haul snapshot of a process, one of which is killed at each moment that no signal from outside would meet:
 * see also CliSnapshotEnd. Its guardian lets a process go on that haul had stopped. */
#include "tests/tools/memory_writer.h"
#include "tests/tools/program.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace
{

using haul_test::Child;
using haul_test::SharedObject;
using haul_test::writer_of;
using haul_test::writes_on;

class CliSnapshotKilled : public testing::TestWithParam<const char *>
{
  protected:
    CliSnapshotKilled()
    {
        setenv("HAUL_TEST_MOMENT", GetParam(), 1);
        options_.state_directory = MakeDirectory();
        killing_ = options_;
        killing_.preload = Runfile("tests/tools/kill_in_snapshot.so");
    }
    ~CliSnapshotKilled() override
    {
        unsetenv("HAUL_TEST_KILLS");
        unsetenv("HAUL_TEST_MOMENT");
    }
    void SetUp() override
    {
        ASSERT_TRUE(object_.ok());
    }
    std::vector<std::string> Words(const Child &writer)
    {
        return {"snapshot",   uri_, "--memory", object_.path(), "--pid", std::to_string(writer.pid()),
                "--channels", "2"};
    }
    void ExpectNothingLeft()
    {
        EXPECT_TRUE(std::filesystem::is_empty(directory_));
        EXPECT_TRUE(std::filesystem::is_empty(options_.state_directory));
    }
    const std::string directory_ = MakeDirectory(), uri_ = "file:" + directory_ + "/snapshot";
    Program::Options options_, killing_;
    SharedObject object_{16 << 20};
};

class HaulItself : public CliSnapshotKilled
{
};

TEST_P(HaulItself, LetsTheWriterGoOnAndLeavesNoFile)
{
    Child writer(writer_of(object_));
    {
        Program snapshot(killing_, Words(writer));
        EXPECT_EQ(snapshot.Wait(), 128 + SIGKILL) << snapshot.Err();
    }
    EXPECT_TRUE(writes_on(object_)) << writer.state();
    ExpectNothingLeft();
    Program again(options_, Words(writer));
    EXPECT_EQ(again.Wait(), 0) << again.Err();
    EXPECT_TRUE(writes_on(object_));
}

INSTANTIATE_TEST_SUITE_P(In, HaulItself, testing::Values("setup", "protecting", "device", "saved", "naming"),
                         [](const auto &info) { return std::string(info.param); });

class TheWriter : public CliSnapshotKilled
{
  protected:
    // With the writer killed at the moment; keeps what it says.
    int Snapshot()
    {
        Child writer(writer_of(object_));
        setenv("HAUL_TEST_KILLS", std::to_string(writer.pid()).c_str(), 1);
        Program snapshot(killing_, Words(writer));
        int status = snapshot.Wait();
        said_ = snapshot.Out() + snapshot.Err();
        return status;
    }
    std::string said_;
};

class TheWriterEarly : public TheWriter
{
};

TEST_P(TheWriterEarly, LeavesNoFile)
{
    EXPECT_EQ(Snapshot(), 3) << said_;
    EXPECT_NE(said_.find("Not saved (failed): the process of the memory has ended here."), std::string::npos)
        << said_;
    const char *why = GetParam() == std::string("setup") ? ": the process has exited" : " is gone";
    EXPECT_NE(said_.find(why), std::string::npos) << said_;
    ExpectNothingLeft();
}

INSTANTIATE_TEST_SUITE_P(In, TheWriterEarly, testing::Values("setup", "protecting"),
                         [](const auto &info) { return std::string(info.param); });

TEST_P(TheWriter, LeavesTheWholeFile)
{
    EXPECT_EQ(Snapshot(), 0) << said_;
    EXPECT_NE(said_.find("Saved: the memory as it was is in " + uri_ + ", and its process has ended here."),
              std::string::npos)
        << said_;
    SharedObject copy(object_.size());
    Program restore(options_, {"restore", uri_, "--memory", copy.path()});
    ASSERT_EQ(restore.Wait(), 0) << restore.Err();
    if (GetParam() == std::string("device")) { // it wrote no more
        EXPECT_EQ(memcmp(copy.map(), object_.map(), copy.size()), 0);
    }
}

INSTANTIATE_TEST_SUITE_P(In, TheWriter, testing::Values("device", "saved", "naming"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
