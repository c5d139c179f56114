// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_RESOURCES_H
#define HAUL_TESTS_ENGINE_RESOURCES_H

// What a process holds that a leak would add to: descriptors, threads and memory.

#include <chrono>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <malloc.h>
#include <string>
#include <thread>

namespace haul_test
{

struct Resources {
    size_t descriptors;
    size_t threads;

    static size_t Entries(const char *directory)
    {
        size_t count = 0;
        for (const auto &entry : std::filesystem::directory_iterator(directory)) {
            count += !entry.path().empty();
        }
        return count;
    }
    static Resources Now()
    {
        return {Entries("/proc/self/fd"), Entries("/proc/self/task")};
    }
};

// A thread that was joined stays in /proc for a moment longer.
inline void ExpectNoMoreThan(const Resources &before)
{
    Resources now = Resources::Now();
    for (int i = 0; i < 400 && (now.threads > before.threads || now.descriptors > before.descriptors); i++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        now = Resources::Now();
    }
    EXPECT_LE(now.descriptors, before.descriptors) << "descriptors leaked";
    EXPECT_LE(now.threads, before.threads) << "threads leaked";
}

// The sanitizers replace malloc: theirs counts nothing, and keeps for a while what was freed.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kCountsHeap = false;
#else
constexpr bool kCountsHeap = true;
#endif

// Bytes that malloc has given out. Exact where threads share one arena and have no caches, see
// COUNTED_HEAP in tools/bazel/haul.bzl.
inline size_t HeapBytes()
{
    struct mallinfo2 info = mallinfo2();
    return kCountsHeap ? info.uordblks + info.hblkhd : 0;
}

// Bytes of private writable memory: what malloc has for itself, stacks, and what was mapped without it.
inline size_t PrivateBytes()
{
    std::ifstream status("/proc/self/status");
    size_t kib = 0;
    for (std::string word; status >> word && word != "VmData:";) {
    }
    status >> kib;
    EXPECT_GT(kib, 0u);
    return kCountsHeap ? kib * 1024 : 0;
}

} // namespace haul_test

#endif
