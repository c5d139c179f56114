// SPDX-License-Identifier: Apache-2.0
#include "compress/zero.h"
#include "compress/zero_codes.h"

#include <gtest/gtest.h>

#include <sys/mman.h>

#include <atomic>
#include <string>
#include <thread>

namespace
{

constexpr size_t kPage = 4096;

// Pages that end at an unmapped one, so that a read past the end is a crash and not luck.
class Pages
{
  public:
    explicit Pages(size_t count) : length_(count * kPage)
    {
        void *map =
            mmap(nullptr, length_ + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        EXPECT_NE(map, MAP_FAILED);
        bytes_ = static_cast<unsigned char *>(map);
        EXPECT_EQ(mprotect(bytes_ + length_, kPage, PROT_NONE), 0);
    }
    ~Pages()
    {
        munmap(bytes_, length_ + kPage);
    }
    Pages(const Pages &) = delete;
    Pages &operator=(const Pages &) = delete;
    unsigned char *bytes()
    {
        return bytes_;
    }
    size_t length() const
    {
        return length_;
    }

  private:
    size_t length_;
    unsigned char *bytes_;
};

class ZeroCode : public testing::TestWithParam<size_t>
{
  protected:
    void SetUp() override
    {
        size_t count = haul_zero_codes(codes_);
        if (GetParam() >= count)
            GTEST_SKIP() << "this architecture has only " << count << " implementations of zero detection";
        code_ = codes_[GetParam()];
        if (!code_.supported)
            GTEST_SKIP() << "this CPU has no " << code_.name;
    }
    haul_zero_code codes_[HAUL_ZERO_CODES] = {};
    haul_zero_code code_ = {};
};

TEST_P(ZeroCode, FindsZeroPagesOfAnyCount)
{
    for (size_t count : {1, 2, 3, 16, 256}) {
        Pages pages(count);
        EXPECT_TRUE(code_.is_zero(pages.bytes(), pages.length())) << code_.name << ", " << count << " pages";
    }
}

TEST_P(ZeroCode, SeesEveryByteOfAPage)
{
    Pages pages(1);
    for (size_t at = 0; at < kPage; at++) {
        pages.bytes()[at] = 0x80;
        ASSERT_FALSE(code_.is_zero(pages.bytes(), kPage)) << code_.name << " missed byte " << at;
        pages.bytes()[at] = 0;
    }
    EXPECT_TRUE(code_.is_zero(pages.bytes(), kPage));
}

TEST_P(ZeroCode, SeesEveryBitOfAByte)
{
    Pages pages(1);
    for (unsigned bit = 0; bit < 8; bit++) {
        pages.bytes()[kPage - 1] = static_cast<unsigned char>(1u << bit);
        EXPECT_FALSE(code_.is_zero(pages.bytes(), kPage)) << code_.name << " missed bit " << bit;
    }
}

TEST_P(ZeroCode, SeesTheLastByteOfManyPages)
{
    Pages pages(16);
    pages.bytes()[pages.length() - 1] = 1;
    EXPECT_FALSE(code_.is_zero(pages.bytes(), pages.length())) << code_.name;
    EXPECT_TRUE(code_.is_zero(pages.bytes(), pages.length() - kPage)) << code_.name << " read too far";
}

// A page that the guest writes meanwhile must not upset ThreadSanitizer; either answer is right.
TEST_P(ZeroCode, MayReadWhileTheGuestWrites)
{
    Pages pages(1);
    std::atomic<bool> stop{false};
    std::thread guest([&] {
        for (unsigned char value = 0; !stop; value++)
            pages.bytes()[100] = value;
    });
    for (int i = 0; i < 1000; i++)
        code_.is_zero(pages.bytes(), kPage);
    stop = true;
    guest.join();
    pages.bytes()[100] = 1;
    EXPECT_FALSE(code_.is_zero(pages.bytes(), kPage));
}

INSTANTIATE_TEST_SUITE_P(Zero, ZeroCode, testing::Range<size_t>(0, HAUL_ZERO_CODES),
                         [](const testing::TestParamInfo<size_t> &info) {
                             haul_zero_code codes[HAUL_ZERO_CODES] = {};
                             size_t count = haul_zero_codes(codes);
                             return info.param < count ? std::string(codes[info.param].name)
                                                       : "absent" + std::to_string(info.param);
                         });

TEST(Zero, ChoosesTheWidestThatTheCpuHas)
{
    haul_zero_code codes[HAUL_ZERO_CODES] = {};
    size_t count = haul_zero_codes(codes);
    ASSERT_GE(count, 1u);
    EXPECT_TRUE(codes[count - 1].supported) << "the portable code runs everywhere";
    size_t widest = 0;
    while (!codes[widest].supported)
        widest++;
    EXPECT_STREQ(haul_zero_implementation(), codes[widest].name);
}

TEST(Zero, PublicFunctionAnswers)
{
    Pages pages(2);
    EXPECT_TRUE(haul_is_zero(pages.bytes(), pages.length()));
    pages.bytes()[kPage] = 1;
    EXPECT_FALSE(haul_is_zero(pages.bytes(), pages.length()));
    EXPECT_TRUE(haul_is_zero(pages.bytes(), kPage));
}

} // namespace
