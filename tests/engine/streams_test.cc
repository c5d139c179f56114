// SPDX-License-Identifier: Apache-2.0
// Side streams, and the guest's word on when it may be stopped.
#include "tests/engine/frame_peer.h"
#include "tests/engine/move.h"
#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

using namespace haul_test;

namespace
{

constexpr size_t kMiB = 1 << 20;

struct Pair {
    Pair()
    {
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    }
    int fds[2];
};

void WriteAll(int fd, const std::string &bytes)
{
    for (size_t done = 0; done < bytes.size();) {
        ssize_t count = send(fd, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
        ASSERT_GT(count, 0);
        done += static_cast<size_t>(count);
    }
}

std::string ReadAll(int fd, size_t length)
{
    std::string bytes(length, 0);
    size_t done = 0;
    while (done < length) {
        ssize_t count = recv(fd, &bytes[done], length - done, 0);
        if (count <= 0) {
            break;
        }
        done += static_cast<size_t>(count);
    }
    bytes.resize(done);
    return bytes;
}

// A destination's machine that sends back what comes on any stream.
class Echo
{
  public:
    explicit Echo(Guest &guest)
    {
        guest.on_streams = [this](const haul_stream *streams, unsigned count, int *fds, haul_error *) {
            for (unsigned i = 0; i < count; i++) {
                Pair pair;
                fds[i] = pair.fds[0];
                names.push_back(streams[i].name);
                descriptions.push_back(streams[i].description);
                threads_.emplace_back([fd = pair.fds[1]] {
                    char bytes[65536];
                    for (ssize_t got; (got = recv(fd, bytes, sizeof bytes, 0)) > 0;) {
                        if (send(fd, bytes, static_cast<size_t>(got), MSG_NOSIGNAL) != got) {
                            break;
                        }
                    }
                    close(fd);
                });
            }
            return 0;
        };
    }
    ~Echo()
    {
        for (auto &thread : threads_) {
            thread.join();
        }
    }
    std::vector<std::string> names, descriptions;

  private:
    std::vector<std::thread> threads_;
};

TEST(Streams, CarryBytesBothWays)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    Echo echo(to);
    {
        Pair first;
        int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        socklen_t length = sizeof(sa_family_t); // a name that the kernel chooses
        ASSERT_EQ(bind(listening, reinterpret_cast<sockaddr *>(&address), length), 0);
        length = sizeof address;
        ASSERT_EQ(getsockname(listening, reinterpret_cast<sockaddr *>(&address), &length), 0);
        ASSERT_EQ(listen(listening, 1), 0);
        from.side_streams = {{"disk0", first.fds[0]}, {"disk1", listening}};
        std::string sent(3 * kMiB, 'x'), first_back, second_back;
        sent[kMiB] = 'y';
        from.on_ready = [&](haul_error *) {
            if (!first_back.empty()) {
                return 1;
            }
            std::thread writer([&] { WriteAll(first.fds[1], sent); });
            first_back = ReadAll(first.fds[1], sent.size());
            writer.join();
            int late = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
            EXPECT_EQ(connect(late, reinterpret_cast<sockaddr *>(&address), length), 0);
            WriteAll(late, "late");
            second_back = ReadAll(late, 4);
            close(late);
            return 1;
        };
        Move move(from, to, Options());
        ASSERT_EQ(move.Wait(), 0) << move.source_error.message << move.destination_error.message;
        EXPECT_EQ(first_back, sent);
        EXPECT_EQ(second_back, "late");
        EXPECT_EQ(move.stats.streams, 2u);
        EXPECT_EQ(move.stats.stream_bytes, 2 * (sent.size() + 4));
        EXPECT_EQ(recv(first.fds[1], sent.data(), 1, 0), 0) << "closed at the end";
        close(first.fds[1]);
    }
    EXPECT_EQ(echo.names, (std::vector<std::string>{"disk0", "disk1"}));
    EXPECT_EQ(echo.descriptions[1], "about disk1");
}

TEST(Streams, MemoryWaitsUntilTheGuestIsReady)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    int calls = 0;
    from.on_ready = [&](haul_error *) {
        EXPECT_TRUE(from.running() || from.stops == 0);
        if (calls < 4) {
            EXPECT_TRUE(from.passes.empty());
        }
        return ++calls >= 4;
    };
    Move move(from, to, Options());
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_GE(calls, 5) << "asked again before the stop";
}

TEST(Streams, TheGuestIsNotStoppedBeforeItIsReady)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    int calls = 0;
    from.on_ready = [&](haul_error *) {
        EXPECT_EQ(from.stops, 0u);
        calls++;
        return calls == 1 || calls > 6; // ready once, and then for a while not
    };
    Move move(from, to, Options());
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_GT(calls, 6);
}

TEST(Streams, AGuestThatFailsToGetReadyFailsTheMove)
{
    Guest from({4 * kMiB}, true), to({4 * kMiB}, false);
    from.on_ready = [](haul_error *error) {
        snprintf(error->message, sizeof error->message, "disk0 broke");
        error->code = EIO;
        return -EIO;
    };
    Move move(from, to, Options());
    EXPECT_EQ(move.Wait(), -EIO);
    EXPECT_STREQ(move.source_error.message, "disk0 broke");
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
    EXPECT_EQ(to.starts, 0u);
}

TEST(Streams, ShareMaxBandwidth)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    Echo echo(to);
    Pair pair;
    from.side_streams = {{"disk0", pair.fds[0]}};
    double seconds = 0;
    from.on_ready = [&](haul_error *) {
        if (seconds == 0) {
            auto begun = std::chrono::steady_clock::now();
            std::string sent(4 * kMiB, 'x');
            std::thread writer([&] { WriteAll(pair.fds[1], sent); });
            EXPECT_EQ(ReadAll(pair.fds[1], sent.size()).size(), sent.size());
            writer.join();
            seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
        }
        return 1;
    };
    haul_options options = Options();
    options.max_bandwidth_bytes_per_s = 4 * kMiB;
    Move move(from, to, options);
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message;
    EXPECT_GT(seconds, 0.8) << "4 MiB at 4 MiB/s, but for a burst of 50 ms and a buffer";
    close(pair.fds[1]);
}

// ---- failures ----

TEST(Streams, ADestinationWithoutTheHookRefuses)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    Pair pair;
    from.side_streams = {{"disk0", pair.fds[0]}};
    Move move(from, to, Options());
    EXPECT_EQ(haul_wait(move.source, &move.source_error), -EOPNOTSUPP);
    EXPECT_NE(std::string(move.source_error.message).find("this kind of destination takes none"),
              std::string::npos)
        << move.source_error.message;
    haul_cancel(move.destination); // it waits for another source
    close(pair.fds[1]);
}

TEST(Streams, TheDestinationsMachineMayRefuse)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    Pair pair;
    from.side_streams = {{"disk0", pair.fds[0]}};
    to.on_streams = [](const haul_stream *streams, unsigned, int *, haul_error *error) {
        snprintf(error->message, sizeof error->message, "no %s here", streams[0].name);
        error->code = EINVAL;
        return -EINVAL;
    };
    Move move(from, to, Options());
    EXPECT_EQ(move.Wait(), -EINVAL);
    EXPECT_NE(std::string(move.source_error.message).find("no disk0 here"), std::string::npos)
        << move.source_error.message;
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
    close(pair.fds[1]);
}

// Either side's end of the move ends the streams.
TEST(Streams, EndWithTheMove)
{
    for (bool at_source : {true, false}) {
        Guest from({kMiB}, true), to({kMiB}, false);
        Echo echo(to);
        Pair pair;
        from.side_streams = {{"disk0", pair.fds[0]}};
        std::atomic<bool> asked{false};
        from.on_ready = [&](haul_error *) {
            asked = true;
            return 0;
        };
        {
            Move move(from, to, Options());
            while (!asked) {
                usleep(1000);
            }
            WriteAll(pair.fds[1], "ping");
            EXPECT_EQ(ReadAll(pair.fds[1], 4), "ping");
            haul_cancel(at_source ? move.source : move.destination);
            EXPECT_EQ(move.Wait(), -ECANCELED) << move.source_error.message;
            char byte;
            EXPECT_LE(recv(pair.fds[1], &byte, 1, 0), 0);
        }
        close(pair.fds[1]);
    }
}

TEST(Streams, ProgressIsToldOfEach)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    Echo echo(to);
    Pair first, second;
    from.side_streams = {{"disk0", first.fds[0]}, {"disk1", second.fds[0]}};
    std::atomic<haul_migration *> source{nullptr};
    from.on_ready = [&](haul_error *) {
        if (!source) {
            return 0;
        }
        haul_stream_progress(source, 0, 5, 9, false);
        haul_stream_progress(source, 1, 20, 20, true);
        haul_stream_progress(source, 2, 1, 1, true); // there is no such one
        return 1;
    };
    {
        Move move(from, to, Options());
        WriteAll(second.fds[1], "ping");
        EXPECT_EQ(ReadAll(second.fds[1], 4), "ping");
        source = move.source;
        ASSERT_EQ(move.Wait(), 0) << move.source_error.message;
        EXPECT_EQ(move.stats.stream_offset, 25u);
        EXPECT_EQ(move.stats.stream_length, 29u);
        EXPECT_EQ(move.stats.streams_ready, 1u);
        haul_stream_stats stats = {};
        ASSERT_EQ(haul_get_stream_stats(move.source, 1, &stats), 0);
        EXPECT_STREQ(stats.name, "disk1");
        EXPECT_EQ(stats.bytes, 8u);
        EXPECT_TRUE(stats.ready);
        ASSERT_EQ(haul_get_stream_stats(move.destination, 1, &stats), 0);
        EXPECT_STREQ(stats.name, "disk1");
        EXPECT_EQ(stats.length, 0u);
        EXPECT_EQ(haul_get_stream_stats(move.source, 2, &stats), -ENOENT);
    }
    close(first.fds[1]);
    close(second.fds[1]);
}

// A machine may wait for what a stream carries, within a hook that nobody else can end.
TEST(Streams, ACancelEndsAHooksWait)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    Echo echo(to);
    Pair pair;
    from.side_streams = {{"disk0", pair.fds[0]}};
    std::atomic<bool> asked{false};
    from.on_ready = [&](haul_error *error) {
        char byte;
        asked = true;
        EXPECT_LE(recv(pair.fds[1], &byte, 1, 0), 0); // nothing was sent, so nothing comes back
        error->code = EIO;
        return -EIO;
    };
    {
        Move move(from, to, Options());
        while (!asked) {
            usleep(1000);
        }
        haul_cancel(move.source);
        EXPECT_EQ(move.Wait(), -ECANCELED) << move.source_error.message;
    }
    close(pair.fds[1]);
}

// A machine with more to write than anybody reads waits until it can: it must not when it is to be resumed.
TEST(Streams, AMachineThatWritesIsSetFreeBeforeItIsResumed)
{
    Guest from({kMiB}, true), to({kMiB}, false);
    Pair pair, unread;
    from.side_streams = {{"disk0", pair.fds[0]}};
    to.on_streams = [&](const haul_stream *, unsigned, int *fds, haul_error *) {
        fds[0] = unread.fds[0];
        return 0;
    };
    const std::string some(4096, 'x');
    auto write_some = [&] {
        return send(pair.fds[1], some.data(), some.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    };
    pollfd polled = {pair.fds[1], POLLOUT, 0};
    from.on_ready = [&](haul_error *) {
        while (poll(&polled, 1, 200) == 1) { // until all that is on the way is full
            write_some();
        }
        return 1;
    };
    from.fail_save = true;
    from.on_resume = [&] {
        auto begun = Clock::now();
        // Not only once there is room again: for that a busy machine may need a moment.
        EXPECT_TRUE(Eventually([&] { return write_some() < 0 && errno != EAGAIN; }));
        EXPECT_LT(MsSince(begun), 10000) << "not before the silent peer was given up";
    };
    Move move(from, to, Options());
    EXPECT_LT(move.Wait(), 0);
    EXPECT_EQ(from.resumes, 1u);
    close(pair.fds[1]);
    close(unread.fds[1]);
}

TEST(Streams, WhatCannotBeIsRefusedAtOnce)
{
    haul_error error{};
    Pair pair;
    haul_migration *migration = nullptr;
    haul_options options = Options();
    options.channels = 128;
    ASSERT_EQ(haul_destination_new(&options, &migration, &error), 0);
    EXPECT_EQ(haul_add_stream(migration, "disk0", "", pair.fds[0], &error), -EINVAL);
    EXPECT_STREQ(error.message, "side streams are opened by the source");
    haul_free(migration);
    for (const char *uri : {"unix:/nowhere", "file:/nowhere/x"}) {
        Guest from({kMiB}, true);
        Pair used;
        from.side_streams = {{"disk0", used.fds[0]}};
        ASSERT_EQ(haul_source_new(&options, &migration, &error), 0);
        from.Attach(migration, true);
        EXPECT_EQ(haul_add_stream(migration, "disk0", "", pair.fds[0], &error), -EEXIST);
        EXPECT_EQ(haul_add_stream(migration, "", "", pair.fds[0], &error), -EINVAL);
        EXPECT_EQ(haul_add_stream(migration, "x", std::string(4096, 'x').c_str(), pair.fds[0], &error),
                  -EINVAL);
        EXPECT_EQ(haul_start(migration, uri, &error), -EINVAL) << uri;
        EXPECT_NE(std::string(error.message)
                      .find(uri[0] == 'f' ? "leave them out with file:PATH" : "more than 128 connections"),
                  std::string::npos)
            << error.message;
        haul_free(migration);
        close(used.fds[1]);
    }
    close(pair.fds[0]);
    close(pair.fds[1]);
}

// ---- a hostile source ----

int Connect(const std::string &uri)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", uri.c_str() + 5);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    return fd;
}

std::vector<unsigned char> Hello(uint16_t channel)
{
    haul_hello hello = {};
    hello.version = HAUL_WIRE_VERSION;
    hello.capabilities = HAUL_CAPABILITY_STREAMS;
    hello.channel = channel;
    hello.channels = 1;
    hello.page_size = 4096;
    std::vector<unsigned char> bytes(64);
    bytes.resize(haul_hello_encode(&hello, bytes.data(), bytes.size()));
    return bytes;
}

void Text(std::vector<unsigned char> *to, const std::string &text)
{
    to->push_back(static_cast<unsigned char>(text.size()));
    to->push_back(static_cast<unsigned char>(text.size() >> 8));
    to->insert(to->end(), text.begin(), text.end());
}

void Receive(FramePeer &peer, Frame *frame)
{
    do {
        ASSERT_EQ(peer.Receive(frame), 0);
    } while (frame->type == HAUL_FRAME_PING);
}

// Sends one STREAMS and returns what the destination makes of it.
std::string Announce(const std::vector<unsigned char> &streams)
{
    Guest to({kMiB}, false);
    Echo echo(to);
    haul_options options = Options();
    haul_error error{};
    haul_migration *migration = nullptr;
    EXPECT_EQ(haul_destination_new(&options, &migration, &error), 0);
    to.Attach(migration, false);
    EXPECT_EQ(haul_start(migration, UnixUri().c_str(), &error), 0);
    FramePeer peer(Connect(haul_local_uri(migration)));
    Frame frame;
    EXPECT_EQ(peer.Send(HAUL_FRAME_HELLO, Hello(HAUL_CONTROL_CHANNEL)), 0);
    Receive(peer, &frame);
    std::vector<unsigned char> blocks = {1, 0, 0, 0};
    Text(&blocks, "block0");
    for (uint64_t n = 0, bytes = kMiB; n < 8; n++) {
        blocks.push_back(static_cast<unsigned char>(bytes >> (8 * n)));
    }
    blocks.insert(blocks.end(), {0, 16, 0, 0});
    EXPECT_EQ(peer.Send(HAUL_FRAME_BLOCKS, blocks), 0);
    Receive(peer, &frame);
    EXPECT_EQ(frame.type, HAUL_FRAME_BLOCKS_OK);
    EXPECT_EQ(peer.Send(HAUL_FRAME_STREAMS, streams), 0);
    Receive(peer, &frame);
    std::string result;
    if (frame.type == HAUL_FRAME_FAILED) {
        haul_wait(migration, &error);
        result = error.message;
    }
    haul_free(migration);
    EXPECT_TRUE(result.empty() || echo.names.empty()) << "refused before the machine heard of it";
    return result;
}

TEST(Streams, HostileAnnouncementsAreRefused)
{
    std::vector<unsigned char> good = {1, 0, 0, 0};
    Text(&good, "disk0");
    Text(&good, "about");
    EXPECT_EQ(Announce(good), "");
    EXPECT_EQ(Announce({0, 0, 0, 0}), "STREAMS announces 0 side streams, allowed are 1 to 32");
    EXPECT_EQ(Announce({33, 0, 0, 0}), "STREAMS announces 33 side streams, allowed are 1 to 32");
    EXPECT_EQ(Announce({1, 0, 0, 0}), "STREAMS is malformed");
    EXPECT_EQ(Announce({1, 0, 0, 0, 0, 0, 0, 0}), "STREAMS is malformed") << "no name";
    std::vector<unsigned char> twice = good;
    twice[0] = 2;
    Text(&twice, "disk0");
    Text(&twice, "");
    EXPECT_EQ(Announce(twice), "side stream disk0 is there already");
    std::vector<unsigned char> longer = {1, 0, 0, 0};
    Text(&longer, "disk0");
    Text(&longer, std::string(4096, 'x'));
    EXPECT_EQ(Announce(longer), "STREAMS is malformed");
    good.push_back(0);
    EXPECT_EQ(Announce(good), "STREAMS is malformed") << "a byte too much";
}

} // namespace
