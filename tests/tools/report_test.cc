#include "tools/haul/progress.h"
#include "tools/haul/report.h"

#include <gtest/gtest.h>
#include <jansson.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>

namespace
{

template <typename Function> std::string Captured(Function function)
{
    char *text = nullptr;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    function(out);
    fclose(out);
    std::string result(text, size);
    free(text);
    return result;
}

class Report : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        outcome_.source = true;
        outcome_.status = "completed";
        outcome_.uri = "tcp:10.0.0.2:7000";
        outcome_.machine = "guest";
        outcome_.compress = "lz4";
        strcpy(outcome_.id, "0123456789abcdef0123456789abcdef");
        outcome_.channels = channels_;
        outcome_.channel_count = 2;
        haul_stats &stats = outcome_.stats;
        stats.state = HAUL_STATE_COMPLETED;
        stats.total_time_ns = 3210600000;
        stats.setup_time_ns = 12300000;
        stats.expected = {25000000, 1000000, 17000000, 5000000, 2000000};
        stats.actual = {28400000, 1200000, 20000000, 5100000, 2100000};
        stats.downtime_limit_ns = 300000000;
        stats.transferred = 190ull << 20;
        stats.total = 256ull << 20;
        stats.duplicate = 16384;
        stats.normal = 49152;
        stats.holes = 12000;
        stats.dirty_pages_rate = 25600;
        stats.dirty_sync_count = 4;
        stats.pages_per_second = 200000;
        stats.bandwidth_bytes_per_s = 125000000;
        stats.threshold_size = 37500000;
        stats.compression_ratio = 2.125;
        stats.page_size = 4096;
        stats.channels = 2;
        stats.ownership = HAUL_OWNER_DESTINATION;
        strcpy(stats.tracker, "kvm-dirty-log");
        channels_[0] = {95ull << 20, 24576, 8192, 4, 24572, 2500000, 700000000, 3, 1, 100};
        channels_[1] = {95ull << 20, 24576, 8192, 4, 24572, 2500000, 700000000, -1, -1, 101};
    }
    json_t *Json()
    {
        std::string text = Captured([&](FILE *out) { EXPECT_EQ(cli_json_print(&outcome_, out), 0); });
        json_error_t error;
        json_t *json = json_loads(text.c_str(), JSON_REJECT_DUPLICATES, &error);
        EXPECT_NE(json, nullptr) << error.text << "\n" << text;
        EXPECT_EQ(text.back(), '\n');
        return json;
    }
    std::string Text()
    {
        return Captured([&](FILE *out) { cli_report_print(&outcome_, out); });
    }
    std::string Headline()
    {
        char line[HAUL_OUTCOME_HEADLINE_SIZE];
        haul_outcome_headline(&outcome_, line, sizeof line);
        return line;
    }
    haul_outcome outcome_ = {};
    haul_channel_stats channels_[2] = {};
};

TEST_F(Report, MemoryThatWasHandedOverWasNotSent)
{
    outcome_.mode = "cpr-transfer";
    outcome_.channel_count = 0;
    outcome_.stats.mode = HAUL_MODE_CPR_TRANSFER;
    outcome_.stats.transferred = outcome_.stats.normal = outcome_.stats.duplicate = 0;
    outcome_.stats.dirty_sync_count = outcome_.stats.channels = 0;
    outcome_.stats.tracker[0] = '\0';
    std::string text = Text();
    EXPECT_NE(text.find("256 MiB, handed over as it is (--mode cpr-transfer)\n"), std::string::npos) << text;
    EXPECT_NE(text.find("predicted"), std::string::npos) << text;
    EXPECT_EQ(text.find("on the wire"), std::string::npos) << text;
    EXPECT_EQ(text.find("Rounds"), std::string::npos) << text;
    json_t *json = Json();
    EXPECT_STREQ(json_string_value(json_object_get(json, "mode")), "cpr-transfer");
    json_decref(json);
}

TEST_F(Report, JsonHasQueryMigratesNamesAndUnits)
{
    json_t *json = Json();
    json_int_t total_time, setup_time, downtime, expected, transferred, remaining, total, duplicate, normal,
        normal_bytes, rate, pages_per_second, syncs, page_size;
    double mbps, predicted_pass, actual_total;
    const char *status, *ownership, *id, *tracker;
    ASSERT_EQ(json_unpack(json, "{s:s s:s s:s s:s s:I s:I s:I s:I}", "status", &status, "ownership",
                          &ownership, "migration-id", &id, "tracker", &tracker, "total-time", &total_time,
                          "setup-time", &setup_time, "downtime", &downtime, "expected-downtime", &expected),
              0);
    EXPECT_STREQ(status, "completed");
    EXPECT_STREQ(ownership, "destination");
    EXPECT_STREQ(id, outcome_.id);
    EXPECT_STREQ(tracker, "kvm-dirty-log");
    EXPECT_EQ(total_time, 3211);
    EXPECT_EQ(setup_time, 12);
    EXPECT_EQ(downtime, 28);
    EXPECT_EQ(expected, 25);
    ASSERT_EQ(json_unpack(json_object_get(json, "ram"), "{s:I s:I s:I s:I s:I s:I s:I s:F s:I s:I s:I}",
                          "transferred", &transferred, "remaining", &remaining, "total", &total, "duplicate",
                          &duplicate, "normal", &normal, "normal-bytes", &normal_bytes, "dirty-pages-rate",
                          &rate, "mbps", &mbps, "pages-per-second", &pages_per_second, "dirty-sync-count",
                          &syncs, "page-size", &page_size),
              0);
    EXPECT_EQ(transferred, 190 << 20);
    EXPECT_EQ(remaining, 0);
    EXPECT_EQ(total, 256 << 20);
    EXPECT_EQ(duplicate, 16384);
    EXPECT_EQ(normal_bytes, 49152 * 4096);
    EXPECT_EQ(rate, 25600);
    EXPECT_NEAR(mbps, static_cast<double>(190 << 20) * 8 / 1e6 / 3.211, 1) << "and not what is reckoned with";
    EXPECT_EQ(syncs, 4);
    EXPECT_EQ(page_size, 4096);
    ASSERT_EQ(json_unpack(json_object_get(json, "downtime-detail"), "{s:{s:F} s:{s:F}}", "predicted",
                          "last-pass", &predicted_pass, "actual", "total", &actual_total),
              0);
    EXPECT_DOUBLE_EQ(predicted_pass, 17.0);
    EXPECT_DOUBLE_EQ(actual_total, 28.4);
    EXPECT_EQ(json_object_get(json, "error"), nullptr);
    json_decref(json);
}

TEST_F(Report, JsonHasOneObjectPerChannel)
{
    json_t *json = Json();
    json_t *channels = json_object_get(json, "channels");
    ASSERT_EQ(json_array_size(channels), 2u);
    json_int_t bytes, pages, zero, raw, compressed, thread;
    int cpu, node;
    double busy, stalled;
    ASSERT_EQ(json_unpack(json_array_get(channels, 0), "{s:I s:I s:I s:I s:I s:F s:F s:i s:i s:I}", "bytes",
                          &bytes, "pages", &pages, "zero", &zero, "raw", &raw, "compressed", &compressed,
                          "busy-time", &busy, "stalled-time", &stalled, "cpu", &cpu, "node", &node,
                          "thread-id", &thread),
              0);
    EXPECT_EQ(bytes, 95 << 20);
    EXPECT_EQ(compressed, 24572);
    EXPECT_DOUBLE_EQ(busy, 2.5);
    EXPECT_DOUBLE_EQ(stalled, 700);
    EXPECT_EQ(cpu, 3);
    EXPECT_EQ(node, 1);
    EXPECT_EQ(thread, 100);
    json_decref(json);
}

TEST_F(Report, JsonOfAFailureNamesTheErrorAndTheStatus)
{
    outcome_.status = "failed";
    outcome_.code = -ECONNREFUSED;
    outcome_.stats = {};
    outcome_.channel_count = 0;
    haul_error_set(&outcome_.error, ECONNREFUSED, "tcp:[::1]:1: \"quoted\" refused");
    json_t *json = Json();
    const char *status, *code, *text, *ownership;
    ASSERT_EQ(json_unpack(json, "{s:s s:s s:{s:s s:s}}", "status", &status, "ownership", &ownership, "error",
                          "code", &code, "desc", &text),
              0);
    EXPECT_STREQ(status, "failed");
    EXPECT_STREQ(ownership, "source");
    EXPECT_STREQ(code, "ECONNREFUSED");
    EXPECT_STREQ(text, "tcp:[::1]:1: \"quoted\" refused");
    json_decref(json);
}

TEST_F(Report, JsonSaysVerifiedOnlyOfAMoveThatWas)
{
    json_t *json = Json();
    EXPECT_TRUE(json_is_false(json_object_get(json, "verified")));
    json_decref(json);
    outcome_.verify = true;
    json = Json();
    EXPECT_TRUE(json_is_true(json_object_get(json, "verified")));
    json_decref(json);
    outcome_.stats.ownership = HAUL_OWNER_SOURCE;
    json = Json();
    EXPECT_TRUE(json_is_false(json_object_get(json, "verified")));
    json_decref(json);
}

TEST_F(Report, AFailedSelfCheckIsAnErrorOfTheObject)
{
    outcome_.source = false;
    outcome_.self_check_code = -EIO;
    strcpy(outcome_.self_check, "self-check failed: page 7 is stale");
    json_t *json = Json();
    const char *code;
    int passed = 1;
    ASSERT_EQ(json_unpack(json, "{s:{s:b} s:{s:s}}", "self-check", "passed", &passed, "error", "code", &code),
              0);
    EXPECT_EQ(passed, 0);
    EXPECT_STREQ(code, "EIO");
    json_decref(json);
}

TEST_F(Report, ExitStatusFollowsOwnershipAndSelfCheck)
{
    EXPECT_EQ(cli_outcome_exit(&outcome_), 0);
    outcome_.self_check_code = -EIO;
    EXPECT_EQ(cli_outcome_exit(&outcome_), 4) << "the guest does not run at the source";
    outcome_.stats.ownership = HAUL_OWNER_SOURCE;
    EXPECT_EQ(cli_outcome_exit(&outcome_), 1) << "here it does, whatever became of it";
    outcome_.self_check_code = 0;
    EXPECT_EQ(cli_outcome_exit(&outcome_), 1);
    outcome_.stats.resume_error = -EBUSY;
    EXPECT_EQ(cli_outcome_exit(&outcome_), 3);
    outcome_.stats.ownership = HAUL_OWNER_UNCERTAIN;
    EXPECT_EQ(cli_outcome_exit(&outcome_), 3);
}

TEST_F(Report, TextBeginsWithWhereTheGuestIsAndFitsTheScreen)
{
    outcome_.verify = true;
    strcpy(outcome_.self_check, "self-check passed: 256 MiB");
    std::string text = Text();
    EXPECT_EQ(text.rfind("Moved: the guest is now at tcp:10.0.0.2:7000.\n", 0), 0u) << text;
    for (const char *part : {"3.21 s", "28 ms", "25 ms", "limit", "300 ms", "last pass", "190 MiB", "2.1",
                             "kvm-dirty-log", "Verified", "self-check passed", "Channel", "95.0 MiB", "any",
                             static_cast<const char *>(outcome_.id)}) {
        EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
    }
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        EXPECT_LE(line.size(), 100u) << line;
    }
}

TEST_F(Report, HeadlineOfEachOwnershipAndSide)
{
    outcome_.stats.ownership = HAUL_OWNER_SOURCE;
    outcome_.status = "cancelled";
    EXPECT_EQ(Headline(), "Not moved (cancelled): the guest goes on here.");
    outcome_.source = false;
    EXPECT_EQ(Headline(), "Not received (cancelled): the guest stays with the source.");
    outcome_.stats.ownership = HAUL_OWNER_DESTINATION;
    outcome_.machine = "memory";
    EXPECT_EQ(Headline(), "Received: the memory is now here.");
    outcome_.stats.ownership = HAUL_OWNER_UNCERTAIN;
    EXPECT_NE(Headline().find("this copy is paused"), std::string::npos) << Headline();
}

TEST_F(Report, HeadlineOfAGuestThatStandsStill)
{
    outcome_.stats.ownership = HAUL_OWNER_SOURCE;
    outcome_.stats.resume_error = -EBUSY;
    outcome_.status = "failed";
    EXPECT_EQ(Headline(), "Not moved (failed): the guest is stopped here; see 'haul help resume'.");
    EXPECT_TRUE(haul_outcome_undecided(&outcome_));
    outcome_.uri = "file:/tmp/x";
    EXPECT_EQ(Headline(), "Not saved (failed): the guest is stopped here; see 'haul help resume'.");
    outcome_.machine_ended = true;
    EXPECT_EQ(Headline(), "Not saved (failed): the process of the guest has ended here.");
    EXPECT_FALSE(haul_outcome_undecided(&outcome_));
    json_t *json = Json();
    EXPECT_STREQ(json_string_value(json_object_get(json, "guest")), "ended");
    json_decref(json);
    outcome_.stats.ownership = HAUL_OWNER_UNCERTAIN;
    EXPECT_NE(Headline().find("this copy has ended"), std::string::npos) << Headline();
}

TEST_F(Report, HeadlineOfASnapshotWhoseMachineHasEndedSince)
{
    outcome_.stats.ownership = HAUL_OWNER_SOURCE;
    outcome_.stats.mode = HAUL_MODE_BACKGROUND_SNAPSHOT;
    outcome_.stats.state = HAUL_STATE_COMPLETED;
    outcome_.uri = "file:/x";
    EXPECT_EQ(Headline(), "Saved: the guest as it was is in file:/x, and goes on here.");
    outcome_.machine_ended = true;
    EXPECT_EQ(Headline(), "Saved: the guest as it was is in file:/x, and its process has ended here.");
    EXPECT_EQ(cli_outcome_exit(&outcome_), 0);
    outcome_.stats.state = HAUL_STATE_FAILED;
    outcome_.stats.file_complete = true;
    outcome_.status = "failed";
    EXPECT_EQ(Headline(), "Not surely saved (failed): file:/x is complete, but a crash of this host could "
                          "lose it; the process of the guest has ended here.");
}

TEST_F(Report, AMoveThatNeverBeganHasOnlyItsHeadline)
{
    outcome_.status = "failed";
    outcome_.stats = {};
    outcome_.channel_count = 0;
    outcome_.id[0] = '\0';
    EXPECT_EQ(Text(), "Not moved (failed): the guest goes on here.\n");
    outcome_.unbegun = true; // not even a machine
    EXPECT_EQ(Text(), "Not moved (failed): nothing was begun.\n");
}

/* ---- progress ---- */

haul_stats Active()
{
    haul_stats stats = {};
    stats.state = HAUL_STATE_ACTIVE;
    stats.total = 1000ull << 20;
    stats.remaining = 550ull << 20;
    stats.dirty_pages_rate = 25600;
    stats.page_size = 4096;
    stats.dirty_sync_count = 3;
    stats.expected.total_ns = 25000000;
    return stats;
}

std::string Line(const haul_stats &stats, bool source, uint64_t bytes_per_s)
{
    char line[256];
    cli_progress_line(&stats, source, bytes_per_s, line, sizeof line);
    return line;
}

TEST(Progress, LineHasEverythingAnOperatorAsksFor)
{
    haul_stats stats = Active();
    EXPECT_EQ(Line(stats, true, 812ull << 20),
              " 45%  812 MiB/s  left 550 MiB  dirty 100 MiB/s  round 3  downtime 25 ms");
}

TEST(Progress, DrivesAreShownUntilAllAreReady)
{
    haul_stats stats = Active();
    stats.streams = 2;
    stats.streams_ready = 1;
    stats.stream_length = stats.total;
    stats.stream_offset = stats.total - (100 << 20);
    EXPECT_EQ(Line(stats, true, 812ull << 20),
              " 67%  812 MiB/s  left 650 MiB, of drives 100 MiB  drives ready 1 of 2");
    stats.streams_ready = 2;
    EXPECT_EQ(Line(stats, true, 812ull << 20),
              " 67%  812 MiB/s  left 650 MiB  dirty 100 MiB/s  round 3  downtime 25 ms");
}

TEST(Progress, WorstLineFitsEightyColumns)
{
    haul_stats stats = Active();
    stats.state = HAUL_STATE_DEVICE;
    stats.total = stats.remaining = 1023ull << 40;
    stats.remaining -= 1 << 20;
    stats.dirty_pages_rate = (1023ull << 30) / 4096;
    stats.dirty_sync_count = 999;
    stats.expected.total_ns = 1999000000;
    EXPECT_LT(Line(stats, true, 1023ull << 30).size(), 100u);
    stats.state = HAUL_STATE_ACTIVE;
    EXPECT_LT(Line(stats, true, 1023ull << 30).size(), 80u);
}

TEST(Progress, StatesWithoutNumbersHaveWords)
{
    haul_stats stats = {};
    EXPECT_EQ(Line(stats, false, 0), "waiting for the source");
    EXPECT_EQ(Line(stats, true, 0), "connecting");
    stats.state = HAUL_STATE_CANCELLING;
    EXPECT_EQ(Line(stats, true, 0), "cancelling");
}

TEST(Progress, AMessageStandsOnItsOwnLineAboveTheRedrawnOne)
{
    haul_stats stats = Active();
    std::string text = Captured([&](FILE *out) {
        cli_progress *progress = cli_progress_new(out, CLI_PROGRESS_REDRAW, true);
        cli_progress_show(progress, &stats, 1000000000);
        cli_progress_message(progress, false, "tracker: %s", "uffd-wp");
        cli_progress_show(progress, &stats, 1200000000);
        cli_progress_free(progress);
    });
    EXPECT_EQ(text.find('\r'), 0u);
    EXPECT_NE(text.find("\r\033[Ktracker: uffd-wp\n\r 45%"), std::string::npos) << text;
    EXPECT_EQ(text.substr(text.size() - 4), "\r\033[K") << "nothing is left on the line";
}

TEST(Progress, RateComesFromTheBytesBetweenTwoLines)
{
    haul_stats stats = Active();
    std::string text = Captured([&](FILE *out) {
        cli_progress *progress = cli_progress_new(out, CLI_PROGRESS_LINES, true);
        cli_progress_show(progress, &stats, 1000000000);
        stats.transferred = 512ull << 20;
        cli_progress_show(progress, &stats, 1500000000);
        cli_progress_free(progress);
    });
    EXPECT_NE(text.find("\n 45%  1.00 GiB/s"), std::string::npos) << text;
    EXPECT_EQ(text.find('\r'), std::string::npos);
}

TEST(Progress, ALogSaysOnlyOnceThatNothingHappens)
{
    haul_stats stats = {};
    std::string text = Captured([&](FILE *out) {
        cli_progress *progress = cli_progress_new(out, CLI_PROGRESS_LINES, false);
        for (uint64_t second = 1; second < 5; second++) {
            cli_progress_show(progress, &stats, second * 1000000000);
        }
        cli_progress_free(progress);
    });
    EXPECT_EQ(text, "waiting for the source\n");
}

TEST(Progress, ALogShowsThatAMoveStandsStill)
{
    const haul_stats stats = Active();
    std::string text = Captured([&](FILE *out) {
        cli_progress *progress = cli_progress_new(out, CLI_PROGRESS_LINES, true);
        for (uint64_t second = 1; second < 5; second++) {
            cli_progress_show(progress, &stats, second * 1000000000);
        }
        cli_progress_free(progress);
    });
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;
}

TEST(Progress, QuietShowsOnlyWhatMustBeSeen)
{
    haul_stats stats = Active();
    std::string text = Captured([&](FILE *out) {
        cli_progress *progress = cli_progress_new(out, CLI_PROGRESS_NONE, true);
        cli_progress_show(progress, &stats, 1);
        cli_progress_message(progress, false, "hidden");
        cli_progress_message(progress, true, "shown");
        cli_progress_free(progress);
    });
    EXPECT_EQ(text, "shown\n");
}

TEST_F(Report, ADestinationSaysOnlyWhatItKnows)
{
    outcome_.source = false;
    outcome_.compress = nullptr;
    outcome_.stats.setup_time_ns = 0;
    outcome_.stats.holes = 0;
    std::string text = Text();
    for (const char *unknown :
         {"setup", "Downtime", "predicted", "limit", "Rounds", "never touched", "Ratio"}) {
        EXPECT_EQ(text.find(unknown), std::string::npos) << unknown << " in\n" << text;
    }
    EXPECT_NE(text.find("Received: the guest is now here."), std::string::npos) << text;
    EXPECT_NE(text.find("49152 with content, 16384 zero\n"), std::string::npos) << text;
}

} // namespace
