#include "tools/haul/number.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace
{

uint64_t Size(const char *text)
{
    uint64_t value = 0;
    EXPECT_EQ(cli_parse_size(text, &value), 0) << text;
    return value;
}

std::string Bytes(uint64_t value)
{
    char text[CLI_NUMBER_SIZE];
    return cli_format_bytes(text, value);
}

std::string Duration(uint64_t value)
{
    char text[CLI_NUMBER_SIZE];
    return cli_format_duration(text, value);
}

TEST(ParseSize, SuffixesArePowersOf1024InEitherCase)
{
    EXPECT_EQ(Size("0"), 0u);
    EXPECT_EQ(Size("4096"), 4096u);
    EXPECT_EQ(Size("3k"), 3072u);
    EXPECT_EQ(Size("256M"), 256ull << 20);
    EXPECT_EQ(Size("2G"), 2ull << 30);
    EXPECT_EQ(Size("1t"), 1ull << 40);
    EXPECT_EQ(Size("18446744073709551615"), UINT64_MAX);
    EXPECT_EQ(Size("16777215T"), 16777215ull << 40);
}

TEST(ParseSize, OtherFormsAreRefusedAndLeaveTheValueAlone)
{
    for (const char *text : {"", "M", "-1", "+1", " 1", "1 ", "1MB", "1.5G", "0x10", "1P", "ten", "1\n"}) {
        uint64_t value = 7;
        EXPECT_EQ(cli_parse_size(text, &value), -EINVAL) << '"' << text << '"';
        EXPECT_EQ(value, 7u);
    }
}

TEST(ParseSize, OverflowIsNoticed)
{
    uint64_t value = 7;
    EXPECT_EQ(cli_parse_size("18446744073709551616", &value), -ERANGE);
    EXPECT_EQ(cli_parse_size("99999999999999999999999", &value), -ERANGE);
    EXPECT_EQ(cli_parse_size("16777216T", &value), -ERANGE);
    EXPECT_EQ(value, 7u);
}

TEST(ParseNumber, BothEndsOfTheRangeBelongToIt)
{
    uint64_t value = 0;
    EXPECT_EQ(cli_parse_number("1", 1, 128, &value), 0);
    EXPECT_EQ(value, 1u);
    EXPECT_EQ(cli_parse_number("128", 1, 128, &value), 0);
    EXPECT_EQ(value, 128u);
    EXPECT_EQ(cli_parse_number("0", 1, 128, &value), -ERANGE);
    EXPECT_EQ(cli_parse_number("129", 1, 128, &value), -ERANGE);
    EXPECT_EQ(cli_parse_number("99999999999999999999999", 1, 128, &value), -ERANGE);
    EXPECT_EQ(cli_parse_number("4k", 1, 128, &value), -EINVAL);
    EXPECT_EQ(cli_parse_number("-4", 1, 128, &value), -EINVAL);
    EXPECT_EQ(cli_parse_number("", 1, 128, &value), -EINVAL);
    EXPECT_EQ(value, 128u);
}

TEST(Format, BytesCarryThreeDigitsAndChangeUnitInTime)
{
    EXPECT_EQ(Bytes(0), "0 B");
    EXPECT_EQ(Bytes(1023), "1023 B");
    EXPECT_EQ(Bytes(1024), "1.00 KiB");
    EXPECT_EQ(Bytes(10 * 1024), "10.0 KiB");
    EXPECT_EQ(Bytes((1 << 20) - 1), "1.00 MiB");
    EXPECT_EQ(Bytes(256ull << 20), "256 MiB");
    EXPECT_EQ(Bytes(1300ull << 20), "1.27 GiB");
    EXPECT_EQ(Bytes(UINT64_MAX), "16.0 EiB");
}

TEST(Format, RatesSayPerSecond)
{
    char text[CLI_NUMBER_SIZE];
    EXPECT_STREQ(cli_format_rate(text, 0), "0 B/s");
    EXPECT_STREQ(cli_format_rate(text, 812ull << 20), "812 MiB/s");
}

TEST(Format, DurationsPickTheUnitThatReadsBest)
{
    EXPECT_EQ(Duration(0), "0.0 ms");
    EXPECT_EQ(Duration(300000), "0.3 ms");
    EXPECT_EQ(Duration(9949999), "9.9 ms");
    EXPECT_EQ(Duration(9960000), "10 ms");
    EXPECT_EQ(Duration(300000000), "300 ms");
    EXPECT_EQ(Duration(1999000000), "1999 ms");
    EXPECT_EQ(Duration(2000000000), "2.00 s");
    EXPECT_EQ(Duration(65000000000), "65.0 s");
    EXPECT_EQ(Duration(200000000000), "3 min 20 s");
}

} // namespace
