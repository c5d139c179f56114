// SPDX-License-Identifier: Apache-2.0
// haul within a Linux guest, over vsock: few kernels outside of one have a vsock to connect to. The reference
// guest moves over the guest's own loopback (CID 1). With the program it is cancelled, loses either side, and
// meets what can be wrong; so does a QEMU machine in there, which, emulated within the emulated, runs only a
// firmware. With the movers both meet every fault in every state.
#include "tests/machines/firmware.h"
#include "tests/machines/initrd.h"
#include "tests/machines/qemu.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
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
export PATH=/bin:/usr/bin HAUL_STATE_DIR=/tmp/state
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in vsock vmw_vsock_virtio_transport_common vsock_loopback; do insmod /$module.ko; done

step() # SECONDS WHAT: may take as long, from now on
{
    echo "$(($(date +%s) + $1)) $2" >/tmp/step
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
echo BEGUN
)";

constexpr char kEnd[] = R"(
echo ALL DONE
while true; do sleep 60; done
)";

// Far more than it takes for one of them to give up, or for all to be done.
constexpr double kScriptSeconds = 500;

// How a case moves something. Each ends in a line "CASE: ..." on the console with what both ends printed
// between. A script sets GUEST, what a receiver takes, and SOURCE, what a sender gives away.
constexpr char kCases[] = R"(
receive()
{
    rm -f /tmp/receive # what the case before said
    /haul receive --listen vsock:4294967295:$1 $GUEST >/tmp/receive 2>&1 &
    receiver=$!
    step 60 "the receiver is to listen at port $1"
    until grep -qs listening /tmp/receive; do sleep 0.1; done
}
send()
{
    step 120 "send $* is to end"
    /haul send $* $SOURCE >/tmp/send 2>&1
}
slowly() # PORT
{
    rm -f /tmp/send
    /haul send vsock:1:$1 --max-bandwidth 1M $SOURCE >/tmp/send 2>&1 &
    sender=$!
    step 60 "the sender to port $1 is to be in its first round"
    until grep -q 'round 1' /tmp/send; do sleep 0.1; done
    step 60 "both sides at port $1 are to end"
}
ended() # CASE STATUS
{
    cat /tmp/send
    echo "$1: send ended with $2"
}
received() # CASE
{
    step 60 "$1: the receiver is to end"
    wait $receiver
    status=$?
    cat /tmp/receive
    echo "$1: receive ended with $status"
}
)";

constexpr char kProgram[] = R"(
GUEST="--guest --guest-vcpu thread --guest-memory 16M --run-for 1 --timeout 20"
SOURCE="$GUEST --guest-tracker bitmap --guest-dirty-rate 8M"

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
step 60 "the second receiver at port 7004, and one at CID 9, are to end"
/haul receive --listen vsock:4294967295:7004 $GUEST >/tmp/send 2>&1
ended TAKEN $?
/haul receive --listen vsock:9:7005 $GUEST >/tmp/send 2>&1
ended FOREIGN $?
kill $receiver
wait $receiver
echo "INTERRUPTED: receive ended with $?"
)";

// A QEMU machine with a drive, which it leaves alone, meets a cancel and a death, then moves. Its serial line
// says how far it came.
constexpr char kMachine[] = R"script(
machine() # NAME OPTIONS
{
    name=/tmp/$1
    shift
    [ -f $name.raw ] || truncate -s 1M $name.raw
    qemu-system-x86_64 -accel tcg -nodefaults -display none -vga none -bios /firmware \
        -object memory-backend-memfd,share=on,id=ram,size=64M -machine pc,memory-backend=ram -m 64M \
        -drive if=none,id=disk0,format=raw,file=$name.raw -device virtio-blk-pci,drive=disk0 \
        -serial file:$name.said -qmp unix:$name.qmp,server=on,wait=off $* &
    step 60 "QEMU is to make $name.qmp"
    until [ -S $name.qmp ]; do sleep 0.1; done
}
counted() # NAME
{
    grep '^ok ' /tmp/$1.said | tail -n 1 | cut -d ' ' -f 2
}
counts_on() # CASE NAME
{
    step 60 "$1: $2 is to count on"
    lines=$(wc -l </tmp/$2.said)
    until [ $(wc -l </tmp/$2.said) -gt $((lines + 2)) ]; do sleep 0.1; done
    echo "$1: $2 counts on"
}

dd if=/haul of=/tmp/from.raw bs=1M count=1
machine from
machine to -S -incoming defer
machine next -S -incoming defer
step 120 "from is to count"
until grep -q sweep /tmp/from.said; do sleep 0.1; done

SOURCE="--qemu /tmp/from.qmp --disks --timeout 60"
GUEST="--qemu /tmp/to.qmp --disks --timeout 60"
receive 7000
slowly 7000
kill -INT $sender
wait $sender
ended CANCEL $?
received CANCEL
counts_on CANCEL from

receive 7001
slowly 7001
kill -9 $receiver
wait $sender
ended DEATH $?
counts_on DEATH from

SOURCE="$SOURCE --downtime-limit 5000"
GUEST="--qemu /tmp/next.qmp --disks --timeout 60"
receive 7002
send vsock:1:7002 --channels 2 --verify --json
ended MOVE $?
received MOVE
before=$(counted from)
counts_on MOVE next
[ $(counted from) = $before ] && echo "MOVE: from stands still"
[ $(counted next) -ge $before ] && echo "MOVE: next goes on where from was"
cmp /tmp/from.raw /tmp/next.raw && echo "MOVE: next has the drive"
[ -s /tmp/to.said ] || echo "MOVE: to never ran"
grep BAD /tmp/*.said
)script";

// What a test has for vsock, the reference guest or a QEMU machine.
constexpr char kStates[] = R"(
export TEST_SRCDIR=/runfiles HAUL_TEST_FIRMWARE=1
step 400 "$TEST is to end"
$TEST_SRCDIR/haul/tests/machines/$TEST --gtest_filter=*/Vsock* --gtest_color=no
echo "STATES: ended with $?"
)";

using Programs = std::vector<std::pair<std::string, std::string>>; // name in the guest, and here

// Adds programs of this workspace, or of this machine, under their names, with the libraries that they are
// linked with; "" or what is missing.
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

Programs test_programs(const std::string &name)
{
    const std::string test = "haul/tests/machines/" + name, mover = "haul/tests/machines/mover";
    return {{"runfiles/" + test, test}, {"runfiles/" + mover, mover}};
}

constexpr char kQemu[] = "/usr/bin/qemu-system-x86_64";

// What QEMU has beside its libraries.
Initrd with_qemu()
{
    Initrd initrd;
    for (const std::string file :
         {"usr/share/qemu/kvmvapic.bin", "usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so"}) {
        if (access(("/" + file).c_str(), R_OK) == 0) {
            initrd.add_program(file, read_file("/" + file));
        }
    }
    return initrd;
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

struct Expected {
    const char *name;
    std::vector<std::string> lines;
};

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
    static bool says(Machine &machine, const char *line, double seconds)
    {
        bool said = false;
        for (; !said && seconds > 0 && machine.alive(); seconds--) {
            said = machine.wait_for(line, 1);
        }
        return said;
    }
    // Runs the script in a Linux guest that has these programs; what its console says.
    static std::string run(const std::string &script, const Programs &programs, Initrd initrd = {},
                           unsigned mib = 256)
    {
        Folder folder;
        initrd.add_program("init", std::string(kBegin) + script + kEnd);
        initrd.add_program(kBusybox + 1, read_file(kBusybox));
        EXPECT_EQ(add_programs(initrd, programs), "");
        for (const char *module : {"vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback"}) {
            initrd.add_module(std::string("net/vmw_vsock/") + module);
        }
        initrd.write(folder / "initrd");
        MachineOptions options;
        options.mib = mib;
        options.extra = {"-no-reboot"}; // where the kernel panics
        Machine machine(folder, "vsock", options);
        EXPECT_TRUE(says(machine, "BEGUN", kBootSeconds)) << machine.errors();
        EXPECT_TRUE(says(machine, "ALL DONE", kScriptSeconds)) << machine.errors();
        std::string console = machine.console();
        size_t gave_up = console.find("GAVE UP");
        if (gave_up != std::string::npos) {
            ADD_FAILURE() << console.substr(gave_up, console.find('\n', gave_up) - gave_up);
        }
        return console;
    }
    // What the test has for vsock, in that guest: all `count`, none of them skipped.
    static void pass(const std::string &test, int count, Programs more = {}, Initrd initrd = {},
                     unsigned mib = 256)
    {
        Programs programs = test_programs(test);
        programs.insert(programs.end(), more.begin(), more.end());
        std::string console = run("TEST=" + test + kStates, programs, std::move(initrd), mib);
        EXPECT_NE(console.find("STATES: ended with 0"), std::string::npos);
        EXPECT_NE(console.find("[  PASSED  ] " + std::to_string(count) + " tests"), std::string::npos);
        if (HasFailure()) {
            std::cerr << console;
        }
    }
};

TEST_F(Vsock, MovesAndFailsWithinALinuxGuest)
{
    std::string console = run(std::string(kCases) + kProgram, {{"haul", "haul/tools/haul/haul"}});
    const std::vector<Expected> all = {
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
    expect(console, all);
    std::string killed = in_case(console, "KILLED");
    EXPECT_EQ(killed.find("self-check"), std::string::npos) << killed;
    if (HasFailure()) {
        std::cerr << console;
    }
}

TEST_F(Vsock, MovesAQemuMachineWithinALinuxGuest)
{
    Initrd initrd = with_qemu();
    initrd.add("firmware", 0100644, firmware());
    std::string console = run(std::string(kCases) + kMachine,
                              {{"haul", "haul/tools/haul/haul"}, {kQemu + 1, kQemu}}, std::move(initrd), 512);
    expect(console,
           {{"CANCEL",
             {"cancelled", "the guest goes on here", "CANCEL: send ended with 1",
              "CANCEL: receive ended with 1", "CANCEL: from counts on"}},
            {"DEATH", {"the guest goes on here", "DEATH: send ended with 1", "DEATH: from counts on"}},
            {"MOVE",
             {"\"status\": \"completed\"", "\"machine\": \"qemu\"", "\"verified\": true",
              "MOVE: send ended with 0", "Received: the guest is now here", "MOVE: receive ended with 0",
              "MOVE: next counts on", "MOVE: from stands still", "MOVE: next goes on where from was",
              "MOVE: next has the drive", "MOVE: to never ran"}}});
    EXPECT_EQ(console.find("BAD"), std::string::npos);
    if (HasFailure()) {
        std::cerr << console;
    }
}

TEST_F(Vsock, HasOneOwnerInEveryStateWithinALinuxGuest)
{
    pass("transport_state_kernel_test", 21);
}

TEST_F(Vsock, HasOneOwnerOfAQemuMachineInEveryStateWithinALinuxGuest)
{
    pass("qemu_transport_state_test", 22, {{kQemu + 1, kQemu}}, with_qemu(), 768);
}

} // namespace
