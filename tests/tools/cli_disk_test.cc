/* SPDX-License-Identifier: Apache-2.0 */
/* Real moves of the reference guest with its disk by the real program. */
#include "tests/engine/disk/disk.h"
#include "tests/tools/loopback.h"
#include "tests/tools/outcome.h"

#include <jansson.h>

#include <cerrno>
#include <csignal>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

using haul_test::Directory;

namespace
{

using Names = std::vector<std::string>;

class DiskMove : public Move
{
  protected:
    Words Source(const Words &more = {}) const
    {
        Words words = {"--disk", directory_ / "from,size=16M,rate=20M"};
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
    Words Destination(const std::string &name = "to,size=16M", const Words &more = {}) const
    {
        Words words = Guest({"--disk", directory_ / name});
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
    Directory directory_;
};

TEST_F(DiskMove, DiskComesAlongAndProvesItself)
{
    auto receive = Receive(Destination());
    auto send = SendGuest(Source({"--channels", "3", "--compress", "lz4", "--verify"}));
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    EXPECT_TRUE(Has(send->Out(), "1 disk of 16.0 MiB, ")) << send->Out();
    EXPECT_TRUE(Has(receive->Out(), "self-check passed")) << receive->Out();
    EXPECT_TRUE(Has(receive->Out(), "4096 blocks of its disk (16 MiB)")) << receive->Out();
    EXPECT_EQ(directory_.Names(), (Names{"from", "to"}));
    EXPECT_LT(haul_test::AllocatedBytes(directory_ / "to"), 12u << 20) << "its holes came along";
}

TEST_F(DiskMove, JsonHasTheDisk)
{
    auto receive = Receive(Destination("to,size=16M", {"--json"}));
    auto send = SendGuest(Source({"--json"}));
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    for (Program *program : {send.get(), receive.get()}) {
        json_t *json = json_loads(program->Out().c_str(), JSON_REJECT_DUPLICATES, nullptr);
        ASSERT_NE(json, nullptr) << program->Out();
        json_int_t transferred, remaining, total, normal, bytes, duplicate, disks, ram, all;
        ASSERT_EQ(json_unpack(json, "{s:{s:I s:I s:I s:I s:I s:I s:I} s:{s:I s:I}}", "disk", "transferred",
                              &transferred, "remaining", &remaining, "total", &total, "normal", &normal,
                              "normal-bytes", &bytes, "duplicate", &duplicate, "disks", &disks, "ram",
                              "transferred", &ram, "multifd-bytes", &all),
                  0)
            << program->Out();
        EXPECT_EQ(total, 16 << 20);
        EXPECT_EQ(remaining, 0);
        EXPECT_EQ(disks, 1);
        EXPECT_EQ(bytes, normal * 4096);
        EXPECT_GE(normal + duplicate, 4096);
        EXPECT_GT(transferred, bytes);
        EXPECT_EQ(ram + transferred, all);
        json_decref(json);
        ExpectChannels(*program, 2, all, 2);
    }
}

TEST_F(DiskMove, CancelledMoveLeavesNoImage)
{
    auto receive = Receive(Destination());
    auto send = SendGuest(Source({"--max-bandwidth", "1M"}));
    EXPECT_TRUE(send->WaitFor("round 1")) << send->Err();
    EXPECT_EQ(directory_.Names(), (Names{"from", "to.incomplete"}));
    send->Signal(SIGINT);
    ExpectGoesOnAtSource(*send);
    EXPECT_TRUE(Has(send->Out(), "blocks of its disk")) << send->Out();
    EXPECT_EQ(receive->Wait(), 1);
    EXPECT_EQ(directory_.Names(), (Names{"from"}));
}

TEST_F(DiskMove, KilledDestinationLeavesNothingThatLooksWhole)
{
    auto receive = Receive(Destination());
    auto send = SendGuest(Source({"--max-bandwidth", "1M"}));
    EXPECT_TRUE(send->WaitFor("round 1")) << send->Err();
    receive->Signal(SIGKILL);
    ExpectGoesOnAtSource(*send);
    receive->Wait();
    EXPECT_EQ(directory_.Names(), (Names{"from", "to.incomplete"}));
}

TEST_F(DiskMove, AnotherSizeIsRefused)
{
    auto receive = Receive(Destination("to,size=8M"));
    auto send = SendGuest(Source());
    ExpectGoesOnAtSource(*send);
    EXPECT_TRUE(Has(send->Err() + send->Out(),
                    "disk guest.disk has 16777216 bytes at the source and 8388608 at the destination"))
        << send->Err();
    EXPECT_EQ(receive->Wait(), 1);
    EXPECT_EQ(directory_.Names(), (Names{"from"}));
}

TEST_F(DiskMove, DestinationWithoutADiskIsNamed)
{
    auto receive = Receive(Guest({}));
    auto send = SendGuest(Source());
    ExpectGoesOnAtSource(*send);
    EXPECT_TRUE(Has(send->Err() + send->Out(), "this destination was started without any")) << send->Err();
    receive->Signal(SIGINT);
    EXPECT_EQ(receive->Wait(), 1);
}

TEST_F(DiskMove, FullFileSystemIsNamed)
{
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) {
        GTEST_SKIP() << "needs root to mount a file system of its own";
    }
    std::string small = MakeDirectory();
    ASSERT_EQ(mount("none", small.c_str(), "tmpfs", 0, "size=2m"), 0);
    auto receive = Receive(Guest({"--disk", small + "/to,size=16M"}));
    auto send = SendGuest(Source());
    ExpectGoesOnAtSource(*send);
    EXPECT_TRUE(Has(send->Err() + send->Out(), "disk guest.disk: writing at byte ")) << send->Err();
    EXPECT_TRUE(Has(send->Err() + send->Out(), "No space left on device")) << send->Err();
    EXPECT_EQ(receive->Wait(), 1);
    EXPECT_EQ(access((small + "/to.incomplete").c_str(), F_OK), -1) << "its room is free again";
    umount(small.c_str());
}

TEST_F(DiskMove, ReadOnlyFileSystemIsNamed)
{
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) {
        GTEST_SKIP() << "needs root to mount a file system of its own";
    }
    std::string readonly = MakeDirectory();
    ASSERT_EQ(mount("none", readonly.c_str(), "tmpfs", MS_RDONLY, "size=2m"), 0);
    Program receive(destination_, {"receive", "--listen", "tcp:127.0.0.1:0", "--guest", "--disk",
                                   readonly + "/to,size=16M"});
    EXPECT_EQ(receive.Wait(), 1);
    EXPECT_TRUE(Has(receive.Err(), "cannot create " + readonly + "/to.incomplete: Read-only file system"))
        << receive.Err();
    umount(readonly.c_str());
}

TEST_F(DiskMove, OptionIsExplained)
{
    auto complaint = [&](const Words &words) {
        Program program(source_, words);
        EXPECT_EQ(program.Wait(), 2) << program.Err();
        return program.Err();
    };
    EXPECT_TRUE(
        Has(complaint({"send", "tcp:x:1", "--memory", "x", "--disk", "y"}), "option --disk needs --guest"));
    EXPECT_TRUE(Has(complaint({"send", "tcp:x:1", "--guest", "--disk", "y,speed=3"}),
                    "option --disk takes PATH[,size=SIZE][,rate=RATE], not 'speed=3' after the path"));
    EXPECT_TRUE(Has(complaint({"receive", "--listen", "tcp:x:1", "--guest", "--disk", "y,rate=3"}),
                    "option --disk takes PATH[,size=SIZE], not 'rate=3' after the path"));
    EXPECT_TRUE(Has(complaint({"send", "tcp:x:1", "--guest", "--disk", "y,size=many"}),
                    "'size=many' is no number of bytes such as 256M"));
    EXPECT_TRUE(Has(complaint({"send", "tcp:x:1", "--guest", "--disk", "y,size=1000"}),
                    "the size must be a multiple of 4096, and 64 KiB or more"));
    EXPECT_TRUE(Has(complaint({"send", "tcp:x:1", "--guest", "--disk", ",size=1M"}),
                    "option --disk needs the path of an image"));
}

} // namespace
