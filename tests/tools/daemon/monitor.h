// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_DAEMON_MONITOR_H
#define HAUL_TESTS_TOOLS_DAEMON_MONITOR_H

// A QMP client that keeps events apart from answers, for a daemon or for QEMU itself.

#include "tests/tools/qmp/client.h"

#include <functional>
#include <string>
#include <vector>

class Monitor
{
  public:
    // Waits until somebody listens there.
    explicit Monitor(const std::string &path);
    // The whole answer. `arguments` is JSON text, or empty.
    Json Run(const std::string &command, const std::string &arguments = "");
    // The "return" member, as a new reference; a failure of the test when there is none.
    Json Get(const std::string &command, const std::string &arguments = "");
    // The error's "desc", or "" for success.
    std::string Fails(const std::string &command, const std::string &arguments = "");
    // getfd with `fd`, which is closed here; the error's "desc", or "".
    std::string HandOver(const std::string &name, int fd);
    // One member of query-migrate's answer, as text; "" without it.
    std::string Of(const std::string &migration, const std::string &member);
    long Number(const std::string &migration, const std::string &object, const std::string &member);
    bool Until(const std::function<bool()> &true_now, int seconds = 30);
    bool Reaches(const std::string &migration, const std::string &status);
    // What query-status says.
    std::string Guest(const std::string &migration);
    // Events so far about `migration`: "MIGRATION setup", "STOP", "MIGRATION_PASS 1".
    std::vector<std::string> Events(const std::string &migration);
    // The same without asking the other side.
    std::vector<std::string> EventsSoFar(const std::string &migration) const;
    bool Saw(const std::string &migration, const std::string &event);
    // True when the other side closes, once all that it had to say was read.
    bool Gone();

  private:
    Json Answer();
    void Note(const json_t *event);
    RawClient client_;
    std::vector<std::pair<std::string, std::string>> events_;
};

// "{"name": NAME, MORE}"
std::string Named(const std::string &name, const std::string &more = "");

#endif
