// SPDX-License-Identifier: Apache-2.0
// Rule R4 at random, the other way round: moves to a destination that lies now and then never hang, leak or
// leave the guest with two owners.
#include "tests/engine/hostile/hostile_destination.h"
#include "tests/engine/resources.h"

#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

using namespace haul_test;

namespace
{

struct Tally {
    std::atomic<int> completed{0}, stayed{0}, uncertain{0};
    std::mutex topology; // reading it wants to be alone
};

// One move to a destination that lies now and then.
void Deal(std::mt19937 &random, Tally *tally)
{
    // One answer in sixteen is a lie: another frame, a broken payload, garbage, or the end.
    auto lie = [&](FramePeer &peer, const Frame &) {
        if (random() % 16 != 0) {
            return false;
        }
        Payload bytes(random() % 64);
        for (auto &byte : bytes) {
            byte = static_cast<unsigned char>(random());
        }
        switch (random() % 3) {
        case 0:
            peer.Send(static_cast<haul_frame_type>(1 + random() % 24), bytes);
            break;
        case 1:
            (void)!send(peer.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            shutdown(peer.fd(), SHUT_WR);
            break;
        default:
            shutdown(peer.fd(), SHUT_RDWR);
        }
        return true;
    };
    RawDestination destination(lie);
    std::unique_ptr<Source> source;
    {
        std::lock_guard<std::mutex> hold(tally->topology);
        source = std::make_unique<Source>(destination, false, 1000);
    }
    auto begun = Clock::now();
    source->Wait();
    ASSERT_LT(MsSince(begun), 30000) << "it hung: " << source->error.message;
    destination.Stop();
    ExpectOwnership(*source, destination);
    tally->completed += source->result == 0;
    tally->uncertain += source->stats.ownership == HAUL_OWNER_UNCERTAIN;
    tally->stayed += source->stats.ownership == HAUL_OWNER_SOURCE;
}

// They mostly wait, so several are told at the same time.
TEST(HostileDestination, RandomLies)
{
    constexpr int kThreads = 4;
    const char *wish = getenv("HAUL_TEST_ITERATIONS");
    int iterations = wish ? atoi(wish) : 400;
    setenv("HWLOC_SYNTHETIC", "numa:1 pu:2", 1);
    Tally tally;
    auto deal = [&](unsigned seed, int count) {
        std::mt19937 random(seed);
        for (int i = 0; i < count && !testing::Test::HasFailure(); i++) {
            SCOPED_TRACE("seed " + std::to_string(seed) + ", iteration " + std::to_string(i));
            Deal(random, &tally);
        }
    };
    deal(77, 10);
    Resources before = Resources::Now();
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < kThreads; seed++) {
        threads.emplace_back(deal, seed, iterations / kThreads);
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    ExpectNoMoreThan(before);
    EXPECT_GT(tally.completed, iterations / 10);
    EXPECT_GT(tally.stayed, iterations / 10);
    EXPECT_GT(tally.uncertain, 0);
}

} // namespace
