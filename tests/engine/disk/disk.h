// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_DISK_DISK_H
#define HAUL_TESTS_ENGINE_DISK_DISK_H

// Disks of the test guest: images in files, written by a thread of their own, behind ops that can fail and
// that note what was asked of them.

#include "engine/disk_file.h"
#include "tests/directory.h"
#include "tests/engine/move.h"

#include <memory>

namespace haul_test
{

// Makes an image of `bytes`, with content wherever `present` says so of a block of 4096 bytes.
void MakeImage(const std::string &path, uint64_t bytes, const std::function<bool(uint64_t)> &present);
std::string ReadImage(const std::string &path);
uint64_t AllocatedBytes(const std::string &path);

class Disk
{
  public:
    // `size` as haul_disk_file_receive takes it; of no meaning at the source, whose image exists.
    Disk(const std::string &path, bool source, uint64_t size = 0, const std::string &name = "vda");
    ~Disk();
    Disk(const Disk &) = delete;
    // Registers it with the guest: it comes and goes with the guest's hooks.
    void Plug(Guest &guest);
    haul_disk Describe();
    int fd() const
    {
        return haul_disk_file_fd(file_);
    }

    // Writes random blocks until paused; the source's only.
    void Run(unsigned blocks_per_burst, unsigned pause_us);
    void Pause();
    bool running() const
    {
        return running_;
    }
    void Write(uint64_t block, unsigned char value);
    // What the image holds now.
    std::string Content() const;

    enum Call { kRead, kFlush, kStart, kFetch, kStop, kOpen, kWrite, kZero, kComplete, kDiscard, kCalls };
    std::atomic<unsigned> calls[kCalls] = {};
    std::atomic<int> fail[kCalls] = {};           // errno that this call fails with
    std::atomic<bool> unflushed{false};           // something was written since the last flush
    std::atomic<uint64_t> lose_block{UINT64_MAX}; // the next write of it
    std::atomic<uint64_t> complete_ns{0};         // what it says of `complete`; 0: what the image says
    std::atomic<unsigned> flush_pieces{0};        // a flush says so many times that it got further
    // Which call of its kind it is, from 1: several threads call at once, and `calls` may be further on.
    std::function<void(Call, unsigned nth)> on_call;
    uint32_t granularity = kPage;
    std::string name; // as it is registered, and its size; by default the image's
    uint64_t size = 0;

    haul_disk inner{};

  private:
    haul_disk_file *file_ = nullptr;
    std::thread thread_;
    std::atomic<bool> running_{false};
    unsigned burst_ = 0, pause_us_ = 0;
    std::mutex write_lock_;
};

// As Options, with time for what the machine's own disks take while others use them too.
haul_options DiskOptions();

// Two guests with a disk each, in a directory of their own: "from", and "to", which is created.
struct DiskMachines {
    explicit DiskMachines(
        uint64_t bytes, const std::function<bool(uint64_t)> &present = [](uint64_t) { return true; });
    // The guest writes its memory and its disk.
    void Run();
    // Calls `action` as soon as the guest stands still, each time.
    void WhenStopped(const std::function<void()> &action);
    // The move completes, and what the guest has is the same at both sides.
    void ExpectMoved(Move &move);
    // It fails with `code` (0: with any), the guest goes on at the source, and no image is left of it.
    void ExpectStayed(Move &move, int code, const std::string &text);

    Directory directory;
    Guest from, to;
    std::unique_ptr<Disk> disk, copy;
    haul_migration *source = nullptr, *destination = nullptr; // of the latest move
};

} // namespace haul_test

#endif
