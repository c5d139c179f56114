// SPDX-License-Identifier: Apache-2.0
// Rule R4 at random: conversations with a destination, broken in every way that comes to mind. It never
// crashes, hangs or leaks, and starts the guest only after PREPARED.
#include "tests/engine/hostile/hostile_source.h"
#include "tests/engine/resources.h"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

using namespace haul_test;

namespace
{

struct Action {
    enum Kind { kFrame, kGarbage, kOpenChannel, kData } kind;
    haul_frame_type type;
    Payload payload;
};

std::vector<Action> ValidScript(const Payload &record)
{
    return {
        {Action::kFrame, HAUL_FRAME_HELLO, HelloPayload(HAUL_CONTROL_CHANNEL, 1)},
        {Action::kFrame, HAUL_FRAME_BLOCKS, BlocksPayload()},
        {Action::kFrame, HAUL_FRAME_PRESENT, PresentPayload()},
        {Action::kOpenChannel, HAUL_FRAME_HELLO, HelloPayload(0, 1)},
        {Action::kData, HAUL_FRAME_HELLO, record},
        {Action::kFrame, HAUL_FRAME_STATE_BEGIN, BeginPayload(1)},
        {Action::kFrame, HAUL_FRAME_STATE, Payload(300, 7)},
        {Action::kFrame, HAUL_FRAME_STATE_END, EndPayload(300)},
        {Action::kFrame, HAUL_FRAME_VERIFY, {}},
        {Action::kFrame, HAUL_FRAME_PING, Payload(8, 1)},
        {Action::kFrame, HAUL_FRAME_PREPARE, {}},
        {Action::kFrame, HAUL_FRAME_HANDOVER, {}},
    };
}

void MutatePayload(Payload *payload, std::mt19937 &random)
{
    switch (random() % 4) {
    case 0: // flips bytes
        for (unsigned n = 1 + random() % 4; n > 0 && !payload->empty(); n--) {
            (*payload)[random() % payload->size()] = static_cast<unsigned char>(random());
        }
        break;
    case 1: // cuts
        payload->resize(payload->empty() ? 0 : random() % payload->size());
        break;
    case 2: // adds
        payload->resize(payload->size() + 1 + random() % 100, static_cast<unsigned char>(random()));
        break;
    default: // a number at its extreme
        for (unsigned n = 0; n < 8 && !payload->empty(); n++) {
            size_t at = random() % payload->size();
            (*payload)[at] = random() % 2 ? 0xff : 0x7f;
        }
    }
}

void Mutate(std::vector<Action> *script, std::mt19937 &random)
{
    size_t at = random() % script->size();
    switch (random() % 7) {
    case 0:
        script->erase(script->begin() + static_cast<ptrdiff_t>(at));
        break;
    case 1:
        script->insert(script->begin() + static_cast<ptrdiff_t>(at), (*script)[random() % script->size()]);
        break;
    case 2:
        std::swap((*script)[at], (*script)[random() % script->size()]);
        break;
    case 3:
    case 4:
        MutatePayload(&(*script)[at].payload, random);
        break;
    case 5:
        (*script)[at].type = static_cast<haul_frame_type>(1 + random() % 20);
        break;
    default: {
        Payload bytes(random() % 64);
        for (auto &byte : bytes) {
            byte = static_cast<unsigned char>(random());
        }
        script->insert(script->begin() + static_cast<ptrdiff_t>(at),
                       {Action::kGarbage, HAUL_FRAME_HELLO, bytes});
    }
    }
    if (script->empty()) {
        script->push_back({Action::kGarbage, HAUL_FRAME_HELLO, {1}});
    }
}

// A destination that ended takes nothing more.
void Hurry(const FramePeer &peer)
{
    timeval patience = {.tv_sec = 0, .tv_usec = 300000};
    setsockopt(peer.fd(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

// Says the script without waiting for answers; returns true when PREPARED was among them. A `broken` one may
// leave the destination waiting.
bool Play(const std::vector<Action> &script, bool broken, Destination &destination, bool *served)
{
    FramePeer control(ConnectTo(destination.uri)), data;
    Hurry(control);
    for (const Action &action : script) {
        switch (action.kind) {
        case Action::kFrame:
            control.Send(action.type, action.payload);
            break;
        case Action::kGarbage:
            (void)!send(control.fd(), action.payload.data(), action.payload.size(), MSG_NOSIGNAL);
            break;
        case Action::kOpenChannel:
            data.Take(ConnectTo(destination.uri));
            Hurry(data);
            data.Send(action.type, action.payload);
            break;
        case Action::kData:
            if (data.fd() >= 0) {
                (void)!send(data.fd(), action.payload.data(), action.payload.size(), MSG_NOSIGNAL);
            }
            break;
        }
    }
    shutdown(control.fd(), SHUT_WR);
    *served = false;
    bool prepared = false;
    // Until the destination ends: a stranger's connection is closed, the source's stays open until the object
    // is freed.
    for (auto begun = Clock::now();;) {
        if (broken && MsSince(begun) > 30) {
            data.Close(); // whatever the destination still waits for does not come
        }
        bool ended = haul_get_state(destination.migration) >= HAUL_STATE_COMPLETED; // all was said before
        Frame frame;
        int rc = control.Receive(&frame, 2);
        if (rc == 0) {
            *served |= frame.type == HAUL_FRAME_WELCOME;
            prepared |= frame.type == HAUL_FRAME_PREPARED;
        } else if ((rc != -ETIMEDOUT && !*served) || ended) {
            return prepared;
        }
    }
}

struct Tally {
    std::atomic<int> started{0}, refused{0};
    std::mutex topology; // reading it wants to be alone
};

// One conversation, broken up to three times.
void Converse(std::mt19937 &random, const Payload &record, Tally *tally)
{
    std::vector<Action> script = ValidScript(record);
    unsigned breaks = random() % 4;
    for (unsigned n = breaks; n > 0; n--) {
        Mutate(&script, random);
    }
    std::unique_ptr<Destination> destination;
    {
        std::lock_guard<std::mutex> hold(tally->topology);
        destination = std::make_unique<Destination>(
            breaks > 0 ? 200 : 20000); // how long a silent end of a conversation is waited for
    }
    bool served;
    auto begun = Clock::now();
    bool prepared = Play(script, breaks > 0, *destination, &served);
    if (!served) {
        haul_cancel(destination->migration); // it still waits for somebody who speaks the protocol
        tally->refused++;
    }
    destination->Wait();
    ASSERT_LT(MsSince(begun), 30000) << "it hung: " << destination->error.message;
    ASSERT_EQ(destination->starts != 0, destination->result == 0) << destination->error.message;
    if (destination->starts) {
        ASSERT_TRUE(prepared) << "the guest was started without PREPARED";
        ASSERT_EQ(destination->loads, 1);
        tally->started++;
    } else {
        ASSERT_STRNE(destination->error.message, "");
    }
}

// They mostly wait, so several are held at the same time.
TEST(HostileSource, ThousandsOfBrokenConversations)
{
    constexpr int kThreads = 4;
    const Payload records[] = {RecordChannel(kPages, 2, HAUL_CODEC_RAW),
                               RecordChannel(kPages, 2, HAUL_CODEC_LZ4)};
    const char *wish = getenv("HAUL_TEST_ITERATIONS");
    int iterations = wish ? atoi(wish) : 2000;
    // Reading the machine's real topology would take most of the time.
    setenv("HWLOC_SYNTHETIC", "numa:1 pu:2", 1);
    Tally tally;
    auto converse = [&](unsigned seed, int count) {
        std::mt19937 random(seed);
        for (int i = 0; i < count && !testing::Test::HasFailure(); i++) {
            SCOPED_TRACE("seed " + std::to_string(seed) + ", iteration " + std::to_string(i));
            Converse(random, records[i % 2], &tally);
        }
    };
    converse(20240607, 10);
    Resources before = Resources::Now();
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < kThreads; seed++) {
        threads.emplace_back(converse, seed, iterations / kThreads);
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    ExpectNoMoreThan(before);
    // The test would show nothing if every conversation ended at the first frame, or none did.
    EXPECT_GT(tally.started, iterations / 10);
    EXPECT_LT(tally.started, iterations * 9 / 10);
    EXPECT_GT(tally.refused, 0);
}

} // namespace
