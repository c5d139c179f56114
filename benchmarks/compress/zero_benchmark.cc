// SPDX-License-Identifier: Apache-2.0
// Zero detection, one implementation at a time: over zero pages (all bytes are read), and over pages whose
// last byte, or first, is not zero. 64 KiB stays in the first caches; 64 MiB comes from memory.
#include "compress/zero.h"
#include "compress/zero_codes.h"

#include <benchmark/benchmark.h>

#include <sys/mman.h>

#include <string>

namespace
{

constexpr size_t kPage = 4096;

enum Content { kZero, kLastByte, kFirstByte };

void scan(benchmark::State &state, bool (*is_zero)(const void *, size_t), Content content)
{
    auto length = static_cast<size_t>(state.range(0));
    void *map =
        mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (map == MAP_FAILED) {
        state.SkipWithError("mmap failed");
        return;
    }
    auto *bytes = static_cast<unsigned char *>(map);
    for (size_t at = 0; at < length; at += kPage) {
        bytes[at] = content == kFirstByte;
        bytes[at + kPage - 1] = content == kLastByte;
    }
    for (auto _ : state) {
        for (size_t at = 0; at < length; at += kPage)
            benchmark::DoNotOptimize(is_zero(bytes + at, kPage));
    }
    auto pages = static_cast<int64_t>(state.iterations() * (length / kPage));
    state.SetBytesProcessed(pages * static_cast<int64_t>(kPage));
    state.SetItemsProcessed(pages);
    munmap(map, length);
}

void add(const std::string &name, bool (*is_zero)(const void *, size_t))
{
    const std::pair<const char *, Content> contents[] = {
        {"zero", kZero}, {"last_byte", kLastByte}, {"first_byte", kFirstByte}};
    for (const auto &content : contents) {
        benchmark::RegisterBenchmark((name + "/" + content.first).c_str(), scan, is_zero, content.second)
            ->Arg(64 << 10)
            ->Arg(64 << 20);
    }
}

} // namespace

int main(int argc, char **argv)
{
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv))
        return 2;
    haul_zero_code codes[HAUL_ZERO_CODES] = {};
    size_t count = haul_zero_codes(codes);
    for (size_t i = 0; i < count; i++) {
        if (codes[i].supported)
            add(codes[i].name, codes[i].is_zero);
    }
    add(std::string("chosen_") + haul_zero_implementation(), haul_is_zero);
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
