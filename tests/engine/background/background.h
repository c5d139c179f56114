// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_BACKGROUND_BACKGROUND_H
#define HAUL_TESTS_ENGINE_BACKGROUND_BACKGROUND_H

// A guest under a write guard, one background snapshot of it, and what its memory was at the moment.
#include "tests/engine/file/file.h"
#include "tests/engine/held_write.h"

#include <cerrno>
#include <fstream>
#include <unistd.h>

namespace haul_test
{

constexpr size_t kMiB = 1 << 20;
// What is saved at once for a write, and by a thread that reads memory in order.
constexpr size_t kClusterPages = 16, kCluster = kClusterPages * kPage;
constexpr size_t kChunkPages = 256, kChunk = kChunkPages * kPage;

inline haul_options SnapshotOptions()
{
    haul_options options = Options();
    options.mode = "background-snapshot";
    return options;
}

// The real write guard, with hooks around its calls. A hook that returns less than 0 is the call's result.
class Guard
{
  public:
    explicit Guard(const Guest &guest)
    {
        std::vector<haul_tracked_range> ranges;
        for (uint32_t i = 0; i < guest.blocks.size(); i++) {
            haul_tracked_range range{};
            range.address = reinterpret_cast<uintptr_t>(guest.blocks[i]->data());
            range.length = guest.blocks[i]->size();
            range.memory_fd = guest.blocks[i]->fd();
            range.block = i;
            ranges.push_back(range);
        }
        haul_error error{};
        result = haul_write_guard_uffd_new(0, ranges.data(), static_cast<unsigned>(ranges.size()), &guard_,
                                           &error);
        message = error.message;
    }
    ~Guard()
    {
        haul_write_guard_free(guard_);
    }
    // Whatever the engine did or not, nobody waits any more, at any guard.
    void Lift()
    {
        haul_write_guard_free(guard_);
        guard_ = nullptr;
        if (Guarded()) { // by a descriptor that was not closed
            for (const auto &entry : std::filesystem::directory_iterator("/proc/self/fd")) {
                std::error_code gone;
                if (std::filesystem::read_symlink(entry, gone) == "anon_inode:[userfaultfd]") {
                    close(std::stoi(entry.path().filename()));
                }
            }
        }
    }
    // Whether any memory of this process is registered for write protection by a userfaultfd ("uw").
    static bool Guarded()
    {
        std::ifstream smaps("/proc/self/smaps");
        std::string line;
        while (std::getline(smaps, line)) {
            if (line.rfind("VmFlags:", 0) == 0 && line.find(" uw") != std::string::npos) {
                return true;
            }
        }
        return false;
    }
    Guard(const Guard &) = delete;
    void Attach(haul_migration *migration)
    {
        static const haul_write_guard_ops ops = {"test", Protect, Release, Wait, Stop};
        haul_error error{};
        ASSERT_EQ(haul_set_write_guard(migration, &ops, this, &error), 0) << error.message;
    }

    int result;
    std::string message;
    std::atomic<unsigned> protects{0}, stops{0};
    std::function<int(uint32_t, uint64_t, uint64_t)> on_protect, on_release;
    std::function<void(uint64_t, uint64_t)> after_release; // in the thread that released
    std::function<void()> on_wait;                         // the fault thread did what there was to do

  private:
    const haul_write_guard_ops *real() const
    {
        return haul_write_guard_get_ops(guard_);
    }
    static int Protect(void *opaque, uint32_t block, uint64_t first, uint64_t count, haul_error *error)
    {
        auto *own = static_cast<Guard *>(opaque);
        own->protects++;
        int result = own->on_protect ? own->on_protect(block, first, count) : 0;
        return result < 0 ? haul_error_set(error, -result, "no protection")
                          : own->real()->protect(haul_write_guard_get_opaque(own->guard_), block, first,
                                                 count, error);
    }
    static int Release(void *opaque, uint32_t block, uint64_t first, uint64_t count, haul_error *error)
    {
        auto *own = static_cast<Guard *>(opaque);
        int result = own->on_release ? own->on_release(block, first, count) : 0;
        result = result < 0 ? haul_error_set(error, -result, "no release")
                            : own->real()->release(haul_write_guard_get_opaque(own->guard_), block, first,
                                                   count, error);
        if (own->after_release) {
            own->after_release(first, count);
        }
        return result;
    }
    static int Wait(void *opaque, int fd, haul_waiting_write *writes, unsigned capacity, haul_error *error)
    {
        auto *own = static_cast<Guard *>(opaque);
        if (own->on_wait) {
            own->on_wait();
        }
        return own->real()->wait(haul_write_guard_get_opaque(own->guard_), fd, writes, capacity, error);
    }
    static void Stop(void *opaque)
    {
        auto *own = static_cast<Guard *>(opaque);
        own->stops++;
        own->real()->stop(haul_write_guard_get_opaque(own->guard_));
    }
    haul_write_guard *guard_ = nullptr;
};

// A guest, its guard, one snapshot of it, and what memory was at its moment.
class Snapshot : public testing::Test
{
  protected:
    void SetUp() override
    {
        Guest probe({kPage}, false);
        Guard may(probe);
        if (may.result == -EPERM || may.result == -ENOSYS) {
            GTEST_SKIP() << may.message;
        }
    }
    void Make(std::vector<size_t> sizes, bool fill, haul_options options = SnapshotOptions())
    {
        sizes_ = sizes;
        guest = std::make_unique<Guest>(sizes, fill);
        guard = std::make_unique<Guard>(*guest);
        ASSERT_EQ(guard->result, 0) << guard->message;
        end = std::make_unique<FileEnd>(*guest, true, options);
        guard->Attach(end->migration);
        guest->on_save = [this](Guest &own) {
            if (on_save) {
                on_save();
            }
            moment.clear();
            for (const Memory *block : own.blocks) {
                /* By its descriptor: that leaves holes as they are. */
                std::vector<unsigned char> bytes(block->size());
                EXPECT_EQ(pread(block->fd(), bytes.data(), bytes.size(), 0),
                          static_cast<ssize_t>(bytes.size()));
                moment.push_back(std::move(bytes));
            }
            moment_writes = own.writes;
        };
    }
    // As the end's. All protection is gone then, or a test that writes would never end.
    int Wait()
    {
        int result = end->Wait();
        if (Guard::Guarded()) {
            ADD_FAILURE() << "memory is still protected";
            guard->Lift();
        }
        return result;
    }
    int Run(const std::string &path)
    {
        int result = end->Start(path);
        return result < 0 ? result : Wait();
    }
    // Writes all pages, from the last to the first, without asking anybody: a second vCPU.
    void WriteEverything()
    {
        for (const Memory *block : guest->blocks) {
            for (size_t at = block->size(); at >= kPage; at -= kPage) {
                memset(block->data() + at - kPage, 0xee, kPage);
            }
        }
    }
    void ExpectRestoresTheMoment(const std::string &path)
    {
        Guest to(sizes_, true);
        FileEnd restore(to, false, Options());
        ASSERT_EQ(restore.Run(path), 0) << restore.message();
        EXPECT_EQ(to.restored, moment_writes);
        for (size_t i = 0; i < moment.size(); i++) {
            const unsigned char *now = to.blocks[i]->data();
            for (size_t at = 0; at < moment[i].size(); at += kPage) {
                ASSERT_EQ(memcmp(now + at, moment[i].data() + at, kPage), 0)
                    << "block " << i << " page " << at / kPage << " is not as it was";
            }
        }
    }
    // The guest can write all of its memory, unprotected, and the directory holds nothing but `names`.
    void ExpectGoesOn(const std::vector<std::string> &names)
    {
        EXPECT_EQ(end->stats.ownership, HAUL_OWNER_SOURCE);
        EXPECT_EQ(guest->handed_over, 0u);
        EXPECT_EQ(guard->stops, 1u);
        WriteEverything();
        EXPECT_EQ(directory.Names(), names);
    }
    void ExpectFails(int code, const std::string &message, const std::vector<std::string> &names = {})
    {
        EXPECT_EQ(Run(directory / "a"), -code);
        EXPECT_NE(end->message().find(message), std::string::npos) << end->message();
        EXPECT_EQ(end->stats.state, HAUL_STATE_FAILED);
        ExpectGoesOn(names);
    }

    Directory directory;
    std::unique_ptr<Guest> guest;
    std::unique_ptr<Guard> guard;
    std::unique_ptr<FileEnd> end; // before the guard goes
    std::function<void()> on_save;
    std::vector<std::vector<unsigned char>> moment;
    uint64_t moment_writes = 0;

  private:
    std::vector<size_t> sizes_;
};

// The only thread that writes the file is stuck in its first chunk, and all room for copies of what is
// written meanwhile is taken.
class SnapshotStuck : public Snapshot
{
  protected:
    static constexpr size_t kBytes = 3 * kMiB;
    static constexpr size_t kSlots = kBytes / 4 / kCluster;

    ~SnapshotStuck() override
    {
        go_on.Set();
        end.reset();
        if (guard) {
            guard->Lift(); // before the writes are waited for
        }
    }
    void Start(haul_options options)
    {
        options.channels = 1;
        ASSERT_NO_FATAL_FAILURE(Make({kBytes}, true, options));
        guard->on_release = [this](uint32_t, uint64_t page, uint64_t count) {
            if (page == 0 && count == kChunkPages) {
                stuck_.Set();
                EXPECT_TRUE(go_on.Wait());
            }
            return 0;
        };
        ASSERT_EQ(end->Start(directory / "a"), 0) << end->message();
        ASSERT_TRUE(stuck_.Wait());
        next_ = guest->blocks[0]->data() + kChunk;
        for (size_t i = 0; i < kSlots; i++, next_ += kCluster) {
            memset(next_, 0xee, kPage);
        }
    }
    void HoldWrites(size_t count)
    {
        for (size_t i = 0; i < count; i++, next_ += kCluster) {
            writes.push_back(std::make_unique<HeldWrite>(next_));
            EXPECT_TRUE(writes.back()->Waits());
        }
    }

    Signal go_on;
    std::vector<std::unique_ptr<HeldWrite>> writes;

  private:
    Signal stuck_;
    unsigned char *next_ = nullptr;
};

} // namespace haul_test

#endif
