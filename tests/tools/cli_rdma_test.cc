/* SPDX-License-Identifier: Apache-2.0 */
/* Moves of the reference guest over rdma by the real program, with libfabric's tcp provider.
 * (tests/machines/transport_state_test.cc kills either side in each state.) */
#include "tests/tools/loopback.h"
#include "tests/tools/outcome.h"

#include <jansson.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace
{

using Clock = std::chrono::steady_clock;
const char *const kProvider = "tcp;ofi_rxm";

class Rdma : public Move
{
  protected:
    std::unique_ptr<Program> ReceiveRdma(const Words &more, const char *provider = kProvider)
    {
        Words words = {"receive",         "--listen", "rdma:127.0.0.1:0", "--timeout", "10",
                       "--rdma-provider", provider};
        for (const auto &word : Guest(more)) {
            words.push_back(word);
        }
        auto program = std::make_unique<Program>(destination_, words);
        address_ = program->Address();
        EXPECT_EQ(address_.rfind("rdma:127.0.0.1:", 0), 0u) << program->Err();
        return program;
    }
};

TEST_F(Rdma, GuestMovesAndBothSidesSayHow)
{
    auto receive = ReceiveRdma({});
    auto send = SendGuest({"--channels", "4", "--verify"});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    EXPECT_TRUE(Has(send->Out(), "Moved: the guest is now at " + address_)) << send->Out();
    EXPECT_TRUE(Has(receive->Out(), "self-check passed")) << receive->Out();
    EXPECT_TRUE(Has(receive->Err(), "rdma: provider tcp;ofi_rxm, 16 MiB registered in 1 region"))
        << receive->Err();
    EXPECT_TRUE(Has(receive->Out(), "tcp;ofi_rxm, 16.0 MiB registered in 1 region")) << receive->Out();
    EXPECT_TRUE(Has(send->Err(), "rdma: provider tcp;ofi_rxm")) << send->Err();
}

/* Pages of a disk go through the channels' sockets: it is not registered. */
TEST_F(Rdma, JsonHasProviderAndRegistrationOfMemoryAlone)
{
    std::string folder = MakeDirectory();
    auto receive = ReceiveRdma({"--json", "--disk", folder + "/there,size=4M"});
    auto send = SendGuest({"--json", "--disk", folder + "/here,size=4M", "--verify"});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    json_t *json = json_loads(receive->Out().c_str(), 0, nullptr);
    ASSERT_NE(json, nullptr) << receive->Out();
    const char *provider = "";
    json_int_t bytes = 0, regions = 0;
    EXPECT_EQ(json_unpack(json, "{s:{s:s s:I s:I}}", "rdma", "provider", &provider, "registered-bytes",
                          &bytes, "regions", &regions),
              0);
    EXPECT_STREQ(provider, kProvider);
    EXPECT_EQ(bytes, 16 << 20);
    EXPECT_EQ(regions, 1);
    json_decref(json);
    ExpectChannels(*send, 2, 8 << 20, 2);
    ExpectChannels(*receive, 2, 8 << 20, 2);
}

TEST_F(Rdma, NobodyThereSaysSo)
{
    address_ = "rdma:127.0.0.1:1";
    auto send = SendGuest({"--rdma-provider", kProvider});
    ExpectGoesOnAtSource(*send);
    EXPECT_TRUE(
        Has(send->Err(),
            "haul: connecting to rdma:127.0.0.1:1: connection refused; start `haul receive` there first\n"))
        << send->Err();
}

TEST_F(Rdma, SilentDestinationLeavesTheGuestAtTheSource)
{
    auto receive = ReceiveRdma({});
    Words words = Guest({"--guest-tracker", "bitmap", "--guest-dirty-rate", "40M", "--max-bandwidth", "1M"});
    words.insert(words.begin(), {"send", address_, "--timeout", "3"});
    Program send(source_, words);
    ASSERT_TRUE(send.WaitFor("round 1")) << send.Err();
    auto begun = Clock::now();
    receive->Signal(SIGSTOP);
    ExpectGoesOnAtSource(send);
    EXPECT_LT(Clock::now() - begun, std::chrono::seconds(45));
    receive->Signal(SIGCONT);
}

TEST_F(Rdma, InterruptedSourceGoesOn)
{
    auto receive = ReceiveRdma({});
    auto send = SendSlowly();
    send->Signal(SIGINT);
    EXPECT_EQ(send->Wait(), 1) << send->Err();
    EXPECT_TRUE(Has(send->Out(), "the guest goes on here")) << send->Out();
    EXPECT_EQ(receive->Wait(), 1) << receive->Err();
}

/* Without libfabric everything but rdma: works. */
TEST_F(Rdma, LibfabricIsOnlyNeededForRdma)
{
    std::string folder = MakeDirectory();
    std::ofstream(folder + "/libfabric.so.1") << "no library";
    const std::string why = "rdma: libfabric cannot be loaded (Debian package libfabric1): ";
    auto sound = ReceiveRdma({});
    ASSERT_EQ(setenv("LD_LIBRARY_PATH", folder.c_str(), 1), 0);
    {
        Words words = Guest({});
        words.insert(words.begin(), {"receive", "--listen", "rdma:127.0.0.1:0", "--timeout", "10"});
        Program receive(destination_, words);
        EXPECT_EQ(receive.Wait(), 1) << "it knows before anybody connects";
        EXPECT_TRUE(Has(receive.Err(), why)) << receive.Err();
        auto send = SendGuest({}); /* to the one that is sound */
        ExpectGoesOnAtSource(*send);
        EXPECT_TRUE(Has(send->Err(), why)) << send->Err();
        EXPECT_EQ(sound->Wait(), 1) << sound->Err();
    }
    auto receive = Receive(Guest({}));
    auto send = SendGuest({});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    ASSERT_EQ(unsetenv("LD_LIBRARY_PATH"), 0);
}

TEST_F(Rdma, LockLimitIsNamedBeforeTheGuestIsTouched)
{
    /* For what this process starts from here on: no capability to lock memory, and 1 MiB that it may lock. */
    struct rlimit limit = {1 << 20, 1 << 20};
    ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    const int ipc_lock = 14;
    if (geteuid() == 0 && prctl(PR_CAPBSET_DROP, ipc_lock, 0, 0, 0) != 0) {
        GTEST_SKIP() << "root cannot give up CAP_IPC_LOCK here";
    }
    /* haul does not know this provider to lock nothing. */
    auto receive = ReceiveRdma({}, "net");
    auto send = SendGuest({});
    EXPECT_EQ(receive->Wait(), 1) << receive->Err();
    ExpectGoesOnAtSource(*send);
    for (Program *program : {send.get(), receive.get()}) {
        std::string all = program->Out() + program->Err();
        EXPECT_TRUE(Has(all, "RLIMIT_MEMLOCK allows 1024 KiB")) << all;
        EXPECT_TRUE(Has(all, "16388 KiB")) << all;
    }
    EXPECT_FALSE(Has(send->Err(), "round 1")) << send->Err();
}

} // namespace
