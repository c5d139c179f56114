// SPDX-License-Identifier: Apache-2.0
// Streams that are damaged or made by hand: each is refused, and the message names the field.
#include "things.h"

#include <algorithm>

using namespace haul_test;

namespace
{

// ---- bad values ---------------------------------------------------------------------------------------

// The stream of a Sample, with `length` bytes at the place of `find` in the section replaced.
class Damaged : public testing::Test
{
  protected:
    Damaged()
    {
        EXPECT_EQ(source.Add(description, from.get()), "");
        EXPECT_EQ(destination.Add(description, &to), "");
        good = source.Save();
        // The section begins behind the description: u8, then u16.
        const unsigned char head[] = {0x12, 0x34, 0x12, 0x78, 0x56, 0x34, 0x12};
        at = std::search(good.begin(), good.end(), head, head + sizeof head) - good.begin();
        EXPECT_LT(at, good.size());
    }
    std::string With(size_t offset, std::initializer_list<int> bytes)
    {
        Bytes bad = good;
        for (int byte : bytes)
            bad[at + offset++] = (unsigned char)byte;
        int printed = 0;
        Print(bad, HAUL_DEVICE_TEXT, &printed);
        EXPECT_EQ(printed, -EPROTO);
        return destination.Load(bad);
    }

    haul_device_description description = Described(kFields, V(1, 0), kSubsections);
    std::unique_ptr<Everything> from = Sample();
    Everything to = {};
    Registry source, destination;
    Bytes good;
    size_t at = 0;
};

constexpr size_t kYes = 15, kLength = 16 + 5 + 6, kUsed = kLength + 4 + 16, kMsrs = kUsed + 4 + 36;

TEST_F(Damaged, CountOverItsMaximum)
{
    EXPECT_EQ(With(kLength, {0x28, 0x23}), "state of thing/0: field length: 9000 is more than 4");
    EXPECT_EQ(destination.code, -EPROTO);
    EXPECT_EQ(to.length, 0u);
    EXPECT_EQ(With(kUsed, {17}), "state of thing/0: field used: 17 is more than 16");
    EXPECT_EQ(With(kMsrs, {9}), "state of thing/0: field msrs: 9 is more than 8");
}

TEST_F(Damaged, BoolThatIsNone)
{
    EXPECT_EQ(With(kYes, {2}), "state of thing/0: field yes: 2 is neither 0 nor 1");
    EXPECT_EQ(destination.code, -EPROTO);
}

TEST_F(Damaged, SmallerCountLeavesBytes)
{
    // The eighth entry is read as a number of subsections, and the rest as subsections.
    EXPECT_EQ(With(kMsrs, {7}), "state of thing/0: it has a subsection that is cut short or not described");
    EXPECT_EQ(destination.code, -EPROTO);
}

TEST_F(Damaged, GreaterCountFindsNoBytes)
{
    EXPECT_NE(With(kLength, {4}), "");
    EXPECT_EQ(destination.code, -EPROTO);
}

TEST_F(Damaged, EveryCutIsRefused)
{
    for (size_t length = 0; length < good.size(); length++) {
        Bytes cut(good.begin(), good.begin() + (long)length);
        EXPECT_NE(destination.Load(cut), "") << length;
        EXPECT_EQ(destination.code, -EPROTO) << length;
        int code = 0;
        Print(cut, HAUL_DEVICE_JSON, &code);
        EXPECT_EQ(code, -EPROTO) << length;
    }
}

TEST_F(Damaged, BytesBehindTheEnd)
{
    good.push_back(0);
    EXPECT_EQ(destination.Load(good), "the device state stream is damaged: bytes follow its end record");
    EXPECT_EQ(destination.code, -EPROTO);
}

TEST_F(Damaged, WrongMagicAndFormat)
{
    Bytes bad = good;
    bad[0] = 'X';
    EXPECT_EQ(destination.Load(bad), "the device state stream is damaged: it does not begin with HDEV");
    EXPECT_FALSE(haul_device_is_stream(bad.data(), bad.size()));
    EXPECT_TRUE(haul_device_is_stream(good.data(), good.size()));
    bad = good;
    bad[4] = 2;
    EXPECT_EQ(destination.Load(bad), "the device state stream has format 2, this side knows 1");
    EXPECT_EQ(destination.code, -EINVAL);
}

TEST(DeviceStream, ShortAndLongSectionsNameTheField)
{
    Everything to = {};
    auto description = Described(kOld, V(1, 0));
    Registry registry;
    ASSERT_EQ(registry.Add(description, &to), "");
    std::string json = Fields(R"({"name":"u8","type":"u8"})");
    EXPECT_EQ(registry.Load(Stream(json, {5, 0})), "");
    EXPECT_EQ(to.u8, 5);
    EXPECT_EQ(registry.Load(Stream(json, {})), "state of thing/0: field u8: the state ends before it");
    EXPECT_EQ(registry.code, -EPROTO);
    EXPECT_EQ(registry.Load(Stream(json, {5})), "state of thing/0: it ends after its fields");
    EXPECT_EQ(registry.Load(Stream(json, {5, 0, 1, 2})), "state of thing/0: 2 bytes follow its last field");
    EXPECT_EQ(registry.code, -EPROTO);
}

TEST(DeviceStream, SectionsThatDoNotFitTheDevices)
{
    Everything to = {};
    auto description = Described(kOld, V(1, 0));
    Registry registry, empty;
    ASSERT_EQ(registry.Add(description, &to), "");
    std::string json = Fields(R"({"name":"u8","type":"u8"})");
    EXPECT_EQ(registry.Load(Stream(json, {5, 0}, 2)), "state of thing/0: it comes twice");
    EXPECT_EQ(registry.code, -EPROTO);
    EXPECT_EQ(empty.Load(Stream(json, {5, 0})), "state of thing/0: this side has no such device");
    EXPECT_EQ(empty.code, -EINVAL);
    EXPECT_EQ(registry.Load(Stream(json, {5, 0}, 0)), "state of thing/0: the stream does not have it");
    EXPECT_EQ(registry.code, -EINVAL);
    EXPECT_EQ(registry.Load(Stream(json, {5, 0}, 1, "other")),
              "the device state stream is damaged: a section has no description");
}

TEST(DeviceStream, RecordsThatDoNotFit)
{
    Registry registry;
    const std::string json = Fields(R"({"name":"u8","type":"u8"})");
    Bytes twice = Stream(json, {5, 0}, 0), unknown = Stream(json, {5, 0}, 0),
          padded = Stream(json, {5, 0}, 0);
    const Bytes description(twice.begin() + 8, twice.end() - 1);
    twice.insert(twice.end() - 1, description.begin(), description.end());
    unknown.back() = 3;
    padded[6] = 1;
    const struct {
        Bytes bytes;
        std::string message;
        int code;
    } cases[] = {
        {twice, "the device state stream is damaged: a description comes twice", -EPROTO},
        {unknown, "the device state stream is damaged: a record has an unknown kind", -EPROTO},
        {padded, "the device state stream has format 1, this side knows 1", -EINVAL},
        {Stream(json, {}, 4097), "the device state stream is damaged: it has over 4096 sections", -EPROTO},
        {Stream(json, Bytes((16 << 20) + 1, 0)),
         "the device state stream is damaged: it ends within a section", -EPROTO},
        {Bytes((64 << 20) + 1, 0), "the device state stream has over 64 MiB", -EMSGSIZE},
    };
    for (const auto &one : cases) {
        EXPECT_EQ(registry.Load(one.bytes), one.message);
        EXPECT_EQ(registry.code, one.code);
    }
    EXPECT_EQ(registry.Load(Stream(json, {}, 4096)), "state of thing/0: this side has no such device");
}

TEST(DeviceStream, TooManyDescriptions)
{
    Bytes bytes = {'H', 'D', 'E', 'V', 1, 0, 0, 0};
    for (int i = 0; i < 4097; i++) {
        std::string json = "{\"name\":\"d" + std::to_string(i) + "\"}";
        bytes.insert(bytes.end(), {1, (unsigned char)json.size(), 0, 0, 0});
        bytes.insert(bytes.end(), json.begin(), json.end());
        if (i == 4095) {
            bytes.push_back(0);
            Registry registry;
            EXPECT_EQ(registry.Load(bytes), "");
            bytes.pop_back();
        }
    }
    bytes.push_back(0);
    Registry registry;
    EXPECT_EQ(registry.Load(bytes), "the device state stream is damaged: it has too many descriptions");
    EXPECT_EQ(registry.code, -EPROTO);
}

TEST(DeviceStream, DescriptionsThatAreNone)
{
    const struct {
        std::string json, message;
    } cases[] = {
        {"", "the device state stream is damaged: a description is no JSON object with a name"},
        {"[1]", "the device state stream is damaged: a description is no JSON object with a name"},
        {R"({"name":"a b"})",
         "the device state stream is damaged: a description is no JSON object with a name"},
        {std::string(2000, '['),
         "the device state stream is damaged: a description is no JSON object with a name"},
        {std::string(70000, ' '), "the device state stream is damaged: a description has over 64 KiB"},
        {R"({"name":"thing","version":1})", "state of thing/0: its description has no version"},
        {R"({"name":"thing","version":1,"minor":65536,"fields":[]})",
         "state of thing/0: its description has no version"},
        {Fields(""), "state of thing/0: its description has no fields, over 256, or structs over 8 deep"},
        {Fields("7"), "state of thing/0: a field is described without name or type"},
        {Fields(R"({"name":"x","type":"u128"})"),
         "state of thing/0: a field is described without name or type"},
        {Fields(R"({"name":"x\u001b[2J","type":"u8"})"),
         "state of thing/0: a field is described without name or type"},
        {Fields(R"({"name":"x","type":"u8","count":0})"),
         "state of thing/0: the number of elements of x is malformed"},
        {Fields(R"({"name":"x","type":"u8","count":1048577})"),
         "state of thing/0: the number of elements of x is malformed"},
        {Fields(R"({"name":"x","type":"buffer"})"),
         "state of thing/0: the number of elements of x is malformed"},
        {Fields(R"({"name":"x","type":"u8","count_field":"y"})"),
         "state of thing/0: the number of elements of x is malformed"},
        {Fields(R"({"name":"x","type":"u8","max":4,"count_field":"x"})"),
         "state of thing/0: field x: its count is no field before it"},
        {Fields(R"({"name":"y","type":"u8"},{"name":"x","type":"u8","max":4,"count_field":"y"})"),
         "state of thing/0: field x: its count 5 is more than 4"},
        {Fields(R"({"name":"x","type":"struct"})"), "state of thing/0: the fields of x are malformed"},
        {Fields(R"({"name":"x","type":"struct","fields":[]})"),
         "state of thing/0: field x: its description has no fields, over 256, or structs over 8 deep"},
        {Fields(R"({"name":"x","type":"u8","fields":[]})"),
         "state of thing/0: the fields of x are malformed"},
        {Fields(R"({"name":"x","type":"u64"})"), "state of thing/0: field x: the state ends before it"},
    };
    for (const auto &one : cases) {
        int code = 0;
        EXPECT_EQ(Print(Stream(one.json, {5, 0}), HAUL_DEVICE_TEXT, &code), one.message) << one.json;
        EXPECT_EQ(code, -EPROTO);
    }
    std::string deep = R"({"name":"x","type":"u8"})";
    for (int i = 0; i < 9; i++)
        deep = R"({"name":"x","type":"struct","fields":[)" + deep + "]}";
    int code = 0;
    Print(Stream(Fields(deep), {5, 0}), HAUL_DEVICE_TEXT, &code);
    EXPECT_EQ(code, -EPROTO);
}

// Many descriptions, most of each of no use: what makes a large tree of few bytes.
Bytes Descriptions(unsigned count, size_t length)
{
    Bytes bytes = {'H', 'D', 'E', 'V', 1, 0, 0, 0};
    for (unsigned i = 0; i < count; i++) {
        std::string json = "{\"name\":\"d" + std::to_string(1000 + i) + "\",\"x\":[[]";
        while (json.size() + 5 <= length)
            json += ",[]";
        json += std::string(length - json.size() - 2, ' ') + "]}";
        EXPECT_EQ(json.size(), length);
        for (int byte : {1, int(length & 0xff), int(length >> 8 & 0xff), int(length >> 16), 0})
            bytes.push_back((unsigned char)byte);
        bytes.insert(bytes.end(), json.begin(), json.end());
    }
    bytes.push_back(0);
    return bytes;
}

TEST(DeviceStream, AMebibyteOfDescriptionsIsEnough)
{
    Registry registry;
    EXPECT_EQ(registry.Load(Descriptions(16, 64 << 10)), "");
    int code = 0;
    for (const Bytes &bytes : {Descriptions(17, 64 << 10), Descriptions(1025, 1 << 10)}) {
        EXPECT_EQ(registry.Load(bytes),
                  "the device state stream is damaged: its descriptions have over 1 MiB");
        EXPECT_EQ(registry.code, -EPROTO);
        Print(bytes, HAUL_DEVICE_JSON, &code);
        EXPECT_EQ(code, -EPROTO);
    }
}

// Arrays without elements take no bytes: a million structs of a hundred would take minutes.
TEST(DeviceStream, ArraysWithoutElementsAreValuesToo)
{
    std::string fields = R"({"name":"n","type":"u8"})";
    for (int i = 0; i < 100; i++)
        fields += R"(,{"name":"a)" + std::to_string(i) + R"(","type":"u8","count_field":"n","max":1})";
    int code = 0;
    std::string why =
        Print(Stream(Fields(R"({"name":"s","type":"struct","count":1048576,"fields":[)" + fields + "]}"),
                     Bytes((1 << 20) + 1, 0)),
              HAUL_DEVICE_TEXT, &code);
    EXPECT_NE(why.find(": there are over 1048576 values"), std::string::npos) << why;
    EXPECT_EQ(code, -EPROTO);
}

TEST(DeviceStream, AMillionValuesAreEnough)
{
    std::string json = Fields(R"({"name":"x","type":"u8","count":1048576},{"name":"y","type":"u8"})");
    int code = 0;
    EXPECT_EQ(Print(Stream(json, Bytes(1048578, 0)), HAUL_DEVICE_TEXT, &code),
              "state of thing/0: field y: there are over 1048576 values");
    EXPECT_EQ(code, -EPROTO);
}

} // namespace
