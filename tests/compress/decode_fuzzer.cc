// SPDX-License-Identifier: Apache-2.0
// One input for every decoder: two bytes of expected length, then what the wire brought. The decoders must
// stay inside both buffers, whatever the input. decode_fuzz_test.cc runs it with a fixed set of inputs; to
// search for longer, from the tree's root:
//   F="-I. -g -O1 -fsanitize=fuzzer-no-link,address"
//   clang $F -std=c17 -D_GNU_SOURCE -c compress/codec.c compress/raw.c compress/lz4.c
//   clang++ -I. -g -O1 -fsanitize=fuzzer,address tests/compress/decode_fuzzer.cc codec.o raw.o lz4.o -llz4
#include "compress/codec.h"
#include "tests/compress/guarded.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t expected = 1 + (data[0] | static_cast<size_t>(data[1]) << 8); // 1..HAUL_CODEC_CHUNK
    size_t length = size - 2;
    for (auto touching : {Guarded::kAfter, Guarded::kBefore}) {
        Guarded input(length, touching);
        Guarded output(expected, touching);
        memcpy(input.bytes(), data + 2, length);
        for (unsigned id = 0; id < HAUL_CODEC_COUNT; id++) {
            int result = haul_codec_by_id(id)->decode(input.bytes(), length, output.bytes(), expected);
            if (result != 0 && result != -EPROTO)
                abort();
        }
    }
    return 0;
}
