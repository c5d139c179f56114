// SPDX-License-Identifier: Apache-2.0
// Rule R4 in mode cpr-transfer: a source that lies about the memory that it hands over. The destination never
// adopts what it should not, never starts the guest, and keeps no descriptor.
#include "tests/engine/frame_peer.h"
#include "tests/engine/hostile/hostile.h"
#include "tests/engine/move.h"
#include "tests/engine/resources.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>

using namespace haul_test;

namespace
{

constexpr size_t kBytes = 16 * kPage;

class HostileCpr : public testing::Test
{
  protected:
    HostileCpr() : before(Resources::Now()), to({kBytes, kBytes}, false)
    {
        haul_options options = Options();
        options.timeout_s = 4;
        options.mode = "cpr-transfer";
        haul_error ignored{};
        EXPECT_EQ(haul_destination_new(&options, &destination, &ignored), 0);
        to.Attach(destination, false);
        EXPECT_EQ(haul_start(destination, UnixUri().c_str(), &ignored), 0) << ignored.message;
        control.Take(ConnectTo(haul_local_uri(destination)));
    }
    ~HostileCpr() override
    {
        haul_free(destination);
        control.Close();
    }

    int SendHello(uint16_t channels, uint32_t capabilities)
    {
        haul_hello hello{};
        hello.version = HAUL_WIRE_VERSION;
        hello.capabilities = capabilities;
        hello.channel = HAUL_CONTROL_CHANNEL;
        hello.channels = channels;
        hello.page_size = 4096;
        Payload payload(256);
        payload.resize(haul_hello_encode(&hello, payload.data(), payload.size()));
        return control.Send(HAUL_FRAME_HELLO, payload);
    }
    void Expect(haul_frame_type type)
    {
        Frame frame;
        ASSERT_EQ(control.ReceiveReal(&frame), 0) << haul_frame_name(type) << " never came";
        EXPECT_STREQ(haul_frame_name(frame.type), haul_frame_name(type));
    }
    // Up to where the memory is due.
    void Begin()
    {
        EXPECT_EQ(SendHello(0, HAUL_CAPABILITY_CPR_TRANSFER), 0);
        Expect(HAUL_FRAME_WELCOME);
        Payload blocks;
        Append(&blocks, 2, 4);
        for (const char *name : {"block0", "block1"}) {
            AppendText(&blocks, name);
            Append(&blocks, kBytes, 8);
            Append(&blocks, kPage, 4);
        }
        EXPECT_EQ(control.Send(HAUL_FRAME_BLOCKS, blocks), 0);
        Expect(HAUL_FRAME_BLOCKS_OK);
    }
    static Payload MemoryPayload(uint32_t block, uint64_t offset)
    {
        Payload payload;
        Append(&payload, block, 4);
        Append(&payload, offset, 8);
        return payload;
    }
    int SendWith(haul_frame_type type, const Payload &payload, int fd)
    {
        return haul_frame_send_fd(control.fd(), type, payload.data(), payload.size(), fd, nullptr);
    }
    int SendMemory(uint32_t block, int fd, uint64_t offset = 0)
    {
        return SendWith(HAUL_FRAME_MEMORY, MemoryPayload(block, offset), fd);
    }
    void ExpectFailure(int code, const char *text, unsigned adopts = 0)
    {
        haul_error error{};
        EXPECT_EQ(haul_wait(destination, &error), -code) << error.message;
        EXPECT_NE(std::string(error.message).find(text), std::string::npos) << error.message;
        EXPECT_EQ(to.starts, 0u);
        EXPECT_EQ(to.adopts, adopts);
        EXPECT_EQ(to.disowns, adopts > 0 ? 1u : 0u);
    }

    Resources before;
    Guest to;
    haul_migration *destination = nullptr;
    FramePeer control;
    Memory first{kBytes}, second{kBytes};
};

TEST_F(HostileCpr, ThisSourceIsAValidOneWhenItWantsTo)
{
    Begin();
    EXPECT_EQ(SendMemory(0, first.fd()), 0);
    EXPECT_EQ(SendMemory(1, second.fd()), 0);
    Expect(HAUL_FRAME_MEMORY_OK);
    Payload begin, end;
    Append(&begin, 0, 4);
    AppendText(&begin, "counter");
    Append(&end, 8, 8);
    control.Send(HAUL_FRAME_STATE_BEGIN, begin);
    control.Send(HAUL_FRAME_STATE, Payload(8));
    control.Send(HAUL_FRAME_STATE_END, end);
    control.Send(HAUL_FRAME_PREPARE);
    Expect(HAUL_FRAME_PREPARED);
    EXPECT_EQ(to.starts, 0u);
    control.Send(HAUL_FRAME_HANDOVER);
    Expect(HAUL_FRAME_RUNNING);
    haul_error error{};
    EXPECT_EQ(haul_wait(destination, &error), 0) << error.message;
    EXPECT_EQ(to.starts, 1u);
}

TEST_F(HostileCpr, MemoryWithoutADescriptor)
{
    Begin();
    control.Send(HAUL_FRAME_MEMORY, MemoryPayload(0, 0));
    ExpectFailure(EPROTO, "MEMORY came without its descriptor");
}

TEST_F(HostileCpr, ADescriptorBesideAnotherFrame)
{
    Begin();
    SendWith(HAUL_FRAME_PING, Payload(8), first.fd());
    ExpectFailure(EPROTO, "a descriptor came with PING");
}

TEST_F(HostileCpr, MemoryOutOfOrder)
{
    Begin();
    SendMemory(1, first.fd());
    ExpectFailure(EPROTO, "not that of block 0, which is due");
}

TEST_F(HostileCpr, MemoryOfNoBlock)
{
    Begin();
    SendMemory(0, first.fd());
    SendMemory(0xffffffff, second.fd());
    ExpectFailure(EPROTO, "not that of block 1, which is due", 1);
}

TEST_F(HostileCpr, MalformedMemory)
{
    Begin();
    SendWith(HAUL_FRAME_MEMORY, Payload(11), first.fd());
    ExpectFailure(EPROTO, "MEMORY is malformed");
}

TEST_F(HostileCpr, MemoryThatIsTooSmall)
{
    Begin();
    Memory small(kBytes - kPage);
    SendMemory(0, small.fd());
    ExpectFailure(EINVAL, "its file has 61440 in all");
}

TEST_F(HostileCpr, MemoryAtAnOffsetBeyondItsEnd)
{
    Begin();
    SendMemory(0, first.fd(), UINT64_MAX - kPage + 1);
    ExpectFailure(EINVAL, "RAM block block0 needs 65536 bytes from offset");
}

TEST_F(HostileCpr, MemoryThatIsAFolder)
{
    Begin();
    int fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SendMemory(0, fd);
    close(fd);
    ExpectFailure(EINVAL, "is not in a file");
}

TEST_F(HostileCpr, MemoryThatCannotBeWritten)
{
    Begin();
    int fd = open(("/proc/self/fd/" + std::to_string(first.fd())).c_str(), O_RDONLY | O_CLOEXEC);
    SendMemory(0, fd);
    close(fd);
    ExpectFailure(EINVAL, "its file is not open for writing");
}

TEST_F(HostileCpr, MemoryAgainAfterTheLast)
{
    Begin();
    SendMemory(0, first.fd());
    SendMemory(1, second.fd());
    SendMemory(1, second.fd());
    ExpectFailure(EPROTO, "an unexpected MEMORY came", 2);
}

TEST_F(HostileCpr, StateBeforeTheMemory)
{
    Begin();
    Payload begin;
    Append(&begin, 0, 4);
    AppendText(&begin, "counter");
    control.Send(HAUL_FRAME_STATE_BEGIN, begin);
    ExpectFailure(EPROTO, "STATE_BEGIN came where MEMORY was due");
}

TEST_F(HostileCpr, StateThatWaitsForARound)
{
    Begin();
    SendMemory(0, first.fd());
    SendMemory(1, second.fd());
    Expect(HAUL_FRAME_MEMORY_OK);
    Payload begin;
    Append(&begin, 1, 4);
    AppendText(&begin, "counter");
    control.Send(HAUL_FRAME_STATE_BEGIN, begin);
    ExpectFailure(EPROTO, "waits for round 1 of memory that is not sent", 2);
}

TEST_F(HostileCpr, VerifyWhereNothingIsToCompare)
{
    Begin();
    SendMemory(0, first.fd());
    SendMemory(1, second.fd());
    Expect(HAUL_FRAME_MEMORY_OK);
    control.Send(HAUL_FRAME_VERIFY);
    ExpectFailure(EPROTO, "VERIFY came where there is nothing to compare", 2);
}

TEST_F(HostileCpr, SilenceInThePlaceOfMemory)
{
    Begin();
    ExpectFailure(ETIMEDOUT, "no answer within 4000 ms");
}

TEST_F(HostileCpr, ChannelsWhereNoneAreDue)
{
    EXPECT_EQ(SendHello(2, HAUL_CAPABILITY_CPR_TRANSFER), 0);
    Expect(HAUL_FRAME_FAILED);
    control.Take(ConnectTo(haul_local_uri(destination)));
    EXPECT_EQ(SendHello(0, 0), 0);
    Expect(HAUL_FRAME_FAILED);
    EXPECT_EQ(haul_get_state(destination), HAUL_STATE_SETUP) << "it waits for a better one";
}

// Nothing that was sent stays open here.
TEST_F(HostileCpr, NoDescriptorIsKept)
{
    Resources ready = Resources::Now();
    Begin();
    for (int i = 0; i < 30; i++) {
        SendMemory(0, first.fd());
    }
    haul_error error{};
    EXPECT_LT(haul_wait(destination, &error), 0);
    haul_free(destination);
    destination = nullptr;
    ExpectNoMoreThan(ready);
}

} // namespace
