// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_RESOURCES_H
#define HAUL_TESTS_ENGINE_RESOURCES_H

// What a process holds that a leak would add to: descriptors and threads.

#include <chrono>
#include <filesystem>
#include <gtest/gtest.h>
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

} // namespace haul_test

#endif
