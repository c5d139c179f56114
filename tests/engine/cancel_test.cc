// SPDX-License-Identifier: Apache-2.0
// A cancel in every state, on both sides: the guest goes on at the source, nothing leaks, and it does not
// take long. After HANDOVER it is too late, and the move completes.
#include "channels/wire.h"
#include "engine/state.h"
#include "tests/engine/frame_peer.h"
#include "tests/engine/move.h"
#include "tests/engine/resources.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <netinet/in.h>
#include <sys/un.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;
constexpr int64_t kBoundMs = 5000; // far below the timeouts, far above what it takes

haul_options SlowOptions()
{
    haul_options options = Options();
    options.max_bandwidth_bytes_per_s = kMiB; // round 1 takes many seconds
    options.timeout_s = 60;                   // so that no timeout is taken for a cancel
    return options;
}

void ExpectStayed(const Guest &from, haul_migration *source)
{
    haul_stats stats{};
    haul_get_stats(source, &stats);
    EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
    EXPECT_TRUE(from.running()) << "the guest goes on at the source";
    EXPECT_EQ(from.handed_over, 0u);
}

// Where a move is to be cancelled.
struct Moment {
    Signal reached, cancelled;
    // Of a hook that must not return before the cancel.
    void Stay()
    {
        reached.Set();
        EXPECT_TRUE(cancelled.Wait());
    }
};

// Cancels one side and expects both to end soon, cancelled.
void CancelAndExpect(Move &move, haul_migration *side, Moment *moment)
{
    ASSERT_TRUE(moment->reached.Wait()) << "the state was never reached";
    auto begun = Clock::now();
    EXPECT_EQ(haul_cancel(side), 0);
    EXPECT_EQ(haul_cancel(side), 0) << "again is harmless";
    moment->cancelled.Set();
    EXPECT_EQ(move.Wait(), -ECANCELED) << move.source_error.message;
    EXPECT_EQ(move.destination_result, -ECANCELED) << move.destination_error.message;
    EXPECT_LT(MsSince(begun), kBoundMs);
    EXPECT_EQ(haul_get_state(move.source), HAUL_STATE_CANCELLED);
    EXPECT_EQ(haul_get_state(move.destination), HAUL_STATE_CANCELLED);
    EXPECT_EQ(haul_cancel(side), 0) << "after the end too";
    EXPECT_EQ(move.to.starts, 0u);
    ExpectStayed(move.from, move.source);
}

// A whole move in which `arm` sets a hook that says when the moment has come; then `side` is cancelled.
void CancelAt(bool source_side, const haul_options &options,
              const std::function<void(Guest &from, Guest &to, Moment *moment)> &arm)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    Moment moment;
    arm(from, to, &moment);
    from.Run(5, 1000);
    Move move(from, to, options);
    CancelAndExpect(move, source_side ? move.source : move.destination, &moment);
}

// ---- none ----

void NeverStarted(bool source_side)
{
    Guest guest({kMiB}, true);
    haul_options options = Options();
    haul_migration *migration = nullptr;
    haul_error error{};
    ASSERT_EQ(source_side ? haul_source_new(&options, &migration, &error)
                          : haul_destination_new(&options, &migration, &error),
              0);
    guest.Attach(migration, source_side);
    EXPECT_EQ(haul_cancel(migration), 0);
    EXPECT_EQ(haul_get_state(migration), HAUL_STATE_NONE);
    // Started all the same, it ends at once.
    auto begun = Clock::now();
    ASSERT_EQ(haul_start(migration, source_side ? "unix:/nonexistent/x" : UnixUri().c_str(), &error), 0)
        << error.message;
    EXPECT_EQ(haul_wait(migration, &error), -ECANCELED) << error.message;
    EXPECT_LT(MsSince(begun), kBoundMs);
    EXPECT_EQ(haul_get_state(migration), HAUL_STATE_CANCELLED);
    haul_free(migration);
}

// ---- setup ----

// Listens and never accepts; `full` also fills the backlog, so that nobody even connects.
class DeafListener
{
  public:
    explicit DeafListener(bool full)
    {
        fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        socklen_t size = sizeof address_;
        address_.sin_family = AF_INET;
        address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr *>(&address_), size), 0);
        EXPECT_EQ(listen(fd_, full ? 0 : 10), 0);
        EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr *>(&address_), &size), 0);
        for (int &filler : fillers_) {
            filler = full ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
            if (full) {
                int rc = connect(filler, reinterpret_cast<sockaddr *>(&address_), size);
                EXPECT_TRUE(rc == 0 || errno == EINPROGRESS);
            }
        }
    }
    ~DeafListener()
    {
        for (int filler : fillers_) {
            close(filler);
        }
        close(fd_);
    }
    std::string uri() const
    {
        return "tcp:127.0.0.1:" + std::to_string(ntohs(address_.sin_port));
    }

  private:
    int fd_;
    int fillers_[4];
    sockaddr_in address_{};
};

void SourceMeetsNobody(bool full)
{
    DeafListener listener(full);
    Guest from({kMiB}, true);
    from.Run(5, 1000);
    haul_options options = SlowOptions();
    haul_migration *source = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_source_new(&options, &source, &error), 0);
    from.Attach(source, true);
    ASSERT_EQ(haul_start(source, listener.uri().c_str(), &error), 0) << error.message;
    usleep(100000); // well inside the connect or the handshake
    EXPECT_EQ(haul_get_state(source), HAUL_STATE_SETUP);
    auto begun = Clock::now();
    EXPECT_EQ(haul_cancel(source), 0);
    EXPECT_EQ(haul_wait(source, &error), -ECANCELED) << error.message;
    EXPECT_LT(MsSince(begun), kBoundMs);
    EXPECT_NE(std::string(error.message).find("cancelled"), std::string::npos) << error.message;
    EXPECT_EQ(haul_get_state(source), HAUL_STATE_CANCELLED);
    ExpectStayed(from, source);
    haul_free(source);
}

void SourceInSetup()
{
    SourceMeetsNobody(true);
    SourceMeetsNobody(false);
    // With the block table agreed upon.
    CancelAt(true, SlowOptions(),
             [](Guest &from, Guest &, Moment *moment) { from.on_setup = [moment] { moment->Stay(); }; });
}

// A destination alone, cancelled after `play` had its way with a connection to it; *ms: how long that took.
void CancelInSetup(const std::function<void(FramePeer &)> &play, int64_t *ms)
{
    Guest to({kMiB}, false);
    haul_options options = SlowOptions();
    haul_migration *destination = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_destination_new(&options, &destination, &error), 0);
    to.Attach(destination, false);
    ASSERT_EQ(haul_start(destination, UnixUri().c_str(), &error), 0) << error.message;
    FramePeer peer(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, haul_local_uri(destination) + strlen("unix:"), sizeof address.sun_path - 1);
    if (play) {
        ASSERT_EQ(connect(peer.fd(), reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
        play(peer);
    }
    usleep(50000);
    EXPECT_EQ(haul_get_state(destination), HAUL_STATE_SETUP);
    auto begun = Clock::now();
    EXPECT_EQ(haul_cancel(destination), 0);
    EXPECT_EQ(haul_wait(destination, &error), -ECANCELED) << error.message;
    *ms = MsSince(begun);
    EXPECT_EQ(haul_get_state(destination), HAUL_STATE_CANCELLED);
    EXPECT_EQ(to.starts, 0u);
    haul_free(destination);
}

void DestinationInSetupWith(const std::function<void(FramePeer &)> &play)
{
    constexpr int64_t kEnough = 1500;
    int64_t least_ms = BestOfTries(kEnough, [&play](int) {
        int64_t ms = INT64_MAX;
        CancelInSetup(play, &ms);
        return ms;
    });
    EXPECT_LT(least_ms, kEnough) << "sooner than a silent HELLO is given up";
}

void SayHello(FramePeer &peer)
{
    haul_hello hello = {.version = HAUL_WIRE_VERSION,
                        .capabilities = 0,
                        .id = {1},
                        .channel = HAUL_CONTROL_CHANNEL,
                        .channels = 2,
                        .page_size = kPage};
    std::vector<unsigned char> payload(256);
    payload.resize(haul_hello_encode(&hello, payload.data(), payload.size()));
    ASSERT_EQ(peer.Send(HAUL_FRAME_HELLO, payload), 0);
    Frame frame;
    ASSERT_EQ(peer.Receive(&frame), 0);
    ASSERT_EQ(frame.type, HAUL_FRAME_WELCOME);
}

void DestinationInSetup()
{
    DestinationInSetupWith(nullptr);             // nobody came
    DestinationInSetupWith([](FramePeer &) {});  // somebody came and says nothing
    DestinationInSetupWith(SayHello);            // the block table is due
    DestinationInSetupWith([](FramePeer &peer) { // the channels are due
        SayHello(peer);
        std::vector<unsigned char> table{1, 0, 0, 0, 6, 0, 'b', 'l', 'o', 'c', 'k', '0'};
        for (uint64_t value = kMiB; table.size() < 20; value >>= 8) {
            table.push_back(static_cast<unsigned char>(value));
        }
        table.insert(table.end(), {0, 0x10, 0, 0});
        ASSERT_EQ(peer.Send(HAUL_FRAME_BLOCKS, table), 0);
        Frame frame;
        ASSERT_EQ(peer.ReceiveReal(&frame), 0);
        ASSERT_EQ(frame.type, HAUL_FRAME_BLOCKS_OK);
    });
}

// ---- active, pre-switchover, device ----

void InRound1(bool source_side)
{
    CancelAt(source_side, SlowOptions(), [source_side](Guest &from, Guest &to, Moment *moment) {
        (source_side ? from : to).on_state = [moment](haul_state state) {
            if (state == HAUL_STATE_ACTIVE) {
                moment->reached.Set();
            }
        };
    });
}

void WhileTheGuestStops(bool source_side)
{
    CancelAt(source_side, Options(),
             [](Guest &from, Guest &, Moment *moment) { from.on_stop = [moment] { moment->Stay(); }; });
}

// Held by pause-before-switchover, the guest stopped.
void WhileHeld(bool source_side)
{
    haul_options options = Options();
    options.pause_before_switchover = true;
    CancelAt(source_side, options, [](Guest &from, Guest &, Moment *moment) {
        from.on_state = [moment](haul_state state) {
            if (state == HAUL_STATE_PRE_SWITCHOVER) {
                moment->reached.Set();
            }
        };
    });
}

void WhileStateIsSaved()
{
    CancelAt(true, Options(), [](Guest &from, Guest &, Moment *moment) {
        from.on_save = [moment](Guest &) { moment->Stay(); };
    });
}

void WhileStateIsLoaded()
{
    CancelAt(false, Options(),
             [](Guest &, Guest &to, Moment *moment) { to.on_load = [moment] { moment->Stay(); }; });
}

// ---- after the end, and at it ----

// Between HANDOVER and RUNNING the guest is the destination's: both sides refuse.
void AfterHandover(bool source_side)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    from.Run(5, 1000);
    Signal starting, asked;
    to.on_start = [&] {
        starting.Set();
        EXPECT_TRUE(asked.Wait());
    };
    Move move(from, to, Options());
    ASSERT_TRUE(starting.Wait());
    haul_migration *side = source_side ? move.source : move.destination;
    EXPECT_EQ(haul_cancel(side), -EALREADY);
    asked.Set();
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(move.destination_result, 0) << move.destination_error.message;
    EXPECT_EQ(haul_get_state(side), HAUL_STATE_COMPLETED);
    EXPECT_EQ(haul_cancel(side), -EALREADY) << "and when it is completed";
    EXPECT_EQ(haul_get_state(side), HAUL_STATE_COMPLETED);
    EXPECT_EQ(to.starts, 1u);
    EXPECT_FALSE(from.running());
}

void AfterAFailure(bool source_side)
{
    Guest from({2 * kMiB}, true), to({kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, Options());
    EXPECT_EQ(move.Wait(), -EINVAL) << move.source_error.message;
    haul_migration *side = source_side ? move.source : move.destination;
    EXPECT_EQ(haul_cancel(side), 0);
    EXPECT_EQ(haul_get_state(side), HAUL_STATE_FAILED) << "what failed stays failed";
    ExpectStayed(from, move.source);
}

// A second cancel while the first is under way, from the event that reports it.
void WhileCancelling(bool source_side)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    Moment active;
    std::atomic<haul_migration *> side{nullptr};
    std::atomic<int> results{0}, calls{0};
    (source_side ? from : to).on_state = [&](haul_state state) {
        if (state == HAUL_STATE_ACTIVE) {
            active.reached.Set();
        }
        if (state == HAUL_STATE_CANCELLING || state == HAUL_STATE_CANCELLED) {
            calls++;
            results += haul_cancel(side);
        }
    };
    Move move(from, to, SlowOptions());
    side = source_side ? move.source : move.destination;
    CancelAndExpect(move, side, &active);
    EXPECT_EQ(calls, 2);
    EXPECT_EQ(results, 0);
}

// ---- the table ----

// Nothing leads to the state: the table of transitions must agree, so that adding it needs a test here.
void Unreachable(haul_state state)
{
    for (unsigned from = 0; from < HAUL_STATE_COUNT; from++) {
        EXPECT_FALSE(haul_state_allowed(static_cast<haul_state>(from), state))
            << haul_state_name(state) << " can be reached: write its cancel test";
    }
}

struct CancelCase {
    haul_state state;
    void (*source)();
    void (*destination)();
};

std::ostream &operator<<(std::ostream &out, const CancelCase &one)
{
    return out << haul_state_name(one.state);
}

// In the order of the states.
constexpr CancelCase kCases[] = {
    {HAUL_STATE_NONE, [] { NeverStarted(true); }, [] { NeverStarted(false); }},
    {HAUL_STATE_SETUP, SourceInSetup, DestinationInSetup},
    {HAUL_STATE_ACTIVE,
     [] {
         InRound1(true);
         WhileTheGuestStops(true);
     },
     [] {
         InRound1(false);
         WhileTheGuestStops(false);
     }},
    // The destination never is in pre-switchover: there, its own cancel meets a source that is.
    {HAUL_STATE_PRE_SWITCHOVER, [] { WhileHeld(true); }, [] { WhileHeld(false); }},
    {HAUL_STATE_DEVICE, WhileStateIsSaved, WhileStateIsLoaded},
    {HAUL_STATE_COMPLETED, [] { AfterHandover(true); }, [] { AfterHandover(false); }},
    {HAUL_STATE_FAILED, [] { AfterAFailure(true); }, [] { AfterAFailure(false); }},
    {HAUL_STATE_CANCELLING, [] { WhileCancelling(true); }, [] { WhileCancelling(false); }},
    {HAUL_STATE_CANCELLED, [] { WhileCancelling(true); }, [] { WhileCancelling(false); }},
    {HAUL_STATE_POSTCOPY_ACTIVE, [] { Unreachable(HAUL_STATE_POSTCOPY_ACTIVE); },
     [] { Unreachable(HAUL_STATE_POSTCOPY_ACTIVE); }},
    {HAUL_STATE_POSTCOPY_PAUSED, [] { Unreachable(HAUL_STATE_POSTCOPY_PAUSED); },
     [] { Unreachable(HAUL_STATE_POSTCOPY_PAUSED); }},
    {HAUL_STATE_POSTCOPY_RECOVER, [] { Unreachable(HAUL_STATE_POSTCOPY_RECOVER); },
     [] { Unreachable(HAUL_STATE_POSTCOPY_RECOVER); }},
};

constexpr bool InOrder()
{
    for (unsigned i = 0; i < sizeof kCases / sizeof kCases[0]; i++) {
        if (kCases[i].state != static_cast<haul_state>(i) || !kCases[i].source || !kCases[i].destination) {
            return false;
        }
    }
    return true;
}
static_assert(sizeof kCases / sizeof kCases[0] == HAUL_STATE_COUNT,
              "a state was added without a cancel test");
static_assert(InOrder(), "the cancel tests are not in the order of the states");

class Cancel : public testing::TestWithParam<CancelCase>
{
  protected:
    // What a first move leaves behind for good (a sanitizer's threads, a library's caches) is no leak.
    static void SetUpTestSuite()
    {
        Guest from({kMiB}, true), to({kMiB}, false);
        Move move(from, to, Options());
        EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    }
};

TEST_P(Cancel, AtTheSource)
{
    Resources before = Resources::Now();
    GetParam().source();
    ExpectNoMoreThan(before);
}

TEST_P(Cancel, AtTheDestination)
{
    Resources before = Resources::Now();
    GetParam().destination();
    ExpectNoMoreThan(before);
}

INSTANTIATE_TEST_SUITE_P(EveryState, Cancel, testing::ValuesIn(kCases), [](const auto &info) {
    std::string name = haul_state_name(info.param.state);
    name.erase(std::remove(name.begin(), name.end(), '-'), name.end());
    return name;
});

TEST(CancelAgain, TheSameGuestMovesAfterwards)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    Moment active;
    from.on_state = [&](haul_state state) {
        if (state == HAUL_STATE_ACTIVE) {
            active.reached.Set();
        }
    };
    {
        Move move(from, to, SlowOptions());
        CancelAndExpect(move, move.source, &active);
    }
    Move again(from, to, Options());
    std::string where;
    EXPECT_EQ(again.Wait(), 0) << again.source_error.message;
    EXPECT_TRUE(SameMemory(from, to, &where)) << where;
    EXPECT_EQ(to.starts, 1u);
}

TEST(CancelAgain, FreeAloneCancels)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    Resources before = Resources::Now();
    auto begun = Clock::now();
    {
        Move move(from, to, SlowOptions());
        usleep(50000);
    }
    EXPECT_LT(MsSince(begun), kBoundMs);
    EXPECT_TRUE(from.running());
    EXPECT_EQ(to.starts, 0u);
    ExpectNoMoreThan(before);
}

} // namespace
