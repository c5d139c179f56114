// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_DISKS_H
#define HAUL_TESTS_MACHINES_DISKS_H

// Machines with two drives that move along, a raw one by -drive and a qcow2 one by -blockdev. The guest loads
// both: it writes random extents all the time, flushes now and then, and checks what it reads.
#include "tests/machines/move.h"

namespace haul_test
{

// Adds disks=1 to a mover's settings.
std::vector<std::string> with_disks(std::vector<std::string> more = {});

// Why there can be none here ("" when there can).
std::string missing_for_disks();

class Drives
{
  public:
    std::string image(const std::string &machine, const std::string &format) const
    {
        return folder / (machine + "." + format);
    }
    void make_images(const std::string &machine) const;
    // Of the machine of that name, whose images are there.
    MachineOptions options(const std::string &machine) const;
    // With new images; called "from", and loaded when this returns.
    std::unique_ptr<Machine> source() const;
    std::unique_ptr<Machine> destination(const std::string &name) const;
    // Whether the guests of both machines see the same bytes; QEMU may have the images open.
    bool same_images(const std::string &a, const std::string &b) const;

    Folder folder;
};

void run(const std::string &command);
// Nothing of haul's is left in QEMU, or will be in a moment.
void expect_clean(Machine &machine);
// The guest checks each of its disks from one end to the other.
void expect_healthy(const Machine &machine);
// The bytes that the guest wrote to its drives since this QEMU runs it.
uint64_t written(Machine &machine);

} // namespace haul_test

#endif
