// SPDX-License-Identifier: Apache-2.0
// Restores of a real machine that end early: the file stays as it is, and a QEMU that has only a part of the
// machine never runs it.
#include "tests/machines/move.h"
#include "tests/tools/program.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <tuple>

namespace
{

using namespace haul_test;

// In the order in which a restore comes to them; in the last one QEMU has read all of the machine's state but
// for the last byte.
const char *const kStates[] = {"setup", "active", "device", "handover-received"};

enum class End { kHaulKilled, kCancelled, kQemuKilled };

class QemuRestore : public ::testing::Test
{
  protected:
    static MachineOptions Options()
    {
        MachineOptions options;
        options.extra = {"-device", "virtio-rng-pci"};
        return options;
    }
    // One file for all tests, which none of them may alter.
    static void SetUpTestSuite()
    {
        if (!missing().empty()) {
            return;
        }
        folder = new Folder;
        Machine from(*folder, "from", Options());
        ASSERT_TRUE(from.wait_for("sweep 1 ok", kBootSeconds)) << from.last_words() << from.errors();
        Mover save({"send", from.qmp(), "file:" + Path(), "downtime=30000"});
        ASSERT_EQ(0, save.wait()) << save.output();
        saved_at = from.last_ok();
        ASSERT_EQ(0, system(("cp --sparse=always " + Path() + " " + Path() + ".copy").c_str()));
    }
    static void TearDownTestSuite()
    {
        delete folder;
        folder = nullptr;
    }
    void SetUp() override
    {
        if (!missing().empty()) {
            GTEST_SKIP() << missing();
        }
        ASSERT_GE(saved_at, 0) << "there is no file";
    }
    void TearDown() override
    {
        if (folder) {
            EXPECT_EQ(0, system(("cmp " + Path() + " " + Path() + ".copy").c_str()));
        }
    }
    static std::string Path()
    {
        return *folder / "snapshot";
    }
    // It begins by itself when it has its machine.
    static std::unique_ptr<Machine> Waiting(const std::string &name)
    {
        MachineOptions options = Options();
        options.incoming = true;
        return std::make_unique<Machine>(*folder, name, options);
    }
    static std::vector<std::string> Restore(const Machine &to, const std::string &setting = "timeout=30")
    {
        return {"receive", to.qmp(), "file:" + Path(), setting};
    }
    static Folder *folder;
    static long saved_at;
};

Folder *QemuRestore::folder;
long QemuRestore::saved_at = -1;

class QemuRestoreEnds : public QemuRestore,
                        public ::testing::WithParamInterface<std::tuple<End, const char *>>
{
};

TEST_P(QemuRestoreEnds, RunsNothingAndLeavesTheFile)
{
    auto [end, state] = GetParam();
    bool given = state == std::string("handover-received"); // QEMU has begun to read
    auto to = Waiting("to");
    std::string settings = to->settings();
    Mover restore(Restore(*to, (end == End::kCancelled ? "cancel=" : "hold=") + std::string(state)));
    std::string reached;
    while (reached != state) {
        ASSERT_NE("", reached = restore.expect("STATE ")) << restore.output();
    }
    if (end == End::kHaulKilled) {
        restore.kill(SIGKILL);
    } else if (end == End::kQemuKilled) {
        to->kill();
        restore.tell("go");
    }
    int code = restore.wait();
    if (end == End::kCancelled && given) {
        EXPECT_EQ(0, code) << "too late: " << restore.output();
        EXPECT_TRUE(to->counts()) << to->last_words();
        return;
    }
    EXPECT_EQ(end == End::kHaulKilled ? -SIGKILL : 1, code) << restore.output();
    if (end == End::kCancelled) {
        EXPECT_NE(std::string::npos, restore.output().find("cancelled")) << restore.output();
    } else if (end == End::kQemuKilled) {
        EXPECT_TRUE(Eventually([&] { return !to->alive(); }));
        std::string advice = given ? "Start it again" : "start it again for the next try";
        EXPECT_NE(std::string::npos, restore.output().find(advice)) << restore.output();
    }
    if (given) {
        EXPECT_TRUE(Eventually([&] { return !to->alive(); })) << to->status();
    } else if (end != End::kQemuKilled) {
        // It still waits, for this file too.
        EXPECT_TRUE(Eventually([&] { return to->settings() == settings; })) << to->settings();
        EXPECT_EQ("inmigrate", to->status());
        Mover again(Restore(*to));
        EXPECT_EQ(0, again.wait()) << again.output() << to->errors();
        EXPECT_TRUE(to->counts()) << to->last_words();
        return;
    }
    EXPECT_EQ("", to->console()) << "the guest ran";
}

std::string as_name(const ::testing::TestParamInfo<std::tuple<End, const char *>> &info)
{
    static const char *const names[] = {"HaulKilled", "Cancelled", "QemuKilled"};
    std::string state = std::get<1>(info.param);
    state.erase(std::remove(state.begin(), state.end(), '-'), state.end());
    return names[static_cast<int>(std::get<0>(info.param))] + ("_" + state);
}

INSTANTIATE_TEST_SUITE_P(In, QemuRestoreEnds,
                         ::testing::Combine(::testing::Values(End::kHaulKilled, End::kCancelled,
                                                              End::kQemuKilled),
                                            ::testing::ValuesIn(kStates)),
                         as_name);

// It reads the machine's state up to a device that it has not.
TEST_F(QemuRestore, AQemuThatDoesNotFitEndsAndHaulSaysWhatToDo)
{
    MachineOptions options;
    options.incoming = true;
    Machine to(*folder, "other", options);
    Program restore({MakeDirectory()}, {"restore", "file:" + Path(), "--qemu", to.qmp()});
    EXPECT_EQ(1, restore.Wait()) << restore.Out();
    EXPECT_NE(std::string::npos, restore.Out().find("the file is as it was, and no guest is here"))
        << restore.Out();
    EXPECT_NE(std::string::npos, restore.Err().find("Start it again, with the source's options"))
        << restore.Err();
    EXPECT_TRUE(Eventually([&] { return !to.alive(); }));
    EXPECT_EQ("", to.console());
}

TEST_F(QemuRestore, ThenItGoesOnFromTheFile)
{
    auto to = Waiting("last");
    Mover restore(Restore(*to));
    ASSERT_EQ(0, restore.wait()) << restore.output() << to->errors();
    EXPECT_EQ("running", to->status());
    ASSERT_TRUE(to->counts()) << to->last_words() << to->errors();
    EXPECT_GE(to->last_ok(), saved_at);
    for (int i = 0; i < 2; i++) { // all of its memory, once at least
        EXPECT_TRUE(to->wait_for("sweep", 60, to->console().size())) << to->last_words();
    }
    EXPECT_FALSE(to->says_bad()) << to->last_words();
}

} // namespace
