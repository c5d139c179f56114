// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_DEVICE_MACHINE_H
#define HAUL_TESTS_ENGINE_DEVICE_MACHINE_H

// The test guest with two described devices: "setup", early, and "timer".

#include "engine/device_state.h"
#include "tests/engine/file/file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace haul_test
{

constexpr uint32_t kOneZero = HAUL_DEVICE_VERSION(1, 0);
constexpr uint32_t kOneOne = HAUL_DEVICE_VERSION(1, 1);

struct Part {
    uint32_t kind;
    uint32_t length;
    uint32_t sizes[4]; // `length` of them
    uint32_t newer;    // since 1.1
    uint32_t extra;    // a subsection, sent unless it is 0
    const std::function<void()> *on_save, *on_load;
};

inline int SavePart(void *object, haul_error *)
{
    auto *part = static_cast<Part *>(object);
    if (part->on_save && *part->on_save) {
        (*part->on_save)();
    }
    return 0;
}

inline int LoadPart(void *object, uint32_t, haul_error *error)
{
    auto *part = static_cast<Part *>(object);
    if (part->on_load && *part->on_load) {
        (*part->on_load)();
    }
    return part->kind == 13 ? haul_error_set(error, EINVAL, "field kind: 13 is none") : 0;
}

inline bool NeedsExtra(const void *object)
{
    return static_cast<const Part *>(object)->extra != 0;
}

inline const haul_device_field kPartFields[] = {
    HAUL_DEVICE_VALUE(Part, kind, U32, 0),
    HAUL_DEVICE_VALUE(Part, length, U32, 0),
    HAUL_DEVICE_COUNTED_ARRAY(Part, sizes, U32, length, 0),
    HAUL_DEVICE_END,
};
inline const haul_device_field kNewerFields[] = {
    HAUL_DEVICE_VALUE(Part, kind, U32, 0),
    HAUL_DEVICE_VALUE(Part, length, U32, 0),
    HAUL_DEVICE_COUNTED_ARRAY(Part, sizes, U32, length, 0),
    HAUL_DEVICE_VALUE(Part, newer, U32, kOneOne),
    HAUL_DEVICE_END,
};
inline const haul_device_field kExtraFields[] = {HAUL_DEVICE_VALUE(Part, extra, U32, 0), HAUL_DEVICE_END};
constexpr haul_device_description Extra(const haul_device_history *history)
{
    return {.name = "extra",
            .version = kOneZero,
            .minimum = 0,
            .fields = kExtraFields,
            .subsections = nullptr,
            .needed = NeedsExtra,
            .history = history,
            .pre_save = nullptr,
            .post_load = nullptr};
}
// What a device has always had, or since its 1.1.
inline constexpr haul_device_history kSinceOneOne[] = {{kOneOne, kOneZero}, {0, 0}};
inline constexpr haul_device_description kExtra = Extra(nullptr), kNewerExtra = Extra(kSinceOneOne);
inline const haul_device_description *const kSubsections[] = {&kExtra, nullptr};
inline const haul_device_description *const kNewerSubsections[] = {&kNewerExtra, nullptr};

// What a machine knows of a device: 1.1 has a further field; `extra`: the subsection.
struct Shape {
    uint32_t version = kOneZero;
    bool extra = false;
    uint32_t save_version = 0;
};

// Which versions of one program both sides run. A newer destination loads what an older source saved; a newer
// source saves what an older destination loads.
struct Versions {
    const char *name;
    Shape from, to;
    uint32_t extra; // what a source has of it
};
inline const Versions kVersions[] = {
    {"OneVersion", {}, {}, 0},
    {"ToANewerOne", {}, {kOneOne, true}, 0},
    {"ForAnOlderOne", {kOneOne, true, kOneZero}, {}, 6},
};

// When a move works on described state.
struct Moment {
    const char *name;
    bool early, load;
};
inline const Moment kMoments[] = {
    {"EarlySave", true, false},
    {"EarlyLoad", true, true},
    {"LateSave", false, false},
    {"LateLoad", false, true},
};

enum class Way { kCopied, kHandedOver };

inline std::string WayName(const testing::TestParamInfo<Way> &info)
{
    return info.param == Way::kCopied ? "Copied" : "HandedOver";
}

inline haul_options OptionsOf(Way way)
{
    haul_options options = Options();
    if (way == Way::kHandedOver) {
        options.mode = "cpr-transfer";
    }
    return options;
}

class Machine
{
  public:
    explicit Machine(bool fill, Shape early_shape = {}, Shape late_shape = {})
        : guest({2 << 20}, fill), early_description_(Describe("setup", early_shape)),
          late_description_(Describe("timer", late_shape))
    {
        early = late = Part{};
        early.on_save = &on_early_save;
        early.on_load = &on_early_load;
        late.on_save = &on_late_save;
        late.on_load = &on_late_load;
        if (fill) {
            early = {1, 2, {3, 4, 0, 0}, 5, 0, early.on_save, early.on_load};
            late = {6, 2, {7, 9, 0, 0}, 8, 0, late.on_save, late.on_load};
        }
        haul_device device = {.description = &late_description_,
                              .instance = 0,
                              .priority = 0,
                              .early = false,
                              .save_version = late_shape.save_version,
                              .object = &late};
        EXPECT_EQ(haul_devices_new(&devices, nullptr), 0);
        EXPECT_EQ(haul_devices_add(devices, &device, nullptr), 0);
        device.description = &early_description_;
        device.object = &early;
        device.early = true;
        device.save_version = early_shape.save_version;
        EXPECT_EQ(haul_devices_add(devices, &device, nullptr), 0);
        guest.on_attach = [this](haul_migration *migration) { Attach(migration); };
    }
    ~Machine()
    {
        haul_devices_free(devices);
    }
    Machine(const Machine &) = delete;

    // What is called at that moment, when this machine is the one that saves or loads.
    std::function<void()> &Hook(const Moment &moment)
    {
        return moment.load    ? moment.early ? on_early_load : on_late_load
               : moment.early ? on_early_save
                              : on_late_save;
    }

    // From now on the machine saves its state as it is now, with one number of it changed: the first u32 of
    // value `old`.
    void Forge(bool early_one, uint32_t old, uint32_t value)
    {
        for (bool which : {true, false}) {
            unsigned char *bytes = nullptr;
            size_t length = 0;
            ASSERT_EQ(haul_devices_save(devices, which, &bytes, &length, nullptr), 0);
            forged_[which].assign(bytes, bytes + length);
            free(bytes);
        }
        auto &bytes = forged_[early_one];
        const auto *from = reinterpret_cast<const unsigned char *>(&old);
        auto at = std::search(bytes.begin(), bytes.end(), from, from + 4);
        ASSERT_NE(at, bytes.end());
        memcpy(&*at, &value, sizeof value);
    }

    Guest guest;
    Part early, late;
    haul_devices *devices = nullptr;
    std::function<void()> on_early_save, on_early_load, on_late_save, on_late_load;

  private:
    static haul_device_description Describe(const char *name, const Shape &shape)
    {
        return {.name = name,
                .version = shape.version,
                .minimum = 0,
                .fields = shape.version == kOneOne ? kNewerFields : kPartFields,
                .subsections = !shape.extra               ? nullptr
                               : shape.version == kOneOne ? kNewerSubsections
                                                          : kSubsections,
                .needed = nullptr,
                .history = nullptr,
                .pre_save = SavePart,
                .post_load = LoadPart};
    }
    static int SaveForged(void *opaque, haul_state_writer *writer, haul_error *error)
    {
        auto *bytes = static_cast<std::vector<unsigned char> *>(opaque);
        return haul_state_write(writer, bytes->data(), bytes->size(), error);
    }
    void Attach(haul_migration *migration)
    {
        static const haul_state_ops early_ops = {.name = "devices.early", .early = true, .save = SaveForged};
        static const haul_state_ops late_ops = {.name = "devices", .save = SaveForged};
        haul_error error{};
        if (forged_[true].empty()) {
            EXPECT_EQ(haul_devices_attach(devices, migration, &error), 0) << error.message;
            return;
        }
        EXPECT_EQ(haul_add_state(migration, &early_ops, &forged_[true], &error), 0) << error.message;
        EXPECT_EQ(haul_add_state(migration, &late_ops, &forged_[false], &error), 0) << error.message;
    }

    haul_device_description early_description_, late_description_;
    std::vector<unsigned char> forged_[2]; // late, early
};

// The guest goes on at the source, and nobody was about to give it away.
inline void ExpectRunsOn(Machine &from, Machine &to, const haul_stats &stats)
{
    EXPECT_EQ(stats.ownership, HAUL_OWNER_SOURCE);
    EXPECT_TRUE(from.guest.running());
    EXPECT_EQ(from.guest.handed_over, 0u);
    EXPECT_EQ(to.guest.starts, 0u);
    for (haul_step step : from.guest.steps) {
        EXPECT_NE(step, HAUL_STEP_HANDOVER_SENDING);
    }
}

} // namespace haul_test

#endif
