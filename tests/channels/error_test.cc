// SPDX-License-Identifier: Apache-2.0
#include "channels/error.h"

#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <string>

namespace
{

std::string Escaped(const std::string &text, size_t size = 512)
{
    std::string to(size, '#');
    size_t length = haul_text_escape(to.data(), size, text.c_str());
    EXPECT_EQ(length, strlen(to.c_str()));
    return to.c_str();
}

TEST(Text, StaysAsItIsWhenItCanBeShown)
{
    for (const char *text : {"", "plain ~ text", "/srv/Geräte/日本/🐧", "\u00a0", "\U0010ffff"}) {
        EXPECT_EQ(Escaped(text), text);
    }
}

TEST(Text, CannotGiveOrdersToATerminal)
{
    EXPECT_EQ(Escaped("a\x1b[2Jb\r\n\t\x7f"), "a\\x1b[2Jb\\x0d\\x0a\\x09\\x7f");
    EXPECT_EQ(Escaped("\xc2\x9b"), "\\xc2\\x9b"); // CSI in one character
}

TEST(Text, IsUtf8)
{
    EXPECT_EQ(Escaped("\xff"), "\\xff");
    EXPECT_EQ(Escaped("\xbf"), "\\xbf");
    EXPECT_EQ(Escaped("\xe2\x82"), "\\xe2\\x82");                            // ends too soon
    EXPECT_EQ(Escaped("\xe2(x"), "\\xe2(x");                                 // is not gone on with
    EXPECT_EQ(Escaped("\xc0\xaf\xe0\x80\xaf"), "\\xc0\\xaf\\xe0\\x80\\xaf"); // longer than it need be
    EXPECT_EQ(Escaped("\xed\xa0\x80"), "\\xed\\xa0\\x80");                   // half of a pair of UTF-16
    EXPECT_EQ(Escaped("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");          // beyond the last
}

TEST(Text, IsCutBetweenCharacters)
{
    EXPECT_EQ(Escaped("abc", 1), "");
    EXPECT_EQ(Escaped("abc", 3), "ab");
    EXPECT_EQ(Escaped("aä", 3), "a");
    EXPECT_EQ(Escaped("aä", 4), "aä");
    EXPECT_EQ(Escaped("a\x01", 5), "a");
    EXPECT_EQ(Escaped("a\x01", 6), "a\\x01");
}

TEST(Error, KeepsCodeAndMessage)
{
    haul_error error = {};
    EXPECT_EQ(haul_error_set(&error, EINVAL, "%s: %d", "value", 7), -EINVAL);
    EXPECT_STREQ(error.message, "value: 7");
    EXPECT_EQ(haul_error_prefix(&error, "channel %d: ", 3), -EINVAL);
    EXPECT_EQ(error.code, EINVAL);
    EXPECT_STREQ(error.message, "channel 3: value: 7");
    EXPECT_EQ(haul_error_set(nullptr, EPIPE, "nobody asks"), -EPIPE);
    EXPECT_EQ(haul_error_prefix(nullptr, "nobody asks"), -EIO);
}

TEST(Error, EscapesNamesThatAreAnybodys)
{
    haul_error error = {};
    haul_error_set(&error, EPROTO, "RAM block %s", "\x1b]0;mine\x07");
    EXPECT_STREQ(error.message, "RAM block \\x1b]0;mine\\x07");
    haul_error_prefix(&error, "%s: ", "\xfe");
    EXPECT_STREQ(error.message, "\\xfe: RAM block \\x1b]0;mine\\x07") << "escaped once only";
}

TEST(Error, IsCutWhenItIsTooLong)
{
    haul_error error = {};
    haul_error_set(&error, EPROTO, "%s", std::string(2000, '\x02').c_str());
    EXPECT_EQ(strlen(error.message), (sizeof error.message - 1) / 4 * 4);
    haul_error_prefix(&error, "%s", std::string(2000, 'a').c_str());
    EXPECT_EQ(error.message, std::string(sizeof error.message - 1, 'a'));
}

} // namespace
