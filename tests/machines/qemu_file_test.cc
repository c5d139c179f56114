// SPDX-License-Identifier: Apache-2.0
// Real machines are saved into a file while they work, and go on from it in another QEMU.
#include "tests/machines/move.h"
#include "tests/tools/huge_pages.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace
{

using namespace haul_test;

class QemuFile : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing().empty()) {
            GTEST_SKIP() << missing();
        }
    }
    std::vector<std::string> Send(const Machine &from, const std::string &setting) const
    {
        return {"send", from.qmp(), "file:" + path_, "channels=2", setting};
    }
    void ExpectGoesOn(MachineOptions options);
    Folder folder_;
    std::string path_ = folder_ / "snapshot";
};

// Saves a machine, ends it, and starts another one from the file.
void QemuFile::ExpectGoesOn(MachineOptions options)
{
    Machine from(folder_, "from", options);
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.last_words() << from.errors();
    long before = from.last_ok();
    // Whatever the disk's speed: a write dirties all of a huge page.
    Mover save(Send(from, "downtime=30000"));
    ASSERT_EQ(0, save.wait()) << save.output();
    EXPECT_TRUE(std::filesystem::exists(path_));
    std::string quiet = from.console();
    from.kill();

    options.incoming = true;
    options.paused = true;
    Machine to(folder_, "to", options);
    Mover restore({"receive", to.qmp(), "file:" + path_, "channels=2"});
    ASSERT_EQ(0, restore.wait()) << restore.output() << to.errors();
    EXPECT_EQ("running", to.status());
    ASSERT_TRUE(to.counts()) << restore.output();
    EXPECT_GE(to.last_ok(), before);
    EXPECT_TRUE(to.wait_for("sweep", 60)) << to.last_words();
    EXPECT_TRUE(to.wait_for("sweep", 60, to.console().size())) << to.last_words();
    EXPECT_FALSE(to.says_bad()) << to.last_words();
    EXPECT_EQ(quiet, from.console());
}

TEST_F(QemuFile, AMachineGoesOnFromIt)
{
    MachineOptions options;
    options.backends = 2;
    ExpectGoesOn(options);
}

TEST_F(QemuFile, AMachineOnHugePagesGoesOnFromIt)
{
    MachineOptions options;
    options.backing = "hugetlb";
    HugePages pages(options.mib / 2); // one machine at a time
    if (!pages.missing().empty()) {
        GTEST_SKIP() << pages.missing();
    }
    ExpectGoesOn(options);
}

TEST_F(QemuFile, AKilledSaveLeavesNothingAndTheMachineRuns)
{
    Machine from(folder_, "from", MachineOptions());
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.last_words() << from.errors();
    for (const char *state : {"active", "round1", "device"}) {
        Mover save(Send(from, std::string("die=") + state));
        EXPECT_EQ(-9, save.wait()) << save.output();
        EXPECT_FALSE(std::filesystem::exists(path_)) << state;
        EXPECT_FALSE(std::filesystem::exists(path_ + ".partial")) << state;
        ASSERT_TRUE(from.counts()) << state;
        EXPECT_FALSE(from.says_bad()) << from.last_words();
    }
}

} // namespace
