// SPDX-License-Identifier: Apache-2.0
// haul within a Linux guest, over vsock: few kernels outside of one have a vsock to connect to. The reference
// guest moves over the guest's own loopback (CID 1). With the program it is cancelled, loses either side, and
// meets what can be wrong; so does a QEMU machine in there, which, emulated within the emulated, runs only a
// firmware. With the movers both meet every fault in every state.
#include "tests/machines/firmware.h"
#include "tests/machines/within_linux.h"

#include <gtest/gtest.h>

#include <unistd.h>

namespace
{

using namespace haul_test;

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
counted() # NAME; of the lines that are surely whole
{
    sed '$d' /tmp/$1.said | grep '^ok ' | tail -n 1 | cut -d ' ' -f 2
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

class Vsock : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing_for_linux().empty()) {
            GTEST_SKIP() << missing_for_linux();
        }
    }
    static std::string run(const std::string &script, const Programs &programs, Initrd initrd = {},
                           unsigned mib = 256)
    {
        LinuxGuest guest;
        guest.programs = programs;
        guest.modules = {"net/vmw_vsock/vsock", "net/vmw_vsock/vmw_vsock_virtio_transport_common",
                         "net/vmw_vsock/vsock_loopback"};
        guest.machine.mib = mib;
        guest.initrd = std::move(initrd);
        return run_within_linux(script, std::move(guest));
    }
    // What the test has for vsock, the reference guest or a QEMU machine, in that guest: all `count`.
    static void pass(const std::string &test, int count, Programs more = {}, Initrd initrd = {},
                     unsigned mib = 256)
    {
        more.push_back(test_program("tests/machines/mover"));
        more.push_back(test_program(test));
        std::string console = run("export HAUL_TEST_FIRMWARE=1\nrun_test 400 " + test + " */Vsock*\n", more,
                                  std::move(initrd), mib);
        expect_passed(console, test, count);
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
    pass("tests/machines/transport_state_kernel_test", 21);
}

TEST_F(Vsock, HasOneOwnerOfAQemuMachineInEveryStateWithinALinuxGuest)
{
    pass("tests/machines/qemu_transport_state_test", 22, {{kQemu + 1, kQemu}}, with_qemu(), 768);
}

} // namespace
