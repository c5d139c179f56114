// SPDX-License-Identifier: Apache-2.0
// Described device state between two processes: of two versions of one program, and when one of them dies in
// the middle of early setup.
#include "machine.h"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace haul_test;

namespace
{

// What the other process says at its end.
struct Report {
    int code;
    Part early, late;
    unsigned starts;
    char message[sizeof haul_error::message];
};

// A process that runs one end. Forked before this process has threads of its own.
class Process
{
  public:
    // `stays`: it stops for good in the hook of early state, having said so.
    Process(Machine &machine, bool source, const std::string &uri, const haul_options &options, bool stays)
    {
        EXPECT_EQ(pipe2(said_, O_CLOEXEC), 0);
        EXPECT_EQ(pipe2(go_, O_CLOEXEC), 0);
        pid_ = fork();
        if (pid_ == 0) {
            Report report{};
            Play(machine, source, uri, options, stays, &report);
            (void)!write(said_[1], &report, sizeof report);
            _exit(0);
        }
        close(said_[1]);
        close(go_[0]);
        if (!source) {
            EXPECT_TRUE(Says('l')) << "it does not listen";
        }
    }
    ~Process()
    {
        Kill();
        close(said_[0]);
        close(go_[1]);
    }
    Process(const Process &) = delete;

    // A source waits for this.
    void Go()
    {
        EXPECT_EQ(write(go_[1], "g", 1), 1);
    }
    bool Says(char what)
    {
        char byte = 0;
        return read(said_[0], &byte, 1) == 1 && byte == what;
    }
    Report Ends()
    {
        Report report{};
        EXPECT_EQ(read(said_[0], &report, sizeof report), static_cast<ssize_t>(sizeof report));
        return report;
    }
    void Kill()
    {
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
        pid_ = -1;
    }

  private:
    void Play(Machine &machine, bool source, const std::string &uri, const haul_options &options, bool stays,
              Report *report)
    {
        char byte;
        if (source && read(go_[0], &byte, 1) != 1) {
            return;
        }
        if (stays) {
            (source ? machine.on_early_save : machine.on_early_load) = [this] {
                (void)!write(said_[1], "!", 1);
                for (;;) {
                    pause();
                }
            };
        }
        haul_migration *migration = nullptr;
        haul_error error{};
        report->code = source ? haul_source_new(&options, &migration, &error)
                              : haul_destination_new(&options, &migration, &error);
        machine.guest.Attach(migration, source);
        report->code = report->code == 0 ? haul_start(migration, uri.c_str(), &error) : report->code;
        if (report->code == 0) {
            (void)!write(said_[1], "l", source ? 0 : 1);
            report->code = haul_wait(migration, &error);
        }
        report->early = machine.early;
        report->late = machine.late;
        report->starts = machine.guest.starts;
        snprintf(report->message, sizeof report->message, "%s", error.message);
    }

    int said_[2], go_[2];
    pid_t pid_;
};

// One end in this process.
class Here
{
  public:
    Here(Machine &machine, bool source, const std::string &uri, const haul_options &options)
    {
        EXPECT_EQ(source ? haul_source_new(&options, &migration_, &error_)
                         : haul_destination_new(&options, &migration_, &error_),
                  0)
            << error_.message;
        machine.guest.Attach(migration_, source);
        EXPECT_EQ(haul_start(migration_, uri.c_str(), &error_), 0) << error_.message;
    }
    ~Here()
    {
        haul_free(migration_);
    }
    int Wait()
    {
        int code = haul_wait(migration_, &error_);
        haul_get_stats(migration_, &stats);
        message = error_.message;
        return code;
    }
    haul_stats stats{};
    std::string message;

  private:
    haul_migration *migration_ = nullptr;
    haul_error error_{};
};

class DeviceProcesses : public testing::TestWithParam<const char *>
{
  protected:
    DeviceProcesses()
    {
        options.mode = GetParam();
    }
    ~DeviceProcesses() override
    {
        unlink(uri.substr(strlen("unix:")).c_str());
    }
    void ExpectRunsOn(const Machine &from, const haul_stats &stats) const
    {
        EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
        EXPECT_TRUE(from.guest.running());
        EXPECT_EQ(from.guest.handed_over, 0u);
    }
    haul_options options = Options();
    const std::string uri = UnixUri();
};

INSTANTIATE_TEST_SUITE_P(Modes, DeviceProcesses, testing::Values("normal", "cpr-transfer"),
                         [](const auto &info) {
                             return std::string(info.param) == "normal" ? "Copied" : "HandedOver";
                         });

// ---- two versions of one program ----------------------------------------------------------------------

TEST_P(DeviceProcesses, ANewerMinorVersionLoadsWhatAnOlderOneSaved)
{
    Machine from(true), to(false, {kOneOne, false}, {kOneOne, false});
    to.early.newer = to.late.newer = 4711; // what stays as it was
    Process destination(to, false, uri, options, false);
    from.guest.Run(5, 1000);
    Here source(from, true, uri, options);
    EXPECT_EQ(source.Wait(), 0) << source.message;
    EXPECT_EQ(source.stats.ownership, HAUL_OWNER_DESTINATION);
    Report report = destination.Ends();
    EXPECT_EQ(report.code, 0) << report.message;
    EXPECT_EQ(report.starts, 1u);
    EXPECT_EQ(report.early.kind, from.early.kind);
    EXPECT_EQ(report.early.sizes[1], from.early.sizes[1]);
    EXPECT_EQ(report.late.kind, from.late.kind);
    EXPECT_EQ(report.early.newer, 4711u);
    EXPECT_EQ(report.late.newer, 4711u);
    std::string where;
    if (std::string(options.mode) == "normal") {
        EXPECT_TRUE(SameMemory(from.guest, to.guest, &where)) << where;
    }
}

TEST_P(DeviceProcesses, AnOlderMinorVersionRefusesWhatANewerOneSaved)
{
    for (bool early : {true, false}) {
        Shape newer{kOneOne, false};
        Machine from(true, early ? newer : Shape{}, early ? Shape{} : newer), to(false);
        Process destination(to, false, uri, options, false);
        from.guest.Run(5, 1000);
        Here source(from, true, uri, options);
        EXPECT_EQ(source.Wait(), -EINVAL);
        std::string sentence = std::string("state of ") + (early ? "setup" : "timer") +
                               "/0: the stream has version 1.1, this side loads 1.0 to 1.0";
        EXPECT_NE(source.message.find(sentence), std::string::npos) << source.message;
        ExpectRunsOn(from, source.stats);
        Report report = destination.Ends();
        EXPECT_EQ(report.code, -EINVAL);
        EXPECT_EQ(report.starts, 0u);
        unlink(uri.substr(strlen("unix:")).c_str());
    }
}

// ---- one of them dies ---------------------------------------------------------------------------------

TEST_P(DeviceProcesses, TheDestinationDiesWhileItLoadsEarlyState)
{
    Machine from(true), to(false);
    Process destination(to, false, uri, options, true);
    options.max_bandwidth_bytes_per_s = 1 << 20; // the first round takes longer
    from.guest.Run(5, 1000);
    Here source(from, true, uri, options);
    ASSERT_TRUE(destination.Says('!'));
    destination.Kill();
    EXPECT_LT(source.Wait(), 0);
    EXPECT_NE(source.message, "");
    EXPECT_EQ(source.stats.state, HAUL_STATE_FAILED);
    ExpectRunsOn(from, source.stats);
}

TEST_P(DeviceProcesses, TheSourceDiesWhileItSavesEarlyState)
{
    Machine from(true), to(false);
    Process source(from, true, uri, options, true);
    Here destination(to, false, uri, options);
    source.Go();
    ASSERT_TRUE(source.Says('!'));
    source.Kill();
    EXPECT_LT(destination.Wait(), 0);
    EXPECT_NE(destination.message, "");
    EXPECT_EQ(destination.stats.state, HAUL_STATE_FAILED);
    EXPECT_EQ(to.guest.starts, 0u);
    EXPECT_EQ(to.early.kind, 0u) << "nothing was loaded";
}

} // namespace
