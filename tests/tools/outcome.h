/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_TOOLS_OUTCOME_H
#define TESTS_TOOLS_OUTCOME_H

/* The JSON object that a run of the real program prints at its end. */
#include "tests/tools/program.h"

#include <gtest/gtest.h>
#include <jansson.h>

/* After a move of `least` bytes or more: it has `count` channels, together they carried what is said of all,
 * and `busy` of them, or more, some of it. */
inline void ExpectChannels(const Program &program, size_t count, json_int_t least, size_t busy)
{
    json_t *json = json_loads(program.Out().c_str(), JSON_REJECT_DUPLICATES, nullptr);
    ASSERT_NE(json, nullptr) << program.Out();
    json_t *channels = json_object_get(json, "channels");
    json_t *all = json_object_get(json_object_get(json, "ram"), "multifd-bytes");
    json_int_t sum = 0;
    size_t index;
    json_t *channel;
    EXPECT_EQ(json_array_size(channels), count) << program.Out();
    json_array_foreach(channels, index, channel)
    {
        json_int_t bytes = json_integer_value(json_object_get(channel, "bytes"));
        busy -= bytes > 0 && busy > 0;
        sum += bytes;
    }
    EXPECT_EQ(busy, 0u) << "more channels must have carried something: " << program.Out();
    EXPECT_GE(sum, least) << program.Out();
    EXPECT_EQ(sum, json_integer_value(all)) << program.Out();
    json_decref(json);
}

#endif
