// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_FAKE_MIGRATION_H
#define HAUL_TESTS_ENGINE_FAKE_MIGRATION_H

// A migration object that holds nothing but RAM blocks, for the parts of the engine that look at no more.

#include "engine/migration.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace haul_test
{

// Memory of a memfd, mapped shared (`memfd_flags`: MFD_HUGETLB), or anonymous memory without a file.
class Mapping
{
  public:
    explicit Mapping(size_t bytes, bool file = true, unsigned memfd_flags = 0) : size(bytes)
    {
        fd = file ? memfd_create("mapping", MFD_CLOEXEC | memfd_flags) : -1;
        if (file) {
            EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
        }
        int flags = file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
        void *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
        EXPECT_NE(at, MAP_FAILED);
        data = static_cast<unsigned char *>(at);
    }
    ~Mapping()
    {
        munmap(data, size);
        if (fd >= 0) {
            close(fd);
        }
    }
    Mapping(const Mapping &) = delete;

    // Pages of the mapping that are in memory.
    size_t Resident() const
    {
        std::vector<unsigned char> in(size / 4096);
        EXPECT_EQ(mincore(data, size, in.data()), 0);
        size_t count = 0;
        for (unsigned char page : in) {
            count += page & 1;
        }
        return count;
    }

    int fd;
    size_t size;
    unsigned char *data;
};

class FakeMigration
{
  public:
    FakeMigration() : migration_(new haul_migration{})
    {
    }

    void Add(const std::string &name, unsigned char *host, uint64_t length, int fd = -1,
             uint32_t page_size = 4096, uint64_t fd_offset = 0)
    {
        haul_block &block = migration_->blocks[migration_->block_count++];
        snprintf(block.name, sizeof block.name, "%s", name.c_str());
        block.host = host;
        block.length = length;
        block.page_size = page_size;
        block.fd = fd;
        block.fd_offset = fd_offset;
    }

    void Add(const std::string &name, const Mapping &mapping)
    {
        Add(name, mapping.data, mapping.size, mapping.fd);
    }

    haul_migration *get() const
    {
        return migration_.get();
    }

  private:
    std::unique_ptr<haul_migration> migration_;
};

// Bytes as the wire has them.
class Bytes
{
  public:
    Bytes &u16(uint16_t value)
    {
        return Number(value, 2);
    }
    Bytes &u32(uint32_t value)
    {
        return Number(value, 4);
    }
    Bytes &u64(uint64_t value)
    {
        return Number(value, 8);
    }
    Bytes &text(const std::string &value)
    {
        u16(static_cast<uint16_t>(value.size()));
        data.insert(data.end(), value.begin(), value.end());
        return *this;
    }
    Bytes &raw(size_t count, unsigned char value)
    {
        data.insert(data.end(), count, value);
        return *this;
    }
    std::vector<unsigned char> data;

  private:
    Bytes &Number(uint64_t value, int bytes)
    {
        for (int i = 0; i < bytes; i++) {
            data.push_back(static_cast<unsigned char>(value >> (8 * i)));
        }
        return *this;
    }
};

} // namespace haul_test

#endif
