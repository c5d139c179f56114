// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_COMPRESS_CONTENTS_H
#define HAUL_TESTS_COMPRESS_CONTENTS_H

// Memory contents for tests and benchmarks, the same on every run for the same seed.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace contents
{

using Bytes = std::vector<unsigned char>;

inline void fill_random(unsigned char *bytes, size_t length, uint64_t seed)
{
    std::mt19937_64 random(seed);
    for (size_t at = 0; at < length; at += sizeof(uint64_t)) {
        uint64_t value = random();
        memcpy(bytes + at, &value, length - at < sizeof value ? length - at : sizeof value);
    }
}

// Words of a made-up language of 4000 words, the common ones far more often than the rare ones, as in prose.
// LZ4 makes about half of it.
inline void fill_text(unsigned char *bytes, size_t length, uint64_t seed)
{
    std::mt19937_64 random(seed);
    std::vector<std::string> words(4000);
    for (auto &word : words) {
        for (size_t letters = 2 + random() % 8; letters > 0; letters--)
            word += static_cast<char>('a' + random() % 26);
    }
    size_t at = 0;
    while (at < length) {
        double share = static_cast<double>(random() % 1000000) / 1e6;
        const std::string &word = words[static_cast<size_t>(share * share * share * 4000)];
        for (char letter : word + (random() % 12 == 0 ? ".\n" : " ")) {
            if (at < length)
                bytes[at++] = static_cast<unsigned char>(letter);
        }
    }
}

// The first half of every page random, the second half zero.
inline void fill_half_zero(unsigned char *bytes, size_t length, uint64_t seed)
{
    fill_random(bytes, length, seed);
    for (size_t at = 2048; at < length; at += 4096)
        memset(bytes + at, 0, length - at < 2048 ? length - at : 2048);
}

// Runs of 1 to 64 pages, each of text, random, half zero or all zero.
inline void fill_mixed(unsigned char *bytes, size_t length, uint64_t seed)
{
    std::mt19937_64 random(seed);
    fill_text(bytes, length, seed);
    size_t run = 0;
    for (size_t at = 0; at < length; at += run) {
        run = (1 + random() % 64) * 4096;
        run = run < length - at ? run : length - at;
        switch (random() % 4) {
        case 0:
            fill_random(bytes + at, run, random());
            break;
        case 1:
            fill_half_zero(bytes + at, run, random());
            break;
        case 2:
            memset(bytes + at, 0, run);
            break;
        default:
            break;
        }
    }
}

inline Bytes random(size_t length, uint64_t seed = 1)
{
    Bytes bytes(length);
    fill_random(bytes.data(), length, seed);
    return bytes;
}

inline Bytes text(size_t length, uint64_t seed = 1)
{
    Bytes bytes(length);
    fill_text(bytes.data(), length, seed);
    return bytes;
}

inline Bytes half_zero(size_t length, uint64_t seed = 1)
{
    Bytes bytes(length);
    fill_half_zero(bytes.data(), length, seed);
    return bytes;
}

} // namespace contents

#endif
