// SPDX-License-Identifier: Apache-2.0
// When the engine stops the guest: never beyond the limit, and for no reason that ends with the stop.
#include "tests/engine/move.h"
#include "tests/engine/proxy.h"

#include <atomic>
#include <cerrno>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace
{

std::atomic<bool> disturbs{false}; // who next looks for the content of a file

} // namespace

// In place of the C library's.
extern "C" off_t lseek(int fd, off_t offset, int whence) noexcept
{
    if (whence == SEEK_DATA && disturbs.exchange(false)) {
        usleep(1500000);
    }
    return syscall(SYS_lseek, fd, offset, whence);
}

namespace
{

using namespace haul_test;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kMs = 1000000;
constexpr uint32_t kScanMs = 500; // far more than a busy machine may add to a round

// Every scan finds the same pages, and takes long while the guest runs, as one that stops it meanwhile does.
struct SlowScans {
    bool stopped = false;
    bool knows = true; // that a scan of the stopped guest is quick

    static int Start(void *, haul_error *)
    {
        return 0;
    }
    static int Sync(void *opaque, uint64_t *const *bitmaps, uint64_t *pages, haul_error *)
    {
        if (!static_cast<SlowScans *>(opaque)->stopped) {
            usleep(kScanMs * 1000);
        }
        bitmaps[0][0] = ~UINT64_C(0);
        *pages = 64;
        return 0;
    }
    static void Stop(void *)
    {
    }
    static int StopGuest(void *opaque, uint64_t *, haul_error *)
    {
        static_cast<SlowScans *>(opaque)->stopped = true;
        return 0;
    }
    static void Estimate(void *opaque, haul_guest_costs *costs)
    {
        EXPECT_NE(costs->state_bytes, 0u) << "what the engine assumes";
        if (static_cast<SlowScans *>(opaque)->knows) {
            costs->sync_ns = kMs / 10;
        }
    }
};

int MoveWithSlowScans(bool knows, haul_stats *stats)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    SlowScans scans;
    scans.knows = knows;
    static const haul_tracker_ops tracker = {"slow", SlowScans::Start, nullptr, SlowScans::Sync,
                                             SlowScans::Stop};
    haul_guest_ops guest{};
    guest.stop = SlowScans::StopGuest;
    guest.estimate = SlowScans::Estimate;
    haul_options options = Options();
    options.downtime_limit_ms = 2 * kScanMs - 50; // more than a scan, less than two
    options.switchover_bandwidth_bytes_per_s = 1000 * kMiB;
    options.max_rounds = 3;
    haul_migration *source = nullptr, *destination = nullptr;
    haul_error error{};
    EXPECT_EQ(haul_destination_new(&options, &destination, &error), 0) << error.message;
    EXPECT_EQ(haul_source_new(&options, &source, &error), 0) << error.message;
    to.Attach(destination, false);
    from.Attach(source, true);
    EXPECT_EQ(haul_set_guest(source, &guest, &scans, &error), 0);
    EXPECT_EQ(haul_set_tracker(source, &tracker, &scans, &error), 0);
    EXPECT_EQ(haul_start(destination, UnixUri().c_str(), &error), 0) << error.message;
    EXPECT_EQ(haul_start(source, haul_local_uri(destination), &error), 0) << error.message;
    int result = haul_wait(source, &error);
    haul_wait(destination, &error);
    haul_get_stats(source, stats);
    haul_free(source);
    haul_free(destination);
    return result;
}

TEST(Decision, AScanThatIsQuickOnceTheGuestStandsStillCountsAsThat)
{
    haul_stats stats{};
    EXPECT_EQ(MoveWithSlowScans(true, &stats), 0);
    EXPECT_LT(stats.expected.last_pass_ns, kScanMs * kMs);
}

TEST(Decision, AScanThatNobodyKnowsToBeQuickerCountsTwiceAsItIs)
{
    haul_stats stats{};
    EXPECT_EQ(MoveWithSlowScans(false, &stats), -ETIME);
    EXPECT_GT(stats.expected.last_pass_ns, 2 * kScanMs * kMs);
}

haul_options SlowLink()
{
    haul_options options = Options();
    options.switchover_bandwidth_bytes_per_s = 10 * kMiB; // 2000 pages take 780 ms
    options.downtime_limit_ms = 500;
    options.max_rounds = 12;
    return options;
}

void WritePages(Guest &guest, uint64_t pages)
{
    for (uint64_t page = 0; page < pages; page++) {
        guest.Write(0, page, page + 1);
    }
}

TEST(Decision, ABurstInTheLastMomentPutsTheStopOff)
{
    Guest from({16 * kMiB}, true), to({16 * kMiB}, false);
    from.on_stop = [&from] { WritePages(from, from.stops == 1 ? 2000 : 0); };
    Move move(from, to, SlowLink());
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(from.stops, 2u);
    EXPECT_EQ(from.resumes, 1u);
    EXPECT_EQ(to.starts, 1u);
    EXPECT_LE(move.stats.expected.total_ns, 500 * kMs);
}

TEST(Decision, AStopThatCannotBePutOffIsUndoneInTheEnd)
{
    Guest from({16 * kMiB}, true), to({16 * kMiB}, false);
    from.Run(1, 1000);
    from.on_stop = [&from] { WritePages(from, 2000); };
    from.fail_resume = 1;
    Move move(from, to, SlowLink());
    EXPECT_EQ(move.Wait(), -EBUSY);
    EXPECT_STREQ(move.source_error.message, "the guest does not run at the source: the guest refuses to run");
    EXPECT_EQ(from.resumes, 2u);
    EXPECT_TRUE(from.running());
    EXPECT_EQ(move.stats.resume_error, 0);
    EXPECT_EQ(from.runs, (std::vector<bool>{false, true}));
    EXPECT_EQ(from.steps, std::vector<haul_step>{HAUL_STEP_RESUMED});
}

TEST(Decision, BurstsInEachLastMomentNeverLeadBeyondTheLimit)
{
    Guest from({16 * kMiB}, true), to({16 * kMiB}, false);
    from.Run(1, 1000);
    from.on_stop = [&from] { WritePages(from, 2000); };
    Move move(from, to, SlowLink());
    EXPECT_EQ(move.Wait(), -ETIME) << move.source_error.message;
    EXPECT_GE(from.stops, 2u);
    EXPECT_TRUE(from.running());
    EXPECT_EQ(to.starts, 0u);
}

TEST(Decision, ASingleSlowStopIsTriedAgain)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    from.on_pass = [&from](uint32_t) { WritePages(from, 50); }; // with nothing to send it is stopped anyway
    from.on_stop = [&from] {
        WritePages(from, 100);
        usleep(from.stops == 1 ? 1500000 : 0);
    };
    haul_options options = Options();
    options.downtime_limit_ms = 1000;
    options.max_rounds = 12;
    Move move(from, to, options);
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(from.stops, 2u);
    EXPECT_EQ(from.resumes, 1u);
    EXPECT_EQ(to.starts, 1u);
}

TEST(Decision, ALatencyThatWasDisturbedIsMeasuredAgain)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    Proxy proxy;
    from.on_pass = [&](uint32_t) {
        WritePages(from, 100); // so that no round has too few to tell more than its latency
        proxy.Delay(Proxy::Channel(0), 0);
    };
    from.on_round = [&](uint32_t round) { proxy.Delay(Proxy::Channel(0), round == 1 ? 1000 : 0); };
    haul_options options = Options();
    options.downtime_limit_ms = 1500; // a round twice takes longer
    options.max_rounds = 12;
    Move move(from, to, options, "tcp:127.0.0.1:0", [&](const std::string &uri) { return proxy.Open(uri); });
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(to.starts, 1u);
}

TEST(Decision, ASampleOfTheHashingThatWasDisturbedIsTakenAgain)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    from.on_state = [](haul_state state) { disturbs = disturbs || state == HAUL_STATE_ACTIVE; };
    from.on_pass = [&from](uint32_t) { WritePages(from, 50); }; // with nothing to send it is stopped anyway
    haul_options options = Options();
    options.verify = true;
    options.downtime_limit_ms = 1500; // the sample that was disturbed alone takes longer
    options.max_rounds = 5;
    Move move(from, to, options);
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_FALSE(disturbs) << "none was taken";
    EXPECT_EQ(to.starts, 1u);
}

// The record of the handover, which is synced while the guest stands still, takes so long at `where`.
void SlowRecord(Guest &guest, haul_step where, useconds_t us)
{
    guest.on_step = [=](haul_step step) { usleep(step == HAUL_STEP_TRIAL || step == where ? us : 0); };
}

// Records take 40 ms here, 30 ms there.
int MoveWithSlowRecords(uint32_t limit_ms, haul_stats *stats)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    from.on_pass = [&from](uint32_t) { WritePages(from, 50); }; // with nothing to send it is stopped anyway
    SlowRecord(from, HAUL_STEP_HANDOVER_SENDING, 40000);
    SlowRecord(to, HAUL_STEP_HANDOVER_RECEIVED, 30000);
    haul_options options = Options();
    options.downtime_limit_ms = limit_ms;
    options.max_rounds = 5;
    Move move(from, to, options);
    int result = move.Wait();
    *stats = move.stats;
    return result;
}

TEST(Decision, RecordsThatTakeTimeArePredicted)
{
    haul_stats stats{};
    EXPECT_EQ(MoveWithSlowRecords(2000, &stats), 0);
    EXPECT_GE(stats.expected.last_pass_ns, 40 * kMs);
    EXPECT_GE(stats.expected.start_ns, 30 * kMs);
    EXPECT_GE(stats.actual.last_pass_ns, 40 * kMs);
    EXPECT_GE(stats.actual.start_ns, 30 * kMs);
}

TEST(Decision, RecordsThatTakeLongerThanTheLimitStopNoGuest)
{
    haul_stats stats{};
    EXPECT_EQ(MoveWithSlowRecords(60, &stats), -ETIME);
    EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
}

// What the source said of a move that ends, of a guest that writes nothing; its record takes 40 ms.
std::string SaidOfAnIdleGuest(uint32_t limit_ms)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    SlowRecord(from, HAUL_STEP_HANDOVER_SENDING, 40000);
    haul_options options = Options();
    options.downtime_limit_ms = limit_ms;
    options.max_rounds = 5;
    Move move(from, to, options);
    EXPECT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(to.starts, 1u);
    std::string said;
    for (const auto &message : from.messages) {
        said += message + "\n";
    }
    return said;
}

TEST(Decision, WithNothingLeftToSendTheGuestIsStoppedAndTheOperatorIsTold)
{
    std::string said = SaidOfAnIdleGuest(1);
    size_t at = said.find("beyond the downtime limit: nothing is left to send");
    EXPECT_NE(at, std::string::npos) << said;
    EXPECT_EQ(said.rfind("beyond the downtime limit"), at) << "once: " << said;
    EXPECT_NE(said.find("(limit 1 ms), "), std::string::npos) << said;
    EXPECT_NE(said.find(" ms of it "), std::string::npos) << said;
}

TEST(Decision, NothingIsToldOfALimitThatHoldsNorOfNone)
{
    EXPECT_EQ(SaidOfAnIdleGuest(60000).find("beyond"), std::string::npos);
    EXPECT_EQ(SaidOfAnIdleGuest(0).find("beyond"), std::string::npos);
}

} // namespace
