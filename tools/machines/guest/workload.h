/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_MACHINES_GUEST_WORKLOAD_H
#define HAUL_TOOLS_MACHINES_GUEST_WORKLOAD_H

/*
 * What the guest's own code (workload.S), the thread that stands in for it and the host's check agree on.
 * Only #define outside the C part: the assembler reads this file too.
 */

/* Guest-physical addresses; the first two pages are the guest's own. */
#define HAUL_GUEST_HEADER_ADDRESS 0x0000
#define HAUL_GUEST_CODE_ADDRESS 0x1000
#define HAUL_GUEST_RESERVED_PAGES 2

/* The header page: magic (8 bytes), then three 32-bit numbers that the code reads. */
#define HAUL_GUEST_HEADER_HOT_BASE 8
#define HAUL_GUEST_HEADER_HOT_PAGES 12
#define HAUL_GUEST_HEADER_STRIDE 16

/* Stamps: 32-bit version numbers at these distances, from the start of each hot page. */
#define HAUL_GUEST_STAMPS 8
#define HAUL_GUEST_STAMP_DISTANCE 512

/* Every 64th slot of the hot set blinks: all zero at even versions, nothing but its stamps at odd ones. */
#define HAUL_GUEST_BLINK_MASK 63

/* I/O ports: the guest reads how many pages to write next, and tells which page failed its check. */
#define HAUL_GUEST_PORT_ASK 0x10
#define HAUL_GUEST_PORT_FAIL 0x11

#ifndef __ASSEMBLER__
extern const unsigned char haul_guest_code_start[];
extern const unsigned char haul_guest_code_end[];
#endif

#endif
