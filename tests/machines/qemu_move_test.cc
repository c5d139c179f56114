// SPDX-License-Identifier: Apache-2.0
// Real machines move while they work.
#include "tests/machines/move.h"

#include <gtest/gtest.h>

namespace
{

using namespace haul_test;

struct Case {
    const char *name;
    const char *type;
    const char *backing;
    unsigned backends;
    const char *channels;
    const char *compress;
    bool paused_destination; // -S
    bool rdma = false;
};

class QemuMove : public ::testing::TestWithParam<Case>
{
  protected:
    void SetUp() override
    {
        if (!missing().empty()) {
            GTEST_SKIP() << missing();
        }
    }
};

// What every successful move must show: the guest goes on here where it stopped there, its memory as it left
// it, and the source is quiet.
void expect_moved(Machine &from, Machine &to, Move &move, long before)
{
    ASSERT_EQ(0, move.source->wait()) << move.log() << to.errors();
    ASSERT_EQ(0, move.destination->wait()) << move.log() << to.errors();
    std::cout << move.source->output();
    EXPECT_EQ("postmigrate", from.status());
    EXPECT_EQ("running", to.status());
    ASSERT_TRUE(to.counts()) << move.log();
    EXPECT_GE(to.last_ok(), before);
    std::string quiet = from.console();
    EXPECT_TRUE(to.wait_for("sweep", 60)) << to.last_words();
    EXPECT_TRUE(to.wait_for("sweep", 60, to.console().size())) << to.last_words();
    EXPECT_FALSE(to.says_bad()) << to.last_words();
    EXPECT_EQ(quiet, from.console());
}

TEST_P(QemuMove, GoesOnAtTheDestination)
{
    const Case &that = GetParam();
    Folder folder;
    MachineOptions options;
    options.type = that.type;
    options.backing = that.backing;
    options.backends = that.backends;
    Machine from(folder, "from", options);
    options.incoming = true;
    options.paused = that.paused_destination;
    Machine to(folder, "to", options);
    ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.last_words() << from.errors();
    long before = from.last_ok();
    MoveOptions how;
    how.source = {std::string("channels=") + that.channels, std::string("compress=") + that.compress};
    how.rdma = that.rdma;
    Move move(from, to, how);
    expect_moved(from, to, move, before);
}

INSTANTIATE_TEST_SUITE_P(
    Machines, QemuMove,
    ::testing::Values(Case{"q35_memfd_1_raw", "q35", "memfd", 1, "1", "none", false},
                      Case{"pc_file_2_lz4", "pc", "file", 1, "2", "lz4", true},
                      Case{"q35_file_two_backends_8_lz4", "q35", "file", 2, "8", "lz4", false},
                      Case{"q35_memfd_4_rdma", "q35", "memfd", 1, "4", "none", true, true},
                      Case{"pc_memfd_two_backends_8_raw", "pc", "memfd", 2, "8", "none", true}),
    [](const auto &info) { return std::string(info.param.name); });

} // namespace
