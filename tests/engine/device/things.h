// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_DEVICE_THINGS_H
#define HAUL_TESTS_ENGINE_DEVICE_THINGS_H

// A described struct with a field of every type, and a registry that a test can save, load and print.

#include "engine/device_state.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#pragma GCC diagnostic ignored "-Winvalid-offsetof"

namespace haul_test
{

constexpr uint32_t V(unsigned major, unsigned minor)
{
    return HAUL_DEVICE_VERSION(major, minor);
}

struct Entry {
    uint32_t index;
    uint64_t value;
};

struct Everything {
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    bool yes;
    uint8_t bytes[5];
    uint16_t array[3];
    uint32_t length;
    uint64_t counted[4];
    uint8_t used;
    uint8_t tail[16];
    Entry entry;
    Entry entries[2];
    uint16_t msrs;
    Entry msr[8];
    bool extra;
    uint32_t extra_value;
    std::function<int(haul_error *)> saving;
    std::function<int(uint32_t, haul_error *)> loaded;
};

inline const haul_device_field kEntry[] = {
    HAUL_DEVICE_VALUE(Entry, index, U32, 0),
    HAUL_DEVICE_VALUE(Entry, value, U64, 0),
    HAUL_DEVICE_END,
};

inline const haul_device_field kFields[] = {
    HAUL_DEVICE_VALUE(Everything, u8, U8, 0),
    HAUL_DEVICE_VALUE(Everything, u16, U16, 0),
    HAUL_DEVICE_VALUE(Everything, u32, U32, 0),
    HAUL_DEVICE_VALUE(Everything, u64, U64, 0),
    HAUL_DEVICE_VALUE(Everything, yes, BOOL, 0),
    HAUL_DEVICE_BYTES(Everything, bytes, 0),
    HAUL_DEVICE_ARRAY(Everything, array, U16, 0),
    HAUL_DEVICE_VALUE(Everything, length, U32, 0),
    HAUL_DEVICE_COUNTED_ARRAY(Everything, counted, U64, length, 0),
    HAUL_DEVICE_VALUE(Everything, used, U8, 0),
    HAUL_DEVICE_COUNTED_BYTES(Everything, tail, used, 0),
    HAUL_DEVICE_NESTED(Everything, entry, kEntry, 0),
    HAUL_DEVICE_NESTED_ARRAY(Everything, entries, kEntry, 0),
    HAUL_DEVICE_VALUE(Everything, msrs, U16, 0),
    HAUL_DEVICE_COUNTED_NESTED(Everything, msr, kEntry, msrs, 0),
    HAUL_DEVICE_END,
};

inline bool NeedsExtra(const void *object)
{
    return static_cast<const Everything *>(object)->extra;
}

inline int Saving(void *object, haul_error *error)
{
    auto *everything = static_cast<Everything *>(object);
    return everything->saving ? everything->saving(error) : 0;
}

inline int Loaded(void *object, uint32_t version, haul_error *error)
{
    auto *everything = static_cast<Everything *>(object);
    return everything->loaded ? everything->loaded(version, error) : 0;
}

inline const haul_device_field kExtraFields[] = {
    HAUL_DEVICE_VALUE(Everything, extra_value, U32, 0),
    HAUL_DEVICE_END,
};
inline const haul_device_description kExtra = {.name = "extra",
                                               .version = V(1, 0),
                                               .minimum = 0,
                                               .fields = kExtraFields,
                                               .subsections = nullptr,
                                               .needed = NeedsExtra,
                                               .history = nullptr,
                                               .pre_save = nullptr,
                                               .post_load = nullptr};
inline const haul_device_description *const kSubsections[] = {&kExtra, nullptr};

inline haul_device_description Described(const haul_device_field *fields, uint32_t version,
                                         const haul_device_description *const *subsections = nullptr,
                                         uint32_t minimum = 0)
{
    return {.name = "thing",
            .version = version,
            .minimum = minimum,
            .fields = fields,
            .subsections = subsections,
            .needed = nullptr,
            .history = nullptr,
            .pre_save = Saving,
            .post_load = Loaded};
}

using Bytes = std::vector<unsigned char>;

// A registry whose objects the caller keeps.
class Registry
{
  public:
    Registry()
    {
        haul_error error = {};
        EXPECT_EQ(haul_devices_new(&devices_, &error), 0);
    }
    ~Registry()
    {
        haul_devices_free(devices_);
    }
    Registry(const Registry &) = delete;
    Registry &operator=(const Registry &) = delete;

    // "" or the error.
    std::string Add(const haul_device_description &description, void *object, uint32_t instance = 0,
                    int priority = 0, uint32_t save_version = 0, bool early = false)
    {
        haul_error error = {};
        haul_device device = {.description = &description,
                              .instance = instance,
                              .priority = priority,
                              .early = early,
                              .save_version = save_version,
                              .object = object};
        code = haul_devices_add(devices_, &device, &error);
        return code == 0 ? "" : error.message;
    }
    Bytes Save(bool early = false)
    {
        unsigned char *bytes = nullptr;
        size_t length = 0;
        haul_error error = {};
        code = haul_devices_save(devices_, early, &bytes, &length, &error);
        message = error.message;
        Bytes copy(bytes, bytes + (code == 0 ? length : 0));
        if (code == 0) {
            EXPECT_LE(length, haul_devices_size(devices_, early));
            free(bytes);
        }
        return copy;
    }
    std::string Load(const Bytes &bytes, bool early = false)
    {
        haul_error error = {};
        code = haul_devices_load(devices_, early, bytes.data(), bytes.size(), &error);
        return code == 0 ? "" : error.message;
    }
    haul_devices *get()
    {
        return devices_;
    }

    int code = 0;
    std::string message;

  private:
    haul_devices *devices_ = nullptr;
};

inline std::unique_ptr<Everything> Sample()
{
    auto thing = std::make_unique<Everything>();
    thing->u8 = 0x12;
    thing->u16 = 0x1234;
    thing->u32 = 0x12345678;
    thing->u64 = 0x123456789abcdef0;
    thing->yes = true;
    memcpy(thing->bytes, "\x01\x02\x03\x00\x00", 5);
    thing->array[0] = 1;
    thing->array[2] = 3;
    thing->length = 2;
    thing->counted[0] = 10;
    thing->counted[1] = 11;
    thing->used = 3;
    memcpy(thing->tail, "abc", 3);
    thing->entry = {5, 6};
    thing->entries[1] = {7, 8};
    thing->msrs = 8;
    for (uint32_t i = 0; i < 8; i++)
        thing->msr[i] = {i, i * i};
    thing->extra = true;
    thing->extra_value = 99;
    return thing;
}

inline void ExpectSame(const Everything &a, const Everything &b)
{
    EXPECT_EQ(a.u8, b.u8);
    EXPECT_EQ(a.u16, b.u16);
    EXPECT_EQ(a.u32, b.u32);
    EXPECT_EQ(a.u64, b.u64);
    EXPECT_EQ(a.yes, b.yes);
    EXPECT_EQ(memcmp(a.bytes, b.bytes, sizeof a.bytes), 0);
    EXPECT_EQ(memcmp(a.array, b.array, sizeof a.array), 0);
    EXPECT_EQ(a.length, b.length);
    EXPECT_EQ(memcmp(a.counted, b.counted, sizeof a.counted), 0);
    EXPECT_EQ(a.used, b.used);
    EXPECT_EQ(memcmp(a.tail, b.tail, sizeof a.tail), 0);
    EXPECT_EQ(a.entry.index, b.entry.index);
    EXPECT_EQ(a.entry.value, b.entry.value);
    EXPECT_EQ(a.entries[1].value, b.entries[1].value);
    EXPECT_EQ(a.msrs, b.msrs);
    for (int i = 0; i < 8; i++)
        EXPECT_EQ(a.msr[i].value, b.msr[i].value);
    EXPECT_EQ(a.extra_value, b.extra_value);
}

inline std::string Print(const Bytes &bytes, haul_device_format format, int *code = nullptr)
{
    char *text = nullptr;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    haul_error error = {};
    int rc = haul_device_print(out, format, bytes.data(), bytes.size(), &error);
    fclose(out);
    std::string printed(text, size);
    free(text);
    if (code) {
        *code = rc;
        EXPECT_TRUE(rc == 0 || printed.empty());
    }
    return rc == 0 ? printed : error.message;
}

// A stream made by hand: a description as JSON, and a section of the given bytes.
inline Bytes Stream(const std::string &json, const Bytes &section, int sections = 1,
                    const char *name = "thing")
{
    Bytes bytes = {'H', 'D', 'E', 'V', 1, 0, 0, 0, 1};
    auto u32 = [&bytes](uint32_t value) {
        for (int i = 0; i < 4; i++)
            bytes.push_back((unsigned char)(value >> (8 * i)));
    };
    u32((uint32_t)json.size());
    bytes.insert(bytes.end(), json.begin(), json.end());
    for (int i = 0; i < sections; i++) {
        bytes.insert(bytes.end(), {2, (unsigned char)strlen(name), 0});
        bytes.insert(bytes.end(), name, name + strlen(name));
        u32(0);
        u32((uint32_t)section.size());
        bytes.insert(bytes.end(), section.begin(), section.end());
    }
    bytes.push_back(0);
    return bytes;
}

inline std::string Fields(const std::string &fields)
{
    return R"({"name":"thing","version":1,"minor":0,"fields":[)" + fields + "]}";
}

// Saves `from` by one description, loads it by another; "" or the error.
inline std::string Transfer(Everything &from, const haul_device_description &source, Everything &to,
                            const haul_device_description &destination, int *code = nullptr)
{
    Registry a, b;
    EXPECT_EQ(a.Add(source, &from), "");
    EXPECT_EQ(b.Add(destination, &to), "");
    Bytes bytes = a.Save();
    EXPECT_EQ(a.code, 0) << a.message;
    std::string why = b.Load(bytes);
    if (code)
        *code = b.code;
    return why;
}

// Two versions of one table.
inline const haul_device_field kOld[] = {
    HAUL_DEVICE_VALUE(Everything, u8, U8, 0),
    HAUL_DEVICE_END,
};
inline const haul_device_field kNew[] = {
    HAUL_DEVICE_VALUE(Everything, u32, U32, V(1, 1)),
    HAUL_DEVICE_VALUE(Everything, u8, U8, 0),
    HAUL_DEVICE_VALUE(Everything, length, U32, V(1, 2)),
    HAUL_DEVICE_COUNTED_ARRAY(Everything, counted, U64, length, V(1, 2)),
    HAUL_DEVICE_END,
};

} // namespace haul_test

#endif
