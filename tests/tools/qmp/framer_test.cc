// SPDX-License-Identifier: Apache-2.0
// Where values end, as QEMU cuts them, and what cannot be cut.
#include "tools/qmp/framer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace
{

// Feeds `input` in pieces of `piece` bytes; returns values as they are, and "!why" for what is broken.
std::vector<std::string> frames(const std::string &input, size_t piece, size_t limit = 1 << 20)
{
    std::vector<std::string> found;
    haul_qmp_framer framer;
    haul_qmp_framer_init(&framer, limit);
    for (size_t at = 0; at < input.size();) {
        size_t taken = 0;
        size_t length = std::min(piece, input.size() - at);
        haul_qmp_frame frame = haul_qmp_framer_feed(&framer, input.data() + at, length, &taken);
        EXPECT_LE(taken, length);
        at += taken;
        if (frame == HAUL_QMP_FRAME_VALUE)
            found.emplace_back(framer.text, framer.used);
        else if (frame == HAUL_QMP_FRAME_BROKEN)
            found.push_back(std::string("!") + framer.why);
        else if (frame == HAUL_QMP_FRAME_TOO_LONG) {
            found.push_back("!too long");
            break;
        }
    }
    haul_qmp_framer_cleanup(&framer);
    return found;
}

using Found = std::vector<std::string>;

void expect_frames(const std::string &input, const Found &expected)
{
    for (size_t piece : {1, 2, 3, 7, 100000})
        EXPECT_EQ(expected, frames(input, piece)) << "in pieces of " << piece << ": " << input;
}

TEST(QmpFramer, ValuesEndWhereTheirBracketsClose)
{
    expect_frames("{\"a\": 1}\n", {"{\"a\": 1}"});
    expect_frames(" {} [] {\"a\":\n[1,\r\n{}]}{}", {"{}", "[]", "{\"a\":\n[1,\r\n{}]}", "{}"});
    expect_frames("{\"a\": \"}\\\"]\"}", {"{\"a\": \"}\\\"]\"}"});
    expect_frames("{\"a\": ", {});
    expect_frames(" \t\r\n", {});
}

TEST(QmpFramer, WordsEndBeforeWhatFollows)
{
    expect_frames("1\nnull [] true{}", {"1", "null", "[]", "true", "{}"});
    expect_frames("\"x\"\"y\" 5", {"\"x\"", "\"y\""});
    expect_frames("abc", {});
}

TEST(QmpFramer, SingleQuotesBecomeDouble)
{
    expect_frames("{'a': 'it\\'s \"b\" \\n'}", {"{\"a\": \"it's \\\"b\\\" \\n\"}"});
    expect_frames("{\"a\": \"it's\"}", {"{\"a\": \"it's\"}"});
    expect_frames("'\\\\'", {"\"\\\\\""});
}

TEST(QmpFramer, ABracketTooManyEndsAValue)
{
    expect_frames("}]{}", {"}", "]", "{}"});
    expect_frames("{\"a\":1]{}", {"{\"a\":1]", "{}"});
}

TEST(QmpFramer, ControlCharactersInStringsSpoilTheLine)
{
    const char *why = "!a control character within a string";
    expect_frames("{\"a\": \"b\x01 c\", \"{}\"}\n{}", {why, "{}"});
    expect_frames("{\"a\": \"half a string\n{}", {why, "{}"});
    expect_frames(std::string("{\"a\0b\"}\n{}", 10), {why, "{}"});
}

TEST(QmpFramer, TheByte255StartsOver)
{
    const char *why = "!the byte 0xff, which starts over";
    expect_frames("\xff{}", {why, "{}"});
    expect_frames("{\"a\": [\"half\xff{}", {why, "{}"});
}

TEST(QmpFramer, DepthHasALimit)
{
    std::string deepest = std::string(HAUL_QMP_DEPTH, '[') + std::string(HAUL_QMP_DEPTH, ']');
    expect_frames(deepest, {deepest});
    expect_frames("[" + deepest + "]\n{}", {"!nested too deeply", "{}"});
}

TEST(QmpFramer, LengthHasALimit)
{
    EXPECT_EQ(Found{"[1234]"}, frames("[1234]", 4, 6));
    EXPECT_EQ(Found{"!too long"}, frames("[12345]", 4, 6));
    EXPECT_EQ(Found{"!too long"}, frames("'\"\"\"'", 4, 6)); // what it becomes is longer
}

TEST(QmpFramer, GivesLargeBuffersBack)
{
    haul_qmp_framer framer;
    size_t taken;
    haul_qmp_framer_init(&framer, 1 << 20);
    std::string large = "[" + std::string(500000, ' ') + "]";
    EXPECT_EQ(HAUL_QMP_FRAME_VALUE, haul_qmp_framer_feed(&framer, large.data(), large.size(), &taken));
    EXPECT_EQ(HAUL_QMP_FRAME_VALUE, haul_qmp_framer_feed(&framer, "[]", 2, &taken));
    EXPECT_LE(framer.capacity, 65536U);
    haul_qmp_framer_cleanup(&framer);
}

} // namespace
