// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_DAEMON_DAEMON_H
#define HAUL_TESTS_TOOLS_DAEMON_DAEMON_H

#include "tests/tools/daemon/monitor.h"
#include "tests/tools/loopback.h"

#include <unistd.h>

// A daemon of its own, with a state directory of its own.
struct Daemon {
    explicit Daemon(const std::string &preload = "")
    {
        options.state_directory = MakeDirectory();
        options.preload = preload;
        path = "/tmp/haul-daemon-test-" + std::to_string(getpid()) + "-" + std::to_string(count++) + ".sock";
        program = std::make_unique<Program>(options, Words{"daemon", "--qmp", "unix:" + path});
        monitor = std::make_unique<Monitor>(path);
    }
    ~Daemon()
    {
        program.reset();
        unlink(path.c_str());
    }
    Monitor *operator->() const
    {
        return monitor.get();
    }
    static inline int count = 0;
    Program::Options options;
    std::string path;
    std::unique_ptr<Program> program;
    std::unique_ptr<Monitor> monitor;
};

// 16 MiB, any machine can run it: no KVM, no kernel feature.
inline const char kGuest[] = R"("guest": {"memory": 16777216, "vcpu": "thread"})";
inline const char kSourceGuest[] =
    R"("guest": {"memory": 16777216, "vcpu": "thread", "tracker": "bitmap", "dirty-rate": 2097152})";

#endif
