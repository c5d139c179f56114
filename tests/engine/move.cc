// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/move.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace haul_test
{

Memory::Memory(size_t bytes) : fd_(memfd_create("guest", MFD_CLOEXEC)), size_(bytes), data_(nullptr)
{
    if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(bytes)) < 0) {
        throw std::runtime_error("memfd");
    }
    void *mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (mapped == MAP_FAILED) {
        throw std::runtime_error("mmap");
    }
    data_ = static_cast<unsigned char *>(mapped);
}

Memory::~Memory()
{
    munmap(data_, size_);
    close(fd_);
}

uint64_t Memory::allocated_bytes() const
{
    struct stat file;
    fstat(fd_, &file);
    return static_cast<uint64_t>(file.st_blocks) * 512;
}

std::string UnixUri()
{
    static std::atomic<unsigned> number{0};
    return "unix:/tmp/haul-test-" + std::to_string(getpid()) + "-" + std::to_string(number++) + ".sock";
}

// ---- hooks ----

static int Stop(void *opaque, uint64_t *stopped_ns, haul_error *error)
{
    auto *guest = static_cast<Guest *>(opaque);
    *stopped_ns += guest->clock_ahead_ns;
    guest->stops++;
    guest->stopped = true;
    if (guest->fail_stop) {
        return haul_error_set(error, EIO, "the guest refuses to stop");
    }
    if (guest->on_stop) {
        guest->on_stop();
    }
    usleep(guest->stop_delay_ms * 1000);
    guest->Pause();
    return 0;
}

static int Resume(void *opaque, haul_error *error)
{
    auto *guest = static_cast<Guest *>(opaque);
    guest->resumes++;
    if (guest->fail_resume > 0) {
        guest->fail_resume--;
        return haul_error_set(error, EBUSY, "the guest refuses to run");
    }
    if (guest->on_resume) {
        guest->on_resume();
    }
    guest->stopped = false;
    guest->Run(0, 0);
    return 0;
}

static void Protect(Guest *guest, int protection)
{
    for (Memory *block : guest->blocks) {
        EXPECT_EQ(mprotect(block->data(), block->size(), protection), 0);
    }
}

static int Start(void *opaque, haul_error *error)
{
    auto *guest = static_cast<Guest *>(opaque);
    guest->starts++;
    if (guest->adopts > 0) {
        Protect(guest, PROT_READ | PROT_WRITE);
    }
    if (guest->on_start) {
        guest->on_start();
    }
    return guest->fail_start ? haul_error_set(error, EIO, "the guest does not start") : 0;
}

static bool NeverRan(void *opaque)
{
    auto *guest = static_cast<Guest *>(opaque);
    guest->asked_never_ran++;
    return guest->never_ran;
}

static int ThrottleHook(void *opaque, unsigned percent, haul_error *error)
{
    auto *guest = static_cast<Guest *>(opaque);
    guest->Throttle(percent);
    return guest->fail_throttle ? haul_error_set(error, EIO, "it will not slow down") : 0;
}

static int Adopt(void *opaque, const char *block, int fd, uint64_t offset, haul_error *error)
{
    auto *guest = static_cast<Guest *>(opaque);
    guest->adopts++;
    if (guest->fail_adopt) {
        return haul_error_set(error, EIO, "the memory cannot be mapped");
    }
    Memory *memory = guest->blocks.at(static_cast<size_t>(atoi(block + strlen("block"))));
    void *at = mmap(memory->data(), memory->size(), PROT_READ, MAP_SHARED | MAP_FIXED, fd,
                    static_cast<off_t>(offset));
    return at == memory->data() ? 0 : haul_error_set(error, errno, "mmap");
}

static void Disown(void *opaque)
{
    auto *guest = static_cast<Guest *>(opaque);
    guest->disowns++;
    for (Memory *block : guest->blocks) {
        EXPECT_EQ(mmap(block->data(), block->size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                       block->fd(), 0),
                  static_cast<void *>(block->data()));
    }
}

static void HandedOver(void *opaque)
{
    static_cast<Guest *>(opaque)->handed_over++;
}

static int Setup(void *opaque, haul_error *)
{
    auto *guest = static_cast<Guest *>(opaque);
    if (guest->on_setup) {
        guest->on_setup();
    }
    return 0;
}

static int Save(void *opaque, haul_state_writer *writer, haul_error *error)
{
    auto *guest = static_cast<Guest *>(opaque);
    if (guest->fail_save) {
        return haul_error_set(error, EIO, "the state cannot be saved");
    }
    if (guest->on_save) {
        guest->on_save(*guest);
    }
    uint64_t counter = guest->writes;
    return haul_state_write(writer, &counter, sizeof counter, error);
}

static int Load(void *opaque, haul_state_reader *reader, haul_error *error)
{
    auto *guest = static_cast<Guest *>(opaque);
    if (guest->fail_load) {
        return haul_error_set(error, EIO, "the state cannot be loaded");
    }
    if (guest->on_load) {
        guest->on_load();
    }
    size_t got = 0;
    while (got < sizeof guest->restored) {
        ptrdiff_t n = haul_state_read(reader, reinterpret_cast<char *>(&guest->restored) + got,
                                      sizeof guest->restored - got, error);
        if (n <= 0) {
            return n < 0 ? static_cast<int>(n) : haul_error_set(error, EPROTO, "short state");
        }
        got += static_cast<size_t>(n);
    }
    return 0;
}

static void OnState(void *opaque, enum haul_state, enum haul_state to)
{
    auto *guest = static_cast<Guest *>(opaque);
    {
        std::lock_guard<std::mutex> hold(guest->lock);
        guest->states.push_back(to);
    }
    if (guest->on_state) {
        guest->on_state(to);
    }
}

static void OnRound(void *opaque, uint32_t round)
{
    auto *guest = static_cast<Guest *>(opaque);
    if (guest->on_round) {
        guest->on_round(round);
    }
}

static void OnPass(void *opaque, uint32_t pass)
{
    auto *guest = static_cast<Guest *>(opaque);
    guest->passes.push_back(pass);
    if (guest->on_pass) {
        guest->on_pass(pass);
    }
}

static void OnGuest(void *opaque, bool running)
{
    static_cast<Guest *>(opaque)->runs.push_back(running);
}

static int OnStep(void *opaque, enum haul_step step, haul_error *error)
{
    auto *guest = static_cast<Guest *>(opaque);
    if (guest->on_step) {
        guest->on_step(step);
    }
    std::lock_guard<std::mutex> hold(guest->lock);
    if (step != HAUL_STEP_TRIAL) {
        guest->steps.push_back(step);
    }
    return guest->refuse_steps.count(static_cast<int>(step))
               ? haul_error_set(error, ENOSPC, "the record cannot be written")
               : 0;
}

static void OnMessage(void *opaque, const char *text)
{
    auto *guest = static_cast<Guest *>(opaque);
    std::lock_guard<std::mutex> hold(guest->lock);
    guest->messages.emplace_back(text);
}

static int Ready(void *opaque, haul_error *error)
{
    return static_cast<Guest *>(opaque)->on_ready(error);
}

static int Saved(void *opaque, haul_error *error)
{
    Guest *guest = static_cast<Guest *>(opaque);
    return guest->on_saved ? guest->on_saved(error) : 0;
}

static int Streams(void *opaque, const haul_stream *streams, unsigned count, int *fds, haul_error *error)
{
    return static_cast<Guest *>(opaque)->on_streams(streams, count, fds, error);
}

static const haul_guest_ops kGuestOps = {.stop = Stop,
                                         .resume = Resume,
                                         .start = Start,
                                         .never_ran = NeverRan,
                                         .throttle = ThrottleHook,
                                         .handed_over = HandedOver,
                                         .saved = Saved,
                                         .adopt = Adopt,
                                         .disown = Disown};
static const haul_state_ops kStateOps = {.name = "counter", .setup = Setup, .save = Save, .load = Load};
static const haul_events kEvents = {.state = OnState,
                                    .pass = OnPass,
                                    .round = OnRound,
                                    .guest = OnGuest,
                                    .step = OnStep,
                                    .message = OnMessage};

// ---- guest ----

Guest::Guest(std::vector<size_t> block_bytes, bool fill)
{
    std::mt19937_64 random(7);
    for (size_t bytes : block_bytes) {
        blocks.push_back(new Memory(bytes));
        for (size_t at = 0; fill && at < bytes; at += sizeof(uint64_t)) {
            uint64_t value = random();
            memcpy(blocks.back()->data() + at, &value, sizeof value);
        }
    }
    std::vector<uint64_t> pages;
    for (auto *block : blocks) {
        pages.push_back(block->size() / kPage);
    }
    EXPECT_EQ(haul_tracker_bitmap_new(pages.data(), static_cast<unsigned>(pages.size()), &tracker_, nullptr),
              0);
}

Guest::~Guest()
{
    Pause();
    haul_tracker_free(tracker_);
    for (auto *block : blocks) {
        delete block;
    }
}

void Guest::Attach(haul_migration *migration, bool source)
{
    haul_error error{};
    for (size_t i = 0; i < blocks.size(); i++) {
        // The destination lists its blocks the other way round: names decide.
        size_t k = source ? i : blocks.size() - 1 - i;
        std::string name = "block" + std::to_string(k);
        haul_ram_block block = {.name = name.c_str(),
                                .host = blocks[k]->data(),
                                .length = blocks[k]->size(),
                                .page_size = kPage,
                                .fd = blocks[k]->fd(),
                                .fd_offset = 0};
        ASSERT_EQ(haul_add_ram(migration, &block, &error), 0) << error.message;
    }
    if (source) {
        ASSERT_EQ(haul_set_tracker(migration, haul_tracker_get_ops(tracker_),
                                   haul_tracker_get_opaque(tracker_), &error),
                  0);
    }
    ASSERT_EQ(haul_add_state(migration, &kStateOps, this, &error), 0);
    haul_guest_ops ops = kGuestOps;
    ops.adopt = can_adopt ? ops.adopt : nullptr;
    ops.ready = on_ready ? Ready : nullptr;
    ops.streams = on_streams ? Streams : nullptr;
    for (const auto &stream : side_streams) {
        ASSERT_EQ(haul_add_stream(migration, stream.first.c_str(), ("about " + stream.first).c_str(),
                                  stream.second, &error),
                  0)
            << error.message;
    }
    ASSERT_EQ(haul_set_guest(migration, &ops, this, &error), 0);
    ASSERT_EQ(haul_set_events(migration, &kEvents, this, &error), 0);
    if (on_attach) {
        on_attach(migration);
    }
}

void Guest::Write(unsigned block, uint64_t page, uint64_t value)
{
    std::lock_guard<std::mutex> hold(write_lock_);
    unsigned char *at = blocks[block]->data() + page * kPage;
    uint64_t words[2] = {value, ~value};
    // The last words of a page, so that a reader that tears it is seen.
    memcpy(at + kPage - sizeof words, words, sizeof words);
    memcpy(at, words, sizeof words);
    haul_tracker_mark(tracker_, block, page, 1);
    writes++;
}

void Guest::Fill(unsigned block, uint64_t page, unsigned char value)
{
    std::lock_guard<std::mutex> hold(write_lock_);
    memset(blocks[block]->data() + page * kPage, value, kPage);
    haul_tracker_mark(tracker_, block, page, 1);
    writes++;
}

void Guest::Mark(unsigned block, uint64_t first, uint64_t count)
{
    haul_tracker_mark(tracker_, block, first, count);
}

void Guest::Loop(unsigned pages_per_burst, unsigned pause_us)
{
    std::mt19937_64 random(writes + 1);
    while (running_) {
        for (unsigned i = 0; i < pages_per_burst && running_; i++) {
            unsigned block = static_cast<unsigned>(random() % blocks.size());
            Write(block, random() % (blocks[block]->size() / kPage), random());
        }
        usleep(pause_us + throttle_ * throttle_ * 10);
    }
}

void Guest::Run(unsigned pages_per_burst, unsigned pause_us)
{
    if (pages_per_burst != 0) {
        burst_ = pages_per_burst;
        pause_us_ = pause_us;
    }
    if (burst_ == 0 || running_) {
        return;
    }
    running_ = true;
    thread_ = std::thread([this] { Loop(burst_, pause_us_); });
}

void Guest::Pause()
{
    running_ = false;
    if (thread_.joinable()) {
        thread_.join();
    }
}

int ThreadOf(haul_migration *migration, const std::string &name)
{
    haul_thread threads[16];
    unsigned count = std::min(16u, haul_threads(migration, threads, 16));
    for (unsigned i = 0; i < count; i++) {
        if (threads[i].name == name) {
            return threads[i].tid;
        }
    }
    return -1;
}

bool SameMemory(const Guest &a, const Guest &b, std::string *where)
{
    for (size_t i = 0; i < a.blocks.size(); i++) {
        for (size_t page = 0; page < a.blocks[i]->size() / kPage; page++) {
            if (memcmp(a.blocks[i]->data() + page * kPage, b.blocks[i]->data() + page * kPage, kPage) != 0) {
                *where = "block " + std::to_string(i) + " page " + std::to_string(page);
                return false;
            }
        }
    }
    return true;
}

haul_options Options()
{
    haul_options options;
    haul_options_default(&options);
    options.timeout_s = 10;
    return options;
}

Move::Move(Guest &from_guest, Guest &to_guest, const haul_options &options, const std::string &listen,
           const Detour &through)
    : from(from_guest), to(to_guest)
{
    haul_error error{};
    EXPECT_EQ(haul_destination_new(&options, &destination, &error), 0) << error.message;
    EXPECT_EQ(haul_source_new(&options, &source, &error), 0) << error.message;
    to.Attach(destination, false);
    from.Attach(source, true);
    std::string uri = listen.empty() ? UnixUri() : listen;
    EXPECT_EQ(haul_start(destination, uri.c_str(), &error), 0) << error.message;
    uri = haul_local_uri(destination);
    EXPECT_EQ(haul_start(source, (through ? through(uri) : uri).c_str(), &error), 0) << error.message;
}

int Move::Wait()
{
    source_result = haul_wait(source, &source_error);
    destination_result = haul_wait(destination, &destination_error);
    haul_get_stats(source, &stats);
    return source_result;
}

Move::~Move()
{
    haul_free(source);
    haul_free(destination);
}

} // namespace haul_test
