// SPDX-License-Identifier: Apache-2.0
// The choice has no clock of its own, so these tests give it a simulated channel: what encoding and copying
// cost, a socket buffer, and a link that drains it.
#include "compress/choice.h"
#include "tests/compress/contents.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <thread>

namespace
{

constexpr size_t kBatch = size_t{1} << 20;
constexpr double kBuffer = 4 << 20;
constexpr unsigned kColdBatches = 2;

struct Content {
    const char *name;
    contents::Bytes sample;
    double ratio;     // wire bytes by LZ4 per input byte, 1: does not shrink
    double encode_ns; // per input byte, gathering included
    double cold = 1;  // so many times that for the first batches after raw ones
};

Content random_content()
{
    return {"random", contents::random(4096), 1.0, 0.2};
}

Content text_content()
{
    return {"text", contents::text(4096), 0.6, 1.6};
}

class Channel
{
  public:
    explicit Channel(double link_ns, double copy_ns = 0.25, double buffer = kBuffer)
        : link_ns_(link_ns), copy_ns_(copy_ns), buffer_(buffer)
    {
    }

    // Sends one batch as `choice` picks; returns whether through the codec.
    bool send(haul_choice *choice, const Content &content, size_t bytes = kBatch)
    {
        const haul_codec *codec = haul_choice_pick(choice, content.sample.data(), content.sample.size());
        bool encoded = codec->id == HAUL_CODEC_LZ4;
        double wire = static_cast<double>(bytes) * (encoded ? content.ratio : 1);
        row_ = encoded ? row_ + 1 : 0;
        double cold = row_ <= kColdBatches ? content.cold : 1;
        double encode_ns = encoded ? static_cast<double>(bytes) * content.encode_ns * cold * slowdown() : 0;
        pass(encode_ns);
        double start = now_;
        // As TCP does it: a full buffer puts the sender to sleep until a third of it is free again, so that
        // a few batches pass at once and then one waits long.
        double copy_ns = copy_ns_ * slowdown();
        for (double left = wire; left > 0;) {
            double part = std::min(left, buffer_ - buffered_);
            pass(part * copy_ns);
            buffered_ += link_ns_ > 0 ? part : 0;
            left -= part;
            if (left > 0)
                pass(buffer_ / 3 * link_ns_);
        }
        haul_choice_cost cost = {bytes,
                                 static_cast<size_t>(wire),
                                 static_cast<uint64_t>(encode_ns),
                                 static_cast<uint64_t>(now_ - start),
                                 encoded ? content.encode_ns : 0,
                                 false};
        haul_choice_learn(choice, codec, &cost);
        return encoded;
    }

    // Sends `count` batches; returns how many went through the codec.
    unsigned send_many(haul_choice *choice, const Content &content, unsigned count)
    {
        unsigned encoded = 0;
        for (unsigned i = 0; i < count; i++)
            encoded += send(choice, content);
        return encoded;
    }

    void set_link(double link_ns)
    {
        link_ns_ = link_ns;
    }
    // Each step of a batch takes up to ten times as long in one of `period` cases: a preempted thread.
    void disturb(unsigned period)
    {
        period_ = period;
    }
    // The time until the last byte has left.
    double finished() const
    {
        return now_ + buffered_ * link_ns_;
    }

  private:
    void pass(double ns)
    {
        now_ += ns;
        buffered_ = link_ns_ > 0 ? std::max(0.0, buffered_ - ns / link_ns_) : 0;
    }
    double slowdown()
    {
        return period_ > 0 && random_() % period_ == 0 ? static_cast<double>(random_() % 10) + 1 : 1;
    }

    double link_ns_; // per byte; 0: as fast as the CPU copies
    double copy_ns_;
    double buffer_;
    double now_ = 0;
    double buffered_ = 0;
    unsigned period_ = 0;
    unsigned row_ = 0; // batches that went through the codec one after the other
    std::mt19937_64 random_{5};
};

haul_choice choice_of(int mode)
{
    haul_choice choice;
    haul_choice_init(&choice, mode);
    return choice;
}

double time_of(int mode, const Content &content, double link_ns, unsigned batches, unsigned disturbance)
{
    haul_choice choice = choice_of(mode);
    Channel channel(link_ns);
    channel.disturb(disturbance);
    channel.send_many(&choice, content, batches);
    return channel.finished();
}

double auto_to_better(const Content &content, double link_ns, unsigned batches, unsigned disturbance = 0)
{
    double none = time_of(HAUL_CODEC_RAW, content, link_ns, batches, disturbance);
    double lz4 = time_of(HAUL_CODEC_LZ4, content, link_ns, batches, disturbance);
    return time_of(HAUL_COMPRESS_AUTO, content, link_ns, batches, disturbance) / std::min(none, lz4);
}

TEST(Choice, ParsesTheThreeModes)
{
    int mode;
    ASSERT_EQ(haul_compress_mode_parse("none", &mode), 0);
    EXPECT_EQ(mode, HAUL_CODEC_RAW);
    ASSERT_EQ(haul_compress_mode_parse("lz4", &mode), 0);
    EXPECT_EQ(mode, HAUL_CODEC_LZ4);
    ASSERT_EQ(haul_compress_mode_parse("auto", &mode), 0);
    EXPECT_EQ(mode, HAUL_COMPRESS_AUTO);
}

TEST(Choice, RefusesOtherModesAndLeavesTheResultAlone)
{
    for (const char *text : {"", "LZ4", "auto ", "zstd", "raw"}) {
        int mode = HAUL_COMPRESS_AUTO;
        EXPECT_EQ(haul_compress_mode_parse(text, &mode), -EINVAL) << "\"" << text << "\"";
        EXPECT_EQ(mode, HAUL_COMPRESS_AUTO);
    }
}

TEST(Choice, FixedModesNeverChange)
{
    haul_choice none = choice_of(HAUL_CODEC_RAW);
    haul_choice lz4 = choice_of(HAUL_CODEC_LZ4);
    for (double link_ns : {0.0, 8.0}) {
        Channel channel(link_ns);
        EXPECT_EQ(channel.send_many(&none, text_content(), 300), 0u);
        EXPECT_EQ(channel.send_many(&lz4, random_content(), 300), 300u);
    }
}

TEST(Choice, AutoWorksWithoutASample)
{
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    ASSERT_NE(haul_choice_pick(&choice, nullptr, 0), nullptr);
    Content text = text_content();
    text.sample.resize(10);
    Channel slow(8.0);
    EXPECT_GT(slow.send_many(&choice, text, 100), 80u);
}

TEST(Choice, RandomBatchesGoRawFromTheFirst)
{
    for (double link_ns : {0.0, 0.8, 8.0}) {
        haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
        Channel channel(link_ns);
        EXPECT_EQ(channel.send_many(&choice, random_content(), 50), 0u) << link_ns << " ns per byte";
        EXPECT_LE(channel.send_many(&choice, random_content(), 1000), 20u) << link_ns << " ns per byte";
    }
}

TEST(Choice, TextGoesRawOnAFastLinkAndThroughTheCodecOnASlowOne)
{
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    Channel fast(0);
    EXPECT_LE(fast.send_many(&choice, text_content(), 1000), 10u);
    choice = choice_of(HAUL_COMPRESS_AUTO);
    Channel slow(8.0);
    EXPECT_GE(slow.send_many(&choice, text_content(), 1000), 970u);
}

TEST(Choice, AdaptsWhenTheLinkBecomesSlow)
{
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    Channel channel(0);
    channel.send_many(&choice, text_content(), 500);
    channel.set_link(8.0);
    EXPECT_GE(channel.send_many(&choice, text_content(), 100), 70u) << "of the first 100 MiB";
    EXPECT_GE(channel.send_many(&choice, text_content(), 100), 97u) << "of the next";
}

TEST(Choice, AdaptsWhenTheLinkBecomesFast)
{
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    Channel channel(8.0);
    channel.send_many(&choice, text_content(), 500);
    channel.set_link(0);
    EXPECT_LE(channel.send_many(&choice, text_content(), 300), 200u) << "of the first 300 MiB";
    EXPECT_LE(channel.send_many(&choice, text_content(), 100), 2u) << "of the next 100 MiB";
}

TEST(Choice, AdaptsWhenTheContentBecomesCompressible)
{
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    Channel channel(8.0);
    channel.send_many(&choice, random_content(), 500);
    EXPECT_GE(channel.send_many(&choice, text_content(), 100), 95u);
}

TEST(Choice, TellsRandomFromTextBatchByBatch)
{
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    Channel channel(8.0);
    unsigned text = 0;
    unsigned random = 0;
    for (int i = 0; i < 500; i++) {
        text += channel.send(&choice, text_content());
        random += channel.send(&choice, random_content());
    }
    EXPECT_GE(text, 480u);
    EXPECT_LE(random, 20u);
}

// A random page that repeats: no sample shows that it shrinks, only a trial does.
TEST(Choice, FindsOutThatRandomLookingMemoryShrinks)
{
    Content repeated = {"repeated", contents::random(4096), 0.1, 0.2};
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    Channel channel(8.0);
    channel.send_many(&choice, repeated, 300);
    EXPECT_GE(channel.send_many(&choice, repeated, 100), 95u);
}

// Base64 and the like: not random by their bytes, and yet nothing for LZ4.
TEST(Choice, GivesUpOnMemoryThatLooksPlainAndDoesNotShrink)
{
    Content base64 = {"base64", contents::text(4096), 0.99, 0.9};
    for (double link_ns : {0.0, 8.0})
        EXPECT_LE(auto_to_better(base64, link_ns, 500), 1.05) << link_ns << " ns per byte";
}

// The contract: never more than 5 % slower than the better of the two. 256 batches are one of four
// channels' share of 1 GiB.
TEST(Choice, StaysWithinFivePercentOfTheBetterOnAnyLink)
{
    Content half = {"half zero", contents::half_zero(4096), 0.51, 0.3};
    for (const Content &content : {random_content(), text_content(), half}) {
        for (double link_ns : {0.0, 0.1, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 4.0, 8.0, 80.0}) {
            double ratio = auto_to_better(content, link_ns, 256);
            EXPECT_LE(ratio, 1.05) << content.name << " at " << link_ns << " ns per byte";
        }
    }
}

TEST(Choice, IsNotMisledByAPreemptedThread)
{
    for (double link_ns : {0.0, 2.0, 8.0}) {
        for (unsigned period : {10, 20, 50}) {
            double ratio = auto_to_better(text_content(), link_ns, 2000, period);
            EXPECT_LE(ratio, 1.05) << link_ns << " ns per byte, one step in " << period;
        }
    }
}

// One encoded batch among raw ones finds no cache warm: a trial must be longer than that.
TEST(Choice, IsNotPutOffByAColdCodec)
{
    Content half = {"half zero", contents::half_zero(4096), 0.51, 0.35, 2.5};
    EXPECT_LE(auto_to_better(half, 0.8, 500), 1.05);
}

// A fast link's window is over in no time: a thread that was away for a few milliseconds is no slow link.
TEST(Choice, OnePreemptionMakesNoSlowLink)
{
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    Channel channel(0);
    Content half = {"half zero", contents::half_zero(4096), 0.51, 0.35};
    channel.send_many(&choice, half, 300);
    const haul_choice_cost away = {kBatch, kBatch, 0, 6000000, 0, false};
    unsigned encoded = 0;
    for (int i = 0; i < 20; i++) {
        haul_choice_pick(&choice, half.sample.data(), half.sample.size());
        haul_choice_learn(&choice, haul_codec_by_id(HAUL_CODEC_RAW), &away);
        encoded += channel.send_many(&choice, half, 50);
    }
    EXPECT_LE(encoded, 60u) << "of 1000";
}

// A socket that holds next to nothing: whoever encodes lets the link idle, and the costs add up.
TEST(Choice, SeesThatNothingOverlaps)
{
    Content half = {"half zero", contents::half_zero(4096), 0.51, 0.35};
    auto time = [&](int mode) {
        haul_choice choice = choice_of(mode);
        Channel channel(0.55, 0.2, 64 << 10);
        channel.send_many(&choice, half, 1000);
        return channel.finished();
    };
    double better = std::min(time(HAUL_CODEC_RAW), time(HAUL_CODEC_LZ4));
    EXPECT_LE(time(HAUL_COMPRESS_AUTO) / better, 1.05);
}

TEST(Choice, LearnsNothingFromABatchOfZeroPages)
{
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    Channel channel(0);
    channel.send_many(&choice, text_content(), 50);
    haul_choice before = choice;
    const haul_choice_cost cost = {0, 0, 0, 1000000000, 0, false};
    haul_choice_learn(&choice, haul_codec_by_id(HAUL_CODEC_RAW), &cost);
    EXPECT_EQ(choice.link_ns, before.link_ns);
    EXPECT_EQ(choice.window.ns, before.window.ns);
}

// A batch of one page costs its system call, not its bytes.
TEST(Choice, SmallBatchesCountForLittle)
{
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    Channel channel(0);
    channel.send_many(&choice, text_content(), 50);
    const haul_choice_cost cost = {4096, 4096, 0, 20000, 0, false};
    for (int i = 0; i < 50; i++)
        haul_choice_learn(&choice, haul_codec_by_id(HAUL_CODEC_RAW), &cost);
    EXPECT_LE(channel.send_many(&choice, text_content(), 100), 2u);
}

// The sample is guest memory that changes meanwhile; ThreadSanitizer must accept that.
TEST(Choice, MaySampleMemoryThatTheGuestWrites)
{
    contents::Bytes page = contents::text(4096);
    haul_choice choice = choice_of(HAUL_COMPRESS_AUTO);
    std::thread guest([&] {
        for (int i = 0; i < 100000; i++)
            page[static_cast<size_t>(i) % 4096]++;
    });
    for (int i = 0; i < 1000; i++)
        EXPECT_NE(haul_choice_pick(&choice, page.data(), page.size()), nullptr);
    guest.join();
}

} // namespace
