/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_TOOLS_SNAPSHOT_CLI_FILE_H
#define TESTS_TOOLS_SNAPSHOT_CLI_FILE_H

/* Runs of the real program that save into a file, look at it and start from it. */
#include "engine/device_state.h"
#include "tests/tools/loopback.h"

#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <jansson.h>
#include <sstream>

constexpr uint64_t kMemoryAt = 2 << 20; /* of the reference guest's only block of 16 MiB */

struct JsonFree {
    void operator()(json_t *json) const
    {
        json_decref(json);
    }
};
using Json = std::unique_ptr<json_t, JsonFree>;

class SnapshotFile : public Move
{
  protected:
    void SetUp() override
    {
        Move::SetUp();
        folder_ = MakeDirectory();
    }
    void TearDown() override
    {
        std::filesystem::remove_all(folder_);
        for (const std::string &path : shared_) {
            std::filesystem::remove(path);
        }
    }
    std::string Path() const
    {
        return folder_ + "/a";
    }
    std::string Uri() const
    {
        return "file:" + Path();
    }
    /* A path in a memory file system, removed at the end. */
    std::string Shm(const std::string &name)
    {
        shared_.push_back("/dev/shm/haul-cli-file-" + std::to_string(getpid()) + "-" + name);
        return shared_.back();
    }
    std::vector<std::string> Names() const
    {
        std::vector<std::string> names;
        for (const auto &entry : std::filesystem::directory_iterator(folder_)) {
            names.push_back(entry.path().filename());
        }
        return names;
    }
    static std::string Contents(const std::string &path)
    {
        std::ifstream file(path, std::ios::binary);
        std::ostringstream text;
        text << file.rdbuf();
        return text.str();
    }
    std::unique_ptr<Program> StartSave(const Words &more)
    {
        address_ = Uri();
        return SendGuest(more);
    }
    void Save(const Words &more)
    {
        auto save = StartSave(more);
        EXPECT_EQ(save->Wait(), 0) << save->Err();
    }
    static void ExpectNotSaved(Program &save)
    {
        EXPECT_EQ(save.Wait(), 1) << save.Err();
        EXPECT_TRUE(Has(save.Out(), "Not saved (")) << save.Out();
        EXPECT_TRUE(Has(save.Out(), "the guest goes on here")) << save.Out();
        EXPECT_TRUE(Has(save.Out(), "self-check passed")) << save.Out() << save.Err();
    }
    std::unique_ptr<Program> Restore(const Words &more)
    {
        Words words = {"restore", Uri()};
        Words guest = Guest(more);
        words.insert(words.end(), guest.begin(), guest.end());
        return std::make_unique<Program>(destination_, words);
    }
    Json InspectJson(int status)
    {
        Program inspect(source_, {"inspect", Uri(), "--json"});
        EXPECT_EQ(inspect.Wait(), status) << inspect.Err();
        Json json(json_loads(inspect.Out().c_str(), 0, nullptr));
        EXPECT_NE(json, nullptr) << inspect.Out();
        return json;
    }
    static json_int_t Number(const Json &json, std::initializer_list<const char *> path)
    {
        const json_t *at = json.get();
        for (const char *name : path) {
            at = json_object_get(at, name);
        }
        EXPECT_TRUE(json_is_integer(at)) << *(path.end() - 1);
        return json_integer_value(at);
    }
    /* What a VMM that keeps the state of one timer in a file would write. */
    void SaveStream(uint64_t next_ns)
    {
        struct Timer {
            uint64_t next_ns;
            bool armed;
        } timer = {next_ns, true};
        const haul_device_field fields[] = {HAUL_DEVICE_VALUE(Timer, next_ns, U64, 0),
                                            HAUL_DEVICE_VALUE(Timer, armed, BOOL, 0), HAUL_DEVICE_END};
        haul_device_description description = {};
        description.name = "timer";
        description.version = HAUL_DEVICE_VERSION(1, 2);
        description.fields = fields;
        haul_device device = {};
        device.description = &description;
        device.instance = 3;
        device.object = &timer;
        haul_devices *devices = nullptr;
        unsigned char *bytes = nullptr;
        size_t length = 0;
        ASSERT_EQ(haul_devices_new(&devices, nullptr), 0);
        ASSERT_EQ(haul_devices_add(devices, &device, nullptr), 0);
        ASSERT_EQ(haul_devices_save(devices, false, &bytes, &length, nullptr), 0);
        std::ofstream(Path(), std::ios::binary)
            .write(reinterpret_cast<const char *>(bytes), static_cast<std::streamsize>(length));
        free(bytes);
        haul_devices_free(devices);
    }

    std::string folder_;
    std::vector<std::string> shared_;
};

#endif
