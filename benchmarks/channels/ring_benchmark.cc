/* SPDX-License-Identifier: Apache-2.0 */
/* What handing a batch over costs, in one thread and between two. */
#include "channels/doorbell.h"
#include "channels/ring.h"

#include <benchmark/benchmark.h>

#include <atomic>
#include <memory>
#include <thread>

namespace
{

void PushPop(benchmark::State &state)
{
    auto ring = std::make_unique<haul_ring>();
    int item = 0;
    haul_ring_init(ring.get());
    for (auto _ : state) {
        haul_ring_push(ring.get(), &item);
        benchmark::DoNotOptimize(haul_ring_pop(ring.get()));
    }
    state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
}
BENCHMARK(PushPop);

void RingWithoutSleeper(benchmark::State &state)
{
    auto bell = std::make_unique<haul_doorbell>();
    haul_doorbell_init(bell.get());
    for (auto _ : state)
        haul_doorbell_ring(bell.get());
}
BENCHMARK(RingWithoutSleeper);

/* Both directions of a channel: an item goes over and comes back, up to a ring's capacity in flight. */
struct Pair {
    haul_ring out, back;
    haul_doorbell out_bell, back_bell;
    std::atomic<bool> stop{false};
};

void echo(Pair *pair)
{
    for (;;) {
        uint32_t ticket = haul_doorbell_ticket(&pair->out_bell);
        bool stop = pair->stop;
        if (void *item = haul_ring_pop(&pair->out)) {
            haul_ring_push(&pair->back, item);
            haul_doorbell_ring(&pair->back_bell);
        } else if (stop) {
            return;
        } else {
            haul_doorbell_wait(&pair->out_bell, ticket, UINT64_MAX);
        }
    }
}

/* The argument is the number of items in flight. Who has no work spins for a moment, then sleeps. */
void BetweenThreads(benchmark::State &state)
{
    auto pair = std::make_unique<Pair>();
    haul_ring_init(&pair->out);
    haul_ring_init(&pair->back);
    haul_doorbell_init(&pair->out_bell);
    haul_doorbell_init(&pair->back_bell);
    std::thread other(echo, pair.get());
    int item = 0;
    int64_t in_flight = 0;
    for (auto _ : state) {
        while (in_flight < state.range(0)) {
            haul_ring_push(&pair->out, &item);
            haul_doorbell_ring(&pair->out_bell);
            in_flight++;
        }
        for (;;) {
            uint32_t ticket = haul_doorbell_ticket(&pair->back_bell);
            if (haul_ring_pop(&pair->back))
                break;
            haul_doorbell_wait(&pair->back_bell, ticket, UINT64_MAX);
        }
        in_flight--;
    }
    pair->stop = true;
    haul_doorbell_ring(&pair->out_bell);
    other.join();
    state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
}
BENCHMARK(BetweenThreads)->ArgName("in_flight")->Arg(1)->Arg(8)->UseRealTime();

} // namespace
