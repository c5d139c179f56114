// SPDX-License-Identifier: Apache-2.0
// One end of a move with a disk is a process of its own, and is killed: in each state, and within each call
// of its disk. What is left at the destination never looks like a whole image before HANDOVER, and the
// source's image is its guest's own.
#include "tests/engine/disk/disk.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace haul_test;

namespace
{

constexpr uint64_t kMiB = 1 << 20;
using Names = std::vector<std::string>;

// When the killed end dies: in a state or step of the engine, or in a call of its disk.
struct Moment {
    const char *name;
    int state = -1, step = -1, call = -1;
    bool starting = false;
};

std::string NameOf(const testing::TestParamInfo<Moment> &info)
{
    return info.param.name;
}

void Die()
{
    raise(SIGKILL);
}

// Arms a guest and its disk: at the moment, `act` is called. By default in the process that is to die.
void Arm(const Moment &moment, Guest &guest, Disk &disk, const std::function<void()> &act = Die)
{
    guest.on_state = [moment, act](haul_state state) {
        if (static_cast<int>(state) == moment.state) {
            act();
        }
    };
    guest.on_step = [moment, act](haul_step step) {
        if (static_cast<int>(step) == moment.step) {
            act();
        }
    };
    guest.on_start = [moment, act] {
        if (moment.starting) {
            act();
        }
    };
    disk.on_call = [moment, act](Disk::Call call, unsigned) {
        if (static_cast<int>(call) == moment.call) {
            act();
        }
    };
}

// From one process to the other: now you may.
class Word
{
  public:
    Word()
    {
        EXPECT_EQ(pipe2(ends_, O_CLOEXEC), 0);
    }
    ~Word()
    {
        close(ends_[0]);
        close(ends_[1]);
    }
    Word(const Word &) = delete;
    void Say()
    {
        EXPECT_EQ(write(ends_[1], "!", 1), 1);
    }
    // Also when the other one has died.
    void Hear()
    {
        char byte;
        close(ends_[1]);
        ends_[1] = -1;
        (void)!read(ends_[0], &byte, 1);
    }

  private:
    int ends_[2];
};

// Says so once it listens.
int RunEnd(Guest &guest, bool source, const std::string &uri, haul_stats *stats, haul_error *error,
           Word *listening = nullptr)
{
    haul_options options = DiskOptions();
    haul_migration *migration = nullptr;
    int rc = source ? haul_source_new(&options, &migration, error)
                    : haul_destination_new(&options, &migration, error);
    if (rc == 0) {
        guest.Attach(migration, source);
        rc = haul_start(migration, uri.c_str(), error);
        if (listening) {
            listening->Say();
        }
        rc = rc == 0 ? haul_wait(migration, error) : rc;
        haul_get_stats(migration, stats);
        haul_free(migration);
    }
    return rc;
}

class DiskDeath : public testing::TestWithParam<Moment>
{
  protected:
    DiskDeath()
    {
        MakeImage(directory / "from", 4 * kMiB, [](uint64_t) { return true; });
    }
    ~DiskDeath() override
    {
        unlink(uri.substr(strlen("unix:")).c_str());
    }
    // This process has no threads yet.
    template <class Body> void Fork(Body body)
    {
        child = fork();
        if (child == 0) {
            body();
            _exit(0);
        }
    }
    void ExpectKilled()
    {
        int status = 0;
        EXPECT_EQ(waitpid(child, &status, 0), child);
        EXPECT_TRUE(WIFSIGNALED(status)) << "it never came to that moment";
    }
    Directory directory;
    std::string uri = UnixUri();
    Word listening;
    pid_t child = -1;
    haul_stats stats{};
    haul_error error{};
};

// ---- the destination is killed ----

class Destination : public DiskDeath
{
  protected:
    void Run()
    {
        Fork([this] {
            Guest to({2 * kMiB}, false);
            Disk copy(directory / "to", false, 4 * kMiB);
            copy.Plug(to);
            Arm(GetParam(), to, copy);
            RunEnd(to, false, uri, &stats, &error, &listening);
        });
        listening.Hear();
        disk.Plug(from);
        from.Run(5, 1000);
        disk.Run(5, 1000);
        EXPECT_LT(RunEnd(from, true, uri, &stats, &error), 0);
        ExpectKilled();
    }
    Guest from{{2 * kMiB}, true};
    Disk disk{directory / "from", true};
};

class DestinationDies : public Destination
{
};

TEST_P(DestinationDies, TheGuestGoesOnAndWhatIsLeftDoesNotLookWhole)
{
    Run();
    EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE) << error.message;
    EXPECT_TRUE(from.running()) << error.message;
    EXPECT_TRUE(disk.running()) << error.message;
    EXPECT_EQ(directory.Names(), (Names{"from", "to.incomplete"}));
    // The next attempt says what is in its way.
    haul_disk_file *file = nullptr;
    EXPECT_EQ(haul_disk_file_receive((directory / "to").c_str(), 4 * kMiB, &file, &error), -EEXIST);
    EXPECT_NE(std::string(error.message).find("left of a move that did not end: remove it"),
              std::string::npos)
        << error.message;
}

INSTANTIATE_TEST_SUITE_P(BeforeHandover, DestinationDies,
                         testing::Values(Moment{.name = "Setup", .state = HAUL_STATE_SETUP},
                                         Moment{.name = "Open", .call = Disk::kOpen},
                                         Moment{.name = "Active", .state = HAUL_STATE_ACTIVE},
                                         Moment{.name = "Write", .call = Disk::kWrite},
                                         Moment{.name = "Flush", .call = Disk::kFlush},
                                         Moment{.name = "Device", .state = HAUL_STATE_DEVICE}),
                         NameOf);

class DestinationDiesTooLate : public Destination
{
};

// The record says that HANDOVER came, or nothing: the operator decides, and finds both images whole.
TEST_P(DestinationDiesTooLate, TheSourceStaysPausedAndBothImagesAreWhole)
{
    Run();
    EXPECT_EQ(stats.ownership, HAUL_OWNER_UNCERTAIN) << error.message;
    EXPECT_FALSE(from.running());
    EXPECT_FALSE(disk.running());
    const char *name = GetParam().starting ? "to" : "to.incomplete";
    ASSERT_EQ(directory.Names(), (Names{"from", name}));
    EXPECT_TRUE(disk.Content() == ReadImage(directory / name));
}

INSTANTIATE_TEST_SUITE_P(AfterHandover, DestinationDiesTooLate,
                         testing::Values(Moment{.name = "Handover", .step = HAUL_STEP_HANDOVER_RECEIVED},
                                         Moment{.name = "Complete", .call = Disk::kComplete},
                                         Moment{.name = "Starting", .starting = true}),
                         NameOf);

// ---- the source is killed ----

class Source : public DiskDeath
{
  protected:
    // `arm` in the process that is to die.
    int Run(const std::function<void(Guest &, Disk &)> &arm)
    {
        Fork([&] {
            listening.Hear();
            Guest from({2 * kMiB}, true);
            Disk disk(directory / "from", true);
            disk.Plug(from);
            arm(from, disk);
            from.Run(5, 1000);
            disk.Run(5, 1000);
            RunEnd(from, true, uri, &stats, &error);
        });
        copy.Plug(to);
        int rc = RunEnd(to, false, uri, &stats, &error, &listening);
        ExpectKilled();
        return rc;
    }
    Guest to{{2 * kMiB}, false};
    Disk copy{directory / "to", false, 4 * kMiB};
};

class SourceDies : public Source
{
};

TEST_P(SourceDies, NoImageIsLeft)
{
    EXPECT_LT(Run([](Guest &from, Disk &disk) { Arm(GetParam(), from, disk); }), 0);
    EXPECT_EQ(to.starts, 0u);
    EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
    EXPECT_EQ(copy.calls[Disk::kDiscard], 1u);
    EXPECT_EQ(directory.Names(), Names{"from"});
    EXPECT_EQ(ReadImage(directory / "from").size(), 4 * kMiB);
}

INSTANTIATE_TEST_SUITE_P(BeforeHandover, SourceDies,
                         testing::Values(Moment{.name = "Start", .call = Disk::kStart},
                                         Moment{.name = "Active", .state = HAUL_STATE_ACTIVE},
                                         Moment{.name = "Read", .call = Disk::kRead},
                                         Moment{.name = "Fetch", .call = Disk::kFetch},
                                         Moment{.name = "PreSwitchover", .state = HAUL_STATE_PRE_SWITCHOVER},
                                         Moment{.name = "Device", .state = HAUL_STATE_DEVICE},
                                         Moment{.name = "Handover", .step = HAUL_STEP_HANDOVER_SENDING}),
                         NameOf);

class SourceDiesTooLate : public Source
{
};

// HANDOVER came: the guest and its disk are the destination's, also when it sees before it is done that
// nobody is left to tell.
TEST_P(SourceDiesTooLate, TheDestinationHasTheGuestAndItsImage)
{
    haul_migration *destination = nullptr;
    to.on_attach = [&](haul_migration *migration) { destination = migration; };
    Arm(GetParam(), to, copy, [&] {
        kill(child, SIGKILL);
        EXPECT_TRUE(Eventually([&] { return ThreadOf(destination, "control") < 0; })) << "it hears nothing";
    });
    EXPECT_EQ(Run([](Guest &, Disk &) {}), 0) << error.message;
    EXPECT_EQ(to.starts, 1u);
    EXPECT_EQ(stats.ownership, HAUL_OWNER_DESTINATION);
    EXPECT_EQ(copy.calls[Disk::kComplete], 1u);
    EXPECT_EQ(copy.calls[Disk::kDiscard], 0u);
    EXPECT_EQ(directory.Names(), (Names{"from", "to"}));
    EXPECT_TRUE(ReadImage(directory / "from") == ReadImage(directory / "to")) << "the images differ";
}

INSTANTIATE_TEST_SUITE_P(AfterHandover, SourceDiesTooLate,
                         testing::Values(Moment{.name = "Handover", .step = HAUL_STEP_HANDOVER_RECEIVED},
                                         Moment{.name = "Complete", .call = Disk::kComplete},
                                         Moment{.name = "Starting", .starting = true}),
                         NameOf);

// In setup nobody has met anybody: whoever comes next is served.
TEST(SourceDiesEarly, TheNextOneIsServed)
{
    Directory directory;
    std::string uri = UnixUri();
    Word listening;
    MakeImage(directory / "from", 4 * kMiB, [](uint64_t) { return true; });
    pid_t child = fork();
    if (child == 0) {
        haul_stats stats{};
        haul_error error{};
        listening.Hear();
        Guest from({2 * kMiB}, true);
        Disk disk(directory / "from", true);
        disk.Plug(from);
        Arm({.name = "", .state = HAUL_STATE_SETUP}, from, disk);
        RunEnd(from, true, uri, &stats, &error);
        _exit(0);
    }
    haul_options options = DiskOptions();
    haul_migration *destination = nullptr;
    haul_error error{};
    Guest to({2 * kMiB}, false);
    Disk copy(directory / "to", false, 4 * kMiB);
    copy.Plug(to);
    ASSERT_EQ(haul_destination_new(&options, &destination, &error), 0);
    to.Attach(destination, false);
    ASSERT_EQ(haul_start(destination, uri.c_str(), &error), 0) << error.message;
    listening.Say();
    EXPECT_EQ(waitpid(child, nullptr, 0), child);
    Guest from({2 * kMiB}, true);
    Disk disk(directory / "from", true);
    disk.Plug(from);
    haul_stats stats{};
    EXPECT_EQ(RunEnd(from, true, uri, &stats, &error), 0) << error.message;
    EXPECT_EQ(haul_wait(destination, &error), 0) << error.message;
    haul_free(destination);
    EXPECT_TRUE(disk.Content() == ReadImage(directory / "to"));
}

} // namespace
