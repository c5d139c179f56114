// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_WITHIN_LINUX_H
#define HAUL_TESTS_MACHINES_WITHIN_LINUX_H

// Programs of this workspace within a Linux guest, for what few kernels outside of one have.

#include "tests/machines/initrd.h"
#include "tests/machines/qemu.h"

#include <string>
#include <utility>
#include <vector>

namespace haul_test
{

using Programs = std::vector<std::pair<std::string, std::string>>; // name in the guest, and in the runfiles

struct LinuxGuest {
    Programs programs;                // with the libraries that they are linked with
    std::vector<std::string> modules; // of the kernel, below "kernel/", in the order in which they are loaded
    MachineOptions machine;
    Initrd initrd = {}; // what else there is
};

// Why there is none here ("" when there is): for GTEST_SKIP.
std::string missing_for_linux();

// A test program of this workspace by its path, where run_test finds it.
std::pair<std::string, std::string> test_program(const std::string &path);

// Runs the script, of busybox's sh, in the guest; what its console says. The script has
//   step SECONDS WHAT    what is to come within so many seconds; if it does not, the guest says so, after the
//                        ends of /tmp/send and /tmp/receive, and gives up
//   run_test SECONDS PATH [FILTER]    runs a test_program; ends the case PATH
std::string run_within_linux(const std::string &script, LinuxGuest guest);

// What the console says in the case: after the line that ended the one before ("CASE: ... ended with 0"), up
// to its own end.
std::string in_case(const std::string &console, const std::string &name);

struct Expected {
    const char *name; // of the case
    std::vector<std::string> lines;
};

void expect(const std::string &console, const std::vector<Expected> &all);

// Of the test program with that path `count` tests passed, none was skipped.
void expect_passed(const std::string &console, const std::string &path, int count);

} // namespace haul_test

#endif
