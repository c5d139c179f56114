// SPDX-License-Identifier: Apache-2.0
// The haul program within a Linux guest, over vsock: few kernels outside of one have a vsock to connect to.
// The reference guest moves over the guest's own loopback (CID 1), loses its peer, and meets what can be
// wrong.
#include "tests/machines/initrd.h"
#include "tests/machines/qemu.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <unistd.h>

namespace
{

using namespace haul_test;

constexpr char kBusybox[] = "/bin/busybox";

// /init. Each case ends in a line "CASE: ..." on the console with what both ends printed between.
constexpr char kScript[] = R"(#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /tmp /bin
/bin/busybox --install -s /bin
export PATH=/bin HAUL_STATE_DIR=/tmp/state
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in vsock vmw_vsock_virtio_transport_common vsock_loopback; do insmod /$module.ko; done

GUEST="--guest --guest-vcpu thread --guest-memory 16M --run-for 1 --timeout 20"
receive()
{
    /haul receive --listen vsock:4294967295:$1 $GUEST >/tmp/receive 2>&1 &
    receiver=$!
    until grep -q listening /tmp/receive; do sleep 0.1; done
}
send()
{
    /haul send $* $GUEST --guest-tracker bitmap --guest-dirty-rate 8M >/tmp/send 2>&1
}
ended() # CASE STATUS
{
    cat /tmp/send
    echo "$1: send ended with $2"
}

receive 7000
send vsock:1:7000 --channels 4 --verify
ended MOVE $?
wait $receiver
status=$?
cat /tmp/receive
echo "MOVE: receive ended with $status"

receive 7001
(until grep -q 'round 1' /tmp/send; do sleep 0.1; done; kill -9 $receiver) &
send vsock:1:7001 --max-bandwidth 1M
ended DEATH $?

send vsock:1:7002
ended NOBODY $?

send vsock:77:7003
ended NOWHERE $?

receive 7004
/haul receive --listen vsock:4294967295:7004 $GUEST >/tmp/send 2>&1
ended TAKEN $?
/haul receive --listen vsock:9:7005 $GUEST >/tmp/send 2>&1
ended FOREIGN $?
kill $receiver
wait $receiver
echo "INTERRUPTED: receive ended with $?"
echo ALL DONE
while true; do sleep 60; done
)";

// Adds the program with the libraries that it is linked with; "" or what is missing.
std::string add_with_libraries(Initrd &initrd, const std::string &name, const std::string &path)
{
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
            std::string library = text.substr(begin, end - begin);
            initrd.add_program(library.substr(1), read_file(library));
        }
    }
    return list && pclose(list) == 0 ? "" : "ldd " + path + " fails";
}

// What the console says in the case: after the line that ended the one before, up to its own end.
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

TEST(Vsock, MovesAndFailsWithinALinuxGuest)
{
    if (!missing().empty()) {
        GTEST_SKIP() << missing();
    }
    if (access(kBusybox, X_OK) < 0) {
        GTEST_SKIP() << "no " << kBusybox << " (package busybox-static)";
    }
    Folder folder;
    Initrd initrd;
    initrd.add_program("init", kScript);
    initrd.add_program(kBusybox + 1, read_file(kBusybox));
    const char *runfiles = getenv("TEST_SRCDIR");
    std::string haul = std::string(runfiles ? runfiles : ".") + "/haul/tools/haul/haul";
    ASSERT_EQ(add_with_libraries(initrd, "haul", haul), "");
    for (const char *module : {"vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback"}) {
        initrd.add_module(std::string("net/vmw_vsock/") + module);
    }
    initrd.write(folder / "initrd");
    MachineOptions options;
    options.mib = 256;
    Machine machine(folder, "vsock", options);
    ASSERT_TRUE(machine.wait_for("ALL DONE", kBootSeconds)) << machine.console() << machine.errors();

    std::string console = machine.console();
    struct Expected {
        const char *name;
        std::vector<std::string> lines;
    };
    const Expected all[] = {
        {"MOVE",
         {"Moved: the guest is now at vsock:1:7000", "MOVE: send ended with 0", "self-check passed",
          "MOVE: receive ended with 0"}},
        {"DEATH", {"the guest goes on here", "self-check passed", "DEATH: send ended with 1"}},
        {"NOBODY", {"vsock:1:7002", "refused", "the guest goes on here", "NOBODY: send ended with 1"}},
        {"NOWHERE", {"there is no way from here to the CID 77", "NOWHERE: send ended with 1"}},
        {"TAKEN", {"the port is in use; choose another", "TAKEN: send ended with 1"}},
        {"FOREIGN", {"this side does not have the CID 9", "FOREIGN: send ended with 1"}},
        {"INTERRUPTED", {"receive ended with 1"}},
    };
    for (const Expected &expected : all) {
        std::string said = in_case(console, expected.name);
        for (const std::string &line : expected.lines) {
            EXPECT_NE(said.find(line), std::string::npos) << expected.name << " does not say: " << line;
        }
    }
    if (HasFailure()) {
        std::cerr << console;
    }
}

} // namespace
