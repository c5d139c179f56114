// SPDX-License-Identifier: Apache-2.0
// LZ4 on one chunk of each content, as a sender and a receiver use it: encode into less than the chunk,
// decode what came out. Bytes per second are those of the memory, not of the wire. "Acceleration" shows what
// LZ4's speed setting gains and costs, for the choice made in compress/lz4.c.
#include "compress/choice.h"
#include "compress/codec.h"
#include "tests/compress/contents.h"

#include <benchmark/benchmark.h>
#include <lz4.h>

#include <vector>

namespace
{

using Make = contents::Bytes (*)(size_t, uint64_t);

struct Encoded {
    contents::Bytes plain;
    contents::Bytes wire = contents::Bytes(HAUL_CODEC_CHUNK);
    std::vector<uint64_t> scratch;
    ptrdiff_t length = 0;

    Encoded(Make make, size_t size)
        : plain(make(size, 1)), scratch(haul_codec_by_id(HAUL_CODEC_LZ4)->scratch_size() / 8 + 2)
    {
        encode();
    }
    void encode()
    {
        length = haul_codec_by_id(HAUL_CODEC_LZ4)
                     ->encode(plain.data(), plain.size(), wire.data(), plain.size() - 1, scratch.data());
    }
    double ratio() const
    {
        return length > 0 ? static_cast<double>(length) / static_cast<double>(plain.size()) : 1.0;
    }
};

void report(benchmark::State &state, const Encoded &chunk)
{
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * chunk.plain.size()));
    state.counters["wire_share"] = chunk.ratio();
}

void Encode(benchmark::State &state, Make make)
{
    Encoded chunk(make, static_cast<size_t>(state.range(0)));
    for (auto _ : state) {
        chunk.encode();
        benchmark::DoNotOptimize(chunk.length);
    }
    report(state, chunk);
}

void Decode(benchmark::State &state, Make make)
{
    Encoded chunk(make, static_cast<size_t>(state.range(0)));
    contents::Bytes back(chunk.plain.size());
    for (auto _ : state) {
        int result =
            haul_codec_by_id(HAUL_CODEC_LZ4)
                ->decode(chunk.wire.data(), static_cast<size_t>(chunk.length), back.data(), back.size());
        if (result != 0)
            state.SkipWithError("decode failed");
    }
    report(state, chunk);
}

void Acceleration(benchmark::State &state, Make make)
{
    Encoded chunk(make, HAUL_CODEC_CHUNK);
    for (auto _ : state) {
        chunk.length = LZ4_compress_fast_extState(
            chunk.scratch.data(), reinterpret_cast<const char *>(chunk.plain.data()),
            reinterpret_cast<char *>(chunk.wire.data()), static_cast<int>(chunk.plain.size()),
            static_cast<int>(chunk.plain.size()) - 1, static_cast<int>(state.range(0)));
        benchmark::DoNotOptimize(chunk.length);
    }
    report(state, chunk);
}

// What AUTO adds to a batch that it then sends raw.
void Pick(benchmark::State &state, Make make)
{
    contents::Bytes page = make(4096, 1);
    haul_choice choice;
    haul_choice_init(&choice, HAUL_COMPRESS_AUTO);
    const haul_codec *raw = haul_codec_by_id(HAUL_CODEC_RAW);
    const haul_choice_cost cost = {1 << 20, 1 << 20, 0, 250000, 0, false};
    for (auto _ : state) {
        benchmark::DoNotOptimize(haul_choice_pick(&choice, page.data(), page.size()));
        haul_choice_learn(&choice, raw, &cost);
    }
}

BENCHMARK_CAPTURE(Encode, random, contents::random)->Arg(4096)->Arg(HAUL_CODEC_CHUNK);
BENCHMARK_CAPTURE(Encode, text, contents::text)->Arg(4096)->Arg(HAUL_CODEC_CHUNK);
BENCHMARK_CAPTURE(Encode, half_zero, contents::half_zero)->Arg(4096)->Arg(HAUL_CODEC_CHUNK);
BENCHMARK_CAPTURE(Decode, text, contents::text)->Arg(4096)->Arg(HAUL_CODEC_CHUNK);
BENCHMARK_CAPTURE(Decode, half_zero, contents::half_zero)->Arg(4096)->Arg(HAUL_CODEC_CHUNK);
BENCHMARK_CAPTURE(Acceleration, random, contents::random)->Arg(1)->Arg(4)->Arg(16);
BENCHMARK_CAPTURE(Acceleration, text, contents::text)->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Arg(16);
BENCHMARK_CAPTURE(Acceleration, half_zero, contents::half_zero)->Arg(1)->Arg(4)->Arg(16);
BENCHMARK_CAPTURE(Pick, random, contents::random);
BENCHMARK_CAPTURE(Pick, text, contents::text);

} // namespace
