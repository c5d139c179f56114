// SPDX-License-Identifier: Apache-2.0
// What `--compress auto` costs against the better of none and lz4: real senders and receivers move the same
// memory through real sockets, in turn by none, auto, lz4 and none again, so that a disturbance of the
// machine meets all of them. Reported are medians, and of the rounds' ratios the medians: auto_to_better is
// the time of auto over that of the better of the other two, and must be at most 1.05; control is that of the
// second none over the first, and says how far such a ratio can be trusted. "paced" rows let the kernel pace
// each TCP socket to so many Mbit/s, which is what a slower link looks like to the sender.
//   bazel run --config=release //benchmarks/compress:choice_benchmark
#include "channels/receiver.h"
#include "channels/sender.h"
#include "tests/compress/contents.h"

#include <benchmark/benchmark.h>

#include <arpa/inet.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <vector>

namespace
{

constexpr size_t kMemory = size_t{256} << 20;
constexpr int kRounds = 7;

using Fill = void (*)(unsigned char *, size_t, uint64_t);

[[noreturn]] void die(const char *what)
{
    perror(what);
    exit(1);
}

class Memory
{
  public:
    Memory()
    {
        void *map =
            mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (map == MAP_FAILED)
            die("mmap");
        view_.host = static_cast<unsigned char *>(map);
        view_.pages = kMemory / HAUL_PAGE_SIZE;
    }
    ~Memory()
    {
        munmap(view_.host, kMemory);
    }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    haul_block_view *view()
    {
        return &view_;
    }

  private:
    haul_block_view view_ = {};
};

struct Pair {
    int from = -1;
    int to = -1;
};

Pair tcp_pair(int64_t paced_mbit)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto *generic = reinterpret_cast<sockaddr *>(&address);
    if (listener < 0 || bind(listener, generic, size) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, generic, &size) != 0)
        die("listen");
    Pair pair;
    pair.from = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (pair.from < 0 || connect(pair.from, generic, size) != 0)
        die("connect");
    pair.to = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (pair.to < 0)
        die("accept");
    close(listener);
    uint64_t rate = static_cast<uint64_t>(paced_mbit) * 1000000 / 8;
    if (paced_mbit > 0 && setsockopt(pair.from, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate) != 0)
        die("SO_MAX_PACING_RATE");
    return pair;
}

Pair unix_pair()
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        die("socketpair");
    return {fds[0], fds[1]};
}

haul_batch *acquire(haul_sender *sender, haul_doorbell *bell)
{
    for (;;) {
        uint32_t ticket = haul_doorbell_ticket(bell);
        haul_error error = {};
        if (haul_sender_error(sender, &error) != 0) {
            fprintf(stderr, "%s\n", error.message);
            exit(1);
        }
        if (haul_batch *batch = haul_sender_acquire(sender))
            return batch;
        haul_doorbell_wait(bell, ticket, 100000000);
    }
}

struct Result {
    double seconds;
    double encoded; // share of pages that went through the codec
};

// Moves all of `source` `passes` times over one new channel; the time ends when all of it is in
// `destination`.
Result move(Memory *source, Memory *destination, int mode, Pair pair, int64_t passes)
{
    std::promise<void> arrived;
    haul_error error = {};
    haul_receiver_options in = {};
    in.fd = pair.to;
    in.blocks = destination->view();
    in.block_count = 1;
    in.slot.cpu = -1;
    in.slot.node = HAUL_NODE_UNKNOWN;
    in.opaque = &arrived;
    in.round = [](void *opaque, unsigned, uint32_t, haul_error *) {
        static_cast<std::promise<void> *>(opaque)->set_value();
        return 0;
    };
    in.failed = [](void *, unsigned, const haul_error *) {};
    haul_receiver *receiver = nullptr;
    haul_doorbell bell;
    haul_doorbell_init(&bell);
    haul_sender_options out = {};
    out.compress = mode;
    out.slot = in.slot;
    out.blocks = source->view();
    out.block_count = 1;
    out.completion_bell = &bell;
    haul_sender *sender = nullptr;
    if (haul_receiver_new(&in, &receiver, &error) != 0 ||
        haul_carrier_stream_new(pair.from, &out.carrier, &error) != 0 ||
        haul_sender_new(&out, &sender, &error) != 0) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }

    auto start = std::chrono::steady_clock::now();
    uint64_t pages = source->view()->pages;
    for (uint64_t page = 0; page < pages * static_cast<uint64_t>(passes); page += HAUL_BATCH_PAGES) {
        haul_batch *batch = acquire(sender, &bell);
        batch->kind = HAUL_BATCH_KIND_PAGES;
        batch->round = 1;
        batch->block = 0;
        batch->run_count = 1;
        batch->page_count = HAUL_BATCH_PAGES;
        batch->runs[0].first = page % pages;
        batch->runs[0].count = HAUL_BATCH_PAGES;
        haul_sender_submit(sender, batch);
    }
    haul_batch *mark = acquire(sender, &bell);
    mark->kind = HAUL_BATCH_KIND_ROUND;
    mark->round = 1;
    mark->run_count = 0;
    mark->page_count = 0;
    haul_sender_submit(sender, mark);
    arrived.get_future().wait();
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    haul_channel_counters counters = {};
    haul_sender_counters(sender, &counters);
    haul_sender_free(sender);
    haul_receiver_free(receiver);
    return {took.count(),
            static_cast<double>(counters.compressed_pages) / static_cast<double>(counters.pages)};
}

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

double median_ratio(const std::vector<double> &times, const std::vector<double> &others)
{
    std::vector<double> ratios;
    for (size_t i = 0; i < times.size(); i++)
        ratios.push_back(times[i] / others[i]);
    return median(ratios);
}

// range(0): 0 for a unix socket pair, 1 for TCP over loopback; range(1): paced to so many Mbit/s, 0: not.
// An unpaced move is over too soon to measure, so it passes over the memory four times.
void Auto(benchmark::State &state, Fill fill)
{
    Memory source;
    Memory destination;
    fill(source.view()->host, kMemory, 1);
    int64_t passes = state.range(1) == 0 ? 4 : 1;
    std::vector<double> encoded;
    auto time = [&](int mode) {
        Pair pair = state.range(0) == 0 ? unix_pair() : tcp_pair(state.range(1));
        Result result = move(&source, &destination, mode, pair, passes);
        if (mode == HAUL_COMPRESS_AUTO)
            encoded.push_back(result.encoded);
        return result.seconds;
    };
    time(HAUL_CODEC_RAW); // the first finds nothing in its caches
    std::vector<double> none;
    std::vector<double> chosen;
    std::vector<double> lz4;
    std::vector<double> control;
    for (auto _ : state) {
        none.push_back(time(HAUL_CODEC_RAW));
        chosen.push_back(time(HAUL_COMPRESS_AUTO));
        lz4.push_back(time(HAUL_CODEC_LZ4));
        control.push_back(time(HAUL_CODEC_RAW));
        state.SetIterationTime(chosen.back());
    }
    double bytes = static_cast<double>(kMemory) * static_cast<double>(passes);
    bool raw = median(none) <= median(lz4);
    state.counters["none_MB_s"] = bytes / median(none) / 1e6;
    state.counters["lz4_MB_s"] = bytes / median(lz4) / 1e6;
    state.counters["auto_MB_s"] = bytes / median(chosen) / 1e6;
    state.counters["auto_encoded"] = median(encoded);
    state.counters["auto_to_better"] = median_ratio(chosen, raw ? none : lz4);
    state.counters["control"] = median_ratio(control, none);
    state.SetLabel(raw ? "none is better" : "lz4 is better");
}

void links(benchmark::internal::Benchmark *benchmark)
{
    benchmark->ArgNames({"tcp", "paced"})
        ->Args({0, 0})
        ->Args({1, 0})
        ->Args({1, 10000})
        ->Args({1, 1000})
        ->Iterations(kRounds)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(Auto, random, contents::fill_random)->Apply(links);
BENCHMARK_CAPTURE(Auto, text, contents::fill_text)->Apply(links);
BENCHMARK_CAPTURE(Auto, mixed, contents::fill_mixed)->Apply(links);
BENCHMARK_CAPTURE(Auto, half_zero, contents::fill_half_zero)->Apply(links);

} // namespace
