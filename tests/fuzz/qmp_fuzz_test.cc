/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the fuzzer's entry point without a fuzzer: over good messages, and over seeded mutations of them. */
#include "tests/fuzz/qmp_fuzz.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace
{

const char NEGOTIATE[] = "{\"execute\": \"qmp_capabilities\"}\n";

std::vector<std::string> corpus()
{
    std::vector<std::string> inputs;
    for (const char *text :
         {"", "{\"execute\": \"query-commands\", \"id\": [1, {\"a\": null}]}{'execute': 'query-version'}",
          "{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"tcp:h:1\", \"bandwidth\": 100}, \"id\": "
          "1.5}\n",
          "{'execute': 'migrate', 'arguments': {'uri': 'it\\'s \"x\"', 'list': [{'capability': 'one', "
          "'state': "
          "true}, {'capability': 'two', 'state': false}]}}",
          "{\"execute\": \"nope\", \"id\": \"\\u00e9\\ud83d\\ude00\xc3\xa9\"}\xff{\"execute\": 1}\n[]\n5 "
          "null\n"})
        inputs.push_back(std::string(1, static_cast<char>(inputs.size() * 7)) + NEGOTIATE + text);
    inputs.push_back("\x05" + std::string(1100, '[') + std::string(1100, ']') + "\n" + NEGOTIATE);
    inputs.push_back("\x3f" + std::string(NEGOTIATE) + "{\"execute\": \"" + std::string(5000, 'x') + "\"}");
    return inputs;
}

int run(const std::string &input)
{
    return LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t *>(input.data()), input.size());
}

/* Mostly what a parser stumbles over. */
void mutate(std::string &text, std::mt19937_64 &random)
{
    static const char sharp[] = "{}[]\"'\\:,\n\r\t \x00\x01\x1f\x7f\x80\xc3\xed\xf4\xff-+.eE0u";
    for (unsigned changes = 1 + random() % 4; changes > 0; changes--) {
        size_t at = random() % text.size();
        switch (random() % 4) {
        case 0:
            text[at] = sharp[random() % (sizeof sharp - 1)];
            break;
        case 1:
            text.insert(at, 1, sharp[random() % (sizeof sharp - 1)]);
            break;
        case 2:
            text.erase(at, 1 + random() % 4);
            break;
        default:
            text.insert(at, text.substr(random() % text.size(), random() % 40));
        }
        if (text.empty())
            text = "\n";
    }
}

TEST(QmpFuzz, Corpus)
{
    for (const std::string &input : corpus())
        EXPECT_EQ(0, run(input));
}

TEST(QmpFuzz, MutationsOfTheCorpus)
{
    std::mt19937_64 random(20240607);
    const auto seeds = corpus();
    for (int i = 0; i < 8000; i++) {
        std::string input = seeds[random() % seeds.size()];
        mutate(input, random);
        ASSERT_EQ(0, run(input));
    }
}

TEST(QmpFuzz, Noise)
{
    std::mt19937_64 random(7);
    for (int i = 0; i < 8000; i++) {
        std::string input(random() % 200, '\0');
        for (auto &byte : input)
            byte = static_cast<char>(random());
        ASSERT_EQ(0, run(input));
    }
}

} // namespace
