// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_MOVE_H
#define HAUL_TESTS_ENGINE_MOVE_H

// Both ends of a migration in one process: memory in memfds, a writer that marks what it writes in an
// explicit bitmap, and a state handler that carries the writer's counter.

#include "engine/haul.h"
#include "engine/stream.h"
#include "engine/trackers.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace haul_test
{

constexpr size_t kPage = 4096;

// A shared memory object mapped once.
class Memory
{
  public:
    explicit Memory(size_t bytes);
    ~Memory();
    Memory(const Memory &) = delete;
    unsigned char *data() const
    {
        return data_;
    }
    size_t size() const
    {
        return size_;
    }
    int fd() const
    {
        return fd_;
    }
    uint64_t allocated_bytes() const;

  private:
    int fd_;
    size_t size_;
    unsigned char *data_;
};

std::string UnixUri();

// The guest of the tests: blocks, a writer thread, and what the hooks saw.
class Guest
{
  public:
    Guest(std::vector<size_t> block_bytes, bool fill);
    ~Guest();

    void Attach(haul_migration *migration, bool source);
    // Starts writing random pages until stopped: `pages_per_burst` pages, then a pause.
    void Run(unsigned pages_per_burst, unsigned pause_us);
    void Pause();
    bool running() const
    {
        return running_;
    }

    std::vector<Memory *> blocks;
    std::atomic<uint64_t> writes{0};
    std::atomic<unsigned> stops{0}, resumes{0}, starts{0}, handed_over{0};
    std::atomic<bool> stopped{false};     // and not resumed since
    std::atomic<unsigned> fail_resume{0}; // so many calls of the hook
    std::atomic<bool> fail_stop{false}, fail_start{false}, fail_save{false}, fail_load{false};
    // Called in the save hook: may write guest memory (trap T9).
    std::function<void(Guest &)> on_save;
    unsigned stop_delay_ms = 0;
    uint64_t restored = 0; // the counter that arrived
    std::vector<enum haul_state> states;
    std::vector<std::string> messages;
    std::vector<enum haul_step> steps;
    std::vector<uint32_t> passes;
    std::vector<bool> runs; // what the guest event said
    std::set<int> refuse_steps;
    bool never_ran = false; // what the hook says after a failed start
    std::atomic<unsigned> asked_never_ran{0};
    // What the adopt hook saw; adopted memory is mapped read-only until the guest starts.
    std::atomic<unsigned> adopts{0}, disowns{0};
    std::atomic<bool> fail_adopt{false};
    std::atomic<bool> fail_throttle{false};
    uint64_t clock_ahead_ns = 0; // of the guest's own, by which it tells when it stopped
    bool can_adopt = true;
    // Side streams of a source: name, and socket to hand over. The hooks are registered where they are set.
    std::vector<std::pair<std::string, int>> side_streams;
    std::function<int(haul_error *)> on_ready;
    std::function<int(haul_error *)> on_saved;
    std::function<int(const haul_stream *, unsigned, int *, haul_error *)> on_streams;
    std::function<void(enum haul_state)> on_state;
    std::function<void(uint32_t)> on_pass, on_round;
    // Called at the end of Attach.
    std::function<void(haul_migration *)> on_attach;
    // Called within the hook of the name, before it does its own work.
    std::function<void()> on_setup, on_stop, on_resume, on_load, on_start;
    std::function<void(enum haul_step)> on_step;
    std::mutex lock;
    // Between one write and its mark the guest cannot be stopped.
    void Write(unsigned block, uint64_t page, uint64_t value);
    void Fill(unsigned block, uint64_t page, unsigned char value);
    // Only says that pages were written.
    void Mark(unsigned block, uint64_t first, uint64_t count);
    void Throttle(unsigned percent)
    {
        throttle_ = percent;
        std::lock_guard<std::mutex> guard(lock);
        throttles.push_back(percent);
    }
    std::vector<unsigned> Throttles()
    {
        std::lock_guard<std::mutex> guard(lock);
        return throttles;
    }
    std::vector<unsigned> throttles; // all that was asked for
    std::atomic<unsigned> throttle_{0};

  private:
    void Loop(unsigned pages_per_burst, unsigned pause_us);
    std::mutex write_lock_; // the guest has one vCPU, whoever plays it
    haul_tracker *tracker_ = nullptr;
    std::thread thread_;
    std::atomic<bool> running_{false};
    unsigned burst_ = 0, pause_us_ = 0;
};

// A live thread of the migration; -1: there is none of that name.
int ThreadOf(haul_migration *migration, const std::string &name);

bool SameMemory(const Guest &a, const Guest &b, std::string *where);

haul_options Options();

// One whole move; returns haul_wait's result of the source. The source connects to what `through` makes of
// the destination's URI.
struct Move {
    using Detour = std::function<std::string(const std::string &)>;
    Move(Guest &from, Guest &to, const haul_options &options, const std::string &listen = "",
         const Detour &through = nullptr);
    ~Move();
    int Wait();
    Guest &from;
    Guest &to;
    haul_migration *source = nullptr;
    haul_migration *destination = nullptr;
    haul_error source_error{}, destination_error{};
    int source_result = 1, destination_result = 1;
    haul_stats stats{};
};

} // namespace haul_test

#endif
