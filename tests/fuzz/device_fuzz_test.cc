/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the fuzzer's entry point without a fuzzer: over good streams, and over seeded mutations of them. */
#include "tests/fuzz/device_fuzz.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <string>
#include <vector>

namespace
{

std::string sample()
{
    size_t size = 0;
    unsigned char *bytes = haul_device_fuzz_sample(&size);
    std::string copy(reinterpret_cast<char *>(bytes), size);
    free(bytes);
    return copy;
}

std::string stream(const std::string &json, const std::string &section)
{
    std::string bytes("HDEV\x01\0\0\0\x01", 9);
    auto u32 = [&bytes](size_t value) {
        for (int i = 0; i < 4; i++)
            bytes.push_back(static_cast<char>(value >> (8 * i)));
    };
    u32(json.size());
    bytes += json + std::string("\x02\x05\0thing\0\0\0\0", 12);
    u32(section.size());
    return bytes + section + std::string(1, '\0');
}

std::string many_arrays(size_t length)
{
    std::string text = "[]";
    while (text.size() + 3 <= length)
        text += ",[]";
    return text;
}

std::vector<std::string> corpus()
{
    std::string bomb = "{\"name\":\"b\",\"type\":\"u8\"}";
    for (int i = 0; i < 6; i++)
        bomb = "{\"name\":\"b\",\"type\":\"struct\",\"count\":1048576,\"fields\":[" + bomb + "]}";
    const std::string head = "{\"name\":\"thing\",\"version\":1,\"minor\":1,\"fields\":[";
    return {
        "",
        sample(),
        stream(head + bomb + "]}", std::string(3000, '\1')),
        stream(head + "{\"name\":\"n\",\"type\":\"u64\"},{\"name\":\"a\",\"type\":\"struct\",\"count_field\":"
                      "\"n\",\"max\":1048576,\"fields\":[{\"name\":\"x\",\"type\":\"bool\"}]}]}",
               std::string("\x05\0\0\0\0\0\0\0\1\0\1\0\1\0", 14)),
        stream(std::string(3000, '['), ""),
        stream(head + "],\"x\":[" + many_arrays(3000) + "]}", "")};
}

/* More of what takes up room as a tree than a loader reads. */
std::string large()
{
    std::string bytes("HDEV\x01\0\0\0", 8);
    const std::string arrays = many_arrays(65000);
    for (int i = 0; i < 100; i++) {
        const std::string json = "{\"name\":\"d" + std::to_string(i) + "\",\"x\":[" + arrays + "]}";
        bytes += '\1';
        for (int shift = 0; shift < 32; shift += 8)
            bytes.push_back(static_cast<char>(json.size() >> shift));
        bytes += json;
    }
    return bytes + std::string(1, '\0');
}

int run(const std::string &input)
{
    return LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t *>(input.data()), input.size());
}

void mutate(std::string &bytes, std::mt19937_64 &random)
{
    static const char sharp[] = "{}[]\",:0123456789\x00\x01\x02\x7f\x80\xff";
    for (unsigned changes = 1 + random() % 3; changes > 0 && !bytes.empty(); changes--) {
        size_t at = random() % bytes.size();
        switch (random() % 4) {
        case 0:
            bytes[at] = sharp[random() % (sizeof sharp - 1)];
            break;
        case 1:
            bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
            break;
        case 2:
            bytes.erase(at, 1 + random() % 4);
            break;
        default:
            bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 40));
        }
    }
}

TEST(DeviceFuzz, Corpus)
{
    for (const std::string &input : corpus())
        EXPECT_EQ(0, run(input));
    EXPECT_EQ(0, run(large()));
}

TEST(DeviceFuzz, MutationsOfTheCorpus)
{
    std::mt19937_64 random(20240715);
    const auto seeds = corpus();
    for (int i = 0; i < 4000; i++) {
        std::string input = seeds[i % 2 ? 1 : random() % seeds.size()];
        mutate(input, random);
        ASSERT_EQ(0, run(input));
    }
}

/* Only the bytes behind the description: what a peer with the same tables may send. */
TEST(DeviceFuzz, MutationsOfTheState)
{
    std::mt19937_64 random(7);
    const std::string good = sample();
    const size_t state = good.find(std::string("\x02\x05\0thing", 8));
    ASSERT_NE(state, std::string::npos);
    for (int i = 0; i < 4000; i++) {
        std::string tail = good.substr(state);
        mutate(tail, random);
        ASSERT_EQ(0, run(good.substr(0, state) + tail));
    }
}

} // namespace
