// SPDX-License-Identifier: Apache-2.0
#include "tests/machines/disks.h"

#include <cstdlib>
#include <gtest/gtest.h>
#include <unistd.h>

namespace haul_test
{

namespace
{

constexpr unsigned kMiB = 24; // each drive

// Looks whether any job, export or node has a name of haul's; *where gets the answer that has.
bool clean(Machine &machine, std::string *where)
{
    for (const char *query : {"query-jobs", "query-block-exports", "query-named-block-nodes"}) {
        std::string reply = machine.command(query);
        for (const char *name : {"haul-mirror-", "haul-disk-", "haul-filter-"}) {
            if (reply.find(name) != std::string::npos) {
                *where = std::string(query) + ": " + reply;
                return false;
            }
        }
    }
    return true;
}

} // namespace

std::vector<std::string> with_disks(std::vector<std::string> more)
{
    more.push_back("disks=1");
    return more;
}

std::string missing_for_disks()
{
    return missing().empty() && access("/usr/bin/qemu-img", X_OK) < 0 ? "no qemu-img (package qemu-utils)"
                                                                      : missing();
}

void run(const std::string &command)
{
    ASSERT_EQ(0, system(command.c_str())) << command;
}

void Drives::make_images(const std::string &machine) const
{
    for (const char *format : {"raw", "qcow2"}) {
        run("qemu-img create -q -f " + std::string(format) + " " + image(machine, format) + " " +
            std::to_string(kMiB) + "M");
    }
}

MachineOptions Drives::options(const std::string &machine) const
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

std::unique_ptr<Machine> Drives::source() const
{
    make_images("from");
    auto machine = std::make_unique<Machine>(folder, "from", options("from"));
    EXPECT_TRUE(machine->wait_for("vda 0", kBootSeconds)) << machine->last_words() << machine->errors();
    EXPECT_TRUE(machine->wait_for("vdb 0", 120)) << machine->last_words();
    return machine;
}

std::unique_ptr<Machine> Drives::destination(const std::string &name) const
{
    make_images(name);
    MachineOptions with = options(name);
    with.incoming = true;
    return std::make_unique<Machine>(folder, name, with);
}

bool Drives::same_images(const std::string &a, const std::string &b) const
{
    for (const char *format : {"raw", "qcow2"}) {
        std::string f = format;
        std::string command =
            "qemu-img compare -q -U -f " + f + " -F " + f + " " + image(a, format) + " " + image(b, format);
        if (system(command.c_str()) != 0) {
            return false;
        }
    }
    return true;
}

void expect_clean(Machine &machine)
{
    std::string where;
    for (int i = 0; i < 400 && !clean(machine, &where); i++) {
        usleep(50000); // the guardian may still be at it
    }
    EXPECT_TRUE(clean(machine, &where)) << where;
}

void expect_healthy(const Machine &machine)
{
    for (const char *disk : {"vda ", "vdb "}) {
        size_t from = machine.console().size();
        EXPECT_TRUE(machine.wait_for(disk, 120, from)) << disk << machine.last_words() << machine.errors();
        EXPECT_TRUE(machine.wait_for(disk, 120, machine.console().size())) << disk << machine.last_words();
    }
    EXPECT_FALSE(machine.says_bad()) << machine.last_words();
}

uint64_t written(Machine &machine)
{
    uint64_t total = 0;
    std::string reply = machine.command("query-blockstats");
    const std::string member = "\"wr_bytes\": ";
    for (size_t at = 0; (at = reply.find(member, at)) != std::string::npos;) {
        at += member.size();
        total += strtoull(reply.c_str() + at, nullptr, 10);
    }
    return total;
}

} // namespace haul_test
