/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_COMPRESS_CODEC_H
#define HAUL_COMPRESS_CODEC_H

/*
 * Page codecs behind one ops table. A codec turns one chunk (up to HAUL_CODEC_CHUNK bytes of whole pages,
 * already gathered into a stable copy by the caller) into fewer bytes and back.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_CODEC_CHUNK ((size_t)64 << 10)

/*
 * The codecs: HAUL_CODEC_ID and the number that stands for it on the wire (docs/protocol.md; never renumber,
 * leave no gap), the object haul_codec_SYMBOL, and the name that --compress has for it. A new codec is a line
 * here and a file that defines its object.
 */
#define HAUL_CODECS(CODEC)                                                                                   \
    CODEC(RAW, 0, raw, "none")                                                                               \
    CODEC(LZ4, 1, lz4, "lz4")

#define HAUL_CODEC_MEMBER(id, number, symbol, name) HAUL_CODEC_##id = (number),
enum haul_codec_id { HAUL_CODECS(HAUL_CODEC_MEMBER) HAUL_CODEC_COUNT };
#undef HAUL_CODEC_MEMBER

/* All that --compress may be: one string with bars between the names, and a list of them. */
#define HAUL_CODEC_BAR(id, number, symbol, name) name "|"
#define HAUL_CODEC_ITEM(id, number, symbol, name) name,
#define HAUL_COMPRESS_NAMES HAUL_CODECS(HAUL_CODEC_BAR) "auto"
#define HAUL_COMPRESS_LIST HAUL_CODECS(HAUL_CODEC_ITEM) "auto"

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

/* haul_codec_scratch_max returns the greatest scratch_size of all codecs. */
size_t haul_codec_scratch_max(void);

#ifdef __cplusplus
}
#endif
#endif
