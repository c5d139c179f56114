// SPDX-License-Identifier: Apache-2.0
// A disk under load, moved twenty times: each time the images are identical at the stop, and nothing is left
// behind. And twenty times it is cancelled at a random moment.
#include "tests/engine/disk/disk.h"
#include "tests/engine/resources.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <random>

using namespace haul_test;

namespace
{

constexpr uint64_t kMiB = 1 << 20;
constexpr int kMoves = 20;
constexpr int kWarmUp = 3;

haul_options RandomOptions(std::mt19937 *random)
{
    static const char *const kCodecs[] = {"none", "lz4", "auto"};
    haul_options options = DiskOptions();
    options.channels = 1 + (*random)() % 6;
    options.compress = kCodecs[(*random)() % 3];
    options.verify = (*random)() % 2;
    return options;
}

void Load(DiskMachines *machines, std::mt19937 *random)
{
    static const uint32_t kGranularities[] = {4096, 16384, 65536};
    machines->disk->granularity = kGranularities[(*random)() % 3];
    machines->copy->granularity = kGranularities[(*random)() % 3];
    machines->from.Run(5, 500);
    machines->disk->Run(10 + (*random)() % 20, 500 + (*random)() % 1000);
}

TEST(Disks, TwentyMovesUnderLoad)
{
    setenv("HWLOC_SYNTHETIC", "numa:1 pu:2", 1); // the real topology would take most of the time
    std::mt19937 random(77);
    Resources before{};
    for (int i = 0; i < kMoves; i++) {
        SCOPED_TRACE("move " + std::to_string(i));
        if (i == kWarmUp) {
            before = Resources::Now();
        }
        unsigned holes = 2 + random() % 5;
        DiskMachines machines(8 * kMiB + random() % 4096,
                              [holes](uint64_t block) { return block / 8 % holes != 1; });
        Load(&machines, &random);
        Move move(machines.from, machines.to, RandomOptions(&random), i % 2 ? "tcp:127.0.0.1:0" : "");
        machines.ExpectMoved(move);
        ASSERT_FALSE(HasFailure());
    }
    ExpectNoMoreThan(before);
}

TEST(Disks, CancelsAtRandomMomentsLeaveNoImage)
{
    setenv("HWLOC_SYNTHETIC", "numa:1 pu:2", 1);
    std::mt19937 random(78);
    for (int i = 0; i < kMoves; i++) {
        SCOPED_TRACE("move " + std::to_string(i));
        DiskMachines machines(8 * kMiB);
        Load(&machines, &random);
        Move move(machines.from, machines.to, RandomOptions(&random));
        usleep(static_cast<unsigned>(random() % 100000));
        int cancelled = haul_cancel(move.source);
        ASSERT_TRUE(cancelled == 0 || cancelled == -EALREADY);
        if (cancelled == 0) {
            haul_wait(move.source, &move.source_error);
            haul_cancel(move.destination); // it may not have met anybody
            machines.ExpectStayed(move, ECANCELED, "cancelled");
        } else {
            machines.ExpectMoved(move);
        }
        ASSERT_FALSE(HasFailure());
    }
}

} // namespace
