// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_DEVICE_PROCESSES_H
#define HAUL_TESTS_ENGINE_DEVICE_PROCESSES_H

// Two processes, each with one end of a move.

#include "machine.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace haul_test
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
    // `stays`: where it stops for good, having said so.
    Process(Machine &machine, bool source, const std::string &uri, const haul_options &options,
            const Moment *stays = nullptr)
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
    void Play(Machine &machine, bool source, const std::string &uri, const haul_options &options,
              const Moment *stays, Report *report)
    {
        char byte;
        if (source && read(go_[0], &byte, 1) != 1) {
            return;
        }
        if (stays) {
            machine.Hook(*stays) = [this, source] {
                while (!source && !listens_) { // a file may be loaded before haul_start has returned
                    usleep(1000);
                }
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
            listens_ = true;
            report->code = haul_wait(migration, &error);
        }
        report->early = machine.early;
        report->late = machine.late;
        report->starts = machine.guest.starts;
        snprintf(report->message, sizeof report->message, "%s", error.message);
    }

    int said_[2], go_[2];
    pid_t pid_;
    std::atomic<bool> listens_{false}; // and has said so
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

} // namespace haul_test

#endif
