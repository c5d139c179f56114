// SPDX-License-Identifier: Apache-2.0
// Streams as text and as JSON.
#include "things.h"

using namespace haul_test;

namespace
{

TEST(DevicePrint, TextAndJson)
{
    struct Part {
        uint32_t n;
        uint8_t bytes[4];
    } parts[2] = {{300, {0xab, 0, 0, 0}}, {1, {}}};
    struct Whole {
        bool on;
        uint8_t count;
        Part part[2];
        uint64_t spare;
    } whole = {true, 2, {parts[0], parts[1]}, 42};
    const haul_device_field part[] = {HAUL_DEVICE_VALUE(Part, n, U32, 0), HAUL_DEVICE_BYTES(Part, bytes, 0),
                                      HAUL_DEVICE_END};
    const haul_device_field fields[] = {
        HAUL_DEVICE_VALUE(Whole, on, BOOL, 0), HAUL_DEVICE_VALUE(Whole, count, U8, 0),
        HAUL_DEVICE_COUNTED_NESTED(Whole, part, part, count, 0), HAUL_DEVICE_END};
    const haul_device_field spare[] = {HAUL_DEVICE_VALUE(Whole, spare, U64, 0), HAUL_DEVICE_END};
    haul_device_description sub = {};
    sub.name = "spare";
    sub.version = V(1, 1);
    sub.fields = spare;
    sub.needed = [](const void *) { return true; };
    const haul_device_description *const subs[] = {&sub, nullptr};
    haul_device_description description = {};
    description.name = "whole";
    description.version = V(1, 0);
    description.fields = fields;
    description.subsections = subs;
    Registry registry;
    ASSERT_EQ(registry.Add(description, &whole, 4), "");
    Bytes bytes = registry.Save();
    EXPECT_EQ(Print(bytes, HAUL_DEVICE_TEXT), "whole/4 version 1.0\n"
                                              "  on: true\n"
                                              "  count: 2\n"
                                              "  part[0].n: 300 (0x12c)\n"
                                              "  part[0].bytes: 4 bytes: ab, then 3 zero bytes\n"
                                              "  part[1].n: 1\n"
                                              "  part[1].bytes: 4 bytes, 4 zero bytes\n"
                                              "whole/4/spare version 1.1\n"
                                              "  spare: 42 (0x2a)\n");
    EXPECT_EQ(
        Print(bytes, HAUL_DEVICE_JSON),
        R"({"whole/4":{"version":"1.0","state":{"on":true,"count":2,"part":[{"n":300,"bytes":"ab000000"},)"
        R"({"n":1,"bytes":"00000000"}]},"subsections":{"spare":{"version":"1.1","state":{"spare":42}}}}})");
}

} // namespace
