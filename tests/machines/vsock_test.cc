// SPDX-License-Identifier: Apache-2.0
// haul within a Linux guest, over vsock: few kernels outside of one have a vsock to connect to. The reference
// guest moves over the guest's own loopback (CID 1). With the program it is cancelled, loses either side, and
// meets what can be wrong; the movers meet every fault in every state.
#include "tests/machines/initrd.h"
#include "tests/machines/qemu.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <unistd.h>

namespace
{

using namespace haul_test;

constexpr char kBusybox[] = "/bin/busybox";

// /init, what all begin with.
constexpr char kBegin[] = R"(#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /tmp /bin
/bin/busybox --install -s /bin
export PATH=/bin HAUL_STATE_DIR=/tmp/state
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in vsock vmw_vsock_virtio_transport_common vsock_loopback; do insmod /$module.ko; done
)";

constexpr char kEnd[] = R"(
echo ALL DONE
while true; do sleep 60; done
)";

// Each case ends in a line "CASE: ..." on the console with what both ends printed between.
constexpr char kProgram[] = R"(
GUEST="--guest --guest-vcpu thread --guest-memory 16M --run-for 1 --timeout 20"
receive()
{
    /haul receive --listen vsock:4294967295:$1 $GUEST >/tmp/receive 2>&1 &
    receiver=$!
    until grep -q listening /tmp/receive; do sleep 0.1; done
}
SOURCE="$GUEST --guest-tracker bitmap --guest-dirty-rate 8M"
send()
{
    /haul send $* $SOURCE >/tmp/send 2>&1
}
slowly() # PORT
{
    rm -f /tmp/send
    /haul send vsock:1:$1 --max-bandwidth 1M $SOURCE >/tmp/send 2>&1 &
    sender=$!
    until grep -q 'round 1' /tmp/send; do sleep 0.1; done
}
ended() # CASE STATUS
{
    cat /tmp/send
    echo "$1: send ended with $2"
}
received() # CASE
{
    wait $receiver
    status=$?
    cat /tmp/receive
    echo "$1: receive ended with $status"
}

receive 7000
send vsock:1:7000 --channels 4 --verify
ended MOVE $?
received MOVE

receive 7001
slowly 7001
kill -9 $receiver
wait $sender
ended DEATH $?

receive 7006
slowly 7006
kill $sender
wait $sender
ended CANCEL $?
received CANCEL

receive 7007
slowly 7007
kill -9 $sender
wait $sender
ended KILLED $?
received KILLED

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
)";

// The reference guest meets what transport_state_test has for vsock.
constexpr char kStates[] = R"(
export TEST_SRCDIR=/runfiles
$TEST_SRCDIR/haul/tests/machines/transport_state_kernel_test --gtest_filter=*/Vsock* --gtest_color=no
echo "STATES: ended with $?"
)";

// Adds programs of this workspace under their names, with the libraries that they are linked with; "" or what
// is missing.
std::string add_programs(Initrd &initrd, const std::vector<std::pair<std::string, std::string>> &programs)
{
    std::set<std::string> libraries;
    const char *runfiles = getenv("TEST_SRCDIR");
    for (const auto &[name, label] : programs) {
        std::string path = std::string(runfiles ? runfiles : ".") + "/" + label;
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

class Vsock : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing().empty()) {
            GTEST_SKIP() << missing();
        }
        if (access(kBusybox, X_OK) < 0) {
            GTEST_SKIP() << "no " << kBusybox << " (package busybox-static)";
        }
    }
    // Runs the script in a Linux guest that has these programs; what its console says.
    static std::string run(const char *script,
                           const std::vector<std::pair<std::string, std::string>> &programs)
    {
        Folder folder;
        Initrd initrd;
        initrd.add_program("init", std::string(kBegin) + script + kEnd);
        initrd.add_program(kBusybox + 1, read_file(kBusybox));
        EXPECT_EQ(add_programs(initrd, programs), "");
        for (const char *module : {"vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback"}) {
            initrd.add_module(std::string("net/vmw_vsock/") + module);
        }
        initrd.write(folder / "initrd");
        MachineOptions options;
        options.mib = 256;
        Machine machine(folder, "vsock", options);
        EXPECT_TRUE(machine.wait_for("ALL DONE", kBootSeconds)) << machine.errors();
        return machine.console();
    }
};

TEST_F(Vsock, MovesAndFailsWithinALinuxGuest)
{
    std::string console = run(kProgram, {{"haul", "haul/tools/haul/haul"}});
    struct Expected {
        const char *name;
        std::vector<std::string> lines;
    };
    const Expected all[] = {
        {"MOVE",
         {"Moved: the guest is now at vsock:1:7000", "MOVE: send ended with 0", "self-check passed",
          "MOVE: receive ended with 0"}},
        {"DEATH", {"the guest goes on here", "self-check passed", "DEATH: send ended with 1"}},
        {"CANCEL",
         {"cancelled", "the guest goes on here", "self-check passed", "CANCEL: send ended with 1",
          "CANCEL: receive ended with 1"}},
        {"KILLED", {"KILLED: send ended with 137", "KILLED: receive ended with 1"}},
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
    std::string killed = in_case(console, "KILLED");
    EXPECT_EQ(killed.find("self-check"), std::string::npos) << killed;
    if (HasFailure()) {
        std::cerr << console;
    }
}

TEST_F(Vsock, HasOneOwnerInEveryStateWithinALinuxGuest)
{
    const std::string folder = "haul/tests/machines/";
    const std::string test = folder + "transport_state_kernel_test", mover = folder + "mover";
    std::string console = run(kStates, {{"runfiles/" + test, test}, {"runfiles/" + mover, mover}});
    EXPECT_NE(console.find("STATES: ended with 0"), std::string::npos);
    EXPECT_NE(console.find("[  PASSED  ] 21 tests"), std::string::npos); // and none was skipped
    if (HasFailure()) {
        std::cerr << console;
    }
}

} // namespace
