/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/guest/content.h"

#include "tools/machines/guest/layout.h"

#include <string.h>

#define PAGE_NUMBER_OFFSET 8

/* splitmix64: any seed gives a full-period sequence, so neighbouring pages have nothing in common. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void build_random(uint64_t state, unsigned char *bytes)
{
    for (unsigned i = 0; i < HAUL_GUEST_PAGE_SIZE; i += sizeof state) {
        uint64_t value = next_random(&state);
        memcpy(bytes + i, &value, sizeof value);
    }
}

#define PHRASE_MAX 24
#define NUMBER_LENGTH 6

/* Padded to one size, so that a phrase is copied without looking at its length first. */
static const char phrases[32][PHRASE_MAX] = {
    "the request from client",
    "accepted by server ",
    "after a retry of ",
    "closed the session ",
    "status=ok time=",
    "memory page 0x00",
    "warning: queue of ",
    "error: no buffer ",
    "info: worker thread ",
    "count=128 size=",
    "opened by user ",
    "commit of table ",
    "rollback to row ",
    "select value from ",
    "insert into index ",
    "update column ",
    "delete where ",
    "order by group ",
    "limit the channel ",
    "and the device ",
    "is not with ",
    "storage network ",
    "true or false ",
    "default option ",
    "setting of config ",
    "service started\n",
    "in the ",
    "to a ",
    "at address= ",
    "has been ",
    "with ",
    "null ",
};

/* Eight phrases, then a number that no codec can shrink, and so on. */
static void build_text(uint64_t state, unsigned char *bytes)
{
    unsigned char scratch[HAUL_GUEST_PAGE_SIZE + 8 * PHRASE_MAX + NUMBER_LENGTH];
    size_t at = 0;
    while (at < HAUL_GUEST_PAGE_SIZE) {
        uint64_t bits = next_random(&state);
        for (unsigned i = 0; i < 8; i++, bits >>= 5) {
            const char *phrase = phrases[bits & 31];
            memcpy(scratch + at, phrase, PHRASE_MAX);
            at += strnlen(phrase, PHRASE_MAX);
        }
        for (unsigned i = 0; i < NUMBER_LENGTH; i++, bits >>= 4) {
            scratch[at++] = (unsigned char)('a' + (bits & 15));
        }
    }
    memcpy(bytes, scratch, HAUL_GUEST_PAGE_SIZE);
}

void haul_guest_content_build(uint32_t content, uint64_t seed, uint64_t page, unsigned char *bytes)
{
    uint64_t state = seed;
    state = next_random(&state) + page * 0xd1342543de82ef95ull;
    if (content == HAUL_GUEST_CONTENT_TEXT) {
        build_text(state, bytes);
    } else {
        build_random(state, bytes);
    }
    memcpy(bytes + PAGE_NUMBER_OFFSET, &page, sizeof page);
}
