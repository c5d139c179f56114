// SPDX-License-Identifier: Apache-2.0
// Machines on one host change their QEMU: the new one runs on the old one's memory (mode cpr-transfer).
#include "tests/machines/move.h"
#include "tests/tools/descriptors.h"
#include "tests/tools/huge_pages.h"
#include "tests/tools/program.h"
#include "tests/waiting.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <unistd.h>

namespace
{

using namespace haul_test;

// Names in /dev/shm, removed by the destructor.
class SharedFiles
{
  public:
    ~SharedFiles()
    {
        for (const std::string &path : paths_) {
            for (const char *backend : {".ram0", ".ram1"}) {
                unlink((path + backend).c_str());
            }
        }
    }
    std::string path(const std::string &name)
    {
        paths_.push_back("/dev/shm/haul-test-" + std::to_string(getpid()) + "-" + name);
        return paths_.back();
    }

  private:
    std::vector<std::string> paths_;
};

class QemuCpr : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (!missing().empty()) {
            GTEST_SKIP() << missing();
        }
    }
    Folder folder;
    SharedFiles files;

  public:
    static MoveOptions cpr()
    {
        MoveOptions how;
        how.cpr = true;
        return how;
    }
};

// Of the source's STATS line: how long the move took, in milliseconds.
double total_ms(const Move &move)
{
    size_t at = move.source->output().find("STATS total ");
    return at == std::string::npos ? -1 : atof(move.source->output().c_str() + at + strlen("STATS total "));
}

// The guest goes on at the destination, also without its old QEMU, which stopped in the move and then exits;
// its memory is as it left it.
void expect_goes_on(Machine &from, Machine &to, long before)
{
    EXPECT_EQ("postmigrate", from.status());
    EXPECT_EQ("running", to.status());
    ASSERT_TRUE(to.counts()) << to.errors();
    EXPECT_GE(to.last_ok(), before);
    from.command("quit");
    EXPECT_TRUE(Eventually([&] { return !from.alive(); }));
    size_t now = to.console().size();
    EXPECT_TRUE(to.wait_for("sweep", 60, now)) << to.last_words();
    EXPECT_TRUE(to.wait_for("sweep", 60, to.console().size())) << to.last_words();
    EXPECT_FALSE(to.says_bad()) << to.last_words();
}

// And nothing was sent.
void expect_moved(Machine &from, Machine &to, Move &move)
{
    long before = from.last_ok();
    ASSERT_EQ(0, move.source->wait()) << move.log() << to.errors();
    ASSERT_EQ(0, move.destination->wait()) << move.log() << to.errors();
    std::cout << move.source->output();
    EXPECT_NE(std::string::npos, move.source->output().find("rounds 0, 0 MiB, cpr-transfer")) << move.log();
    expect_goes_on(from, to, before);
}

struct Case {
    const char *name;
    const char *backing;
    unsigned backends;
    bool same_path; // the destination's backend is the source's file already
    bool paused;    // -S
};

class QemuCprMove : public QemuCpr, public ::testing::WithParamInterface<Case>
{
};

TEST_P(QemuCprMove, GoesOnOnItsOwnMemory)
{
    const Case &that = GetParam();
    MachineOptions options;
    options.backing = that.backing;
    options.backends = that.backends;
    options.mem_path = files.path("from");
    Machine from(folder, "from", options);
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.last_words() << from.errors();
    options.incoming = true;
    options.paused = that.paused;
    options.mem_path = that.same_path ? options.mem_path : files.path("to");
    Machine to(folder, "to", options);
    Move move(from, to, cpr());
    expect_moved(from, to, move);
}

INSTANTIATE_TEST_SUITE_P(Machines, QemuCprMove,
                         ::testing::Values(Case{"memfd", "memfd", 1, false, false},
                                           Case{"two_files", "file", 2, false, true},
                                           Case{"the_same_file", "file", 1, true, true}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST_F(QemuCpr, HugePagesAreHandedOver)
{
    MachineOptions options;
    options.backing = "hugetlb";
    HugePages pages(options.mib); // two machines, in pages of 2 MiB
    if (!pages.missing().empty()) {
        GTEST_SKIP() << pages.missing();
    }
    Machine from(folder, "from", options);
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.last_words() << from.errors();
    options.incoming = true;
    Machine to(folder, "to", options);
    Move move(from, to, cpr());
    expect_moved(from, to, move);
}

// Of a machine whose memory is all there, handed over to new QEMUs in turn: the shortest time of three, and
// of more for as long as that is not `enough`.
double shortest_ms(const Folder &folder, unsigned mib, double enough)
{
    MachineOptions options;
    options.mib = mib;
    options.prealloc = true;
    std::string name = std::to_string(mib);
    auto here = std::make_unique<Machine>(folder, name, options);
    EXPECT_TRUE(here->wait_for("sweep 1 ok", kBootSeconds)) << here->last_words() << here->errors();
    options.incoming = true;
    options.prealloc = false;
    double shortest = INFINITY;
    for (int i = 0; i < 10 && (i < 3 || shortest >= enough); i++) {
        name = std::to_string(mib) + "-" + std::to_string(i);
        auto to = std::make_unique<Machine>(folder, name, options);
        Move move(*here, *to, QemuCpr::cpr());
        EXPECT_EQ(0, move.source->wait()) << move.log() << to->errors();
        EXPECT_EQ(0, move.destination->wait()) << move.log() << to->errors();
        shortest = std::min(shortest, total_ms(move));
        EXPECT_GT(shortest, 0) << move.log();
        here = std::move(to);
    }
    EXPECT_TRUE(here->counts()) << here->last_words();
    EXPECT_FALSE(here->says_bad()) << here->last_words();
    return shortest;
}

// All 512 MiB, and all 4 GiB, are in memory; neither is touched.
TEST_F(QemuCpr, TheTimeDoesNotGrowWithTheSize)
{
    double small = shortest_ms(folder, 512, INFINITY), enough = std::min(small + 100, 1000.0);
    double large = shortest_ms(folder, 4096, enough);
    std::cout << small << " ms for 512 MiB, " << large << " ms for 4 GiB\n";
    EXPECT_LT(large, enough);
}

// The program, over a socket that both sides inherit.
void hand_over_by_program(Machine &from, Machine &to)
{
    Descriptors between(Descriptors::kSockets, 1);
    Program::Options here, there;
    here.state_directory = MakeDirectory();
    here.keep = between.Source();
    there.state_directory = MakeDirectory();
    there.keep = between.Destination();
    Program receive(there, {"receive", "--listen", between.DestinationUri(), "--qemu", to.qmp(), "--mode",
                            "cpr-transfer"});
    ASSERT_NE(receive.Address(), "") << receive.Err();
    Program send(here, {"send", between.SourceUri(), "--qemu", from.qmp(), "--mode", "cpr-transfer"});
    between.CloseOwn();
    ASSERT_EQ(send.Wait(), 0) << send.Err() << receive.Err();
    ASSERT_EQ(receive.Wait(), 0) << receive.Err();
}

// Onto a new QEMU, to another host (by a copy), and onto a new QEMU again.
TEST_F(QemuCpr, AMovedMachineMovesOnInBothModes)
{
    MachineOptions options;
    Machine first(folder, "first", options);
    ASSERT_TRUE(first.wait_for("sweep 1 ok", kBootSeconds)) << first.last_words() << first.errors();
    options.incoming = true;
    options.paused = true;
    Machine second(folder, "second", options);
    {
        Move move(first, second, cpr());
        expect_moved(first, second, move);
    }
    Machine third(folder, "third", options);
    {
        Move move(second, third);
        ASSERT_EQ(0, move.source->wait()) << move.log() << third.errors();
        ASSERT_EQ(0, move.destination->wait()) << move.log();
        ASSERT_TRUE(third.counts()) << move.log();
    }
    Machine fourth(folder, "fourth", options);
    long before = third.last_ok();
    hand_over_by_program(third, fourth);
    expect_goes_on(third, fourth, before);
}

// The old QEMU has handed its memory over: told to run all the same, it ends rather than write it.
TEST_F(QemuCpr, TheOldQemuCannotWriteTheMemoryAnyMore)
{
    MachineOptions options;
    Machine from(folder, "from", options);
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.last_words() << from.errors();
    options.incoming = true;
    Machine to(folder, "to", options);
    Move move(from, to, cpr());
    ASSERT_EQ(0, move.source->wait()) << move.log() << to.errors();
    ASSERT_EQ(0, move.destination->wait()) << move.log();
    from.command("cont");
    EXPECT_TRUE(Eventually([&] { return !from.alive(); }));
    EXPECT_TRUE(to.counts());
    EXPECT_TRUE(to.wait_for("sweep", 60, to.console().size()));
    EXPECT_FALSE(to.says_bad()) << to.last_words();
}

// ---- refusals ----

// The output of a destination's mover that does not begin to listen, or of a source's.
std::string refused(const std::vector<std::string> &words)
{
    Mover mover(words);
    EXPECT_EQ(1, mover.wait()) << mover.output();
    return mover.output();
}

MachineOptions small()
{
    MachineOptions options;
    options.boot = false;
    options.mib = 64;
    return options;
}

TEST_F(QemuCpr, TcpIsRefused)
{
    Machine from(folder, "from", small());
    std::string output = refused({"send", from.qmp(), "tcp:127.0.0.1:1", "mode=cpr-transfer"});
    EXPECT_NE(std::string::npos, output.find("use unix:PATH on both sides")) << output;
    EXPECT_EQ("running", from.status());
}

TEST_F(QemuCpr, MemoryThatQemuWouldEmptyIsRefused)
{
    MachineOptions options = small();
    options.extra = {"-object", "memory-backend-file,id=dimm,size=16M,share=on,discard-data=on,mem-path=" +
                                    files.path("dimm") + ".ram0"};
    Machine from(folder, "from", options);
    std::string output = refused({"send", from.qmp(), "unix:" + folder / "s", "mode=cpr-transfer"});
    EXPECT_NE(std::string::npos, output.find("memory backend \"dimm\" has discard-data=on")) << output;
}

// A copy onto the memory of a machine that runs would destroy it.
TEST_F(QemuCpr, ACopyOntoASharedFileIsRefused)
{
    MachineOptions options = small();
    options.backing = "file";
    options.mem_path = files.path("ram");
    Machine from(folder, "from", options);
    options.incoming = true;
    Machine to(folder, "to", options);
    std::string output = refused({"receive", to.qmp(), "unix:" + folder / "s"});
    EXPECT_NE(std::string::npos, output.find("a copy would overwrite it")) << output;
    EXPECT_NE(std::string::npos, output.find("--mode cpr-transfer on both sides")) << output;
}

// Somebody else has mapped the destination's backend: it would go on with the old memory.
TEST_F(QemuCpr, ABackendThatAnotherProcessMapsIsRefused)
{
    MachineOptions options = small();
    options.backing = "file";
    options.mem_path = files.path("from");
    Machine from(folder, "from", options);
    options.mem_path = files.path("to");
    options.incoming = true;
    Machine to(folder, "to", options);
    options.incoming = false;
    Machine other(folder, "other", options);
    Move move(from, to, cpr());
    EXPECT_EQ(1, move.source->wait()) << move.log();
    EXPECT_EQ(1, move.destination->wait()) << move.log();
    EXPECT_NE(std::string::npos, move.log().find("maps the destination's memory too")) << move.log();
    EXPECT_EQ("running", from.status());
    EXPECT_TRUE(Eventually([&] { return !to.alive(); })) << "it is of no use any more";
}

} // namespace
