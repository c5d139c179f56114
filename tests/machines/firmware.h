// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_FIRMWARE_H
#define HAUL_TESTS_MACHINES_FIRMWARE_H

#include <string>

namespace haul_test
{

// An image for QEMU's -bios, all that runs in its machine: nothing has to boot, for where the emulator itself
// is emulated. It rewrites 8 MiB of memory in turn, checks each page before it rewrites it, and says on the
// serial line what guest_init.c says: "ok N", "sweep N ok", and "BAD" for a page that is not what it wrote
// there.
std::string firmware();

} // namespace haul_test

#endif
