/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshot files from the command line: save, inspect and restore, and every way in which a file can be bad.
 */
#include "tests/tools/outcome.h"
#include "tests/tools/snapshot/cli_file.h"

#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>
#include <xxhash.h>

namespace
{

/* ---- whole ---- */

TEST_F(SnapshotFile, AGuestIsSavedInspectedAndRestored)
{
    Save({"--channels", "4", "--verify"});
    EXPECT_EQ(Names(), std::vector<std::string>{"a"}) << "something is left beside the file";

    Program inspect(source_, {"inspect", Uri()});
    EXPECT_EQ(inspect.Wait(), 0) << inspect.Err();
    for (const char *part : {": a sound snapshot.", "every byte, in ", "  guest.ram\n", "  devices.early\n",
                             "  State of devices.early:\n    setup/0 version 1.0\n      setup.kind: 1\n",
                             "  State of devices:\n    runner/0 version 1.0\n      dirty_bytes_per_s: "})
        EXPECT_TRUE(Has(inspect.Out(), part)) << part << "\n" << inspect.Out();

    for (int i = 0; i < 2; i++) { /* the file stays as it is */
        auto restore = Restore({"--channels", "3"});
        EXPECT_EQ(restore->Wait(), 0) << restore->Err();
        EXPECT_TRUE(Has(restore->Out(), "self-check passed")) << restore->Out() << restore->Err();
    }
}

TEST_F(SnapshotFile, InspectionAsJson)
{
    Save({});
    Json json = InspectJson(0);
    EXPECT_TRUE(json_is_true(json_object_get(json.get(), "sound")));
    EXPECT_EQ(Number(json, {"memory"}), 16 << 20);
    EXPECT_EQ(Number(json, {"normal"}) + Number(json, {"duplicate"}), 4096);
    EXPECT_EQ(Number(json, {"described", "devices.early", "setup/0", "state", "setup", "layout", "pages"}),
              4096);
    EXPECT_GT(Number(json, {"described", "devices", "runner/0", "state", "dirty_bytes_per_s"}), 0);
    const json_t *state = json_object_get(json.get(), "state");
    ASSERT_EQ(json_array_size(state), 2u);
    EXPECT_STREQ(json_string_value(json_object_get(json_array_get(state, 1), "name")), "devices");
}

TEST_F(SnapshotFile, JsonHasTheCountersOfEveryChannel)
{
    auto save = StartSave({"--json", "--channels", "3"});
    EXPECT_EQ(save->Wait(), 0) << save->Err();
    auto restore = Restore({"--json", "--channels", "3"});
    EXPECT_EQ(restore->Wait(), 0) << restore->Err();
    ExpectChannels(*save, 3, 8 << 20, 3);
    ExpectChannels(*restore, 3, 8 << 20, 1); /* one thread may be done before the next begins */
}

TEST_F(SnapshotFile, MemoryComesBackByteForByte)
{
    const std::string memory = Shm("saved"), again = Shm("restored");
    {
        std::ofstream file(memory, std::ios::binary);
        for (unsigned i = 0; i < 3 << 20; i++)
            file.put(i < 1 << 20 ? 0 : static_cast<char>(i * 2654435761U >> 24));
    }
    Program save(source_, {"send", Uri(), "--memory", memory, "--quiet"});
    EXPECT_EQ(save.Wait(), 0) << save.Err();
    Json json = InspectJson(0);
    EXPECT_EQ(Number(json, {"duplicate"}), 256);
    EXPECT_EQ(json_object_get(json.get(), "described"), nullptr);
    Program restore(destination_, {"restore", Uri(), "--memory", again, "--memory-size", "3M", "--quiet"});
    EXPECT_EQ(restore.Wait(), 0) << restore.Err();
    EXPECT_TRUE(Contents(memory) == Contents(again));
}

TEST_F(SnapshotFile, PagesMayBypassThePageCache)
{
    std::ofstream(Path()).close();
    int probe = open(Path().c_str(), O_RDONLY | O_DIRECT);
    unlink(Path().c_str());
    if (probe < 0) {
        GTEST_SKIP() << "the file system of " << folder_ << " has no direct I/O";
    }
    close(probe);
    Save({"--direct-io", "--verify"});
    Program inspect(source_, {"inspect", Uri(), "--direct-io"});
    EXPECT_EQ(inspect.Wait(), 0) << inspect.Err();
    auto restore = Restore({"--direct-io"});
    EXPECT_EQ(restore->Wait(), 0) << restore->Err();
    EXPECT_TRUE(Has(restore->Out(), "self-check passed")) << restore->Out();
}

/* ---- broken off ---- */

TEST_F(SnapshotFile, InterruptLeavesTheGuestRunningAndNoFile)
{
    for (bool killed : {false, true}) {
        auto save = StartSave({"--max-bandwidth", "1M"});
        ASSERT_TRUE(save->WaitFor("round 1")) << save->Err();
        save->Signal(killed ? SIGKILL : SIGINT);
        if (killed) {
            EXPECT_EQ(save->Wait(), 128 + SIGKILL);
        } else {
            ExpectNotSaved(*save);
        }
        EXPECT_TRUE(Names().empty());
    }
}

TEST_F(SnapshotFile, AFullDiskLeavesTheGuestRunningAndNoFile)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) {
        GTEST_SKIP() << "needs root and a mount namespace for a small file system";
    }
    ASSERT_EQ(mount("none", folder_.c_str(), "tmpfs", 0, "size=4m"), 0);
    {
        auto save = StartSave({});
        ExpectNotSaved(*save);
        EXPECT_TRUE(Has(save->Err(), "No space left on device; free some or choose another place"))
            << save->Err();
        EXPECT_TRUE(Names().empty());
    }
    EXPECT_EQ(umount2(folder_.c_str(), MNT_DETACH), 0);
}

TEST_F(SnapshotFile, AnExistingFileStaysAsItIs)
{
    std::ofstream(Path()) << "mine";
    auto save = StartSave({});
    ExpectNotSaved(*save);
    EXPECT_TRUE(Has(save->Err(), "a snapshot never replaces a file")) << save->Err();
    EXPECT_EQ(Contents(Path()), "mine");
}

/* ---- damaged ---- */

TEST_F(SnapshotFile, DamageIsNamedByBlockAndOffset)
{
    Save({});
    const std::string whole = Contents(Path());
    const struct {
        const char *what;
        uint64_t offset; /* of the byte that is altered; or cut there, when `cut` */
        bool cut;
        const char *sentence;
    } cases[] = {
        {"altered page", kMemoryAt + 3 * 4096 + 77, false,
         "RAM block guest.ram, page at 0x3000: its content does not match its checksum (offset 2109440 of "
         "the "
         "file)"},
        {"altered page table", 3 * 4096 + 8, false,
         "RAM block guest.ram, page at 0: the table of it and its neighbours does not match its checksum "
         "(offset 12288 of the file)"},
        {"altered header", 30, false, "the header (offset 0) does not match its checksum"},
        {"altered device state", kMemoryAt + (16 << 20) + 100, false, "device state at offset 18874"},
        {"truncated", whole.size() - 1, true, "it was cut in its device state, at "},
        {"torn", kMemoryAt + 5 * 4096 + 1, true, "it was cut in RAM block guest.ram, at 0x5001 of it"},
        {"torn early", 1 << 20, true, "it was cut in its page tables"},
        {"next to nothing", 10, true,
         "it is no haul snapshot, or was cut in its header: it has only 10 bytes"},
    };
    for (const auto &one : cases) {
        std::string damaged = one.cut ? whole.substr(0, one.offset) : whole;
        if (!one.cut) {
            damaged[one.offset] ^= 1;
        }
        std::ofstream(Path(), std::ios::binary) << damaged;
        Program inspect(source_, {"inspect", Uri()});
        EXPECT_EQ(inspect.Wait(), 1) << one.what;
        EXPECT_TRUE(Has(inspect.Err(), one.sentence)) << one.what << ": " << inspect.Err();
        EXPECT_FALSE(Has(inspect.Out(), "a sound snapshot")) << one.what;
        auto restore = Restore({});
        EXPECT_EQ(restore->Wait(), 1) << one.what;
        EXPECT_TRUE(Has(restore->Err(), one.sentence)) << one.what << ": " << restore->Err();
    }
    Json json = InspectJson(1);
    EXPECT_TRUE(json_is_false(json_object_get(json.get(), "sound")));
    EXPECT_STREQ(json_string_value(json_object_get(json_object_get(json.get(), "error"), "code")), "EPROTO");
}

/* A name that would clear the screen, in a file whose checksums are all right. */
TEST_F(SnapshotFile, NamesInItGiveNoOrdersToTheTerminal)
{
    Save({});
    std::string bytes = Contents(Path());
    const std::string name = "\x1b[2J\xff\x07ram"; /* as long as guest.ram */
    bytes.replace(bytes.find("guest.ram", 4096), name.size(), name);
    auto seal = [&](size_t at, size_t from, size_t length) {
        uint64_t sum = XXH3_64bits(bytes.data() + from, length);
        memcpy(&bytes[at], &sum, sizeof sum);
    };
    uint64_t table_length;
    memcpy(&table_length, &bytes[40], sizeof table_length);
    seal(48, 4096, table_length);
    seal(4088, 0, 4088);
    std::ofstream(Path(), std::ios::binary) << bytes;
    const std::string shown = "\\x1b[2J\\xff\\x07ram";
    Json sound = InspectJson(0);
    const json_t *block = json_array_get(json_object_get(sound.get(), "blocks"), 0);
    EXPECT_EQ(json_string_value(json_object_get(block, "name")), shown);
    Program inspect(source_, {"inspect", Uri()});
    EXPECT_EQ(inspect.Wait(), 0) << inspect.Err();
    EXPECT_TRUE(Has(inspect.Out(), "  " + shown + "\n")) << inspect.Out();
    auto restore = Restore({});
    EXPECT_EQ(restore->Wait(), 1);
    EXPECT_TRUE(Has(restore->Err(), shown)) << restore->Err();

    bytes[kMemoryAt + 3 * 4096] ^= 1;
    std::ofstream(Path(), std::ios::binary) << bytes;
    Json damaged = InspectJson(1);
    std::string why = json_string_value(json_object_get(json_object_get(damaged.get(), "error"), "desc"));
    EXPECT_TRUE(Has(why, "RAM block " + shown + ", page at 0x3000: ")) << why;
    Program again(source_, {"inspect", Uri()});
    EXPECT_EQ(again.Wait(), 1);
    for (const std::string &text :
         {inspect.Out(), again.Out(), again.Err(), restore->Out(), restore->Err()}) {
        EXPECT_EQ(text.find_first_of("\x1b\xff\x07"), std::string::npos) << text;
    }
}

/* The state of a vCPU of another kind or size is early state: refused, and no guest runs. */
TEST_F(SnapshotFile, AnotherMemorySizeIsRefused)
{
    Save({});
    Program restore(destination_, {"restore", Uri(), "--guest", "--guest-memory", "32M", "--guest-vcpu",
                                   "thread", "--run-for", "1"});
    EXPECT_EQ(restore.Wait(), 1);
    EXPECT_TRUE(Has(restore.Err(), "RAM block guest.ram has 16777216 bytes at the source and 33554432"))
        << restore.Err();
}

/* ---- device state in a file of its own ---- */

TEST_F(SnapshotFile, ADescribedStreamIsPrinted)
{
    SaveStream(UINT64_MAX);
    Program inspect(source_, {"inspect", Uri()});
    EXPECT_EQ(inspect.Wait(), 0) << inspect.Err();
    EXPECT_EQ(inspect.Out(), Path() + ": a device state stream.\n\n"
                                      "timer/3 version 1.2\n"
                                      "  next_ns: 18446744073709551615 (0xffffffffffffffff)\n"
                                      "  armed: true\n");
    Program json(source_, {"inspect", Uri(), "--json"});
    EXPECT_EQ(json.Wait(), 0) << json.Err();
    EXPECT_TRUE(Has(json.Out(), "\"described\": {\"timer/3\":{\"version\":\"1.2\",\"state\":{\"next_ns\":"
                                "18446744073709551615,\"armed\":true}}}\n}\n"))
        << json.Out();
}

TEST_F(SnapshotFile, ADamagedStreamIsRefusedByField)
{
    SaveStream(7);
    std::string stream = Contents(Path());
    stream[stream.size() - 3] = 2; /* the bool; behind it the number of subsections and the end */
    std::ofstream(Path(), std::ios::binary) << stream;
    Program inspect(source_, {"inspect", Uri()});
    EXPECT_EQ(inspect.Wait(), 1);
    EXPECT_EQ(inspect.Out(), "");
    EXPECT_TRUE(Has(inspect.Err(), Path() + ": state of timer/3: field armed: a bool is neither 0 nor 1"))
        << inspect.Err();
    Json json = InspectJson(1);
    EXPECT_TRUE(json_is_false(json_object_get(json.get(), "sound")));
}

} // namespace
