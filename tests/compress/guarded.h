// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_COMPRESS_GUARDED_H
#define HAUL_TESTS_COMPRESS_GUARDED_H

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

// A buffer of `length` bytes between two unmapped pages, touching one of them: a library that was built
// without sanitizers cannot read or write outside it unnoticed.
class Guarded
{
  public:
    enum Touching { kAfter, kBefore };

    explicit Guarded(size_t length, Touching touching = kAfter)
        : inner_((length + kPage - 1) / kPage * kPage + (length == 0 ? kPage : 0))
    {
        void *map = mmap(nullptr, inner_ + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED) {
            perror("mmap");
            abort();
        }
        map_ = static_cast<uint8_t *>(map);
        if (mprotect(map_ + kPage, inner_, PROT_READ | PROT_WRITE) != 0) {
            perror("mprotect");
            abort();
        }
        bytes_ = map_ + kPage + (touching == kAfter ? inner_ - length : 0);
    }
    ~Guarded()
    {
        munmap(map_, inner_ + 2 * kPage);
    }
    Guarded(const Guarded &) = delete;
    Guarded &operator=(const Guarded &) = delete;

    uint8_t *bytes()
    {
        return bytes_;
    }

  private:
    static constexpr size_t kPage = 4096;
    size_t inner_;
    uint8_t *map_;
    uint8_t *bytes_;
};

#endif
