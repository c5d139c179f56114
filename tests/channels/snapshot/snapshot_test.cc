// SPDX-License-Identifier: Apache-2.0
// Snapshot files: what is put comes back, every damage is found and named, and hostile numbers are refused.
#include "channels/snapshot/reader.h"
#include "channels/snapshot/writer.h"
#include "tests/directory.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <random>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>
#include <xxhash.h>

namespace
{

constexpr uint64_t kPages = 700; // two leaves, the second one not full
const unsigned char kId[16] = {1, 2, 3};

std::vector<unsigned char> BlockTable(uint32_t count, const std::string &name, uint64_t length,
                                      uint32_t page_size)
{
    std::vector<unsigned char> bytes(8192);
    haul_writer writer;
    haul_writer_init(&writer, bytes.data(), bytes.size());
    haul_writer_u32(&writer, count);
    haul_writer_string(&writer, name.c_str());
    haul_writer_u64(&writer, length);
    haul_writer_u32(&writer, page_size);
    bytes.resize(haul_writer_length(&writer));
    return bytes;
}

class Snapshot : public testing::Test
{
  protected:
    void SetUp() override
    {
        ASSERT_EQ(posix_memalign(reinterpret_cast<void **>(&page_), 4096, 4096), 0);
    }
    void TearDown() override
    {
        haul_snapshot_writer_free(writer_);
        free(page_);
    }
    void Open(const std::vector<unsigned char> &table)
    {
        ASSERT_EQ(
            haul_snapshot_writer_new(path_.c_str(), table.data(), table.size(), false, &writer_, &error_), 0)
            << error_.message;
    }
    void Put(uint64_t page, unsigned char value)
    {
        memset(page_, value, 4096);
        uint64_t sum = haul_snapshot_page_sum(page_);
        ASSERT_EQ(haul_snapshot_put(writer_, 0, page, 1, page_, &sum, &error_), 0) << error_.message;
    }
    void Finish()
    {
        unsigned char name[] = {0, 0, 0, 0, 3, 0, 'c', 'p', 'u'};
        unsigned char total[8] = {5};
        ASSERT_EQ(haul_snapshot_add_state(writer_, HAUL_FRAME_STATE_BEGIN, name, sizeof name, &error_), 0);
        ASSERT_EQ(haul_snapshot_add_state(writer_, HAUL_FRAME_STATE, "state", 5, &error_), 0);
        ASSERT_EQ(haul_snapshot_add_state(writer_, HAUL_FRAME_STATE_END, total, sizeof total, &error_), 0);
        ASSERT_EQ(haul_snapshot_complete(writer_, kId, &error_), 0) << error_.message;
        bool published = false;
        ASSERT_EQ(haul_snapshot_publish(writer_, &published, &error_), 0) << error_.message;
        EXPECT_TRUE(published);
    }
    // A sound file with content in both leaves.
    void Make()
    {
        Open(BlockTable(1, "ram", kPages * 4096, 4096));
        for (uint64_t page : {0, 1, 5, 511, 512, 699}) {
            Put(page, static_cast<unsigned char>(page + 1));
        }
        Finish();
    }
    // Opens and checks everything; the memory goes to `to`, if any.
    int Check(std::vector<unsigned char> *to = nullptr)
    {
        haul_snapshot_reader *reader = nullptr;
        int result = haul_snapshot_reader_new(path_.c_str(), &reader, &error_);
        if (result < 0) {
            return result;
        }
        haul_block_view view{};
        void *memory = nullptr;
        if (to) {
            EXPECT_EQ(posix_memalign(&memory, 4096, to->size()), 0);
            memcpy(memory, to->data(), to->size());
            view.host = static_cast<unsigned char *>(memory);
            view.pages = to->size() / 4096;
        }
        haul_snapshot_load_options options{};
        options.reader = reader;
        options.views = to ? &view : nullptr;
        options.threads = 3;
        haul_snapshot_load *load = nullptr;
        result = haul_snapshot_check_state(reader, &error_);
        if (result == 0) {
            result = haul_snapshot_load_start(&options, &load, &error_);
        }
        if (result == 0) {
            result = haul_snapshot_load_wait(load, &error_);
        }
        haul_snapshot_load_free(load);
        haul_snapshot_reader_free(reader);
        if (to) {
            memcpy(to->data(), memory, to->size());
            free(memory);
        }
        return result;
    }
    void Flip(uint64_t offset)
    {
        int fd = open(path_.c_str(), O_RDWR);
        unsigned char byte;
        ASSERT_EQ(pread(fd, &byte, 1, static_cast<off_t>(offset)), 1);
        byte ^= 1;
        ASSERT_EQ(pwrite(fd, &byte, 1, static_cast<off_t>(offset)), 1);
        close(fd);
    }
    // Changes the header as somebody would who also mends its checksum.
    void Forge(size_t offset, uint64_t value, size_t length = 8)
    {
        unsigned char header[4096];
        int fd = open(path_.c_str(), O_RDWR);
        ASSERT_EQ(pread(fd, header, sizeof header, 0), 4096);
        memcpy(header + offset, &value, length);
        uint64_t sum = XXH3_64bits(header, 4088);
        memcpy(header + 4088, &sum, 8);
        ASSERT_EQ(pwrite(fd, header, sizeof header, 0), 4096);
        close(fd);
    }
    // Puts another block table in, with all checksums right.
    void ForgeTable(const std::vector<unsigned char> &table)
    {
        int fd = open(path_.c_str(), O_RDWR);
        ASSERT_EQ(pwrite(fd, table.data(), table.size(), 4096), static_cast<ssize_t>(table.size()));
        close(fd);
        Forge(40, table.size());
        Forge(48, XXH3_64bits(table.data(), table.size()));
    }
    void ExpectRefused(const std::string &sentence, int code = -EPROTO)
    {
        EXPECT_EQ(Check(), code);
        EXPECT_NE(std::string(error_.message).find(sentence), std::string::npos) << error_.message;
    }
    haul_test::Directory directory_;
    const std::string path_ = directory_ / "a";
    unsigned char *page_ = nullptr;
    haul_snapshot_writer *writer_ = nullptr;
    haul_error error_{};
};

TEST_F(Snapshot, GivesBackTheNewestOfEveryPage)
{
    Open(BlockTable(1, "ram", kPages * 4096, 4096));
    Put(3, 1);
    Put(4, 1);
    ASSERT_EQ(haul_snapshot_flush(writer_, &error_), 0);
    Put(3, 2);
    ASSERT_EQ(haul_snapshot_put_zero(writer_, 0, 4, 600, &error_), 0);
    Put(600, 9);
    Finish();
    std::vector<unsigned char> memory(kPages * 4096, 0xff);
    ASSERT_EQ(Check(&memory), 0) << error_.message;
    for (uint64_t page = 0; page < kPages; page++) {
        unsigned char expected = page == 3 ? 2 : page == 600 ? 9 : 0;
        EXPECT_EQ(memory[page * 4096], expected) << page;
        EXPECT_EQ(memory[page * 4096 + 4095], expected) << page;
    }
}

TEST_F(Snapshot, IsWrittenByManyThreads)
{
    constexpr uint64_t pages = 1024;
    Open(BlockTable(1, "ram", pages * 4096, 4096));
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            alignas(4096) static thread_local unsigned char page[4096];
            haul_error error{};
            for (uint64_t i = t; i < pages; i += 4) { // neighbours, so that they share words and leaves
                memset(page, static_cast<int>(i % 251), sizeof page);
                uint64_t sum = haul_snapshot_page_sum(page);
                EXPECT_EQ(i % 3 ? haul_snapshot_put(writer_, 0, i, 1, page, &sum, &error)
                                : haul_snapshot_put_zero(writer_, 0, i, 1, &error),
                          0);
            }
        });
    }
    for (auto &thread : threads) {
        thread.join();
    }
    Finish();
    std::vector<unsigned char> memory(pages * 4096);
    ASSERT_EQ(Check(&memory), 0) << error_.message;
    for (uint64_t i = 0; i < pages; i++) {
        ASSERT_EQ(memory[i * 4096 + 77], i % 3 ? i % 251 : 0) << i;
    }
}

TEST_F(Snapshot, RefusesPagesOutsideOfTheBlock)
{
    Open(BlockTable(1, "ram", kPages * 4096, 4096));
    uint64_t sum = 1;
    EXPECT_EQ(haul_snapshot_put(writer_, 0, kPages, 1, page_, &sum, &error_), -EINVAL);
    EXPECT_EQ(haul_snapshot_put(writer_, 1, 0, 1, page_, &sum, &error_), -EINVAL);
    EXPECT_EQ(haul_snapshot_put_zero(writer_, 0, 1, UINT64_MAX, &error_), -EINVAL);
}

TEST_F(Snapshot, NamesTheDamageInEverySection)
{
    Make();
    ASSERT_EQ(Check(), 0) << error_.message;
    const struct {
        uint64_t offset;
        const char *sentence;
    } cases[] = {
        {0, "it is no haul snapshot"},
        {20, "the header (offset 0) does not match its checksum"},
        {3000, "the header (offset 0) does not match its checksum"},
        {4090, "the header (offset 0) does not match its checksum"},
        {4096 + 7, "the block table (offset 4096) does not match its checksum"},
        {8192 + 9, "the leaf checksums (offset 8192) do not match their checksum"},
        {12288 + 8,
         "RAM block ram, page at 0: the table of it and its neighbours does not match its checksum "
         "(offset 12288 of the file)"},
        {12288 + 4096, "RAM block ram, page at 0x200000: the table of it"},
        {4096 + 4000, "the byte at offset 8096, before the leaf checksums, is not zero"},
        {8192 + 16, "the byte at offset 8208, before the page tables, is not zero"},
        {12288 + 2 * 4096, "the byte at offset 20480, before the memory, is not zero"},
        {(2 << 20) - 1, "the byte at offset 2097151, before the memory, is not zero"},
        {(2 << 20) + 5 * 4096 + 1000,
         "RAM block ram, page at 0x5000: its content does not match its checksum "
         "(offset 2117632 of the file)"},
        {(2 << 20) + 699 * 4096, "RAM block ram, page at 0x2bb000: its content"},
        {(2 << 20) + 700 * 4096 + 16 + 6, "device state at offset 4964352: STATE_BEGIN does not match"},
        {(2 << 20) + 700 * 4096 + 25 + 16, "device state at offset 4964377: STATE does not match"},
    };
    for (const auto &damage : cases) {
        Flip(damage.offset);
        ExpectRefused(damage.sentence);
        Flip(damage.offset);
    }
    EXPECT_EQ(Check(), 0) << error_.message;
}

TEST_F(Snapshot, RefusesBytesBetweenBlocks)
{
    std::vector<unsigned char> table = BlockTable(2, "ram", 4096, 4096),
                               other = BlockTable(1, "rom", 4096, 4096);
    table.insert(table.end(), other.begin() + 4, other.end());
    Open(table);
    Finish();
    ASSERT_EQ(Check(), 0) << error_.message;
    Flip((2 << 20) + 4096);
    ExpectRefused("the byte at offset 2101248, before rom, is not zero");
}

TEST_F(Snapshot, RefusesAnotherVersion)
{
    Make();
    Forge(8, 2, 4);
    ExpectRefused("it is a snapshot of version 2, this haul reads version 1", -EPROTONOSUPPORT);
}

TEST_F(Snapshot, SaysWhereAFileWasCutOrExtended)
{
    std::vector<unsigned char> table = BlockTable(2, "ram", kPages * 4096, 4096),
                               other = BlockTable(1, "rom", 4096, 4096);
    table.insert(table.end(), other.begin() + 4, other.end());
    Open(table);
    Put(0, 1);
    Finish();
    const std::string copy = directory_ / "copy";
    std::filesystem::copy_file(path_, copy);
    const uint64_t whole = std::filesystem::file_size(path_), ram = 2 << 20, rom = 6 << 20;
    const struct {
        uint64_t length;
        std::string sentence;
    } cases[] = {
        {0, "it is no haul snapshot, or was cut in its header: it has only 0 bytes"},
        {4095, "was cut in its header: it has only 4095 bytes"},
        {4096, "it was cut in its block table"},
        {4096 + table.size() - 1, "it was cut in its block table"},
        {4096 + table.size(), "it was cut in its leaf checksums"},
        {3 * 4096 - 1, "it was cut in its leaf checksums"},
        {3 * 4096, "it was cut in its page tables"},
        {ram - 1, "it was cut in its page tables"},
        {ram, "it was cut in RAM block ram, at 0 of it"},
        {ram + 0x2345, "it was cut in RAM block ram, at 0x2345 of it"},
        {rom - 1, "it was cut in RAM block ram, at 0x2bc000 of it"},
        {rom, "it was cut in RAM block rom, at 0 of it"},
        {rom + 4095, "it was cut in RAM block rom, at 0xfff of it"},
        {rom + 4096, "it was cut in its device state, at 0 of it"},
        {whole - 1, "it has " + std::to_string(whole - 1) + " bytes and was written with " +
                        std::to_string(whole) + ": it was cut in its device state, at " +
                        std::to_string(whole - 1 - rom - 4096) + " of it"},
        {whole + 1, "something was added at its end"},
    };
    for (const auto &cut : cases) {
        std::filesystem::resize_file(path_, cut.length);
        ExpectRefused(cut.sentence);
        std::filesystem::copy_file(copy, path_, std::filesystem::copy_options::overwrite_existing);
    }
    EXPECT_EQ(Check(), 0) << error_.message;
}

TEST_F(Snapshot, RefusesNumbersThatCannotBe)
{
    Make();
    const std::string copy = directory_ / "copy";
    std::filesystem::copy_file(path_, copy);
    auto again = [&] {
        std::filesystem::copy_file(copy, path_, std::filesystem::copy_options::overwrite_existing);
    };
    Forge(12, 8192, 4);
    ExpectRefused("a page size of 8192");
    again();
    Forge(40, uint64_t{1} << 40);
    ExpectRefused("a block table of 1099511627776 bytes");
    again();
    Forge(64, 4096);
    ExpectRefused("the header has memory at 4096");
    again();
    Forge(80, UINT64_MAX);
    ExpectRefused("bytes of device state");
    again();
    Forge(2000, 1);
    ExpectRefused("the header's byte 2000 is not zero");
    again();
    ForgeTable(BlockTable(UINT32_MAX, "ram", kPages * 4096, 4096));
    ExpectRefused("the block table has 4294967295 blocks");
    again();
    ForgeTable(BlockTable(2, "ram", kPages * 4096, 4096));
    ExpectRefused("the block table is malformed at block 1");
    again();
    ForgeTable(BlockTable(1, "ram", UINT64_MAX - 4095, 4096));
    ExpectRefused("RAM block ram has 18446744073709547520 bytes");
    again();
    ForgeTable(BlockTable(1, "ram", kPages * 4096, 3));
    ExpectRefused("in pages of 3");
    again();
    ForgeTable(BlockTable(1, "", kPages * 4096, 4096));
    ExpectRefused("the block table is malformed at block 0");
    again();
    ForgeTable(BlockTable(1, "ram", uint64_t{1} << 46, 4096)); // as large as may be, and not there
    EXPECT_EQ(Check(), -EPROTO);
}

// Anything at all may be in a file: it is refused or read, and nothing else happens.
TEST_F(Snapshot, SurvivesRandomDamage)
{
    Make();
    std::mt19937_64 random(1);
    const std::string copy = directory_ / "copy";
    std::filesystem::copy_file(path_, copy);
    for (unsigned i = 0; i < 300; i++) {
        for (unsigned n = random() % 4 + 1; n > 0; n--) {
            switch (random() % 3) {
            case 0:
                Forge(random() % 120, random());
                break;
            case 1: {
                std::vector<unsigned char> table = BlockTable(1, "ram", kPages * 4096, 4096);
                table[random() % table.size()] = static_cast<unsigned char>(random());
                ForgeTable(table);
                break;
            }
            default:
                Flip(random() % 20480);
            }
        }
        Check();
        std::filesystem::copy_file(copy, path_, std::filesystem::copy_options::overwrite_existing);
    }
    EXPECT_EQ(Check(), 0) << error_.message;
}

TEST_F(Snapshot, IsNotMadeWhereNoFileMayBe)
{
    if (geteuid() != 0) {
        GTEST_SKIP() << "needs root to become somebody else";
    }
    pid_t child = fork();
    if (child == 0) {
        auto table = BlockTable(1, "ram", 4096, 4096);
        haul_error error{};
        bool refused = seteuid(65534) == 0 &&
                       haul_snapshot_writer_new("/etc/a", table.data(), table.size(), false, &writer_,
                                                &error) == -EACCES &&
                       strcmp(error.message, "/etc/a: creating it: Permission denied") == 0;
        _exit(refused ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

TEST_F(Snapshot, IsNoFifo)
{
    ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
    ExpectRefused("it is not a regular file", -EINVAL);
}

TEST_F(Snapshot, LeavesNothingWithoutItsEnd)
{
    Open(BlockTable(1, "ram", kPages * 4096, 4096));
    Put(1, 1);
    EXPECT_EQ(directory_.Names(), std::vector<std::string>());
    haul_snapshot_writer_free(writer_);
    writer_ = nullptr;
    EXPECT_EQ(directory_.Names(), std::vector<std::string>());
}

} // namespace
