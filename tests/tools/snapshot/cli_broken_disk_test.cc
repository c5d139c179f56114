/* SPDX-License-Identifier: Apache-2.0 */
/* Saving where the file system cannot do all of it: a directory that cannot be flushed leaves it uncertain
 * whether the guest is saved (rule R1), and without unnamed files the name meanwhile is PATH.partial. */
#include "tests/tools/snapshot/cli_file.h"

#include <csignal>
#include <sys/stat.h>

namespace
{

class BrokenDisk : public SnapshotFile
{
  protected:
    void SetUp() override
    {
        SnapshotFile::SetUp();
        source_.preload = Runfile("tests/tools/snapshot/broken_file_system.so");
    }
    void TearDown() override
    {
        unsetenv("HAUL_TEST_NO_FLUSH");
        unsetenv("HAUL_TEST_NO_TMPFILE");
        SnapshotFile::TearDown();
    }
};

/* ---- a directory that cannot be flushed ---- */

class UncertainSave : public BrokenDisk
{
  protected:
    void SetUp() override
    {
        BrokenDisk::SetUp();
        setenv("HAUL_TEST_NO_FLUSH", std::filesystem::canonical(folder_).c_str(), 1);
        save_ = StartSave({});
        ASSERT_TRUE(save_->WaitFor("and waits for 'haul resume")) << save_->Err();
        EXPECT_TRUE(Has(save_->Err(), "look at the file and at the error")) << save_->Err();
        id_ = WaitForRecord(source_.state_directory, ".source.json");
        ASSERT_EQ(id_.size(), 32u);
    }
    std::unique_ptr<Program> save_;
    std::string id_;
};

TEST_F(UncertainSave, AGuestThatIsInTheFileIsNotResumed)
{
    EXPECT_TRUE(Has(save_->Err(), "writing its directory to the disk: Input/output error")) << save_->Err();
    EXPECT_EQ(Recover("resume", id_), 1);
    EXPECT_TRUE(
        Has(recovery_, "the guest of move " + id_ + " is in " + Path() + ", complete: abandon this copy"))
        << recovery_;
    EXPECT_FALSE(save_->Ended());
    EXPECT_EQ(Recover("abandon", id_), 0) << recovery_;
    EXPECT_EQ(save_->Wait(), 3) << save_->Err();
    EXPECT_EQ(Files(source_.state_directory), 0u);
    auto restore = Restore({});
    EXPECT_EQ(restore->Wait(), 0) << restore->Err();
    EXPECT_TRUE(Has(restore->Out(), "self-check passed")) << restore->Out();
}

TEST_F(UncertainSave, WithoutTheFileTheGuestIsResumed)
{
    std::filesystem::remove(Path());
    EXPECT_EQ(Recover("resume", id_), 0) << recovery_;
    ExpectNotSaved(*save_);
    EXPECT_EQ(Files(source_.state_directory), 0u);
}

TEST_F(UncertainSave, AnotherFileOfThatNameIsNoReason)
{
    std::filesystem::remove(Path());
    unsetenv("HAUL_TEST_NO_FLUSH");
    {
        auto other = StartSave({});
        EXPECT_EQ(other->Wait(), 0) << other->Err();
    }
    EXPECT_EQ(Recover("resume", id_), 0) << recovery_;
    ExpectNotSaved(*save_);
}

TEST_F(UncertainSave, ADamagedFileIsNoReason)
{
    std::filesystem::resize_file(Path(), 100000);
    EXPECT_EQ(Recover("resume", id_), 0) << recovery_;
    ExpectNotSaved(*save_);
}

/* The guest goes on whatever happens, so nobody has to decide anything. */
TEST_F(BrokenDisk, ASnapshotWhoseNameCouldBeLostIsKept)
{
    setenv("HAUL_TEST_NO_FLUSH", std::filesystem::canonical(folder_).c_str(), 1);
    Words words = {"snapshot", Uri()};
    Words guest = Guest({});
    words.insert(words.end(), guest.begin(), guest.end());
    Program snapshot(source_, words);
    EXPECT_EQ(snapshot.Wait(), 1) << snapshot.Err();
    EXPECT_TRUE(Has(snapshot.Out(), "Not surely saved (failed): file:")) << snapshot.Out();
    EXPECT_TRUE(Has(snapshot.Out(), "the guest goes on here")) << snapshot.Out();
    EXPECT_TRUE(Has(snapshot.Err(), "the file is complete and has its name")) << snapshot.Err();
    EXPECT_TRUE(Has(snapshot.Err(), "writing its directory to the disk: Input/output error"))
        << snapshot.Err();
    EXPECT_EQ(Names(), std::vector<std::string>{"a"});
    auto restore = Restore({});
    EXPECT_EQ(restore->Wait(), 0) << restore->Err();
    EXPECT_TRUE(Has(restore->Out(), "self-check passed")) << restore->Out();
}

/* ---- no files without a name ---- */

class PartialName : public BrokenDisk
{
  protected:
    void SetUp() override
    {
        BrokenDisk::SetUp();
        setenv("HAUL_TEST_NO_TMPFILE", "1", 1);
    }
    std::unique_ptr<Program> SaveSlowly()
    {
        auto save = StartSave({"--max-bandwidth", "1M"});
        EXPECT_TRUE(save->WaitFor("round 1")) << save->Err();
        return save;
    }
};

TEST_F(PartialName, GoesWhenTheFileIsComplete)
{
    Save({});
    EXPECT_EQ(Names(), std::vector<std::string>{"a"});
    Program inspect(source_, {"inspect", Uri()});
    EXPECT_EQ(inspect.Wait(), 0) << inspect.Err();
}

TEST_F(PartialName, IsThereMeanwhileForOneSaveOnly)
{
    auto save = SaveSlowly();
    EXPECT_EQ(Names(), std::vector<std::string>{"a.partial"});
    struct stat status;
    ASSERT_EQ(stat((Path() + ".partial").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
    auto other = StartSave({});
    ExpectNotSaved(*other);
    EXPECT_TRUE(Has(other->Err(), "a.partial is being written by another haul")) << other->Err();
    EXPECT_EQ(Names(), std::vector<std::string>{"a.partial"});
    save->Signal(SIGINT);
    ExpectNotSaved(*save);
    EXPECT_TRUE(Names().empty()) << "left by an interrupted save";
}

TEST_F(PartialName, OfAKilledSaveIsTakenOver)
{
    auto save = SaveSlowly();
    save->Signal(SIGKILL);
    EXPECT_EQ(save->Wait(), 128 + SIGKILL);
    EXPECT_EQ(Names(), std::vector<std::string>{"a.partial"});
    Save({});
    EXPECT_EQ(Names(), std::vector<std::string>{"a"});
    auto restore = Restore({});
    EXPECT_EQ(restore->Wait(), 0) << restore->Err();
}

TEST_F(PartialName, NeverReplacesAFileThatCameMeanwhile)
{
    auto save = StartSave({"--max-bandwidth", "2M", "--guest-dirty-rate", "256K"});
    ASSERT_TRUE(save->WaitFor("round 1")) << save->Err();
    std::ofstream(Path()) << "mine";
    ExpectNotSaved(*save);
    EXPECT_TRUE(Has(save->Err(), "a snapshot never replaces a file")) << save->Err();
    EXPECT_EQ(Contents(Path()), "mine");
    EXPECT_EQ(Names(), std::vector<std::string>{"a"});
}

} // namespace
