/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TESTS_CHANNELS_GUARDED_MEMORY_H
#define HAUL_TESTS_CHANNELS_GUARDED_MEMORY_H

#include "channels/batch.h"

#include <cstring>
#include <memory>
#include <sys/mman.h>

/* A block of pages between two pages that nobody may touch, with its maybe-non-zero bitmap. */
class GuardedBlock
{
  public:
    explicit GuardedBlock(uint64_t pages, bool destination = true)
        : length_((pages + 2) * HAUL_PAGE_SIZE), words_((pages + 63) / 64),
          bits_(new std::atomic<uint64_t>[words_])
    {
        base_ = static_cast<unsigned char *>(
            mmap(nullptr, length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(base_ + HAUL_PAGE_SIZE, pages * HAUL_PAGE_SIZE, PROT_READ | PROT_WRITE);
        for (size_t i = 0; i < words_; i++)
            bits_[i] = 0;
        view.host = base_ + HAUL_PAGE_SIZE;
        view.pages = pages;
        view.maybe_nonzero = destination ? bits_.get() : nullptr;
    }
    ~GuardedBlock()
    {
        munmap(base_, length_);
    }
    GuardedBlock(const GuardedBlock &) = delete;
    GuardedBlock &operator=(const GuardedBlock &) = delete;

    unsigned char *page(uint64_t index) const
    {
        return view.host + index * HAUL_PAGE_SIZE;
    }
    void fill(uint64_t index, int value) const
    {
        memset(page(index), value, HAUL_PAGE_SIZE);
    }
    /* Incompressible, and different for each page and seed. */
    void fill_random(uint64_t index, uint64_t seed) const
    {
        uint64_t state = (index + 1) * 0x9E3779B97F4A7C15u ^ seed;
        for (size_t i = 0; i < HAUL_PAGE_SIZE; i += 8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            memcpy(page(index) + i, &state, 8);
        }
    }
    bool bit(uint64_t index) const
    {
        return bits_[index / 64] >> (index % 64) & 1;
    }
    void set_bit(uint64_t index)
    {
        bits_[index / 64] |= uint64_t{1} << (index % 64);
    }

    haul_block_view view{};

  private:
    size_t length_;
    size_t words_;
    std::unique_ptr<std::atomic<uint64_t>[]> bits_;
    unsigned char *base_;
};

#endif
