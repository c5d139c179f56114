// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_QEMU_H
#define HAUL_TESTS_MACHINES_QEMU_H

// Real QEMU machines for tests: boots a Linux guest (guest_init.c) under TCG, reads its console, and commands
// it through a monitor of the test's own.

#include "tests/machines/folder.h"

#include <cstdint>
#include <string>
#include <sys/types.h>
#include <vector>

namespace haul_test
{

// How long a guest may take to boot: emulated, on a machine that does much else.
constexpr double kBootSeconds = 300;

// Why machines cannot be booted here ("" when they can): for GTEST_SKIP.
std::string missing();
// The same for those that boot no Linux.
std::string missing_for_firmware();

struct MachineOptions {
    std::string type = "q35";
    std::string backing = "memfd"; // "memfd", "file" or "private"
    std::string mem_path;          // of "file" backings, which get ".ramN"; "": in the test's folder
    bool prealloc = false;         // all memory present from the start
    unsigned backends = 1;         // several: each the memory of a NUMA node
    unsigned cpus = 1;             // of each of them
    unsigned mib = 192;
    unsigned guest_mib = 32; // memory that the guest checks
    unsigned rate_mib = 8;   // per second
    bool incoming = false;
    bool paused = false; // -S
    bool boot = true;    // false: firmware only, which stays at "no bootable device". The initial RAM disk is
                         // the folder's "initrd", made when it is not there
    bool firmware = false;   // firmware.h in place of Linux
    std::string disk;        // raw image for direct reads; "": none
    std::string file_system; // ext4 image
    bool balloon = false;    // virtio-balloon, "balloon", which the guest drives
    bool load_disks = false; // the guest writes and checks /dev/vda and /dev/vdb, which `extra` brings
    std::vector<std::string> extra;
};

// One QEMU process, killed by the destructor.
class Machine
{
  public:
    Machine(const Folder &folder, const std::string &name, const MachineOptions &options);
    ~Machine();
    Machine(const Machine &) = delete;

    const std::string &qmp() const
    {
        return qmp_; // for haul
    }
    pid_t pid() const
    {
        return pid_;
    }
    bool alive();
    void kill();
    std::string console() const;
    std::string last_words() const; // what a test says of its failure: BAD lines, and the end of the console
    std::string errors() const;     // QEMU's standard error
    // Runs a command on the test's own monitor; the whole reply as text.
    std::string command(const std::string &execute, const std::string &arguments = "{}");
    std::string status();
    // What haul changes in QEMU for a move.
    std::string settings();
    // Waits for a whole line with that text on the console, after `from` (an earlier console().size()).
    bool wait_for(const std::string &text, double seconds, size_t from = 0) const;
    bool says_bad() const
    {
        return console().find("BAD") != std::string::npos;
    }
    // Whether the guest runs: it says "ok" again within some seconds.
    bool counts(double seconds = 60) const;
    // The number after the last "ok ".
    long last_ok() const;

  private:
    std::string name_;
    std::string qmp_;
    std::string control_;
    std::string console_;
    std::string errors_;
    pid_t pid_ = -1;
    int monitor_ = -1;
};

// Gives the machine `name` with a "file" backing in `folder` 4 MiB of memory that no codec makes smaller:
// without it one that boots nothing has next to nothing but zeros, which leave in no time under any
// max-bandwidth.
bool fill_memory(const Folder &folder, const std::string &name);

// Images for MachineOptions::disk and file_system.
void make_disk(const std::string &path, unsigned mib);
bool make_file_system(const std::string &path, unsigned mib);

} // namespace haul_test

#endif
