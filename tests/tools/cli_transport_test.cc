/* SPDX-License-Identifier: Apache-2.0 */
/* Moves of the reference guest over every transport but tcp, and what each says when its peer is not there.
 * Cancel and peer death in each state: tests/machines/transport_state_test.cc. */
#include "tests/tools/outcome.h"
#include "tests/tools/transport_move.h"
#include "tests/waiting.h"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace
{

class CliTransport : public TransportMove
{
  protected:
    static void ExpectMoved(Program &send, Program &receive)
    {
        EXPECT_EQ(send.Wait(), 0) << send.Err();
        EXPECT_EQ(receive.Wait(), 0) << receive.Err();
        EXPECT_TRUE(Has(send.Out(), "Moved: the guest is now at")) << send.Out();
        EXPECT_TRUE(Has(receive.Out(), "self-check passed")) << receive.Out() << receive.Err();
    }
    static void ExpectFailed(Program &send, const std::string &text)
    {
        EXPECT_EQ(send.Wait(), 1) << send.Err();
        EXPECT_TRUE(Has(send.Err(), text)) << send.Err();
        EXPECT_TRUE(Has(send.Out(), "the guest goes on here")) << send.Out();
    }
};

/* ---- unix ---- */

TEST_F(CliTransport, UnixMoves)
{
    auto receive = ReceiveAt("unix:" + Path());
    auto send = SendTo("unix:" + Path(), {"--channels", "4", "--verify"});
    ExpectMoved(*send, *receive);
}

TEST_F(CliTransport, APathOfAnyBytesMoves)
{
    std::string folder = folder_ + "/caf\xe9"; /* not UTF-8 */
    ASSERT_EQ(mkdir(folder.c_str(), 0700), 0);
    auto receive = ReceiveAt("unix:" + folder + "/s");
    auto send = SendTo("unix:" + folder + "/s", {"--json"});
    EXPECT_EQ(send->Wait(), 0) << send->Err();
    EXPECT_TRUE(Has(send->Out(), R"("ownership": "destination")")) << send->Out();
    EXPECT_EQ(receive->Wait(), 0) << receive->Err();
    EXPECT_EQ(rmdir(folder.c_str()), 0);
}

/* What a receiver says, with a list of addresses of its own, is what its sender is to be given. */
TEST_F(CliTransport, ALongAddressIsSaidInFull)
{
    std::string list = "tcp:127.0.0.1:0";
    for (int i = 1; i < 16; i++) {
        list += ",127.000.000.001:0";
    }
    auto receive = ReceiveAt(list);
    EXPECT_EQ(std::count(address_.begin(), address_.end(), ','), 15) << address_;
    EXPECT_GT(address_.size(), 300u);
    auto send = SendTo(address_);
    ExpectMoved(*send, *receive);
    EXPECT_TRUE(Has(send->Out(), "Moved: the guest is now at " + address_ + ".")) << send->Out();
}

TEST_F(CliTransport, UnixCancelRemovesItsPath)
{
    auto receive = ReceiveAt("unix:" + Path());
    receive->Signal(SIGINT);
    EXPECT_EQ(receive->Wait(), 1);
}

/* ---- exec ---- */

TEST_F(CliTransport, ExecAtTheSourceMoves)
{
    auto receive = ReceiveAt("unix:" + Path());
    auto send = SendTo(ExecRelay(), {"--channels", "4", "--verify"});
    ExpectMoved(*send, *receive);
}

/* A command on both sides, joined by named pipes, one pair for each connection. */
TEST_F(CliTransport, ExecOnBothSidesMoves)
{
    for (const char *channel : {"control", "0", "1"}) {
        for (const char *way : {"there", "back"}) {
            ASSERT_EQ(mkfifo((folder_ + "/" + channel + "." + way).c_str(), 0600), 0);
        }
    }
    /* A fifo opens when both ends are there, so each side opens them in the same order. */
    auto receive = ReceiveAt("exec:exec 3<" + folder_ + "/$HAUL_CHANNEL.there 4>" + folder_ +
                             "/$HAUL_CHANNEL.back; cat <&3 & cat >&4");
    auto send = SendTo("exec:exec 3>" + folder_ + "/$HAUL_CHANNEL.there 4<" + folder_ +
                       "/$HAUL_CHANNEL.back; cat <&4 & cat >&3");
    ExpectMoved(*send, *receive);
    EXPECT_EQ(system(("rm " + folder_ + "/*").c_str()), 0);
}

TEST_F(CliTransport, ExecThatEndsSaysHow)
{
    auto status = SendTo("exec:echo no such thing >&2; exit 3");
    ExpectFailed(*status, "the command of the control connection exited with status 3: handshake with exec:");
    EXPECT_TRUE(Has(status->Err(), "no such thing")) << status->Err();
    auto signal = SendTo("exec:kill -9 $$");
    ExpectFailed(*signal, "the command of the control connection was ended by signal 9 (Killed): ");
    auto missing = SendTo("exec:/no/such/program");
    ExpectFailed(*missing, "exited with status 127 (not found?)");
    Program receive(destination_, {"receive", "--listen", "exec:exit 4", "--guest", "--guest-vcpu", "thread",
                                   "--guest-memory", "16M"});
    EXPECT_EQ(receive.Wait(), 1);
    EXPECT_TRUE(Has(receive.Err(), "the command of the control connection exited with status 4"))
        << receive.Err();
}

TEST_F(CliTransport, ExecThatSaysNonsenseIsNotStartedAgain)
{
    Program receive(destination_, {"receive", "--listen", "exec:echo 0123456789abcdef0123456789abcdef",
                                   "--guest", "--guest-vcpu", "thread", "--guest-memory", "16M"});
    EXPECT_EQ(receive.Wait(), 1);
    EXPECT_TRUE(Has(receive.Err(), "its control connection does not lead to a haul send that fits"))
        << receive.Err();
}

TEST_F(CliTransport, ExecChildrenEndWithTheMove)
{
    std::string mark = "sleep 98" + std::to_string(getpid() % 10000);
    auto hanging = SendTo("exec:" + mark + " | cat", {"--timeout", "1"});
    ExpectFailed(*hanging, "no answer within 1000 ms; does a `haul receive` listen there?");
    std::string pgrep = "pgrep -f '^" + mark + "' >/dev/null";
    EXPECT_TRUE(haul_test::Eventually([&] { return system(pgrep.c_str()) != 0; })) << "a child is left";
}

/* ---- descriptors ---- */

TEST_F(CliTransport, SocketsAndPipesByNumberMove)
{
    for (auto kind : {Descriptors::kSockets, Descriptors::kPipes}) {
        Descriptors between(kind, 3);
        std::unique_ptr<Program> send, receive;
        MoveThrough(between, &send, &receive);
        ExpectMoved(*send, *receive);
    }
}

TEST_F(CliTransport, TooFewDescriptorsSaySo)
{
    Descriptors between(Descriptors::kSockets, 2);
    std::unique_ptr<Program> send, receive;
    MoveThrough(between, &send, &receive);
    ExpectFailed(*send, "channel 1 has no descriptor: 2 are given; needed are 1 + the number of channels, "
                        "and one for each drive");
    EXPECT_EQ(receive->Wait(), 1);
}

/* Without the redirections of a shell these numbers are haul's own files and sockets. */
TEST_F(CliTransport, DescriptorsOfHaulItselfAreNotTaken)
{
    std::vector<std::unique_ptr<Program>> sends;
    for (int number = 3; number < 9; number++) {
        sends.push_back(SendTo("fd:" + std::to_string(number)));
    }
    for (int number = 3; number < 9; number++) {
        ExpectFailed(*sends[number - 3], "this process was given no open descriptor " +
                                             std::to_string(number) + "; hand it over");
    }
}

TEST_F(CliTransport, DescriptorsThatAreNoConnectionSaySo)
{
    ExpectFailed(*SendTo("fd:90,91,92"), "this process was given no open descriptor 90");
    ExpectFailed(*SendTo("fd:0,91,92"), "is not a socket, and goes one way only");
    ExpectFailed(*SendTo("fd:control,one,two"), "no descriptor was handed over with the name control");
    int lonely = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    source_.keep = {lonely};
    ExpectFailed(*SendTo("fd:" + std::to_string(lonely)), "a socket in it is not connected");
    close(lonely);
    int packets[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, packets), 0);
    source_.keep = {packets[0]};
    ExpectFailed(*SendTo("fd:" + std::to_string(packets[0])), "a socket in it is not a stream socket");
    close(packets[0]);
    close(packets[1]);
}

/* The other program has ended before this one begins. */
TEST_F(CliTransport, DescriptorsWhoseFarEndIsClosedSaySo)
{
    for (auto kind : {Descriptors::kSockets, Descriptors::kPipes}) {
        Descriptors between(kind, 3);
        between.CloseDestination();
        source_.keep = between.Source();
        ExpectFailed(*SendTo(between.SourceUri()),
                     "haul: handshake with " + between.SourceUri() +
                         ": receiving a frame: the peer closed the connection; it may say why\n");
    }
}

/* ---- counters ---- */

/* Each channel has its own, whatever its connection is made of. */
TEST_F(CliTransport, JsonHasTheCountersOfEveryChannel)
{
    const Words json = {"--json"}, three = {"--json", "--channels", "3"};
    auto expect = [](Program &send, Program &receive) {
        EXPECT_EQ(send.Wait(), 0) << send.Err();
        EXPECT_EQ(receive.Wait(), 0) << receive.Err();
        ExpectChannels(send, 3, 8 << 20, 3);
        ExpectChannels(receive, 3, 8 << 20, 3);
    };
    for (const std::string &uri : {"unix:" + Path(), ExecRelay()}) {
        auto receive = ReceiveAt("unix:" + Path(), json);
        expect(*SendTo(uri, three), *receive);
    }
    for (auto kind : {Descriptors::kSockets, Descriptors::kPipes}) {
        Descriptors between(kind, 4);
        std::unique_ptr<Program> send, receive;
        MoveThrough(between, &send, &receive, json, three);
        expect(*send, *receive);
    }
}

/* ---- URIs ---- */

TEST_F(CliTransport, BadAddressesAreUsageErrors)
{
    const std::pair<const char *, const char *> cases[] = {
        {"exec:", "use exec:COMMAND"},
        {"exec:  ", "use exec:COMMAND"},
        {"fd:", "use fd:CONTROL,CHANNEL..."},
        {"fd:3,,4", "use fd:CONTROL,CHANNEL..."},
        {"fd:3/4/5", "use fd:CONTROL,CHANNEL..."},
        {"fd:-1", "use fd:CONTROL,CHANNEL..."},
        {"fd:3x", "use fd:CONTROL,CHANNEL..."},
        {"fd:99999999", "use fd:CONTROL,CHANNEL..."},
        {"ssh:", "use ssh:[USER@]HOST[:PORT]"},
        {"ssh:-oProxyCommand=x", "use ssh:[USER@]HOST[:PORT]"},
        {"ssh:a b", "use ssh:[USER@]HOST[:PORT]"},
        {"ssh:host;x", "use ssh:[USER@]HOST[:PORT]"},
        {"ssh:'@host", "use ssh:[USER@]HOST[:PORT]"},
        {"ssh:host:0", "use ssh:[USER@]HOST[:PORT]"},
        {"ssh:[::1", "use ssh:[USER@]HOST[:PORT]"},
        {"stdio:/x", "one cannot connect to stdio:"},
        {"gopher:x", "is not an address: use tcp:HOST:PORT[,HOST:PORT...], unix:PATH, ssh:"},
        {"gopher:x", "; file:PATH saves into a file"},
    };
    for (const auto &[uri, text] : cases) {
        Program send(source_, {"send", uri, "--guest"});
        EXPECT_EQ(send.Wait(), 2) << uri;
        EXPECT_TRUE(Has(send.Err(), text)) << send.Err();
    }
    Program receive(destination_, {"receive", "--listen", "ssh:host", "--guest"});
    EXPECT_EQ(receive.Wait(), 2);
    EXPECT_TRUE(Has(receive.Err(), "one cannot wait at ssh:")) << receive.Err();
    Program relay(source_, {"relay", "unix:" + Path()});
    EXPECT_EQ(relay.Wait(), 1);
    EXPECT_TRUE(Has(relay.Err(), "no such path; start `haul receive` there first")) << relay.Err();
}

} // namespace
