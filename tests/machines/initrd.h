// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_INITRD_H
#define HAUL_TESTS_MACHINES_INITRD_H

// Initial RAM disks for the Linux guests of the tests.

#include <string>
#include <vector>

namespace haul_test
{

// The newest kernel of Debian's cloud flavour; its release is the name of its modules' folder. "": none.
std::string kernel_release();

std::string read_file(const std::string &path);

// An archive in cpio's "newc" format, in memory. Has /dev with a console, which the kernel starts init with.
class Initrd
{
  public:
    Initrd();
    // `name` without a leading slash, below a folder that is there already; `mode` with its type.
    void add(const std::string &name, unsigned mode, const std::string &bytes, unsigned major = 0,
             unsigned minor = 0);
    // With the folders above it.
    void add_program(const std::string &name, const std::string &bytes);
    // The kernel module below "kernel/" as /NAME.ko.
    void add_module(const std::string &path);
    void write(const std::string &path);

  private:
    std::string archive_;
    std::vector<std::string> folders_;
    unsigned inode_ = 1;
};

} // namespace haul_test

#endif
