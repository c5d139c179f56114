// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_MOVER_PROCESS_H
#define HAUL_TESTS_MACHINES_MOVER_PROCESS_H

#include <string>
#include <sys/types.h>
#include <vector>

namespace haul_test
{

// One mover process; killed by the destructor.
class Mover
{
  public:
    // It inherits the descriptors in `keep`, with their numbers.
    explicit Mover(const std::vector<std::string> &words, const std::vector<int> &keep = {});
    ~Mover();
    Mover(const Mover &) = delete;
    // Reads lines until one starts with `prefix`; returns what follows it, or "" at the end (or after a
    // minute and a half).
    std::string expect(const std::string &prefix);
    // Waits for the end: exit code, or minus the signal.
    int wait();
    void kill(int signal);
    // Gives it an order: "go" or "cancel".
    void tell(const std::string &order);
    pid_t pid() const
    {
        return pid_;
    }
    static std::string program();
    const std::string &output() const
    {
        return output_;
    }

  private:
    std::string output_;
    std::string pending_;
    pid_t pid_ = -1;
    int pipe_ = -1;
    int orders_ = -1;
    int code_ = 0;
};

} // namespace haul_test

#endif
