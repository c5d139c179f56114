// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_FAULTS_H
#define HAUL_TESTS_TOOLS_FAULTS_H

// What an engine that is broken on purpose does with the packets of one block, memory or a disk. Each fault
// strikes once.

#include "tests/tools/packet_proxy.h"

namespace haul_test
{

// Of which pages it may be: `hot` ones are written again and again, with content that always differs, and
// `cold` ones never.
struct Temperature {
    bool (*hot)(uint64_t page);
    bool (*cold)(uint64_t page);
};

// Passes everything on.
PacketProxy::Fault forward();

// Loses a packet of the first round, of pages that are not written again.
PacketProxy::Fault drop_early(Temperature of);

// Loses a packet of a later round that has a newer version of a page.
PacketProxy::Fault drop_late(Temperature of);

// A page's older version comes after its newer one.
PacketProxy::Fault swap_rounds(Temperature of);

// Half of a page is of its older version.
PacketProxy::Fault tear(Temperature of);

} // namespace haul_test

#endif
