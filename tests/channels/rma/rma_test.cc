// SPDX-License-Identifier: Apache-2.0
#include "channels/receiver.h"
#include "channels/rma/rma.h"

#include "tests/channels/guarded_memory.h"
#include "tests/channels/tcp_pair.h"

#include <cerrno>
#include <chrono>
#include <future>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

using Clock = std::chrono::steady_clock;

constexpr const char *PROVIDER = "tcp;ofi_rxm";
constexpr uint64_t PAGES = 3000; // several regions of 2 MiB, the last of each block shorter

// Both sides in one process: two blocks each, one channel.
class Rma : public testing::Test
{
  protected:
    ~Rma() override
    {
        stop_serving();
        haul_rma_endpoint_close(from);
        haul_rma_close(initiator);
        haul_rma_close(target);
    }

    haul_rma_options options(int fd, const std::vector<haul_block_view> &views) const
    {
        haul_rma_options made = {};
        made.fd = fd;
        made.provider = PROVIDER;
        made.blocks = views.data();
        made.block_count = static_cast<uint32_t>(views.size());
        made.region_shift = HAUL_RMA_REGION_SHIFT_MIN;
        made.silence_timeout_ms = silence_ms;
        return made;
    }

    void open_target()
    {
        haul_rma_options made = options(pair.server, target_views);
        ASSERT_EQ(0, haul_rma_target(&made, &target, &error)) << error.message;
        offer.resize(HAUL_RMA_OFFER_MAX);
        offer.resize(haul_rma_offer(target, offer.data(), offer.size()));
        ASSERT_FALSE(offer.empty());
    }

    int open_initiator()
    {
        haul_rma_options made = options(pair.client, source_views);
        return haul_rma_initiator(&made, offer.data(), offer.size(), &initiator, &error);
    }

    void open_endpoints()
    {
        ASSERT_EQ(0, haul_rma_endpoint_open(target, 0, &to, &error)) << error.message;
        ASSERT_EQ(0, haul_rma_endpoint_open(initiator, 0, &from, &error)) << error.message;
        ASSERT_EQ(0, haul_rma_endpoint_reach(from, pair.client, haul_rma_endpoint_port(to), &error))
            << error.message;
    }

    void serve()
    {
        server = std::thread([this] { haul_rma_serve(to, nullptr); });
    }

    void stop_serving()
    {
        if (server.joinable()) {
            haul_rma_endpoint_abort(to);
            server.join();
        }
        haul_rma_endpoint_close(to);
        to = nullptr;
    }

    void open_all()
    {
        ASSERT_NO_FATAL_FAILURE(open_target());
        ASSERT_EQ(0, open_initiator()) << error.message;
        ASSERT_NO_FATAL_FAILURE(open_endpoints());
        serve();
    }

    bool equal(const GuardedBlock &a, const GuardedBlock &b, uint64_t first, uint64_t pages) const
    {
        return memcmp(a.page(first), b.page(first), pages * HAUL_PAGE_SIZE) == 0;
    }

    // A 1-byte patch of the offer, counted from its end when negative.
    void patch(ptrdiff_t at, unsigned char value)
    {
        offer[at < 0 ? offer.size() - static_cast<size_t>(-at) : static_cast<size_t>(at)] = value;
    }

    uint32_t silence_ms = 20000;
    TcpPair pair{"127.0.0.1", "127.0.0.1"};
    GuardedBlock source_a{PAGES, false}, source_b{5, false}, target_a{PAGES}, target_b{5};
    std::vector<haul_block_view> source_views{source_a.view, source_b.view};
    std::vector<haul_block_view> target_views{target_a.view, target_b.view};
    haul_rma *target = nullptr;
    haul_rma *initiator = nullptr;
    haul_rma_endpoint *to = nullptr;
    haul_rma_endpoint *from = nullptr;
    std::vector<unsigned char> offer;
    std::thread server;
    haul_error error = {};
};

TEST_F(Rma, WritesRunsOverRegionsAndBlocks)
{
    for (uint64_t i = 0; i < PAGES; i++)
        source_a.fill_random(i, 1);
    for (uint64_t i = 0; i < 5; i++)
        source_b.fill_random(i, 2);
    ASSERT_NO_FATAL_FAILURE(open_all());
    EXPECT_STREQ(PROVIDER, haul_rma_provider(target));
    ASSERT_EQ(0, haul_rma_write(from, 0, 0, 500, 300, &error)) << error.message; // over the border at 512
    ASSERT_EQ(0, haul_rma_write(from, 0, 1, 4, 1, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_write(from, 0, 0, PAGES - 1, 1, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_flush(from, &error)) << error.message;
    EXPECT_TRUE(equal(source_a, target_a, 500, 300));
    EXPECT_TRUE(equal(source_b, target_b, 4, 1));
    EXPECT_TRUE(equal(source_a, target_a, PAGES - 1, 1));
    // Nothing else was touched.
    for (uint64_t page : {uint64_t{0}, uint64_t{499}, uint64_t{800}, PAGES - 2})
        EXPECT_EQ(0, target_a.page(page)[0]) << page;
    EXPECT_EQ(0, target_b.page(3)[0]);
    // All of it, more operations than fit in flight.
    for (uint64_t i = 0; i < PAGES; i++)
        ASSERT_EQ(0, haul_rma_write(from, 0, 0, i, 1, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_complete(from, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_flush(from, &error)) << error.message;
    EXPECT_TRUE(equal(source_a, target_a, 0, PAGES));
}

TEST_F(Rma, CountsWhatItRegisters)
{
    ASSERT_NO_FATAL_FAILURE(open_target());
    uint32_t regions = 0;
    EXPECT_EQ((PAGES + 5) * HAUL_PAGE_SIZE, haul_rma_registered(target, &regions));
    EXPECT_EQ(7u, regions); // 6 of the first block, 1 of the second
    ASSERT_EQ(0, open_initiator()) << error.message;
    EXPECT_EQ(0u, haul_rma_registered(initiator, &regions)); // tcp reads any memory
    EXPECT_EQ(0u, regions);
}

TEST_F(Rma, WorksOverIpv6)
{
    TcpPair v6("::1", "::1");
    haul_rma_options there = options(v6.server, target_views);
    ASSERT_EQ(0, haul_rma_target(&there, &target, &error)) << error.message;
    offer.resize(HAUL_RMA_OFFER_MAX);
    offer.resize(haul_rma_offer(target, offer.data(), offer.size()));
    haul_rma_options here = options(v6.client, source_views);
    ASSERT_EQ(0, haul_rma_initiator(&here, offer.data(), offer.size(), &initiator, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_endpoint_open(target, 0, &to, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_endpoint_open(initiator, 0, &from, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_endpoint_reach(from, v6.client, haul_rma_endpoint_port(to), &error));
    serve();
    source_b.fill(0, 7);
    ASSERT_EQ(0, haul_rma_write(from, 0, 1, 0, 1, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_flush(from, &error)) << error.message;
    EXPECT_TRUE(equal(source_b, target_b, 0, 1));
}

TEST_F(Rma, TicketsAreDeliveredEachForItself)
{
    for (uint64_t i = 0; i < PAGES; i++)
        source_a.fill_random(i, 3);
    ASSERT_NO_FATAL_FAILURE(open_all());
    constexpr uint64_t SHARE = PAGES / HAUL_RMA_TICKETS;
    for (unsigned ticket = 0; ticket < HAUL_RMA_TICKETS; ticket++)
        ASSERT_EQ(0, haul_rma_write(from, ticket, 0, ticket * SHARE, SHARE, &error)) << error.message;
    for (unsigned ticket = HAUL_RMA_TICKETS; ticket-- > 0;) {
        ASSERT_EQ(0, haul_rma_await(from, ticket, &error)) << error.message;
        EXPECT_TRUE(haul_rma_delivered(from, ticket));
        EXPECT_TRUE(equal(source_a, target_a, ticket * SHARE, SHARE)) << ticket;
    }
    // Used again.
    source_b.fill(0, 5);
    ASSERT_EQ(0, haul_rma_write(from, 3, 1, 0, 1, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_await(from, 3, &error)) << error.message;
    EXPECT_TRUE(equal(source_b, target_b, 0, 1));
}

TEST_F(Rma, WhatTheTargetDidNotTakeIsNotDelivered)
{
    silence_ms = 2000;
    ASSERT_NO_FATAL_FAILURE(open_all());
    ASSERT_EQ(0, haul_rma_write(from, 0, 0, 0, 1, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_await(from, 0, &error)) << error.message;
    haul_rma_endpoint_abort(to);
    server.join();
    ASSERT_EQ(0, haul_rma_write(from, 5, 0, 0, 100, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_progress(from, &error)) << error.message;
    EXPECT_FALSE(haul_rma_delivered(from, 5));
    EXPECT_TRUE(haul_rma_delivered(from, 0));
    EXPECT_EQ(-ETIMEDOUT, haul_rma_await(from, 5, &error));
}

// The receiver's thread only sees that its socket was closed: what it reports is what the server met.
TEST_F(Rma, ReceiverReportsWhatItsServerFailedOf)
{
    ASSERT_NO_FATAL_FAILURE(open_target());
    shutdown(pair.server, SHUT_WR); // the port cannot be told
    std::promise<haul_error> failed;
    haul_receiver_options made = {};
    made.fd = dup(pair.server);
    made.slot.cpu = -1;
    made.slot.node = HAUL_NODE_UNKNOWN;
    made.blocks = target_views.data();
    made.block_count = static_cast<uint32_t>(target_views.size());
    made.rma = target;
    made.opaque = &failed;
    made.round = [](void *, unsigned, uint32_t, haul_error *) { return 0; };
    made.failed = [](void *opaque, unsigned, const haul_error *why) {
        static_cast<std::promise<haul_error> *>(opaque)->set_value(*why);
    };
    haul_receiver *receiver = nullptr;
    ASSERT_EQ(0, haul_receiver_new(&made, &receiver, &error)) << error.message;
    auto result = failed.get_future();
    EXPECT_EQ(std::future_status::ready, result.wait_for(std::chrono::seconds(60)));
    haul_error why = result.get();
    EXPECT_EQ(EPIPE, why.code);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "sending RDMA_PORT: Broken pipe", why.message);
    haul_receiver_free(receiver);
}

TEST_F(Rma, FlushWithoutAnyWriteConnectsToNobody)
{
    ASSERT_NO_FATAL_FAILURE(open_target());
    ASSERT_EQ(0, open_initiator()) << error.message;
    ASSERT_NO_FATAL_FAILURE(open_endpoints()); // and nobody serves
    EXPECT_EQ(0, haul_rma_flush(from, &error)) << error.message;
}

TEST_F(Rma, ChoosesAProviderByItself)
{
    haul_rma_options made = options(pair.server, target_views);
    made.provider = nullptr;
    ASSERT_EQ(0, haul_rma_target(&made, &target, &error)) << error.message;
    EXPECT_STRNE("", haul_rma_provider(target));
}

// ---- what goes wrong ----

TEST_F(Rma, UnknownProviderIsNamed)
{
    haul_rma_options made = options(pair.server, target_views);
    made.provider = "carrierpigeon";
    EXPECT_EQ(-ENODEV, haul_rma_target(&made, &target, &error));
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "\"carrierpigeon\" cannot write remote memory at 127.0.0.1",
                        error.message);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "fi_info", error.message);
}

TEST_F(Rma, AnotherProviderThanTheDestinationsIsRefused)
{
    ASSERT_NO_FATAL_FAILURE(open_target());
    haul_rma_options made = options(pair.client, source_views);
    made.provider = "verbs";
    EXPECT_EQ(-EINVAL, haul_rma_initiator(&made, offer.data(), offer.size(), &initiator, &error));
    EXPECT_STREQ(
        "rdma: the destination uses provider tcp;ofi_rxm and not verbs; ask for the same on both sides",
        error.message);
    made.provider = "tcp"; // the core provider's name is enough
    EXPECT_EQ(0, haul_rma_initiator(&made, offer.data(), offer.size(), &initiator, &error)) << error.message;
}

TEST_F(Rma, SocketWithoutAnAddressIsRefused)
{
    int fds[2];
    ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
    haul_rma_options made = options(fds[0], target_views);
    EXPECT_EQ(-ENODEV, haul_rma_target(&made, &target, &error));
    EXPECT_STREQ("rdma: the control connection has no IP address", error.message);
    close(fds[0]);
    close(fds[1]);
}

TEST_F(Rma, EveryTruncatedOfferIsRefused)
{
    ASSERT_NO_FATAL_FAILURE(open_target());
    const std::vector<unsigned char> whole = offer;
    for (size_t length = 0; length < whole.size(); length += length < 16 ? 1 : 7) {
        // A copy of its own size, so that the address sanitizer sees a read past it.
        offer.assign(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(length));
        ASSERT_EQ(-EPROTO, open_initiator()) << length;
        ASSERT_PRED_FORMAT2(testing::IsSubstring, "offer is malformed", error.message);
    }
    offer = whole;
    offer.push_back(0);
    EXPECT_EQ(-EPROTO, open_initiator());
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "number of regions does not fit", error.message);
}

TEST_F(Rma, LyingOffersAreRefused)
{
    ASSERT_NO_FATAL_FAILURE(open_target());
    const std::vector<unsigned char> whole = offer;
    const ptrdiff_t shift = 2 + static_cast<ptrdiff_t>(strlen(PROVIDER));

    patch(2, '^'); // "^cp;ofi_rxm" would mean any other provider to libfabric
    EXPECT_EQ(-EPROTO, open_initiator());
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "the provider's name", error.message);

    offer = whole;
    for (unsigned char value : {0, 12, 20, 45, 64, 255}) {
        patch(shift, value);
        EXPECT_EQ(-EPROTO, open_initiator()) << unsigned(value);
        EXPECT_PRED_FORMAT2(testing::IsSubstring, "the size of its regions", error.message);
    }
    patch(shift, 22); // regions of 4 MiB: half as many would be due
    EXPECT_EQ(-EPROTO, open_initiator());
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "number of regions does not fit", error.message);

    offer = whole;
    for (ptrdiff_t i = 9; i <= 16; i++)
        patch(-i, 0xff); // the last region's address
    EXPECT_EQ(-EPROTO, open_initiator());
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "an address past the end of memory", error.message);

    offer = whole;
    for (ptrdiff_t i = 1; i <= 8; i++)
        patch(shift + i, 0xff);
    EXPECT_EQ(-EPROTO, open_initiator());
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "the page to read back", error.message);
}

TEST_F(Rma, PortZeroIsRefused)
{
    ASSERT_NO_FATAL_FAILURE(open_target());
    ASSERT_EQ(0, open_initiator()) << error.message;
    ASSERT_NO_FATAL_FAILURE(open_endpoints());
    EXPECT_EQ(-EPROTO, haul_rma_endpoint_reach(from, pair.client, 0, &error));
    EXPECT_STREQ("rdma: the destination names port 0", error.message);
}

TEST_F(Rma, WrongKeyWritesNothing)
{
    ASSERT_NO_FATAL_FAILURE(open_target());
    patch(-1, offer.back() ^ 0x55); // of the last region
    silence_ms = 3000;
    ASSERT_EQ(0, open_initiator()) << error.message;
    ASSERT_NO_FATAL_FAILURE(open_endpoints());
    serve();
    source_b.fill(0, 9);
    int rc = haul_rma_write(from, 0, 1, 0, 1, &error);
    rc = rc < 0 ? rc : haul_rma_flush(from, &error);
    EXPECT_LT(rc, 0);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "rdma: ", error.message);
    EXPECT_EQ(0, target_b.page(0)[0]);
    // The target goes on serving others.
    haul_rma_endpoint_close(from);
    from = nullptr;
    haul_rma_close(initiator);
    initiator = nullptr;
    patch(-1, offer.back() ^ 0x55);
    ASSERT_EQ(0, open_initiator()) << error.message;
    ASSERT_EQ(0, haul_rma_endpoint_open(initiator, 1, &from, &error));
    ASSERT_EQ(0, haul_rma_endpoint_reach(from, pair.client, haul_rma_endpoint_port(to), &error));
    ASSERT_EQ(0, haul_rma_write(from, 0, 1, 0, 1, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_flush(from, &error)) << error.message;
    EXPECT_EQ(9, target_b.page(0)[0]);
}

TEST_F(Rma, AddressOutsideOfTheRegionWritesNothing)
{
    ASSERT_NO_FATAL_FAILURE(open_target());
    for (ptrdiff_t i = 9; i <= 16; i++)
        patch(-i, i == 12 ? 1 : 0); // far from where the last region is
    silence_ms = 3000;
    ASSERT_EQ(0, open_initiator()) << error.message;
    ASSERT_NO_FATAL_FAILURE(open_endpoints());
    serve();
    source_b.fill(0, 9);
    int rc = haul_rma_write(from, 0, 1, 0, 1, &error);
    rc = rc < 0 ? rc : haul_rma_flush(from, &error);
    EXPECT_LT(rc, 0);
    EXPECT_EQ(0, target_b.page(0)[0]);
}

TEST_F(Rma, NobodyAtThePortEndsInTime)
{
    silence_ms = 1500;
    ASSERT_NO_FATAL_FAILURE(open_target());
    ASSERT_EQ(0, open_initiator()) << error.message;
    ASSERT_NO_FATAL_FAILURE(open_endpoints());
    haul_rma_endpoint_close(to);
    to = nullptr;
    auto begun = Clock::now();
    int rc = haul_rma_write(from, 0, 0, 0, 1, &error);
    rc = rc < 0 ? rc : haul_rma_complete(from, &error);
    EXPECT_LT(rc, 0);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "rdma: ", error.message);
    EXPECT_LT(Clock::now() - begun, std::chrono::seconds(15));
}

TEST_F(Rma, ATargetThatDoesNotAnswerIsSilence)
{
    silence_ms = 2000;
    ASSERT_NO_FATAL_FAILURE(open_all());
    ASSERT_EQ(0, haul_rma_write(from, 0, 0, 0, 1, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_complete(from, &error)) << error.message;
    haul_rma_endpoint_abort(to);
    server.join();
    auto begun = Clock::now();
    int rc = 0;
    for (uint64_t i = 0; rc == 0 && i < 4; i++)
        rc = haul_rma_write(from, 0, 0, 0, PAGES, &error);
    rc = rc < 0 ? rc : haul_rma_complete(from, &error);
    EXPECT_EQ(-ETIMEDOUT, rc);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "2000 ms", error.message);
    EXPECT_LT(Clock::now() - begun, std::chrono::seconds(15));
}

TEST_F(Rma, AbortEndsAWaitAtOnce)
{
    ASSERT_NO_FATAL_FAILURE(open_target());
    ASSERT_EQ(0, open_initiator()) << error.message;
    ASSERT_NO_FATAL_FAILURE(open_endpoints()); // nobody serves: the write cannot complete
    std::thread other([this] {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        haul_rma_endpoint_abort(from);
    });
    auto begun = Clock::now();
    int rc = 0;
    for (uint64_t i = 0; rc == 0 && i < 4; i++)
        rc = haul_rma_write(from, 0, 0, 0, PAGES, &error);
    rc = rc < 0 ? rc : haul_rma_complete(from, &error);
    other.join();
    EXPECT_EQ(-ECANCELED, rc);
    EXPECT_STREQ("rdma: aborted", error.message);
    EXPECT_LT(Clock::now() - begun, std::chrono::seconds(4));
}

TEST_F(Rma, NothingIsWrittenAfterTheTargetClosedItsEndpoint)
{
    silence_ms = 1500;
    ASSERT_NO_FATAL_FAILURE(open_all());
    source_b.fill(0, 1);
    ASSERT_EQ(0, haul_rma_write(from, 0, 1, 0, 1, &error)) << error.message;
    ASSERT_EQ(0, haul_rma_flush(from, &error)) << error.message;
    stop_serving(); // the memory is still registered
    source_b.fill(0, 2);
    int rc = haul_rma_write(from, 0, 1, 0, 1, &error);
    rc = rc < 0 ? rc : haul_rma_complete(from, &error);
    EXPECT_LT(rc, 0);
    EXPECT_EQ(1, target_b.page(0)[0]);
}

// Runs `check` in a child that may lock 64 KiB and nothing more; its exit code is the number of failures.
template <typename Check> int in_limited_child(Check check)
{
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct rlimit limit = {65536, 65536};
        setrlimit(RLIMIT_MEMLOCK, &limit);
        // Another user than root has no capabilities left.
        if (geteuid() == 0 && syscall(SYS_setresuid, 65534, 65534, 65534) != 0)
            _exit(100);
        _exit(check());
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 101;
}

TEST(RmaLockLimit, NamesTheLimitAndWhatIsNeeded)
{
    EXPECT_EQ(0, in_limited_child([] {
                  haul_error error = {};
                  int rc = haul_rma_lock_limit(uint64_t{512} << 20, "verbs;ofi_rxm", &error);
                  bool right = rc == -ENOMEM && strstr(error.message, "verbs;ofi_rxm") &&
                               strstr(error.message, "524288 KiB") &&
                               strstr(error.message, "RLIMIT_MEMLOCK allows 64 KiB") &&
                               strstr(error.message, "ulimit -l");
                  return !right + (haul_rma_lock_limit(65536, "verbs;ofi_rxm", &error) != 0);
              }));
}

TEST(RmaLockLimit, DoesNotBindWhoMayLockAnything)
{
    if (geteuid() != 0)
        GTEST_SKIP() << "needs CAP_IPC_LOCK";
    struct rlimit before, limit;
    getrlimit(RLIMIT_MEMLOCK, &before);
    limit = {65536, before.rlim_max};
    setrlimit(RLIMIT_MEMLOCK, &limit);
    haul_error error = {};
    EXPECT_EQ(0, haul_rma_lock_limit(uint64_t{1} << 40, "verbs", &error)) << error.message;
    setrlimit(RLIMIT_MEMLOCK, &before);
}

TEST_F(Rma, AProviderThatLocksIsHeldToTheLimit)
{
    // "net" is not known to lock nothing, so it is taken to lock what it registers.
    EXPECT_EQ(0, in_limited_child([this] {
                  haul_rma_options made = options(pair.server, target_views);
                  made.provider = "net";
                  int rc = haul_rma_target(&made, &target, &error);
                  if (rc != -ENOMEM || !strstr(error.message, "RLIMIT_MEMLOCK allows 64 KiB"))
                      fprintf(stderr, "%d %s\n", rc, error.message);
                  return rc != -ENOMEM || !strstr(error.message, "RLIMIT_MEMLOCK allows 64 KiB");
              }));
    // tcp;ofi_rxm copies through sockets.
    EXPECT_EQ(0, in_limited_child([this] {
                  haul_rma_options made = options(pair.server, target_views);
                  return haul_rma_target(&made, &target, &error) != 0;
              }));
}

} // namespace
