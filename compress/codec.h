/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_COMPRESS_CODEC_H
#define HAUL_COMPRESS_CODEC_H

/*
 * Page codecs behind one ops table. A codec turns one chunk (up to HAUL_CODEC_CHUNK bytes of whole pages,
 * already gathered into a stable copy by the caller) into fewer bytes and back. A new codec is one file that
 * defines a `const struct haul_codec` and one line in the table of codec.c.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_CODEC_CHUNK ((size_t)64 << 10)

/* Codec ids are wire values (docs/protocol.md): never renumber. */
enum haul_codec_id { HAUL_CODEC_RAW = 0, HAUL_CODEC_LZ4 = 1, HAUL_CODEC_COUNT };

struct haul_codec {
    enum haul_codec_id id;
    const char *name; /* as --compress spells it */
    /* True when the encoder needs a stable copy of its input (everything but raw). */
    int needs_copy;

    /* encode_bound returns the greatest size that encode can need for `length` input bytes. */
    size_t (*encode_bound)(size_t length);

    /* scratch_size returns the bytes of per-thread scratch that encode needs (0 for none). */
    size_t (*scratch_size)(void);

    /*
     * encode compresses `length` bytes (1..HAUL_CODEC_CHUNK) at `source` to `destination`, using `scratch`
     * (scratch_size bytes, 16-byte aligned). Returns the bytes written, or -ENOSPC when the result does not
     * fit in `capacity`; callers give a capacity below `length`, so that -ENOSPC means "send it raw".
     * Thread-safe; allocates nothing.
     */
    ptrdiff_t (*encode)(const void *source, size_t length, void *destination, size_t capacity, void *scratch);

    /*
     * decode expands `length` bytes at `source` to exactly `expected` bytes at `destination`.
     * Hostile input is safe: nothing outside the two buffers is read or written. Returns 0, or -EPROTO when
     * the input is malformed or does not expand to exactly `expected` bytes. Thread-safe; allocates nothing.
     */
    int (*decode)(const void *source, size_t length, void *destination, size_t expected);
};

/* haul_codec_by_id returns the codec, or NULL for an id that this build does not have. */
const struct haul_codec *haul_codec_by_id(unsigned id);

/* haul_codec_by_name returns the codec that --compress calls `name`, or NULL. */
const struct haul_codec *haul_codec_by_name(const char *name);

#ifdef __cplusplus
}
#endif
#endif
