/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/ring.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <thread>

namespace
{

void *item(uintptr_t number)
{
    return reinterpret_cast<void *>(number);
}

TEST(Ring, IsEmptyAtFirst)
{
    haul_ring ring;
    haul_ring_init(&ring);
    EXPECT_EQ(nullptr, haul_ring_pop(&ring));
}

TEST(Ring, KeepsOrder)
{
    haul_ring ring;
    haul_ring_init(&ring);
    for (uintptr_t i = 1; i <= 5; i++)
        EXPECT_TRUE(haul_ring_push(&ring, item(i)));
    for (uintptr_t i = 1; i <= 5; i++)
        EXPECT_EQ(item(i), haul_ring_pop(&ring));
    EXPECT_EQ(nullptr, haul_ring_pop(&ring));
}

TEST(Ring, HoldsItsCapacityAndRefusesMore)
{
    haul_ring ring;
    haul_ring_init(&ring);
    for (uintptr_t i = 1; i <= HAUL_RING_CAPACITY; i++)
        EXPECT_TRUE(haul_ring_push(&ring, item(i)));
    EXPECT_FALSE(haul_ring_push(&ring, item(99)));
    EXPECT_EQ(item(1), haul_ring_pop(&ring));
    EXPECT_TRUE(haul_ring_push(&ring, item(17)));
    EXPECT_FALSE(haul_ring_push(&ring, item(99)));
    for (uintptr_t i = 2; i <= HAUL_RING_CAPACITY + 1; i++)
        EXPECT_EQ(item(i), haul_ring_pop(&ring));
    EXPECT_EQ(nullptr, haul_ring_pop(&ring));
}

TEST(Ring, SurvivesTheWrapOfItsIndices)
{
    haul_ring ring;
    haul_ring_init(&ring);
    const uint32_t start = UINT32_MAX - 20;
    ring.head = start;
    ring.tail = start;
    ring.head_seen = start;
    ring.tail_seen = start;
    for (uintptr_t i = 1; i <= 100; i++) {
        ASSERT_TRUE(haul_ring_push(&ring, item(i)));
        ASSERT_TRUE(haul_ring_push(&ring, item(1000 + i)));
        ASSERT_EQ(item(i), haul_ring_pop(&ring));
        ASSERT_EQ(item(1000 + i), haul_ring_pop(&ring));
    }
    EXPECT_EQ(nullptr, haul_ring_pop(&ring));
    EXPECT_LT(ring.tail.load(), 1000u); /* it did wrap */
}

/*
 * Millions of items between two threads: each arrives once, in order, with what was written to it before the
 * push. The items go back on a second ring, as batches do, and are written again.
 */
TEST(Ring, TwoThreadsHandOverMillionsOfItems)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    const uint64_t total = 1000000;
#else
    const uint64_t total = 5000000;
#endif
    struct Rings {
        haul_ring out, back;
    };
    auto rings = std::make_unique<Rings>();
    haul_ring_init(&rings->out);
    haul_ring_init(&rings->back);
    uint64_t payload[HAUL_RING_CAPACITY];
    uint64_t wrong = 0;
    std::thread consumer([&] {
        for (uint64_t expected = 0; expected < total;) {
            auto *got = static_cast<uint64_t *>(haul_ring_pop(&rings->out));
            if (!got) {
                std::this_thread::yield();
                continue;
            }
            wrong += *got != expected++;
            *got = UINT64_MAX;
            while (!haul_ring_push(&rings->back, got))
                std::this_thread::yield();
        }
    });
    uint64_t fresh = 0;
    for (uint64_t next = 0; next < total;) {
        auto *slot = static_cast<uint64_t *>(haul_ring_pop(&rings->back));
        if (!slot && fresh < HAUL_RING_CAPACITY)
            slot = &payload[fresh++];
        if (!slot) {
            std::this_thread::yield();
            continue;
        }
        *slot = next++;
        ASSERT_TRUE(haul_ring_push(&rings->out, slot)); /* as many items as slots: never full */
    }
    consumer.join();
    EXPECT_EQ(0u, wrong);
}

} // namespace
