/* SPDX-License-Identifier: Apache-2.0 */
/* Real moves by the real program over loopback, and what becomes of them when something breaks. */
#include "tests/tools/loopback.h"
#include "tests/tools/memory_writer.h"

#include <jansson.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <pty.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace
{

/* ---- moves that succeed ---- */

TEST_F(Move, GuestRunsAtTheDestinationAndBothSidesSayIt)
{
    auto receive = Receive(Guest({}));
    auto send = SendGuest({"--channels", "4", "--compress", "lz4", "--verify", "--guest-content", "text"});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    EXPECT_TRUE(Has(send->Out(), "Moved: the guest is now at " + address_)) << send->Out();
    for (const char *part :
         {"predicted", "actual", "Rounds", "Ratio", "Verified", "Move ID", "\n        3 "}) {
        EXPECT_TRUE(Has(send->Out(), part)) << part << send->Out();
    }
    EXPECT_TRUE(Has(receive->Out(), "Received: the guest is now here.")) << receive->Out();
    EXPECT_TRUE(Has(receive->Out(), "self-check passed")) << receive->Out();
    EXPECT_EQ(Files(source_.state_directory), 0u) << "no record is left of a move that is certain";
    EXPECT_EQ(Files(destination_.state_directory), 0u);
}

TEST_F(Move, JsonOfBothSidesIsComplete)
{
    auto receive = Receive(Guest({"--json"}));
    auto send = SendGuest({"--channels", "2", "--json", "--verify"});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    std::string ids[2];
    for (Program *program : {send.get(), receive.get()}) {
        json_t *json = json_loads(program->Out().c_str(), JSON_REJECT_DUPLICATES, nullptr);
        ASSERT_NE(json, nullptr) << program->Out();
        for (const char *name :
             {"status", "side", "ownership", "migration-id", "total-time", "setup-time", "downtime",
              "expected-downtime", "downtime-limit", "downtime-detail", "ram", "channels", "tracker",
              "bandwidth", "threshold-size", "compression-ratio", "verified"}) {
            EXPECT_NE(json_object_get(json, name), nullptr) << name;
        }
        const char *status, *ownership, *id;
        json_int_t total;
        ASSERT_EQ(json_unpack(json, "{s:s s:s s:s s:{s:I}}", "status", &status, "ownership", &ownership,
                              "migration-id", &id, "ram", "total", &total),
                  0);
        EXPECT_STREQ(status, "completed");
        EXPECT_STREQ(ownership, "destination");
        EXPECT_EQ(total, 16 << 20);
        EXPECT_EQ(json_array_size(json_object_get(json, "channels")), 2u);
        EXPECT_EQ(json_object_get(json, "error"), nullptr);
        bool source = program == send.get();
        EXPECT_EQ(json_object_get(json, "self-check") != nullptr, !source);
        ids[source] = id;
        if (source) {
            json_int_t transferred, rounds, pages;
            double predicted, actual;
            ASSERT_EQ(json_unpack(json, "{s:{s:I s:I s:I} s:{s:{s:F} s:{s:F}}}", "ram", "transferred",
                                  &transferred, "dirty-sync-count", &rounds, "normal", &pages,
                                  "downtime-detail", "predicted", "total", &predicted, "actual", "total",
                                  &actual),
                      0);
            EXPECT_GE(transferred, pages * 4096);
            EXPECT_GE(rounds, 1);
            EXPECT_GT(predicted, 0);
            EXPECT_GT(actual, 0);
            EXPECT_TRUE(json_is_true(json_object_get(json, "verified")));
        }
        json_decref(json);
    }
    EXPECT_EQ(ids[0].size(), 32u);
    EXPECT_EQ(ids[0], ids[1]);
}

/* 16 MiB at 8 MiB/s, so that it is known what the rates must be about. */
TEST_F(Move, JsonRatesAreBytesAndPagesOverTheWholeTime)
{
    auto receive = Receive(Guest({"--json", "--run-for", "0"}));
    auto send = SendGuest({"--json", "--max-bandwidth", "8M", "--guest-dirty-rate", "1M", "--guest-zero", "0",
                           "--run-for", "0"});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    for (Program *program : {send.get(), receive.get()}) {
        json_t *json = json_loads(program->Out().c_str(), JSON_REJECT_DUPLICATES, nullptr);
        json_int_t transferred, normal, duplicate, pages_per_s;
        double ms, mbps;
        ASSERT_EQ(json_unpack(json, "{s:F s:{s:I s:I s:I s:F s:I}}", "total-time", &ms, "ram", "transferred",
                              &transferred, "normal", &normal, "duplicate", &duplicate, "mbps", &mbps,
                              "pages-per-second", &pages_per_s),
                  0)
            << program->Out();
        double megabits = static_cast<double>(transferred) * 8 / 1e6, s = ms / 1000;
        double pages = static_cast<double>(normal + duplicate);
        EXPECT_NEAR(mbps, megabits / s, megabits / s / 20) << program->Out();
        EXPECT_NEAR(static_cast<double>(pages_per_s), pages / s, pages / s / 20) << program->Out();
        EXPECT_GT(mbps, 1);
        EXPECT_LT(mbps, 2 * 67.1) << "twice what the limit allows";
        EXPECT_LT(pages_per_s, 2 * 2048) << program->Out();
        json_decref(json);
    }
}

/* Of memory that a process writes, whose process dies in the middle: nothing goes on here. */
TEST_F(Move, AProcessThatDiesInTheMiddleIsNotSaidToGoOn)
{
    haul_test::SharedObject object(4 << 20);
    haul_test::leave_no_page_zero(object);
    haul_test::Child writer(haul_test::writer_of(object));
    auto receive = Receive({"--memory", std::string(object.path()) + ".copy", "--memory-size", "4M"});
    auto send =
        Send({"--memory", object.path(), "--pid", std::to_string(writer.pid()), "--max-bandwidth", "1M"});
    ASSERT_TRUE(send->WaitFor("left ")) << send->Err();
    std::string pid = std::to_string(writer.pid());
    writer.end();
    EXPECT_EQ(send->Wait(), 3) << send->Err();
    EXPECT_TRUE(Has(send->Out(), "Not moved (failed): the process of the memory has ended here."))
        << send->Out();
    EXPECT_TRUE(Has(send->Err(), "the guest does not run at the source: process " + pid + " is gone"))
        << send->Err();
    EXPECT_EQ(receive->Wait(), 1) << receive->Err();
    EXPECT_EQ(Files(source_.state_directory), 0u) << "there is nothing to decide";
}

TEST_F(Move, MemoryAtRestArrivesByteForByte)
{
    std::string from = "/dev/shm/haul-cli-from-" + std::to_string(getpid());
    std::string to = "/dev/shm/haul-cli-to-" + std::to_string(getpid());
    std::string content(4 << 20, '\0');
    for (size_t i = 0; i < content.size(); i++) {
        content[i] = i / 4096 % 3 ? static_cast<char>(i * 2654435761u >> 13) : '\0';
    }
    std::ofstream(from, std::ios::binary) << content;
    auto receive = Receive({"--memory", to, "--memory-size", "4M"});
    auto send = Send({"--memory", from, "--verify"});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    EXPECT_TRUE(Has(send->Out(), "Moved: the memory is now at")) << send->Out();
    std::ifstream file(to, std::ios::binary);
    std::string arrived((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    EXPECT_TRUE(arrived == content);
    unlink(from.c_str());
    unlink(to.c_str());
}

TEST_F(Move, TwoMovesAtOnceDoNotMeet)
{
    auto first = Receive(Guest({}));
    std::string first_address = address_;
    auto second = Receive(Guest({}));
    EXPECT_NE(first_address, address_);
    auto second_send = SendGuest({"--guest-seed", "2"});
    address_ = first_address;
    auto first_send = SendGuest({"--guest-seed", "3"});
    for (auto *program : {first.get(), second.get(), first_send.get(), second_send.get()}) {
        EXPECT_EQ(program->Wait(), 0) << program->Err();
    }
}

/* ---- progress ---- */

TEST_F(Move, ProgressIsLinesOutsideATerminalAndNothingWhenQuiet)
{
    auto receive = Receive(Guest({"--quiet"}));
    // A line a second: round 1 lasts for some seconds.
    auto send = SendGuest({"--max-bandwidth", "4M", "--downtime-limit", "3000"});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    EXPECT_TRUE(Has(send->Err(), "round 1")) << send->Err();
    EXPECT_FALSE(Has(send->Err(), "\r")) << send->Err();
    EXPECT_EQ(receive->Err(), "listening on " + address_ + "\n");
    EXPECT_TRUE(Has(receive->Out(), "Received: ")) << "the report remains";
}

TEST_F(Move, ProgressOnATerminalIsOneLineWithinItsWidth)
{
    int terminal, program_end;
    struct winsize window = {24, 60, 0, 0};
    ASSERT_EQ(openpty(&terminal, &program_end, nullptr, nullptr, &window), 0);
    fcntl(terminal, F_SETFD, FD_CLOEXEC);
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    auto receive = Receive(Guest({}));
    source_.error_fd = program_end;
    auto send = SendGuest({"--max-bandwidth", "8M", "--guest-dirty-rate", "1M"}); // advice would be longer
    std::string text;
    auto drain = [&] {
        char buffer[4096];
        for (ssize_t length; (length = read(terminal, buffer, sizeof buffer)) > 0;) {
            text.append(buffer, static_cast<size_t>(length));
        }
    };
    while (!send->Ended()) {
        drain();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    drain();
    close(program_end);
    close(terminal);
    EXPECT_EQ(send->Wait(), 0) << text;
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    EXPECT_TRUE(Has(text, "%  ")) << text;
    size_t redrawn = 0;
    for (size_t at = 0, next; (next = text.find('\r', at)) != std::string::npos; at = next + 1) {
        EXPECT_LT(next - at, 60u + 4) << text.substr(at, next - at);
        redrawn++;
    }
    EXPECT_GE(redrawn, 3u) << text;
}

/* ---- cancelling ---- */

TEST_F(Move, InterruptAtTheSourceLeavesItsGuestRunning)
{
    for (int number : {SIGINT, SIGTERM, SIGHUP}) {
        auto receive = Receive(Guest({}));
        auto send = SendSlowly();
        send->Signal(number);
        ExpectGoesOnAtSource(*send);
        EXPECT_TRUE(Has(send->Err(), "cancelling; the guest goes on here")) << send->Err();
        EXPECT_TRUE(Has(send->Out(), "Not moved (cancelled)")) << send->Out();
        EXPECT_EQ(receive->Wait(), 1);
        EXPECT_TRUE(Has(receive->Out(), "the guest stays with the source")) << receive->Out();
    }
    EXPECT_EQ(Files(source_.state_directory), 0u);
    EXPECT_EQ(Files(destination_.state_directory), 0u);
}

TEST_F(Move, InterruptAtTheDestinationLeavesTheSourcesGuestRunning)
{
    auto receive = Receive(Guest({}));
    auto send = SendSlowly();
    receive->Signal(SIGINT);
    EXPECT_EQ(receive->Wait(), 1);
    EXPECT_TRUE(Has(receive->Err(), "cancelling; the guest stays with the source")) << receive->Err();
    ExpectGoesOnAtSource(*send);
}

TEST_F(Move, InterruptWhileWaitingForASourceEndsAtOnce)
{
    auto receive = Receive(Guest({}));
    receive->Signal(SIGTERM);
    EXPECT_EQ(receive->Wait(10), 1) << receive->Err();
    EXPECT_TRUE(Has(receive->Out(), "Not received (cancelled)")) << receive->Out();
}

TEST_F(Move, InterruptWhileTheGuestIsFilledEndsAtOnce)
{
    address_ = "tcp:127.0.0.1:1"; // nobody is there, once it is filled
    auto send = SendGuest({"--guest-memory", "8G"});
    ASSERT_TRUE(send->WaitFor("filling the guest's memory")) << send->Err();
    send->Signal(SIGINT);
    EXPECT_EQ(send->Wait(), 1) << send->Err();
    EXPECT_TRUE(Has(send->Err(), "haul: cancelled before the guest ran")) << send->Err();
    EXPECT_TRUE(Has(send->Out(), "Not moved (cancelled): nothing was begun.")) << send->Out();
}

/* ---- breaking ---- */

TEST_F(Move, KilledDestinationLeavesTheSourcesGuestRunning)
{
    auto receive = Receive(Guest({}));
    auto send = SendSlowly();
    receive->Signal(SIGKILL);
    ExpectGoesOnAtSource(*send);
    EXPECT_TRUE(Has(send->Out(), "Not moved (failed)")) << send->Out();
    EXPECT_TRUE(Has(send->Err(), "haul: ")) << send->Err();
}

TEST_F(Move, KilledSourceEndsTheDestination)
{
    auto receive = Receive(Guest({}));
    auto send = SendSlowly();
    send->Signal(SIGKILL);
    EXPECT_EQ(receive->Wait(), 1);
    EXPECT_TRUE(Has(receive->Out(), "Not received (failed)")) << receive->Out();
}

TEST_F(Move, ARecordThatCannotBeWrittenStopsTheMoveBeforeTheHandover)
{
    auto receive = Receive(Guest({}));
    // Once a second it says how far it is: round 1 must last for some seconds more.
    auto send = SendGuest({"--max-bandwidth", "2M", "--guest-dirty-rate", "256K"});
    ASSERT_TRUE(send->WaitFor("round 1")) << send->Err();
    ASSERT_EQ(rmdir(source_.state_directory.c_str()), 0) << strerror(errno);
    ExpectGoesOnAtSource(*send);
    EXPECT_TRUE(Has(send->Err(), "no handover: the move's record")) << send->Err();
    EXPECT_EQ(receive->Wait(), 1);
}

} // namespace
