// SPDX-License-Identifier: Apache-2.0
// Fifty background snapshots of one reference guest under load, each of them restored and checked, and the
// guest itself checked in between: what it runs on was not disturbed.
#include "tests/directory.h"
#include "tests/tools/machine_move.h"

#include <filesystem>

using namespace haul_test;

namespace
{

constexpr int kSnapshots = 50;

class Snapshots : public testing::TestWithParam<const char *>
{
  protected:
    static haul_guest_options GuestOptions(const char *vcpu)
    {
        haul_guest_options options;
        haul_guest_options_default(&options);
        options.memory_bytes = 16 << 20;
        options.dirty_bytes_per_s = 800000000;
        options.vcpu = vcpu;
        return options;
    }
    // One end with a file; the result of the whole.
    static void Run(const Machine &machine, bool source, const std::string &uri, haul_stats *stats)
    {
        haul_options options = move_options();
        options.mode = source ? "background-snapshot" : "normal";
        options.channels = 3;
        haul_migration *migration = nullptr;
        haul_error error = {};
        ASSERT_EQ((source ? haul_source_new : haul_destination_new)(&options, &migration, &error), 0)
            << error.message;
        EXPECT_EQ(machine->ops->attach(machine.get(), migration, &error), 0) << error.message;
        EXPECT_EQ(haul_start(migration, uri.c_str(), &error), 0) << error.message;
        EXPECT_EQ(haul_wait(migration, &error), 0) << error.message;
        haul_get_stats(migration, stats);
        haul_free(migration);
    }
    static void Check(const Machine &machine)
    {
        char report[256];
        haul_error error = {};
        EXPECT_EQ(machine->ops->self_check(machine.get(), 2, report, sizeof report, &error), 0)
            << error.message;
    }
};

TEST_P(Snapshots, FiftyUnderLoadAreEachOfOneMoment)
{
    haul_guest_options options = GuestOptions(GetParam());
    haul_machine *made = nullptr;
    haul_error error = {};
    if (haul_guest_source_new(&options, &made, &error) < 0) {
        GTEST_SKIP() << error.message;
    }
    Machine from(made);
    Directory directory;
    const std::string path = directory / "snapshot";
    uint64_t faults = 0;
    for (int i = 0; i < kSnapshots; i++) {
        SCOPED_TRACE("snapshot " + std::to_string(i));
        haul_stats stats = {};
        Run(from, true, "file:" + path, &stats);
        ASSERT_FALSE(HasFailure());
        EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
        faults += stats.write_faults;
        ASSERT_EQ(haul_guest_destination_new(&options, &made, &error), 0) << error.message;
        Machine to(made);
        Run(to, false, "file:" + path, &stats);
        ASSERT_FALSE(HasFailure());
        Check(to);
        if (i % 10 == 9) {
            Check(from);
        }
        ASSERT_FALSE(HasFailure());
        std::filesystem::remove(path);
    }
    EXPECT_GT(faults, 0u) << "no write ever had to wait: the guest wrote nothing";
}

INSTANTIATE_TEST_SUITE_P(Of, Snapshots, testing::Values("thread", "kvm"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
