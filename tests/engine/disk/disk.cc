// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/disk/disk.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <random>
#include <sys/stat.h>
#include <unistd.h>

namespace haul_test
{

void MakeImage(const std::string &path, uint64_t bytes, const std::function<bool(uint64_t)> &present)
{
    int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    ASSERT_GE(fd, 0) << path;
    ASSERT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
    std::mt19937_64 random(11);
    for (uint64_t block = 0; block * kPage < bytes; block++) {
        uint64_t words[kPage / 8];
        for (auto &word : words) {
            word = random();
        }
        size_t length = std::min<uint64_t>(kPage, bytes - block * kPage);
        if (present(block)) {
            ASSERT_EQ(pwrite(fd, words, length, static_cast<off_t>(block * kPage)),
                      static_cast<ssize_t>(length));
        }
    }
    close(fd);
}

std::string ReadImage(const std::string &path)
{
    int fd = open(path.c_str(), O_RDONLY);
    struct stat status = {};
    EXPECT_EQ(fstat(fd, &status), 0) << path;
    std::string bytes(static_cast<size_t>(status.st_size), 'x');
    EXPECT_EQ(pread(fd, bytes.data(), bytes.size(), 0), status.st_size);
    close(fd);
    return bytes;
}

uint64_t AllocatedBytes(const std::string &path)
{
    struct stat status = {};
    EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
    return static_cast<uint64_t>(status.st_blocks) * 512;
}

// ---- ops that note and fail ----

static int Note(Disk *disk, Disk::Call call, haul_error *error)
{
    unsigned nth = ++disk->calls[call];
    if (disk->on_call) {
        disk->on_call(call, nth);
    }
    return disk->fail[call]
               ? haul_error_set(error, disk->fail[call], "told to fail with %d", disk->fail[call].load())
               : 0;
}

static const haul_disk_ops &Inner(Disk *disk)
{
    return *disk->inner.ops;
}

static int Read(void *opaque, uint64_t offset, void *bytes, size_t length, haul_error *error)
{
    auto *disk = static_cast<Disk *>(opaque);
    EXPECT_TRUE(offset % kPage == 0 && offset + length <= disk->inner.size);
    int rc = Note(disk, Disk::kRead, error);
    return rc ? rc : Inner(disk).read(disk->inner.opaque, offset, bytes, length, error);
}

// From bits of the test's granularity to those of the image, and back.
static void ClearHoles(void *opaque, uint64_t *bitmap)
{
    auto *disk = static_cast<Disk *>(opaque);
    uint64_t blocks = (disk->inner.size + kPage - 1) / kPage;
    std::vector<uint64_t> own(blocks / 64 + 1, ~0ull);
    Inner(disk).clear_holes(disk->inner.opaque, own.data());
    uint64_t per = disk->granularity / kPage;
    for (uint64_t granule = 0; granule * per < blocks; granule++) {
        bool any = false;
        for (uint64_t block = granule * per; block < std::min(blocks, (granule + 1) * per); block++) {
            any |= own[block / 64] >> (block % 64) & 1;
        }
        if (!any) {
            bitmap[granule / 64] &= ~(1ull << (granule % 64));
        }
    }
}

static int Fetch(void *opaque, uint64_t *bitmap, haul_error *error)
{
    auto *disk = static_cast<Disk *>(opaque);
    int rc = Note(disk, Disk::kFetch, error);
    uint64_t blocks = (disk->inner.size + kPage - 1) / kPage;
    std::vector<uint64_t> own(blocks / 64 + 1, 0);
    rc = rc ? rc : Inner(disk).fetch(disk->inner.opaque, own.data(), error);
    for (uint64_t block = 0; block < blocks; block++) {
        uint64_t granule = block * kPage / disk->granularity;
        bitmap[granule / 64] |= (own[block / 64] >> (block % 64) & 1) << (granule % 64);
    }
    return rc;
}

static int Start(void *opaque, haul_error *error)
{
    auto *disk = static_cast<Disk *>(opaque);
    int rc = Note(disk, Disk::kStart, error);
    return rc ? rc : Inner(disk).start(disk->inner.opaque, error);
}

static void Stop(void *opaque)
{
    Note(static_cast<Disk *>(opaque), Disk::kStop, nullptr);
}

static int Flush(void *opaque, haul_error *error)
{
    auto *disk = static_cast<Disk *>(opaque);
    int rc = Note(disk, Disk::kFlush, error);
    if (disk->flush_pieces > 0) {
        disk->flush_pieces--;
        return 1;
    }
    disk->unflushed = rc != 0;
    return rc || !Inner(disk).flush ? rc : Inner(disk).flush(disk->inner.opaque, error);
}

static int Open(void *opaque, haul_error *error)
{
    auto *disk = static_cast<Disk *>(opaque);
    int rc = Note(disk, Disk::kOpen, error);
    return rc ? rc : Inner(disk).open(disk->inner.opaque, error);
}

static int Write(void *opaque, uint64_t offset, const void *bytes, size_t length, haul_error *error)
{
    auto *disk = static_cast<Disk *>(opaque);
    EXPECT_TRUE(offset % kPage == 0 && offset + length <= disk->inner.size);
    disk->unflushed = true;
    int rc = Note(disk, Disk::kWrite, error);
    uint64_t lost = disk->lose_block;
    if (offset / kPage <= lost && lost < (offset + length) / kPage) {
        disk->lose_block = UINT64_MAX;
        return 0;
    }
    return rc ? rc : Inner(disk).write(disk->inner.opaque, offset, bytes, length, error);
}

static int Zero(void *opaque, uint64_t offset, uint64_t length, haul_error *error)
{
    auto *disk = static_cast<Disk *>(opaque);
    EXPECT_TRUE(offset % kPage == 0 && offset + length <= disk->inner.size);
    disk->unflushed = true;
    int rc = Note(disk, Disk::kZero, error);
    return rc ? rc : Inner(disk).zero(disk->inner.opaque, offset, length, error);
}

static int Complete(void *opaque, haul_error *error)
{
    auto *disk = static_cast<Disk *>(opaque);
    int rc = Note(disk, Disk::kComplete, error);
    return rc ? rc : Inner(disk).complete(disk->inner.opaque, error);
}

static uint64_t CompleteNs(void *opaque)
{
    auto *disk = static_cast<Disk *>(opaque);
    return disk->complete_ns ? disk->complete_ns.load() : Inner(disk).complete_ns(disk->inner.opaque);
}

static void Discard(void *opaque, haul_error *left)
{
    auto *disk = static_cast<Disk *>(opaque);
    Note(disk, Disk::kDiscard, nullptr);
    Inner(disk).discard(disk->inner.opaque, left);
}

static const haul_disk_ops kSourceOps = {
    .read = Read, .clear_holes = ClearHoles, .start = Start, .fetch = Fetch, .stop = Stop};
static const haul_disk_ops kDestinationOps = {.read = Read,
                                              .clear_holes = ClearHoles,
                                              .open = Open,
                                              .complete_ns = CompleteNs,
                                              .write = Write,
                                              .zero = Zero,
                                              .flush = Flush,
                                              .complete = Complete,
                                              .discard = Discard};

// ---- the disk ----

Disk::Disk(const std::string &path, bool source, uint64_t image_size, const std::string &called)
    : name(called)
{
    haul_error error{};
    int rc = source ? haul_disk_file_open(path.c_str(), &file_, &error)
                    : haul_disk_file_receive(path.c_str(), image_size, &file_, &error);
    EXPECT_EQ(rc, 0) << error.message;
    inner = haul_disk_file_describe(file_, name.c_str());
    size = inner.size;
}

Disk::~Disk()
{
    Pause();
    haul_disk_file_free(file_);
}

haul_disk Disk::Describe()
{
    haul_disk disk = inner;
    disk.name = name.c_str();
    disk.size = size;
    disk.granularity = granularity;
    disk.ops = inner.ops->start ? &kSourceOps : &kDestinationOps;
    disk.opaque = this;
    return disk;
}

void Disk::Plug(Guest &guest)
{
    auto before = guest.on_attach;
    guest.on_attach = [this, before](haul_migration *migration) {
        if (before) {
            before(migration);
        }
        haul_error error{};
        haul_disk disk = Describe();
        ASSERT_EQ(haul_add_disk(migration, &disk, &error), 0) << error.message;
    };
    auto stop = guest.on_stop;
    guest.on_stop = [this, stop] {
        if (stop) {
            stop();
        }
        Pause();
    };
    auto resume = guest.on_resume;
    guest.on_resume = [this, resume] {
        if (resume) {
            resume();
        }
        Run(0, 0);
    };
}

void Disk::Write(uint64_t block, unsigned char value)
{
    std::lock_guard<std::mutex> hold(write_lock_);
    size_t length = std::min<uint64_t>(kPage, inner.size - block * kPage);
    std::string bytes(length, static_cast<char>(value));
    EXPECT_EQ(pwrite(fd(), bytes.data(), length, static_cast<off_t>(block * kPage)),
              static_cast<ssize_t>(length));
    haul_disk_file_mark(file_, block * kPage, length);
}

std::string Disk::Content() const
{
    std::string bytes(inner.size, 'x');
    EXPECT_EQ(pread(fd(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(inner.size));
    return bytes;
}

void Disk::Run(unsigned blocks_per_burst, unsigned pause_us)
{
    if (blocks_per_burst != 0) {
        burst_ = blocks_per_burst;
        pause_us_ = pause_us;
    }
    if (burst_ == 0 || running_) {
        return;
    }
    running_ = true;
    thread_ = std::thread([this] {
        std::mt19937_64 random(calls[kFetch] + 1);
        while (running_) {
            for (unsigned i = 0; i < burst_ && running_; i++) {
                Write(random() % ((inner.size + kPage - 1) / kPage), static_cast<unsigned char>(random()));
            }
            usleep(pause_us_);
        }
    });
}

void Disk::Pause()
{
    running_ = false;
    if (thread_.joinable()) {
        thread_.join();
    }
}

// ---- two of them ----

haul_options DiskOptions()
{
    haul_options options = Options();
    options.downtime_limit_ms = 10000;
    return options;
}

static constexpr size_t kMemory = 2 << 20;

DiskMachines::DiskMachines(uint64_t bytes, const std::function<bool(uint64_t)> &present)
    : from({kMemory}, true), to({kMemory}, false)
{
    MakeImage(directory / "from", bytes, present);
    disk = std::make_unique<Disk>(directory / "from", true);
    copy = std::make_unique<Disk>(directory / "to", false, bytes);
    from.on_attach = [this](haul_migration *migration) { source = migration; };
    to.on_attach = [this](haul_migration *migration) { destination = migration; };
    disk->Plug(from);
    copy->Plug(to);
}

void DiskMachines::Run()
{
    from.Run(5, 1000);
    disk->Run(5, 1000);
}

void DiskMachines::WhenStopped(const std::function<void()> &action)
{
    from.on_stop = [action, stop = from.on_stop] {
        stop();
        action();
    };
}

void DiskMachines::ExpectMoved(Move &move)
{
    std::string where;
    ASSERT_EQ(move.Wait(), 0) << move.source_error.message << " / " << move.destination_error.message;
    ASSERT_EQ(move.destination_result, 0) << move.destination_error.message;
    EXPECT_TRUE(SameMemory(from, to, &where)) << where;
    EXPECT_TRUE(disk->Content() == ReadImage(directory / "to")) << "the images differ";
    EXPECT_EQ(directory.Names(), (std::vector<std::string>{"from", "to"}));
    EXPECT_FALSE(copy->unflushed);
    EXPECT_EQ(copy->calls[Disk::kComplete], 1u);
    EXPECT_EQ(copy->calls[Disk::kDiscard], 0u);
    EXPECT_EQ(disk->calls[Disk::kStop], 1u);
}

void DiskMachines::ExpectStayed(Move &move, int code, const std::string &text)
{
    int result = move.Wait();
    EXPECT_LT(result, 0);
    EXPECT_TRUE(code == 0 || result == -code) << move.source_error.message;
    EXPECT_NE(std::string(move.source_error.message).find(text), std::string::npos)
        << move.source_error.message << "\nexpected: " << text;
    EXPECT_LT(move.destination_result, 0);
    EXPECT_EQ(move.stats.ownership, HAUL_OWNER_SOURCE);
    EXPECT_EQ(to.starts, 0u);
    EXPECT_TRUE(from.running());
    EXPECT_TRUE(disk->running()) << "the guest goes on writing its disk";
    EXPECT_EQ(disk->calls[Disk::kStop], disk->calls[Disk::kStart]);
    EXPECT_EQ(copy->calls[Disk::kDiscard], copy->calls[Disk::kOpen]);
    if (copy->calls[Disk::kOpen] == 0) {
        copy.reset(); // it was ready for whoever comes next
    }
    EXPECT_EQ(directory.Names(), (std::vector<std::string>{"from"}));
}

} // namespace haul_test
