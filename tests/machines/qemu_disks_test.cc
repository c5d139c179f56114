// SPDX-License-Identifier: Apache-2.0
// Which drives move, which do not, and what is refused before anything is copied. No machine boots here.
#include "tests/machines/disks.h"
#include "tests/waiting.h"

#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

namespace
{

using namespace haul_test;

class QemuDisks : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing_for_disks().empty()) {
            GTEST_SKIP() << missing_for_disks();
        }
    }
    // Machines that need not boot.
    std::unique_ptr<Machine> machine(const std::string &name, bool incoming,
                                     const std::vector<std::string> &drives)
    {
        MachineOptions with;
        with.boot = false;
        with.mib = 64;
        with.incoming = incoming;
        with.extra = drives;
        return std::make_unique<Machine>(folder, name, with);
    }

    static std::vector<std::string> drive(const std::string &path, const std::string &more = "")
    {
        return {"-drive", "if=none,id=disk0,file=" + path + more, "-device", "virtio-blk-pci,drive=disk0"};
    }

    std::string raw(const std::string &name, const std::string &size)
    {
        run("truncate -s " + size + " " + (folder / name));
        return folder / name;
    }

    // What the source is told.
    std::string refusal(const std::vector<std::string> &from, const std::vector<std::string> &to,
                        const std::vector<std::string> &settings = {"disks=1"})
    {
        auto a = machine("a", false, from);
        auto b = machine("b", true, to);
        Move move(*a, *b, {{"disks=1"}, settings});
        EXPECT_EQ(1, move.source->wait()) << move.log();
        move.destination->kill(SIGTERM);
        expect_clean(*a);
        EXPECT_EQ("running", a->status());
        return move.source->output();
    }

    Folder folder;
};

#define EXPECT_SAYS(text, what)                                                                              \
    do {                                                                                                     \
        std::string said = (text);                                                                           \
        EXPECT_NE(std::string::npos, said.find(what)) << said;                                               \
    } while (0)

TEST_F(QemuDisks, ADestinationThatDoesNotFitIsRefused)
{
    auto good = drive(raw("good", "8M"), ",format=raw");
    EXPECT_SAYS(refusal(good, drive(raw("small", "4M"), ",format=raw")),
                "drive disk0 has 8388608 bytes at the source and 4194304 at the destination");
    EXPECT_SAYS(refusal(good, {}), "the destination's machine has no drive disk0");
    EXPECT_SAYS(refusal(good, drive(raw("ro", "8M"), ",format=raw,read-only=on")),
                "drive disk0 is read-only at the destination");
    EXPECT_SAYS(refusal(good, drive(folder / "good", ",format=raw,file.locking=off")),
                "drive disk0 is the same image");
    EXPECT_SAYS(refusal(good, drive(raw("other", "8M"), ",format=raw"), {}),
                "start haul receive with --disks");
}

TEST_F(QemuDisks, ADriveWithAJobIsRefused)
{
    auto a = machine("a", false, drive(raw("image", "8M"), ",format=raw"));
    EXPECT_SAYS(a->command("drive-mirror", "{\"device\": \"disk0\", \"job-id\": \"theirs\", \"sync\": "
                                           "\"full\", \"format\": \"raw\", \"target\": \"" +
                                               (folder / "copy") + "\"}"),
                "return");
    Mover source({"send", a->qmp(), "unix:" + (folder / "nobody"), "disks=1"});
    EXPECT_EQ(1, source.wait());
    EXPECT_SAYS(source.output(), "block job theirs (mirror) works on the machine's drives");
}

// From raw to qcow2 and back, one of them with a backing file: what the guest sees is what counts.
TEST_F(QemuDisks, FormatsMayDiffer)
{
    run("head -c 4M /dev/urandom > " + (folder / "base") + "; truncate -s 8M " + (folder / "base"));
    run("qemu-img create -q -f qcow2 -F raw -b " + (folder / "base") + " " + (folder / "top"));
    run("qemu-io -c 'write -P 7 1M 1M' " + (folder / "top") + " >/dev/null");
    run("qemu-img create -q -f qcow2 " + (folder / "new") + " 8M");
    std::string last = folder / "top", format = "qcow2";
    std::vector<std::unique_ptr<Machine>> machines;
    machines.push_back(machine("a", false, drive(last, ",format=qcow2")));
    for (const std::string &next : {std::string("new"), std::string("plain")}) {
        std::string to_format = next == "new" ? "qcow2" : "raw";
        if (next == "plain") {
            run("head -c 8M /dev/urandom > " + (folder / next)); // of which nothing may remain
        }
        machines.push_back(machine(next, true, drive(folder / next, ",format=" + to_format)));
        Move move(*machines[machines.size() - 2], *machines.back(), {with_disks(), with_disks()});
        ASSERT_EQ(0, move.source->wait()) << move.log();
        ASSERT_EQ(0, move.destination->wait()) << move.log();
        run("qemu-img compare -q -U -f " + format + " -F " + to_format + " " + last + " " + (folder / next));
        last = folder / next;
        format = to_format;
    }
}

// The destination has the drive and the machine, and then cannot use another image, which somebody writes.
class QemuDisksRefused : public QemuDisks, public ::testing::WithParamInterface<bool>
{
};

TEST_P(QemuDisksRefused, ToContinueGivesTheMachineBack)
{
    run("head -c 8M /dev/urandom > " + (folder / "a") + "; cp " + (folder / "a") + " " + (folder / "before"));
    auto a = machine("a", false, drive(folder / "a", ",format=raw"));
    auto there = drive(raw("b", "8M"), ",format=raw");
    std::string spare = folder / "spare";
    run("qemu-img create -q -f qcow2 " + spare + " 1M");
    there.insert(there.end(), {"-blockdev", "driver=file,node-name=file,filename=" + spare, "-blockdev",
                               "driver=qcow2,node-name=spare,file=file"});
    if (GetParam()) {
        there.push_back("-S");
    }
    auto b = machine("b", true, there);
    // QEMU's byte 201 of an image: "nobody else may write".
    int fd = open(spare.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    struct flock lock = {};
    lock.l_type = F_RDLCK;
    lock.l_start = 201;
    lock.l_len = 1;
    ASSERT_EQ(0, fcntl(fd, F_OFD_SETLK, &lock)) << strerror(errno);

    Move move(*a, *b, {with_disks(), with_disks()});
    ASSERT_EQ(1, move.source->wait()) << move.log();
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    close(fd);
    EXPECT_SAYS(move.destination->output(), "never ran here");
    EXPECT_EQ("running", a->status()) << move.log();
    EXPECT_TRUE(Eventually([&] { return !b->alive(); })) << move.log();
    expect_clean(*a);
    // The machine writes its own drive again, and that alone.
    for (const char *line : {"write -P 9 0 64k", "flush"}) {
        EXPECT_SAYS(a->command("human-monitor-command",
                               std::string("{\"command-line\": \"qemu-io disk0 \\\"") + line + "\\\"\"}"),
                    "return");
    }
    run("cmp " + (folder / "before") + " " + (folder / "b"));
    run("cmp -i 65536 " + (folder / "before") + " " + (folder / "a"));
    run("test $(head -c 65536 " + (folder / "a") + " | tr -d '\\011' | wc -c) = 0");

    auto c = machine("c", true, drive(raw("c", "8M"), ",format=raw"));
    Move again(*a, *c, {with_disks(), with_disks()});
    ASSERT_EQ(0, again.source->wait()) << again.log();
    EXPECT_EQ(0, again.destination->wait()) << again.log();
    run("cmp " + (folder / "a") + " " + (folder / "c"));
}

INSTANTIATE_TEST_SUITE_P(Drive, QemuDisksRefused, ::testing::Bool(),
                         [](const auto &info) { return info.param ? "paused" : "autostart"; });

// What is read-only or has no medium is there already, or is nothing.
TEST_F(QemuDisks, OnlyWritableDrivesWithAMediumMove)
{
    auto drives = [this](const std::string &name) {
        auto list = drive(raw(name, "8M"), ",format=raw");
        std::string second = folder / (name + ".qcow2");
        run("qemu-img create -q -f qcow2 " + second + " 4M");
        list.insert(list.end(),
                    {"-drive", "if=none,id=disk1,format=qcow2,file=" + second, "-device",
                     "virtio-blk-pci,drive=disk1", "-drive",
                     "if=none,id=cd,media=cdrom,read-only=on,format=raw,file=" + raw(name + "-cd", "1M"),
                     "-device", "ide-cd,drive=cd,bus=ide.0", "-drive", "if=none,id=empty,media=cdrom",
                     "-device", "ide-cd,drive=empty,bus=ide.1"});
        return list;
    };
    auto a = machine("a", false, drives("one"));
    auto b = machine("b", true, drives("two"));
    Move move(*a, *b, {with_disks(), with_disks()});
    ASSERT_EQ(0, move.source->wait()) << move.log();
    EXPECT_EQ(0, move.destination->wait()) << move.log();
    EXPECT_SAYS(move.source->output(), "copying 2 drives");
    EXPECT_EQ(std::string::npos, move.source->output().find("stays behind")) << move.log();
}

TEST_F(QemuDisks, DrivesThatStayBehindAreNamed)
{
    auto own = drive(raw("own", "8M"), ",format=raw");
    auto more = drive(raw("other", "8M"), ",format=raw");
    more.insert(more.end(),
                {"-drive", "if=none,id=cd,media=cdrom,read-only=on,format=raw,file=" + raw("cd", "1M"),
                 "-device", "ide-cd,drive=cd"});
    own.insert(own.end(), more.begin() + 4, more.end());
    auto a = machine("a", false, own);
    {
        auto b = machine("b", true, more);
        Move move(*a, *b, {{"die=round1"}});
        move.source->wait();
        EXPECT_SAYS(move.source->output(), "warning: drive disk0 (" + (folder / "own") + ") stays behind");
        EXPECT_EQ(std::string::npos, move.source->output().find("drive cd")) << move.log();
    }
    // A file has memory and devices; shared or not, the image must stay as it is.
    Mover save({"send", a->qmp(), "file:" + (folder / "saved"), "cancel=round1"});
    EXPECT_EQ(1, save.wait());
    EXPECT_SAYS(save.output(), "drive disk0 (" + (folder / "own") + ") is not in the file");
    EXPECT_EQ(std::string::npos, save.output().find("--disks")) << save.output();
    // The destination has the same image.
    own[1] += ",file.locking=off";
    auto b = machine("b2", true, own);
    Move move(*a, *b, {{"die=round1"}});
    move.source->wait();
    EXPECT_EQ(std::string::npos, move.source->output().find("warning: drive")) << move.log();
    EXPECT_SAYS(move.source->output(), "is in use by the QEMU of process " + std::to_string(b->pid()) +
                                           " on this host too: if that is not the destination");
}

} // namespace
