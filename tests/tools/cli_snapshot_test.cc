/* SPDX-License-Identifier: Apache-2.0 */
/* haul snapshot, by the real program: of the reference guest, and of a process that writes all the time. */
#include "tests/tools/memory_writer.h"
#include "tests/tools/program.h"

#include <jansson.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>

namespace
{

using haul_test::Child;
using haul_test::kMemoryPage;
using haul_test::SharedObject;
using haul_test::writer_of;

bool Has(const std::string &text, const std::string &part)
{
    return text.find(part) != std::string::npos;
}

class CliSnapshot : public testing::Test
{
  protected:
    CliSnapshot() : directory_(MakeDirectory()), file_(directory_ + "/snapshot"), uri_("file:" + file_)
    {
        options_.state_directory = MakeDirectory();
    }
    std::unique_ptr<Program> Run(const std::vector<std::string> &arguments)
    {
        return std::make_unique<Program>(options_, arguments);
    }
    std::vector<std::string> OfWriter(const SharedObject &object, const Child &writer,
                                      std::vector<std::string> more = {})
    {
        more.insert(more.begin(),
                    {"snapshot", uri_, "--memory", object.path(), "--pid", std::to_string(writer.pid())});
        return more;
    }
    static size_t Entries(const std::string &directory)
    {
        std::filesystem::directory_iterator entries(directory);
        return static_cast<size_t>(std::distance(begin(entries), end(entries)));
    }
    static void ExpectWritesOn(const SharedObject &object)
    {
        EXPECT_TRUE(haul_test::writes_on(object)) << "the writer hangs";
    }

    std::string directory_, file_, uri_;
    Program::Options options_;
};

TEST_F(CliSnapshot, OfTheReferenceGuestWhichGoesOn)
{
    auto snapshot = Run({"snapshot", uri_, "--guest", "--guest-memory", "32M", "--guest-dirty-rate", "200M",
                         "--channels", "3", "--run-for", "1"});
    EXPECT_EQ(snapshot->Wait(), 0) << snapshot->Err();
    for (const char *part : {"Saved: the guest as it was is in file:/", "and goes on here.", "Stood still",
                             "Writes held", "to the file", "self-check passed", " writes during the check"}) {
        EXPECT_TRUE(Has(snapshot->Out(), part)) << part << snapshot->Out();
    }
    EXPECT_EQ(Entries(options_.state_directory), 0u) << "nothing is uncertain about a snapshot";
    auto inspect = Run({"inspect", uri_});
    EXPECT_EQ(inspect->Wait(), 0) << inspect->Err();
    for (int i = 0; i < 2; i++) {
        auto restore = Run({"restore", uri_, "--guest", "--guest-memory", "32M", "--run-for", "1"});
        EXPECT_EQ(restore->Wait(), 0) << restore->Err();
        EXPECT_TRUE(Has(restore->Out(), "self-check passed")) << restore->Out();
    }
}

TEST_F(CliSnapshot, SaysInJsonWhatItDidToTheGuest)
{
    auto snapshot = Run({"snapshot", uri_, "--guest", "--guest-memory", "32M", "--guest-dirty-rate", "1G",
                         "--run-for", "0", "--json"});
    EXPECT_EQ(snapshot->Wait(), 0) << snapshot->Err();
    json_t *json = json_loads(snapshot->Out().c_str(), JSON_REJECT_DUPLICATES, nullptr);
    const char *status, *ownership, *mode;
    json_int_t count;
    double half, most, longest, stopped;
    ASSERT_EQ(json_unpack(json, "{s:s s:s s:s s:{s:I s:F s:F s:F} s:{s:{s:F}}}", "status", &status,
                          "ownership", &ownership, "mode", &mode, "write-faults", "count", &count, "p50",
                          &half, "p99", &most, "longest", &longest, "downtime-detail", "actual", "total",
                          &stopped),
              0)
        << snapshot->Out();
    EXPECT_STREQ(status, "completed");
    EXPECT_STREQ(ownership, "source");
    EXPECT_STREQ(mode, "background-snapshot");
    EXPECT_GT(stopped, 0);
    EXPECT_LE(half, most);
    EXPECT_LE(most, longest);
    json_decref(json);
}

/*
 * The writer goes round its pages with a rising number, so at one moment the pages hold consecutive numbers,
 * but for the one that is being written. Anything else were pages of different moments.
 */
TEST_F(CliSnapshot, OfAWritingProcessIsOfOneMoment)
{
    SharedObject object(16 << 20);
    ASSERT_TRUE(object.ok());
    Child writer(writer_of(object, 64));
    while (haul_test::latest_of(object) < object.size() / kMemoryPage) {
        usleep(1000); /* until it came round once */
    }
    auto snapshot = Run(OfWriter(object, writer));
    EXPECT_EQ(snapshot->Wait(), 0) << snapshot->Err();
    EXPECT_TRUE(Has(snapshot->Out(), "Saved: the memory as it was is in file:/")) << snapshot->Out();
    ExpectWritesOn(object);
    writer.end();

    SharedObject copy(16 << 20);
    auto restore = Run({"restore", uri_, "--memory", copy.path()});
    ASSERT_EQ(restore->Wait(), 0) << restore->Err();
    std::vector<uint64_t> numbers;
    for (size_t page = 0; page < copy.size() / kMemoryPage; page++) {
        auto *words = reinterpret_cast<const uint64_t *>(copy.map() + page * kMemoryPage);
        if (words[0] == words[kMemoryPage / sizeof(uint64_t) - 1]) {
            numbers.push_back(words[0]);
        }
    }
    size_t pages = copy.size() / kMemoryPage;
    EXPECT_GE(numbers.size(), pages - 1) << "at most one page was being written";
    std::sort(numbers.begin(), numbers.end());
    EXPECT_EQ(std::unique(numbers.begin(), numbers.end()), numbers.end());
    EXPECT_LE(numbers.back() - numbers.front(), pages) << "pages of different moments";
}

/* Killed, or told to end, while most pages are still protected and the writer runs into them. */
class CliSnapshotEnd : public CliSnapshot, public testing::WithParamInterface<int>
{
};

TEST_P(CliSnapshotEnd, LetsTheWriterGoOnAndLeavesNoFile)
{
    SharedObject object(64 << 20);
    ASSERT_TRUE(object.ok());
    haul_test::leave_no_page_zero(object);
    Child writer(writer_of(object, 1)); /* so slow that most pages are protected for many seconds */
    auto snapshot = Run(OfWriter(object, writer, {"--max-bandwidth", "1K"}));
    ASSERT_TRUE(snapshot->WaitFor("writes held")) << snapshot->Err(); /* the line comes once it is active */
    snapshot->Signal(GetParam());
    EXPECT_EQ(snapshot->Wait(), GetParam() == SIGKILL ? 128 + SIGKILL : 1);
    ExpectWritesOn(object);
    EXPECT_EQ(Entries(directory_), 0u);
    EXPECT_EQ(Entries(options_.state_directory), 0u);
    if (GetParam() != SIGKILL) {
        EXPECT_TRUE(Has(snapshot->Out(), "Not saved (cancelled): the memory goes on here."))
            << snapshot->Out();
    }
    auto again = Run(OfWriter(object, writer));
    EXPECT_EQ(again->Wait(), 0) << again->Err();
    ExpectWritesOn(object);
}

INSTANTIATE_TEST_SUITE_P(By, CliSnapshotEnd, testing::Values(SIGKILL, SIGINT), [](const auto &info) {
    return std::string(info.param == SIGKILL ? "Kill" : "Int");
});

/* Its memory stands still then, as it was: what was not written yet is of the moment. */
TEST_F(CliSnapshot, IsCompletedWhenTheWriterEnds)
{
    SharedObject object(32 << 20);
    ASSERT_TRUE(object.ok());
    memset(object.map(), 7, object.size());
    object.unmap();
    Child writer(writer_of(object, 1));
    auto snapshot = Run(OfWriter(object, writer, {"--max-bandwidth", "10M"}));
    ASSERT_TRUE(snapshot->WaitFor("writes held")) << snapshot->Err();
    writer.end();
    EXPECT_EQ(snapshot->Wait(), 0) << snapshot->Err();
    SharedObject copy(object.size());
    auto restore = Run({"restore", uri_, "--memory", copy.path()});
    ASSERT_EQ(restore->Wait(), 0) << restore->Err();
    EXPECT_EQ(copy.map()[copy.size() - 1], 7);
}

TEST_F(CliSnapshot, RefusesMemoryThatSomebodyElseWritesToo)
{
    SharedObject object(1 << 20);
    ASSERT_TRUE(object.ok());
    Child writer(writer_of(object)), other(writer_of(object));
    auto snapshot = Run(OfWriter(object, writer));
    EXPECT_EQ(snapshot->Wait(), 1);
    EXPECT_TRUE(Has(snapshot->Err(), std::to_string(other.pid()))) << snapshot->Err();
}

TEST_F(CliSnapshot, SaysWhatItNeeds)
{
    struct {
        std::vector<std::string> arguments;
        int status;
        const char *sentence;
    } cases[] = {
        {{"snapshot", "--guest"}, 2, "say which file: haul snapshot file:PATH"},
        {{"snapshot", uri_}, 2, "say what to move: --qemu QMP, --memory PATH or --guest"},
        {{"snapshot", "tcp:127.0.0.1:1", "--guest"}, 2, "'tcp:127.0.0.1:1' is no snapshot file"},
        {{"snapshot", "file:", "--guest"}, 2, "'file:' has no path"},
        {{"snapshot", uri_, "--guest", "--verify"},
         2,
         "option --verify belongs to 'haul send', not to 'haul snapshot'"},
    };
    for (const auto &one : cases) {
        auto snapshot = Run(one.arguments);
        EXPECT_EQ(snapshot->Wait(), one.status);
        EXPECT_TRUE(Has(snapshot->Err(), one.sentence)) << snapshot->Err();
    }
    SharedObject object(1 << 20);
    auto snapshot = Run({"snapshot", uri_, "--memory", object.path()});
    EXPECT_EQ(snapshot->Wait(), 1);
    EXPECT_TRUE(Has(snapshot->Err(), "name the process that writes")) << snapshot->Err();
    EXPECT_EQ(Entries(directory_), 0u);
}

} // namespace
