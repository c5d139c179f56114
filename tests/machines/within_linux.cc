// SPDX-License-Identifier: Apache-2.0
#include "tests/machines/within_linux.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <unistd.h>

namespace haul_test
{
namespace
{

constexpr char kBusybox[] = "/bin/busybox";

// /init, what all begin with.
constexpr char kBegin[] = R"(#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /tmp /bin
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HAUL_STATE_DIR=/tmp/state TEST_SRCDIR=/runfiles
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir /dev/shm
mount -t tmpfs shm /dev/shm

step() # SECONDS WHAT
{
    echo "$(($(date +%s) + $1)) $2" >/tmp/step
}
run_test() # SECONDS PATH [FILTER]
{
    step $1 "$2 is to end"
    $TEST_SRCDIR/haul/$2 --gtest_filter=${3:-*} --gtest_color=no
    echo "$2: ended with $?"
}
step 60 "the first step is to come"
# Nothing is waited for in vain: what the script is at then is said, and the guest is done.
while sleep 1; do
    read limit what </tmp/step || continue
    [ $(date +%s) -le $limit ] && continue
    tail -n 100 /tmp/send /tmp/receive 2>/dev/null
    echo "GAVE UP: $what"
    echo ALL DONE
    break
done &
)";

constexpr char kEnd[] = R"(
echo ALL DONE
while true; do sleep 60; done
)";

// Far more than it takes for one of them to give up, or for all to be done.
constexpr double kScriptSeconds = 500;

// "" or what is missing.
std::string add_programs(Initrd &initrd, const Programs &programs)
{
    std::set<std::string> libraries;
    const char *runfiles = getenv("TEST_SRCDIR");
    for (const auto &[name, label] : programs) {
        std::string path = std::filesystem::path(runfiles ? runfiles : ".") / label;
        initrd.add_program(name, read_file(path));
        FILE *list = popen(("ldd " + path).c_str(), "r");
        char line[512];
        while (list && fgets(line, sizeof line, list)) {
            std::string text = line;
            size_t begin = text.find('/'), end = text.find(" (", begin);
            if (text.find("not found") != std::string::npos) {
                pclose(list);
                return text;
            }
            if (begin != std::string::npos) {
                libraries.insert(text.substr(begin, end - begin));
            }
        }
        if (!list || pclose(list) != 0) {
            return "ldd " + path + " fails";
        }
    }
    for (const std::string &library : libraries) {
        initrd.add_program(library.substr(1), read_file(library));
    }
    return "";
}

bool says(Machine &machine, const char *line, double seconds)
{
    bool said = false;
    for (; !said && seconds > 0 && machine.alive(); seconds--) {
        said = machine.wait_for(line, 1);
    }
    return said;
}

} // namespace

std::string missing_for_linux()
{
    if (!missing().empty()) {
        return missing();
    }
    return access(kBusybox, X_OK) < 0 ? std::string("no ") + kBusybox + " (package busybox-static)" : "";
}

std::pair<std::string, std::string> test_program(const std::string &path)
{
    return {"runfiles/haul/" + path, "haul/" + path};
}

std::string run_within_linux(const std::string &script, LinuxGuest guest)
{
    Folder folder;
    std::string init = kBegin;
    for (const std::string &module : guest.modules) {
        guest.initrd.add_module(module);
        init += "insmod /" + std::filesystem::path(module).filename().string() + ".ko\n";
    }
    guest.initrd.add_program("init", init + "echo BEGUN\n" + script + kEnd);
    guest.initrd.add_program(kBusybox + 1, read_file(kBusybox));
    EXPECT_EQ(add_programs(guest.initrd, guest.programs), "");
    guest.initrd.write(folder / "initrd");
    guest.machine.extra.push_back("-no-reboot"); // where the kernel panics
    Machine machine(folder, "linux", guest.machine);
    EXPECT_TRUE(says(machine, "BEGUN", kBootSeconds)) << machine.errors();
    EXPECT_TRUE(says(machine, "ALL DONE", kScriptSeconds)) << machine.errors();
    std::string console = machine.console();
    size_t gave_up = console.find("GAVE UP");
    if (gave_up != std::string::npos) {
        ADD_FAILURE() << console.substr(gave_up, console.find('\n', gave_up) - gave_up);
    }
    return console;
}

std::string in_case(const std::string &console, const std::string &name)
{
    size_t end = console.rfind(name + ": ");
    if (end == std::string::npos) {
        return "";
    }
    size_t first = console.find(name + ": ");
    size_t before = console.rfind(" ended with ", first - 1);
    size_t begin = before == std::string::npos || before > first ? 0 : console.find('\n', before);
    return console.substr(begin, console.find('\n', end) - begin);
}

void expect(const std::string &console, const std::vector<Expected> &all)
{
    for (const Expected &expected : all) {
        std::string said = in_case(console, expected.name);
        if (said.empty()) {
            ADD_FAILURE() << expected.name << " never came to its end";
            continue;
        }
        for (const std::string &line : expected.lines) {
            EXPECT_NE(said.find(line), std::string::npos) << expected.name << " does not say: " << line;
        }
    }
}

void expect_passed(const std::string &console, const std::string &path, int count)
{
    expect(console,
           {{path.c_str(), {path + ": ended with 0", "[  PASSED  ] " + std::to_string(count) + " test"}}});
}

} // namespace haul_test
