// SPDX-License-Identifier: Apache-2.0
// Mode cpr-transfer: the destination's guest runs on the source's own memory, nothing is copied, and until
// HANDOVER nothing is written. The destination of these tests maps what it adopts read-only, so that a write
// before its guest starts would end the test.
#include "tests/engine/move.h"
#include "tests/engine/resources.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;

haul_options CprOptions()
{
    haul_options options = Options();
    options.mode = "cpr-transfer";
    return options;
}

bool Says(const haul_error &error, const char *text)
{
    return std::string(error.message).find(text) != std::string::npos;
}

TEST(Cpr, TheDestinationGetsTheMemoryItself)
{
    Guest from({4 * kMiB, 2 * kMiB}, true), to({4 * kMiB, 2 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, CprOptions());
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(move.destination_result, 0) << move.destination_error.message;
    EXPECT_EQ(to.starts, 1u);
    EXPECT_EQ(to.adopts, 2u);
    EXPECT_EQ(to.disowns, 0u);
    EXPECT_EQ(from.handed_over, 1u);
    EXPECT_EQ(to.restored, from.writes);
    for (size_t i = 0; i < 2; i++) {
        from.blocks[i]->data()[12345] ^= 0x5a;
        EXPECT_EQ(from.blocks[i]->data()[12345], to.blocks[i]->data()[12345]) << "not the same memory";
        to.blocks[i]->data()[54321] ^= 0x5a;
        EXPECT_EQ(from.blocks[i]->data()[54321], to.blocks[i]->data()[54321]);
    }
}

TEST(Cpr, TheReportSaysThatNothingWasSent)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, CprOptions());
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_EQ(move.stats.mode, HAUL_MODE_CPR_TRANSFER);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_DESTINATION);
    EXPECT_EQ(move.stats.total, 4 * kMiB);
    EXPECT_EQ(move.stats.transferred, 0u);
    EXPECT_EQ(move.stats.remaining, 0u);
    EXPECT_EQ(move.stats.normal + move.stats.duplicate, 0u);
    EXPECT_EQ(move.stats.dirty_sync_count, 0u);
    EXPECT_EQ(move.stats.channels, 0u);
    EXPECT_STREQ(move.stats.tracker, "");
    EXPECT_GT(move.stats.expected.total_ns, 0u);
    EXPECT_GT(move.stats.actual.total_ns, 0u);
    haul_channel_stats channel{};
    EXPECT_EQ(haul_get_channel_stats(move.source, 0, &channel), -ENOENT);
    haul_stats there{};
    haul_get_stats(move.destination, &there);
    EXPECT_EQ(there.mode, HAUL_MODE_CPR_TRANSFER);
    EXPECT_EQ(there.transferred, 0u);
}

// Its memory was never populated, and it says so itself.
TEST(Cpr, ADestinationOfTheModePopulatesNothing)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    haul_migration *destination = nullptr;
    haul_error error{};
    haul_options options = CprOptions();
    ASSERT_EQ(haul_destination_new(&options, &destination, &error), 0) << error.message;
    EXPECT_EQ(haul_get_mode(destination), HAUL_MODE_CPR_TRANSFER);
    to.Attach(destination, false);
    ASSERT_EQ(haul_start(destination, UnixUri().c_str(), &error), 0) << error.message;
    usleep(100000);
    EXPECT_EQ(to.blocks[0]->allocated_bytes(), 0u);
    haul_free(destination);
}

// A destination that was not told the mode follows its source.
TEST(Cpr, ADestinationFollowsItsSource)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    haul_options options = Options();
    haul_migration *destination = nullptr, *source = nullptr;
    haul_error error{};
    ASSERT_EQ(haul_destination_new(&options, &destination, &error), 0);
    to.Attach(destination, false);
    ASSERT_EQ(haul_start(destination, UnixUri().c_str(), &error), 0) << error.message;
    options.mode = "cpr-transfer";
    ASSERT_EQ(haul_source_new(&options, &source, &error), 0);
    from.Attach(source, true);
    ASSERT_EQ(haul_start(source, haul_local_uri(destination), &error), 0) << error.message;
    EXPECT_EQ(haul_wait(source, &error), 0) << error.message;
    EXPECT_EQ(haul_wait(destination, &error), 0) << error.message;
    EXPECT_EQ(to.adopts, 1u);
    haul_free(source);
    haul_free(destination);
}

// A source and a destination over descriptors of which each has one end.
void MoveOver(const std::string &source_uri, const std::string &destination_uri, Guest &from, Guest &to,
              haul_error *error)
{
    haul_options options = CprOptions();
    haul_migration *destination = nullptr, *source = nullptr;
    ASSERT_EQ(haul_destination_new(&options, &destination, error), 0);
    ASSERT_EQ(haul_source_new(&options, &source, error), 0);
    to.Attach(destination, false);
    from.Attach(source, true);
    ASSERT_EQ(haul_start(destination, destination_uri.c_str(), error), 0) << error->message;
    ASSERT_EQ(haul_start(source, source_uri.c_str(), error), 0) << error->message;
    haul_wait(destination, nullptr);
    if (haul_wait(source, error) == 0) {
        error->code = 0;
    }
    haul_free(source);
    haul_free(destination);
}

TEST(Cpr, AnInheritedUnixSocketCarriesIt)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0); // as if inherited
    haul_error error{};
    MoveOver("fd:" + std::to_string(ends[0]), "fd:" + std::to_string(ends[1]), from, to, &error);
    EXPECT_EQ(error.code, 0) << error.message;
    EXPECT_EQ(to.starts, 1u);
}

TEST(Cpr, PipesAreRefused)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    int there[2], back[2];
    ASSERT_EQ(pipe(there), 0); // as if inherited
    ASSERT_EQ(pipe(back), 0);
    haul_error error{};
    MoveOver("fd:" + std::to_string(back[0]) + "/" + std::to_string(there[1]),
             "fd:" + std::to_string(there[0]) + "/" + std::to_string(back[1]), from, to, &error);
    EXPECT_NE(error.code, 0);
    EXPECT_TRUE(Says(error, "connect both sides by unix:PATH")) << error.message;
    EXPECT_EQ(to.adopts, 0u);
    EXPECT_EQ(from.stops, 0u);
}

// ---- refusals ----

TEST(Cpr, UnknownModesAreRefused)
{
    haul_options options = Options();
    haul_migration *migration = nullptr;
    haul_error error{};
    options.mode = "cpr-reboot";
    EXPECT_EQ(haul_source_new(&options, &migration, &error), -EINVAL);
    EXPECT_STREQ(error.message,
                 "mode is \"cpr-reboot\"; it must be normal, cpr-transfer or background-snapshot");
}

TEST(Cpr, VerifyIsRefused)
{
    haul_options options = CprOptions();
    haul_migration *migration = nullptr;
    haul_error error{};
    options.verify = true;
    EXPECT_EQ(haul_source_new(&options, &migration, &error), -EINVAL);
    EXPECT_TRUE(Says(error, "verify compares two copies of memory")) << error.message;
}

// Starts a source of one block behind `fd`; its error.
haul_error RefusedSource(int fd, uint64_t offset, const std::string &uri, uint32_t page_size = kPage)
{
    static unsigned char memory[4 * kPage] __attribute__((aligned(4096)));
    haul_options options = CprOptions();
    haul_migration *source = nullptr;
    haul_error error{};
    EXPECT_EQ(haul_source_new(&options, &source, &error), 0);
    haul_ram_block block = {.name = "ram",
                            .host = memory,
                            .length = page_size > kPage ? page_size : sizeof memory,
                            .page_size = page_size,
                            .fd = fd,
                            .fd_offset = offset};
    EXPECT_EQ(haul_add_ram(source, &block, &error), 0) << error.message;
    int result = haul_start(source, uri.c_str(), &error);
    EXPECT_EQ(result, -error.code);
    EXPECT_LT(result, 0);
    haul_free(source);
    return error;
}

TEST(Cpr, TcpIsRefusedBeforeAnythingIsConnected)
{
    Memory memory(4 * kPage);
    haul_error error = RefusedSource(memory.fd(), 0, "tcp:127.0.0.1:7000");
    EXPECT_EQ(error.code, EOPNOTSUPP);
    EXPECT_TRUE(Says(error, "use unix:PATH on both sides")) << error.message;
}

TEST(Cpr, MemoryWithoutAFileIsRefused)
{
    haul_error error = RefusedSource(-1, 0, "unix:/nonexistent");
    EXPECT_EQ(error.code, EINVAL);
    EXPECT_TRUE(Says(error, "RAM block ram is not in a file")) << error.message;
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    EXPECT_TRUE(Says(RefusedSource(ends[0], 0, "unix:/nonexistent"), "is not in a file"));
    close(ends[0]);
    close(ends[1]);
}

TEST(Cpr, AFileThatIsTooSmallIsRefused)
{
    Memory memory(4 * kPage);
    EXPECT_TRUE(Says(RefusedSource(memory.fd(), kPage, "unix:/nonexistent"),
                     "needs 16384 bytes from offset 4096 on, and its file has 16384 in all"));
    EXPECT_TRUE(Says(RefusedSource(memory.fd(), 1, "unix:/nonexistent"), "from offset 1 on"));
    EXPECT_TRUE(Says(RefusedSource(memory.fd(), ~0ull << 12, "unix:/nonexistent"), "RAM block ram needs"));
}

TEST(Cpr, SealedMemoryIsRefused)
{
    int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ASSERT_EQ(ftruncate(fd, 4 * kPage), 0);
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    haul_error error = RefusedSource(fd, 0, "unix:/nonexistent");
    EXPECT_TRUE(Says(error, "its file is sealed against writing")) << error.message;
    close(fd);
}

TEST(Cpr, AReadOnlyDescriptorIsRefused)
{
    Memory memory(4 * kPage);
    int fd = open(("/proc/self/fd/" + std::to_string(memory.fd())).c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    haul_error error = RefusedSource(fd, 0, "unix:/nonexistent");
    EXPECT_TRUE(Says(error, "its file is not open for writing")) << error.message;
    close(fd);
}

TEST(Cpr, AnotherPageSizeIsRefused)
{
    Memory memory(2 * kMiB);
    haul_error error = RefusedSource(memory.fd(), 0, "unix:/nonexistent", 2 * kMiB);
    EXPECT_TRUE(Says(error, "has pages of 2097152 bytes and the memory behind it of 4096")) << error.message;
}

// One side's options differ from the other's; the source's error, its guest untouched.
haul_error MoveThatIsRefused(const char *source_mode, const char *destination_mode, bool can_adopt)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    to.can_adopt = can_adopt;
    haul_options options = Options();
    haul_migration *destination = nullptr, *source = nullptr;
    haul_error error{};
    options.mode = destination_mode;
    EXPECT_EQ(haul_destination_new(&options, &destination, &error), 0);
    to.Attach(destination, false);
    EXPECT_EQ(haul_start(destination, UnixUri().c_str(), &error), 0) << error.message;
    options.mode = source_mode;
    EXPECT_EQ(haul_source_new(&options, &source, &error), 0);
    from.Attach(source, true);
    EXPECT_EQ(haul_start(source, haul_local_uri(destination), &error), 0) << error.message;
    EXPECT_LT(haul_wait(source, &error), 0);
    EXPECT_EQ(from.stops, 0u);
    EXPECT_EQ(to.adopts, 0u);
    EXPECT_EQ(haul_get_state(destination), HAUL_STATE_SETUP) << "it waits on, for a source that suits it";
    haul_free(source);
    haul_free(destination);
    return error;
}

TEST(Cpr, ADestinationThatCannotAdoptSaysSo)
{
    haul_error error = MoveThatIsRefused("cpr-transfer", "normal", false);
    EXPECT_TRUE(Says(error, "this kind of destination cannot take memory over")) << error.message;
}

TEST(Cpr, ADestinationOfTheModeRefusesACopy)
{
    haul_error error = MoveThatIsRefused("normal", "cpr-transfer", true);
    EXPECT_TRUE(Says(error, "this destination waits to take memory over")) << error.message;
}

// ---- failures ----

// A move in which `arm` breaks something; the guest goes on at the source, whose memory nobody changed, and
// the destination let go of it.
void FailsAndStays(const std::function<void(Guest &from, Guest &to)> &arm, const char *says, unsigned disowns)
{
    Resources before = Resources::Now();
    {
        Guest from({4 * kMiB, kMiB}, true), to({4 * kMiB, kMiB}, false);
        arm(from, to);
        from.Run(5, 1000);
        Move move(from, to, CprOptions());
        EXPECT_LT(move.Wait(), 0);
        EXPECT_TRUE(Says(move.source_error, says)) << move.source_error.message;
        EXPECT_LT(move.destination_result, 0);
        EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
        EXPECT_TRUE(from.running());
        EXPECT_EQ(to.starts, 0u);
        EXPECT_EQ(to.disowns, disowns);
        from.Pause();
        std::string where;
        EXPECT_FALSE(SameMemory(from, to, &where)) << "the destination has its own memory again";
        from.Run(5, 1000);
        from.fail_stop = from.fail_save = to.fail_adopt = to.fail_load = false;
        from.refuse_steps.clear();
        Move again(from, to, CprOptions());
        EXPECT_EQ(again.Wait(), 0) << again.source_error.message;
    }
    ExpectNoMoreThan(before);
}

TEST(CprFails, WhereTheMemoryIsAdopted)
{
    FailsAndStays([](Guest &, Guest &to) { to.fail_adopt = true; },
                  "taking over the memory of RAM block block0: the memory cannot be mapped", 1);
}

TEST(CprFails, WhereTheGuestIsStopped)
{
    FailsAndStays([](Guest &from, Guest &) { from.fail_stop = true; }, "the guest refuses to stop", 1);
}

TEST(CprFails, WhereTheStateIsSaved)
{
    FailsAndStays([](Guest &from, Guest &) { from.fail_save = true; }, "the state cannot be saved", 1);
}

TEST(CprFails, WhereTheStateIsLoaded)
{
    FailsAndStays([](Guest &, Guest &to) { to.fail_load = true; }, "the state cannot be loaded", 1);
}

TEST(CprFails, WhereTheRecordIsWritten)
{
    FailsAndStays([](Guest &from, Guest &) { from.refuse_steps = {HAUL_STEP_HANDOVER_SENDING}; },
                  "the record cannot be written", 1);
}

TEST(CprFails, WhenBlocksDiffer)
{
    Guest from({4 * kMiB}, true), to({2 * kMiB}, false);
    from.Run(5, 1000);
    Move move(from, to, CprOptions());
    EXPECT_EQ(move.Wait(), -EINVAL);
    EXPECT_TRUE(Says(move.source_error, "start the destination with the same memory size"));
    EXPECT_EQ(to.adopts + to.disowns, 0u);
    EXPECT_TRUE(from.running());
}

class CprCancelled : public testing::TestWithParam<haul_state>
{
};

// On either side, in each state.
TEST_P(CprCancelled, TheGuestGoesOnAtTheSource)
{
    for (bool source_side : {true, false}) {
        Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
        Move *move = nullptr;
        std::mutex made;
        made.lock();
        from.on_state = [&](haul_state state) {
            if (state == GetParam()) {
                std::lock_guard<std::mutex> hold(made);
                EXPECT_EQ(haul_cancel(source_side ? move->source : move->destination), 0);
            }
        };
        from.Run(5, 1000);
        Move moving(from, to, CprOptions());
        move = &moving;
        made.unlock();
        EXPECT_EQ(moving.Wait(), -ECANCELED) << moving.source_error.message;
        EXPECT_EQ(moving.destination_result, -ECANCELED) << moving.destination_error.message;
        EXPECT_TRUE(from.running());
        EXPECT_EQ(to.starts, 0u);
        EXPECT_EQ(to.disowns, to.adopts);
    }
}

INSTANTIATE_TEST_SUITE_P(States, CprCancelled,
                         testing::Values(HAUL_STATE_ACTIVE, HAUL_STATE_PRE_SWITCHOVER, HAUL_STATE_DEVICE),
                         [](const auto &info) {
                             std::string name = haul_state_name(info.param);
                             return name == "pre-switchover" ? "pre_switchover" : name;
                         });

} // namespace
