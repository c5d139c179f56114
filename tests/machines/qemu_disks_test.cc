// SPDX-License-Identifier: Apache-2.0
// Machines that move with their drives: mirrored under load, byte for byte equal when the guest stands still,
// undone when the move fails.
#include "tests/machines/move.h"

#include <cstdlib>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

namespace
{

using namespace haul_test;

constexpr unsigned kMiB = 24; // each drive

class QemuDisks : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing().empty()) {
            GTEST_SKIP() << missing();
        }
        if (access("/usr/bin/qemu-img", X_OK) < 0) {
            GTEST_SKIP() << "no qemu-img (package qemu-utils)";
        }
    }

    std::string image(const std::string &machine, const std::string &format) const
    {
        return folder / (machine + "." + format);
    }

    void make_images(const std::string &machine, unsigned mib = kMiB)
    {
        for (const char *format : {"raw", "qcow2"}) {
            run("qemu-img create -q -f " + std::string(format) + " " + image(machine, format) + " " +
                std::to_string(mib) + "M");
        }
    }

    // A raw drive by -drive and a qcow2 one by -blockdev; the guest loads both.
    MachineOptions options(const std::string &machine) const
    {
        MachineOptions options;
        options.rate_mib = 2;
        options.load_disks = true;
        options.extra = {"-drive",    "if=none,id=disk0,format=raw,file=" + image(machine, "raw"),
                         "-device",   "virtio-blk-pci,drive=disk0",
                         "-blockdev", "driver=file,node-name=file1,filename=" + image(machine, "qcow2"),
                         "-blockdev", "driver=qcow2,node-name=format1,file=file1",
                         "-device",   "virtio-blk-pci,drive=format1,id=disk1"};
        return options;
    }

    std::unique_ptr<Machine> source()
    {
        make_images("from");
        return std::make_unique<Machine>(folder, "from", options("from"));
    }

    std::unique_ptr<Machine> destination(const std::string &name)
    {
        make_images(name);
        MachineOptions with = options(name);
        with.incoming = true;
        return std::make_unique<Machine>(folder, name, with);
    }

    static void run(const std::string &command)
    {
        ASSERT_EQ(0, system(command.c_str())) << command;
    }

    // Whether the guests of both machines see the same bytes; QEMU may have the images open.
    bool same_images(const std::string &a, const std::string &b)
    {
        bool same = true;
        for (const char *format : {"raw", "qcow2"}) {
            std::string f = format;
            same = same && system(("qemu-img compare -q -U -f " + f + " -F " + f + " " + image(a, format) +
                                   " " + image(b, format))
                                      .c_str()) == 0;
        }
        return same;
    }

    // Nothing of haul's is left in QEMU.
    static void expect_clean(Machine &machine)
    {
        for (const char *query : {"query-jobs", "query-block-exports", "query-named-block-nodes"}) {
            std::string reply = machine.command(query);
            for (const char *name : {"haul-mirror-", "haul-disk-", "haul-filter-"}) {
                EXPECT_EQ(std::string::npos, reply.find(name)) << query << reply;
            }
        }
    }

    // The guest checks each of its disks from one end to the other.
    static void expect_healthy(const Machine &machine)
    {
        for (const char *disk : {"vda ", "vdb "}) {
            size_t from = machine.console().size();
            EXPECT_TRUE(machine.wait_for(disk, 120, from)) << disk << machine.console() << machine.errors();
            EXPECT_TRUE(machine.wait_for(disk, 120, machine.console().size())) << disk << machine.console();
        }
        EXPECT_FALSE(machine.says_bad()) << machine.console();
    }

    static void expect_loaded(const Machine &machine)
    {
        ASSERT_TRUE(machine.wait_for("vda 0", kBootSeconds)) << machine.console() << machine.errors();
        ASSERT_TRUE(machine.wait_for("vdb 0", 120)) << machine.console();
    }

    Folder folder;
};

const std::vector<std::string> kDisks = {"disks=1"};

std::vector<std::string> with_disks(std::vector<std::string> more)
{
    more.push_back("disks=1");
    return more;
}

TEST_F(QemuDisks, MovesUnderLoadAndIsEqualAtTheStop)
{
    std::vector<std::unique_ptr<Machine>> machines;
    machines.push_back(source());
    expect_loaded(*machines[0]);
    std::string at = "from";
    for (int i = 0; i < 2; i++) {
        std::string next = "to" + std::to_string(i);
        machines.push_back(destination(next));
        Machine &from = *machines[machines.size() - 2];
        Machine &to = *machines.back();
        Move move(from, to, {with_disks({"wait=handover", "downtime=1000"}), kDisks});
        move.source->expect("STATE handover");
        // The guest stands still and nothing was handed over yet.
        EXPECT_TRUE(same_images(at, next)) << move.log();
        ASSERT_EQ(0, move.source->wait()) << move.log() << to.errors();
        ASSERT_EQ(0, move.destination->wait()) << move.log() << to.errors();
        std::cerr << move.source->output();
        expect_clean(from);
        expect_clean(to);
        from.kill();
        expect_healthy(to);
        at = next;
    }
}

// ---- a move that ends early ----

// The source's machine runs on with its own drives, and can be moved again.
class QemuDisksFailure : public QemuDisks
{
  protected:
    // Moves once so that it fails; `first` is the source's settings, `second` the destination's.
    void fail(Machine &from, const std::string &name, const std::vector<std::string> &first,
              const std::vector<std::string> &second, const std::string &at, int signal)
    {
        auto to = destination(name);
        Move move(from, *to, {with_disks(first), with_disks(second)});
        if (signal) {
            move.source->expect(at);
            move.source->kill(signal);
        }
        EXPECT_NE(0, move.source->wait()) << name << move.log();
        move.destination->kill(SIGTERM); // where the source never came, it waits for another
        EXPECT_NE(0, move.destination->wait()) << name << move.log();
        EXPECT_TRUE(from.counts(60)) << name << from.status() << move.log();
        EXPECT_EQ("running", from.status()) << name << move.log();
        EXPECT_FALSE(from.says_bad()) << name << from.console();
    }

    void move_in_the_end(Machine &from)
    {
        auto to = destination("last");
        Move move(from, *to, {with_disks({"wait=handover", "downtime=1000"}), kDisks});
        move.source->expect("STATE handover");
        EXPECT_TRUE(same_images("from", "last")) << move.log();
        ASSERT_EQ(0, move.source->wait()) << move.log() << to->errors();
        ASSERT_EQ(0, move.destination->wait()) << move.log() << to->errors();
        expect_clean(from);
        from.kill();
        expect_healthy(*to);
    }
};

const char *const kStates[] = {"setup", "active", "round1", "pre-switchover", "device", "handover"};

TEST_F(QemuDisksFailure, TheSourcesHaulIsKilledInEachState)
{
    auto from = source();
    expect_loaded(*from);
    for (const char *state : kStates) {
        fail(*from, std::string("s-") + state, {std::string("die=") + state, "downtime=1000"}, {}, "", 0);
    }
    move_in_the_end(*from);
}

TEST_F(QemuDisksFailure, TheDestinationsHaulIsKilledInEachState)
{
    auto from = source();
    expect_loaded(*from);
    for (const char *state : {"setup", "active", "device"}) {
        fail(*from, std::string("d-") + state, {"downtime=1000", "timeout=5"}, {std::string("die=") + state},
             "", 0);
        expect_clean(*from);
    }
    move_in_the_end(*from);
}

TEST_F(QemuDisksFailure, CancelledInEachState)
{
    auto from = source();
    expect_loaded(*from);
    for (const char *state : kStates) {
        fail(*from, std::string("c-") + state, {std::string("cancel=") + state, "downtime=1000"}, {}, "", 0);
        expect_clean(*from);
    }
    move_in_the_end(*from);
}

TEST_F(QemuDisksFailure, KilledWhileItMirrors)
{
    auto from = source();
    expect_loaded(*from);
    fail(*from, "k0", {"bandwidth=4000000"}, {}, "MESSAGE copying 2 drives", SIGKILL);
    // What the killed one left must not be in the way; QEMU has it until the next try.
    fail(*from, "k1", {"bandwidth=4000000"}, {}, "MESSAGE copying 2 drives", SIGTERM);
    move_in_the_end(*from);
}

// The destination's QEMU dies while it takes the drives in.
TEST_F(QemuDisksFailure, TheDestinationsQemuDies)
{
    auto from = source();
    expect_loaded(*from);
    auto to = destination("dead");
    Move move(*from, *to, {with_disks({"bandwidth=4000000"}), kDisks});
    ASSERT_NE("", move.source->expect("MESSAGE copying")) << move.log();
    to->kill();
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_NE(std::string::npos, move.source->output().find("mirroring drive ")) << move.log();
    EXPECT_TRUE(from->counts());
    expect_clean(*from);
    move.destination->wait();
    move_in_the_end(*from);
}

// ---- what is looked at before anything is copied ----

class QemuDisksCheck : public QemuDisks
{
  protected:
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
};

#define EXPECT_SAYS(text, what)                                                                              \
    do {                                                                                                     \
        std::string said = (text);                                                                           \
        EXPECT_NE(std::string::npos, said.find(what)) << said;                                               \
    } while (0)

TEST_F(QemuDisksCheck, ADestinationThatDoesNotFitIsRefused)
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

TEST_F(QemuDisksCheck, ADriveWithAJobIsRefused)
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
TEST_F(QemuDisksCheck, FormatsMayDiffer)
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
        Move move(*machines[machines.size() - 2], *machines.back(), {kDisks, kDisks});
        ASSERT_EQ(0, move.source->wait()) << move.log();
        ASSERT_EQ(0, move.destination->wait()) << move.log();
        run("qemu-img compare -q -U -f " + format + " -F " + to_format + " " + last + " " + (folder / next));
        last = folder / next;
        format = to_format;
    }
}

TEST_F(QemuDisksCheck, DrivesThatStayBehindAreNamed)
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
    // The destination has the same image.
    own[1] += ",file.locking=off";
    auto b = machine("b2", true, own);
    Move move(*a, *b, {{"die=round1"}});
    move.source->wait();
    EXPECT_EQ(std::string::npos, move.source->output().find("stays behind")) << move.log();
}

} // namespace
