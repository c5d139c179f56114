/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_TOOLS_PROGRAM_H
#define TESTS_TOOLS_PROGRAM_H

#include <string>
#include <sys/types.h>
#include <vector>

/* One run of the real haul program, its outputs in files. Ends the process when it goes out of scope. */
class Program
{
  public:
    struct Options {
        std::string state_directory;
        std::string preload;   /* a shared object for LD_PRELOAD, or empty */
        int error_fd = -1;     /* standard error goes there; -1: to a file */
        std::vector<int> keep; /* descriptors that it inherits, with their numbers */
    };
    Program(const Options &options, const std::vector<std::string> &arguments);
    ~Program();
    Program(const Program &) = delete;
    Program &operator=(const Program &) = delete;

    /* Exit status, 128 + signal, or -1 when it did not end in time (then it is killed). */
    int Wait(int seconds = 60);
    void Signal(int number);
    bool Ended();
    std::string Out() const;
    std::string Err() const;
    /* Waits until standard error or standard output has `text`; false when it ends or 30 s pass before. */
    bool WaitFor(const std::string &text);
    /* What a receiving haul prints as its address; empty when it prints none. */
    std::string Address();
    pid_t pid() const
    {
        return pid_;
    }

  private:
    std::string out_, err_;
    pid_t pid_ = -1;
    int status_ = -1;
    bool ended_ = false;
};

/* For programs that preload tests/tools/fail_on_demand.so and start during its life: the calls that fail. */
class Failing
{
  public:
    Failing();
    ~Failing();
    void Begin(const std::string &what);
    void End();

  private:
    std::string path_;
};

/* A new empty directory below the test's temporary directory. */
std::string MakeDirectory();

/* A file of this workspace, as the test sees it. */
std::string Runfile(const std::string &path);

/* The ID of the first record whose name ends in `tail` (".source.json"), within 30 s; else empty. */
std::string WaitForRecord(const std::string &directory, const std::string &tail);

#endif
