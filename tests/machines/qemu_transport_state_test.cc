// SPDX-License-Identifier: Apache-2.0
// A QEMU machine over each transport, and into a file: in each state up to HANDOVER the move is cancelled,
// the source's haul is killed, the destination's, or the connections break. The machine goes on at the
// source, with QEMU as it was. Then the destination's haul dies with HANDOVER in its hands, and the operator
// decides; in the end the machine moves over that transport, and from there on over the next. With
// HAUL_TEST_FIRMWARE in the environment Linux is not booted for it: so vsock_test has it within a guest.
#include "tests/machines/last_word.h"
#include "tests/machines/qemu.h"
#include "tests/machines/ways.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstring>
#include <optional>

namespace
{

using namespace haul_test;

struct Case {
    Way way;
    std::optional<Ending> ending; // none: it moves
    bool uncertain;               // the destination dies with HANDOVER in its hands
    std::string name() const
    {
        return ending      ? ending->name()
               : uncertain ? std::string(way.name) + "HandoverDestinationDies"
                           : std::string(way.name) + "InTheEndItMoves";
    }
};

std::ostream &operator<<(std::ostream &out, const Case &one)
{
    return out << one.name();
}

std::vector<Case> cases()
{
    std::vector<Case> list;
    std::vector<Way> ways = ways_of_sockets();
    for (const Way &way : ways_of_processes()) {
        ways.push_back(way);
    }
    ways.insert(ways.begin(), {way_file(), way_tcp()});
    for (const Way &way : ways) {
        for (const Ending &ending : every_ending({way})) {
            list.push_back({way, ending, false});
        }
        if (way.memory != Memory::kSaved) {
            list.push_back({way, {}, true});
            list.push_back({way, {}, false});
        }
    }
    return list;
}

bool without_linux()
{
    return getenv("HAUL_TEST_FIRMWARE") != nullptr;
}

MachineOptions options()
{
    MachineOptions options;
    options.firmware = without_linux();
    return options;
}

std::string missing_here()
{
    return without_linux() ? missing_for_firmware() : missing();
}

class QemuTransportState : public ::testing::TestWithParam<Case>
{
  protected:
    static void SetUpTestSuite()
    {
        if (missing_here().empty()) {
            folder = new Folder;
            here = std::make_unique<Machine>(*folder, "from", options());
            here->wait_for("sweep 1 ok", kBootSeconds);
            settings = new std::string(here->settings());
        }
    }
    static void TearDownTestSuite()
    {
        here.reset();
        delete settings;
        delete folder;
    }
    void SetUp() override
    {
        if (!missing_here().empty()) {
            GTEST_SKIP() << missing_here();
        }
        ASSERT_EQ("running", here->status()) << here->last_words() << here->errors();
        static int number;
        MachineOptions incoming = options();
        incoming.incoming = true;
        incoming.paused = true;
        to_ = std::make_unique<Machine>(*folder, "to" + std::to_string(number++), incoming);
        transport_ = GetParam().way.make();
    }
    // Whatever ends a move before HANDOVER is on its way, the source has its machine back.
    void expect_back()
    {
        EXPECT_TRUE(here->counts()) << here->status() << "\n" << transport_->log() << here->errors();
        Eventually([&] { return here->settings() == *settings; }); // the guardian may still be at it
        EXPECT_EQ("running", here->status());
        EXPECT_EQ(*settings, here->settings());
        EXPECT_FALSE(here->says_bad()) << here->last_words();
        EXPECT_FALSE(to_->alive() && to_->status() == "running") << transport_->log();
    }
    // It never got the whole machine, or its memory is the source's: it must not stay, whoever died.
    void expect_gone()
    {
        EXPECT_TRUE(Eventually([&] { return !to_->alive(); })) << transport_->log();
    }
    void expect_moves()
    {
        long before = here->last_ok();
        EXPECT_EQ(0, transport_->source->wait()) << transport_->log();
        if (transport_->destination) {
            EXPECT_EQ(0, transport_->destination->wait()) << transport_->log();
        }
        EXPECT_EQ("postmigrate", here->status());
        EXPECT_EQ("running", to_->status());
        ASSERT_TRUE(to_->counts()) << to_->last_words();
        EXPECT_GE(to_->last_ok(), before);
        EXPECT_TRUE(to_->wait_for("sweep", 60)) << to_->last_words();
        EXPECT_FALSE(to_->says_bad()) << to_->last_words();
        here = std::move(to_);
    }
    // Nobody can know what became of the machine: it stands still at the source until the operator, who sees
    // that it does not run at the destination, has it resumed.
    void expect_uncertain()
    {
        EXPECT_EQ(3, end_uncertain(*transport_)) << transport_->log();
        EXPECT_NE(transport_->source->output().find("stays paused here"), std::string::npos)
            << transport_->log();
        EXPECT_NE("running", here->status());
        expect_gone();
        EXPECT_EQ("", say_last_word(here->qmp(), LastWord::kResume));
        expect_back();
    }
    static Folder *folder;
    static std::unique_ptr<Machine> here; // where the guest runs
    static std::string *settings;         // of a QEMU that haul has left alone
    std::unique_ptr<Machine> to_;
    std::unique_ptr<Transport> transport_;
};

Folder *QemuTransportState::folder;
std::unique_ptr<Machine> QemuTransportState::here;
std::string *QemuTransportState::settings;

TEST_P(QemuTransportState, HasOneOwner)
{
    const auto &[way, ending, uncertain] = GetParam();
    if (uncertain) {
        transport_->there = {kDiesWithTheMachine};
    }
    std::vector<std::string> source = ending ? ending->moment.settings : std::vector<std::string>();
    source.push_back("downtime=1000");
    std::string missing = transport_->start({here->qmp(), to_->qmp()}, source);
    if (!missing.empty()) {
        GTEST_SKIP() << missing;
    }
    if (!ending) {
        uncertain ? expect_uncertain() : expect_moves();
        return;
    }
    Fault fault = ending->fault;
    int code = end_early(*transport_, *ending);
    bool handing_over = strcmp(ending->moment.state, "handover") == 0;
    if (code == 3 && handing_over && (fault == Fault::kDestinationDies || fault == Fault::kCut)) {
        // What carries HANDOVER may have taken it.
        EXPECT_NE(transport_->log().find("stays paused here"), std::string::npos) << transport_->log();
        EXPECT_NE("running", here->status());
        EXPECT_EQ("", say_last_word(here->qmp(), LastWord::kResume));
    } else {
        EXPECT_EQ(fault == Fault::kSourceDies ? -SIGKILL : 1, code) << transport_->log();
    }
    if (fault == Fault::kCancel) {
        EXPECT_NE(transport_->source->output().find("END -125 "), std::string::npos) << transport_->log();
    }
    transport_->expect_destination_failed(fault == Fault::kDestinationDies);
    if (way.memory == Memory::kHandedOver && strcmp(ending->moment.state, "handshake") != 0) {
        expect_gone();
    }
    expect_back();
}

TEST(Vsock, IsOneOfTheWays)
{
    if (!has_vsock()) {
        GTEST_SKIP() << "no vsock loopback here: vsock_test moves a QEMU machine in a guest that has one";
    }
}

INSTANTIATE_TEST_SUITE_P(Over, QemuTransportState, ::testing::ValuesIn(cases()),
                         [](const auto &info) { return info.param.name(); });

} // namespace
