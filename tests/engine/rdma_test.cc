// SPDX-License-Identifier: Apache-2.0
// Whole moves over rdma, with libfabric's tcp provider: what arrives, in what order, and how it fails.
#include "tests/engine/disk/disk.h"
#include "tests/engine/move.h"
#include "tests/engine/proxy.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <cerrno>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;
constexpr const char *kListen = "rdma:127.0.0.1:0";
constexpr const char *kProvider = "tcp;ofi_rxm";

haul_options RdmaOptions()
{
    haul_options options = Options();
    options.rdma_provider = kProvider;
    return options;
}

bool Said(Guest &guest, const std::string &text)
{
    std::lock_guard<std::mutex> hold(guest.lock);
    for (const auto &message : guest.messages) {
        if (message.find(text) != std::string::npos) {
            return true;
        }
    }
    return false;
}

void ExpectMoved(Move &move)
{
    std::string where;
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message << " / " << move.destination_error.message;
    EXPECT_EQ(move.destination_result, 0) << move.destination_error.message;
    EXPECT_TRUE(SameMemory(move.from, move.to, &where)) << where;
    EXPECT_EQ(move.from.writes, move.to.restored);
    EXPECT_EQ(move.to.starts, 1u);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_DESTINATION);
}

// The move failed before anything of the guest was touched.
void ExpectStayed(Move &move, int code, const std::string &text)
{
    EXPECT_EQ(move.Wait(), code) << move.source_error.message;
    EXPECT_NE(std::string(move.source_error.message).find(text), std::string::npos)
        << move.source_error.message;
    EXPECT_TRUE(move.from.running());
    EXPECT_EQ(move.from.stops, 0u);
    EXPECT_EQ(move.to.starts, 0u);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
}

struct Case {
    const char *name;
    unsigned channels;
    const char *compress;
    bool verify;
};

class Moves : public testing::TestWithParam<Case>
{
};

TEST_P(Moves, WithAWritingGuest)
{
    Guest from({8 * kMiB, 3 * kMiB}, true);
    Guest to({8 * kMiB, 3 * kMiB}, false);
    from.Run(20, 1000);
    haul_options options = RdmaOptions();
    options.channels = GetParam().channels;
    options.compress = GetParam().compress;
    options.verify = GetParam().verify;
    Move move(from, to, options, kListen);
    ExpectMoved(move);
    EXPECT_GE(move.stats.normal, 11 * kMiB / kPage);
    EXPECT_GT(move.stats.transferred, 11 * kMiB) << "what rdma wrote counts";
    EXPECT_STREQ(move.stats.rdma_provider, kProvider);
    haul_stats there{};
    haul_get_stats(move.destination, &there);
    EXPECT_EQ(there.rdma_registered_bytes, 11 * kMiB);
    EXPECT_EQ(there.rdma_regions, 2u);
    EXPECT_TRUE(Said(to, "rdma: provider tcp;ofi_rxm, 11 MiB registered in 2 regions"));
    EXPECT_TRUE(Said(from, "rdma: provider tcp;ofi_rxm, which needs no memory registered here"));
}

// Memory is written by rdma, a disk's pages come over the channels' connections.
TEST(Rdma, DisksComeAlong)
{
    DiskMachines machines(4 * kMiB, [](uint64_t block) { return block % 5 != 0; });
    machines.from.Run(5, 1000);
    machines.disk->Run(5, 1000);
    haul_options options = RdmaOptions();
    options.downtime_limit_ms = DiskOptions().downtime_limit_ms;
    options.verify = true;
    Move move(machines.from, machines.to, options, kListen);
    machines.ExpectMoved(move);
}

INSTANTIATE_TEST_SUITE_P(All, Moves,
                         testing::Values(Case{"One", 1, "none", true}, Case{"Four", 4, "none", true},
                                         Case{"TwoLz4", 2, "lz4", true}, Case{"TwoAuto", 2, "auto", false},
                                         Case{"Six", 6, "none", false}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST(Rdma, MovesOverIpv6)
{
    Guest from({2 * kMiB}, true), to({2 * kMiB}, true);
    Move move(from, to, RdmaOptions(), "rdma:[::1]:0");
    ExpectMoved(move);
}

// Rule R2: what is written into memory knows nothing of packets on their way. Pages alternate between zero,
// which is a packet, and content, which is written.
TEST(Rdma, ZeroPagesAndContentKeepTheirOrder)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, true);
    from.on_round = [&](uint32_t round) {
        for (uint64_t page = 0; round < 8 && page < 700; page++) {
            from.Fill(0, page * 1024 / 700, round % 2 == 1 ? 0 : static_cast<unsigned char>(round));
        }
    };
    haul_options options = RdmaOptions();
    options.downtime_limit_ms = 0; // on until nothing is dirty
    options.channels = 4;
    options.verify = true;
    Move move(from, to, options, kListen);
    ExpectMoved(move);
    EXPECT_GE(move.stats.dirty_sync_count, 8u);
}

// The same in the last two rounds, which follow each other closely (trap T9): packets are late from the stop
// on.
TEST(Rdma, WhatSavingWritesComesAfterTheLastPass)
{
    Guest from({8 * kMiB}, true), to({8 * kMiB}, true);
    Proxy proxy;
    from.on_stop = [&] {
        proxy.Delay(Proxy::Channel(0), 150);
        for (uint64_t page = 0; page < 2000; page++) {
            from.Fill(0, page, 0);
        }
    };
    from.on_save = [](Guest &guest) {
        for (uint64_t page = 0; page < 2000; page++) {
            guest.Fill(0, page, 7);
        }
    };
    haul_options options = RdmaOptions();
    options.downtime_limit_ms = 10000;
    options.channels = 1;
    Move move(from, to, options, kListen,
              [&](const std::string &uri) { return "rdma" + proxy.Open(uri).substr(3); });
    ExpectMoved(move);
}

// ---- what does not fit together ----

TEST(Rdma, SourceOfTcpIsRefused)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    from.Run(1, 1000);
    Move move(from, to, RdmaOptions(), kListen, [](const std::string &uri) { return "tcp" + uri.substr(4); });
    haul_wait(move.source, nullptr);
    haul_cancel(move.destination); // which waits on for a source that fits
    ExpectStayed(move, -EINVAL, "this destination waits at rdma:; send to rdma: too");
}

TEST(Rdma, DestinationOfTcpRefuses)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    from.Run(1, 1000);
    Move move(from, to, RdmaOptions(), "tcp:127.0.0.1:0",
              [](const std::string &uri) { return "rdma" + uri.substr(3); });
    haul_wait(move.source, nullptr);
    haul_cancel(move.destination);
    ExpectStayed(move, -EINVAL, "start it with rdma:");
}

// The one that all of these tests use is in the list.
void ExpectListed(const std::string &message)
{
    size_t at = message.find("rdma: libfabric has no provider \"carrierpigeon\" here that can write remote "
                             "memory, but: ");
    EXPECT_NE(at, std::string::npos) << message;
    EXPECT_NE(message.find(kProvider), std::string::npos) << message;
}

TEST(Rdma, ProviderThatIsNotThereFailsBeforeAnybodyConnects)
{
    Guest to({kMiB}, false);
    haul_options options = RdmaOptions();
    options.rdma_provider = "carrierpigeon";
    haul_migration *destination = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_destination_new(&options, &destination, &error), 0);
    to.Attach(destination, false);
    ASSERT_EQ(haul_start(destination, kListen, &error), 0) << error.message;
    EXPECT_EQ(haul_wait(destination, &error), -ENODEV);
    ExpectListed(error.message);
    EXPECT_EQ(to.starts, 0u);
    haul_free(destination);
}

// The destination waits with the provider of these tests, the source asks for another. Returns what the
// source said.
std::string RefusedProvider(const char *provider, int code)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    from.Run(1, 1000);
    haul_options options = RdmaOptions();
    haul_migration *destination = nullptr, *source = nullptr;
    haul_error error{};
    EXPECT_EQ(haul_destination_new(&options, &destination, &error), 0);
    to.Attach(destination, false);
    EXPECT_EQ(haul_start(destination, kListen, &error), 0) << error.message;
    options.rdma_provider = provider;
    EXPECT_EQ(haul_source_new(&options, &source, &error), 0);
    from.Attach(source, true);
    EXPECT_EQ(haul_start(source, haul_local_uri(destination), &error), 0) << error.message;
    EXPECT_EQ(haul_wait(source, &error), code);
    std::string said = error.message;
    EXPECT_TRUE(from.running());
    EXPECT_EQ(from.stops, 0u);
    EXPECT_EQ(haul_wait(destination, &error), code) << error.message;
    haul_free(source);
    haul_free(destination);
    return said;
}

TEST(Rdma, ProviderThatIsNotThereAtTheSourceFailsBeforeTheGuestIsTouched)
{
    ExpectListed(RefusedProvider("carrierpigeon", -ENODEV));
}

TEST(Rdma, AnotherProviderAtTheSourceFailsBeforeTheGuestIsTouched)
{
    EXPECT_EQ(RefusedProvider("udp", -EINVAL),
              "rdma: the destination uses provider tcp;ofi_rxm and not udp; ask for the same on both sides");
}

// ---- cancel ----

class Cancels : public testing::TestWithParam<bool>
{
};

TEST_P(Cancels, InTheMiddleOfWriting)
{
    Guest from({64 * kMiB}, true), to({64 * kMiB}, false);
    from.Run(5, 1000);
    haul_options options = RdmaOptions();
    options.timeout_s = 60;
    options.max_bandwidth_bytes_per_s = 5 * kMiB;
    Move move(from, to, options, kListen);
    haul_stats stats{};
    ASSERT_TRUE(Eventually([&] {
        haul_get_stats(move.source, &stats);
        return stats.transferred >= 2 * kMiB;
    }));
    auto begun = Clock::now();
    EXPECT_EQ(haul_cancel(GetParam() ? move.source : move.destination), 0);
    EXPECT_EQ(move.Wait(), -ECANCELED) << move.source_error.message;
    EXPECT_LT(Clock::now() - begun, std::chrono::seconds(20));
    EXPECT_TRUE(from.running());
    EXPECT_EQ(to.starts, 0u);
    // The same guest moves afterwards.
    Guest other({64 * kMiB}, false);
    options.max_bandwidth_bytes_per_s = 0;
    Move again(from, other, options, kListen);
    ExpectMoved(again);
}

INSTANTIATE_TEST_SUITE_P(Sides, Cancels, testing::Bool(),
                         [](const auto &info) { return info.param ? "Source" : "Destination"; });

} // namespace
