// SPDX-License-Identifier: Apache-2.0
// haul within a Linux guest, over vsock: few kernels outside of one have a vsock to connect to. The reference
// guest moves over the guest's own loopback (CID 1). With the program it is cancelled, loses either side, and
// meets what can be wrong; the movers meet every fault in every state. A QEMU machine in there is cancelled,
// loses the other side, and moves; emulated within the emulated, all that it runs is a loop.
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

// How a case moves something. Each ends in a line "CASE: ..." on the console with what both ends printed
// between. A script sets GUEST, what a receiver takes, and SOURCE, what a sender gives away.
constexpr char kCases[] = R"(
receive()
{
    rm -f /tmp/receive # what the case before said
    /haul receive --listen vsock:4294967295:$1 $GUEST >/tmp/receive 2>&1 &
    receiver=$!
    until grep -qs listening /tmp/receive; do sleep 0.1; done
}
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

// A QEMU machine that counts meets a cancel and a death, then moves. Its memory says how far it came.
constexpr char kMachine[] = R"script(
machine() # NAME OPTIONS
{
    name=/tmp/$1
    shift
    mkfifo $name.in $name.out
    /usr/bin/qemu-system-x86_64 -accel tcg -nodefaults -display none -vga none -bios /counter \
        -object memory-backend-memfd,share=on,id=ram,size=64M -machine pc,memory-backend=ram -m 64M \
        -chardev pipe,id=own,path=$name -mon chardev=own,mode=control \
        -qmp unix:$name.qmp,server=on,wait=off $* &
    cat $name.out >$name.said &
    ask ${name#/tmp/} '{"execute":"qmp_capabilities"}'
}
ask() # NAME COMMAND
{
    touch /tmp/$1.said
    before=$(wc -l </tmp/$1.said)
    echo "$2" >/tmp/$1.in
    until tail -n +$((before + 1)) /tmp/$1.said | grep '"return"'; do sleep 0.1; done
}
counted() # NAME
{
    ask $1 '{"execute":"human-monitor-command","arguments":{"command-line":"xp /1wd 0x1000"}}' |
        sed 's/.*: *\([0-9]*\)\\r.*/\1/'
}
counts_on() # CASE NAME
{
    first=$(counted $2)
    for i in $(seq 300); do
        [ $(counted $2) -gt $first ] && echo "$1: $2 counts on" && return
        sleep 0.1
    done
}
status() # CASE NAME
{
    echo "$1: $2 is $(ask $2 '{"execute":"query-status"}')"
}

machine from
machine to -S -incoming defer
machine next -S -incoming defer
until [ $(counted from) -gt 1000 ]; do sleep 0.1; done

SOURCE="--qemu /tmp/from.qmp --timeout 60 --max-bandwidth 64K"
GUEST="--qemu /tmp/to.qmp --timeout 60"
receive 7000
slowly 7000
kill -INT $sender
wait $sender
ended CANCEL $?
received CANCEL
status CANCEL from
counts_on CANCEL from

receive 7001
slowly 7001
kill -9 $receiver
wait $sender
ended DEATH $?
status DEATH from
counts_on DEATH from

SOURCE="--qemu /tmp/from.qmp --timeout 60 --downtime-limit 5000"
GUEST="--qemu /tmp/next.qmp --timeout 60"
receive 7002
send vsock:1:7002 --channels 2 --verify --json
ended MOVE $?
received MOVE
status MOVE from
status MOVE next
[ $(counted next) -ge $(counted from) ] && echo "MOVE: next has what from counted"
counts_on MOVE next
)script";

// The firmware of that machine, all that runs in it: counts at 0x1000, and writes 64 pages in turn.
std::string counter()
{
    const unsigned char code[] = {
        0x31, 0xc0,                         // xor ax, ax
        0x8e, 0xd8,                         // mov ds, ax
        0x66, 0xff, 0x06, 0x00, 0x10,       // next: inc dword [0x1000]
        0x8a, 0x26, 0x00, 0x10,             // mov ah, [0x1000]
        0x80, 0xe4, 0x6f,                   // and ah, 0x6f
        0x30, 0xc0,                         // xor al, al
        0x80, 0xc4, 0x20,                   // add ah, 0x20
        0x8e, 0xc0,                         // mov es, ax
        0x26, 0x66, 0xff, 0x06, 0x00, 0x00, // inc dword [es:0]
        0xb9, 0x00, 0x04,                   // mov cx, 0x400
        0xe2, 0xfe,                         // loop to itself
        0xeb, 0xe0,                         // jmp next
    };
    const unsigned char reset[] = {0xea, 0x00, 0x00, 0x00, 0xf0}; // jmp 0xf000:0
    std::string image(65536, '\0');
    image.replace(0, sizeof code, (const char *)code, sizeof code);
    image.replace(0xfff0, sizeof reset, (const char *)reset, sizeof reset);
    return image;
}

// Adds programs of this workspace, or of this machine, under their names, with the libraries that they are
// linked with; "" or what is missing.
std::string add_programs(Initrd &initrd, const std::vector<std::pair<std::string, std::string>> &programs)
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
    // Runs the script in a Linux guest that has these programs; what its console says.
    static std::string run(const std::string &script,
                           const std::vector<std::pair<std::string, std::string>> &programs,
                           Initrd initrd = {}, unsigned mib = 256)
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
        Machine machine(folder, "vsock", options);
        EXPECT_TRUE(machine.wait_for("ALL DONE", kBootSeconds)) << machine.errors();
        return machine.console();
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
    Initrd initrd;
    initrd.add("counter", 0100644, counter());
    for (const std::string file :
         {"usr/share/qemu/kvmvapic.bin", "usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so"}) {
        if (access(("/" + file).c_str(), R_OK) == 0) {
            initrd.add_program(file, read_file("/" + file));
        }
    }
    std::string console =
        run(std::string(kCases) + kMachine,
            {{"haul", "haul/tools/haul/haul"}, {"usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-x86_64"}},
            std::move(initrd), 512);
    const std::string stays = "from is {\"return\": {\"status\": \"running\"";
    expect(
        console,
        {{"CANCEL",
          {"cancelled", "the guest goes on here", "CANCEL: send ended with 1", "CANCEL: receive ended with 1",
           "CANCEL: " + stays, "CANCEL: from counts on"}},
         {"DEATH",
          {"the guest goes on here", "DEATH: send ended with 1", "DEATH: " + stays, "DEATH: from counts on"}},
         {"MOVE",
          {"\"status\": \"completed\"", "\"machine\": \"qemu\"", "\"verified\": true",
           "MOVE: send ended with 0", "Received: the guest is now here", "MOVE: receive ended with 0",
           "MOVE: from is {\"return\": {\"status\": \"postmigrate\"",
           "MOVE: next is {\"return\": {\"status\": \"running\"", "MOVE: next has what from counted",
           "MOVE: next counts on"}}});
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
