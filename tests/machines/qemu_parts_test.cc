// SPDX-License-Identifier: Apache-2.0
// What the QEMU adapter reads out of /proc and of QEMU's answers, on made-up text.
#include "tools/machines/passthrough.h"
#include "tools/machines/qemu/drives.h"
#include "tools/machines/qemu/guardian.h"
#include "tools/machines/qemu/inspect.h"
#include "tools/machines/qemu/preamble.h"
#include "tools/machines/qemu/process.h"
#include "tools/machines/qemu/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace
{

// What statfs says of every file system while it is not 0: no host has all of them.
uint32_t file_system;

} // namespace

extern "C" int statfs(const char *path, struct statfs *answer) noexcept
{
    int status = (int)syscall(SYS_statfs, path, answer);
    if (status == 0 && file_system) {
        answer->f_type = file_system;
    }
    return status;
}

namespace
{

std::vector<haul_shared_mapping> parse(std::string text)
{
    haul_shared_mapping *mappings = nullptr;
    unsigned count = 0;
    FILE *file = fmemopen(text.data(), text.size(), "r");
    EXPECT_EQ(0, haul_shared_mappings_parse(file, &mappings, &count));
    fclose(file);
    std::vector<haul_shared_mapping> list(mappings, mappings + count);
    free(mappings);
    return list;
}

TEST(SharedMappings, JoinsWhatContinues)
{
    auto list =
        parse("7f0000000000-7f0000001000 rw-s 00000000 00:01 10   /memfd:memory-backend-memfd (deleted)\n"
              "7f0000001000-7f0000003000 rw-s 00001000 00:01 10   /memfd:memory-backend-memfd (deleted)\n"
              "7f0000003000-7f0000004000 rw-s 00000000 00:01 11   /memfd:memory-backend-memfd (deleted)\n");
    ASSERT_EQ(2u, list.size());
    EXPECT_EQ(0x7f0000000000u, list[0].address);
    EXPECT_EQ(0x3000u, list[0].length);
    EXPECT_EQ(0x7f0000001000u, list[0].first_end);
    EXPECT_EQ(11u, list[1].inode);
}

TEST(SharedMappings, LeavesOutWhatIsNoMemory)
{
    auto list = parse("55d0-55e0 rw-p 00000000 08:01 1 /usr/bin/qemu\n"
                      "1000-2000 r--s 00000000 08:01 2 /usr/share/x\n"
                      "2000-3000 rw-s 00000000 00:0d 3 anon_inode:[io_uring]\n"
                      "3000-4000 rw-s 00000000 00:13 4 /[aio] (deleted)\n"
                      "4000-5000 rw-s 00000000 00:05 5 /dev/vfio/12\n"
                      "nonsense\n"
                      "5000-6000 rw-s 00002000 00:17 6 /dev/shm/with space\n");
    ASSERT_EQ(1u, list.size());
    EXPECT_STREQ("/dev/shm/with space", list[0].name);
    EXPECT_EQ(0x2000u, list[0].offset);
    EXPECT_EQ(0x17u, list[0].device_minor);
}

TEST(Passthrough, KnowsTheDevices)
{
    for (const char *link :
         {"/dev/vfio/vfio", "/dev/vfio/12", "/dev/vfio/devices/vfio0", "/dev/iommu", "/dev/vhost-vdpa-0",
          "/dev/vhost-scsi", "/dev/infiniband/uverbs0", "anon_inode:[vfio-device]", "anon_inode:kvm-vfio"}) {
        EXPECT_TRUE(haul_fd_is_passthrough(link)) << link;
    }
    for (const char *link :
         {"/dev/kvm", "/dev/vhost-net", "/dev/net/tun", "anon_inode:[eventfd]", "/tmp/dev/vfio/vfio"}) {
        EXPECT_FALSE(haul_fd_is_passthrough(link)) << link;
    }
}

std::string direct_io(const char *text)
{
    json_t *nodes = json_loads(text, 0, nullptr);
    EXPECT_NE(nullptr, nodes);
    char why[64];
    haul_qemu_find_direct_io(nodes, why, sizeof why);
    json_decref(nodes);
    return why;
}

TEST(DirectIo, FindsDrivesThatPinPages)
{
    EXPECT_EQ("/d.img", direct_io("[{\"drv\":\"file\",\"file\":\"/c\",\"cache\":{\"direct\":false}},"
                                  "{\"drv\":\"raw\",\"file\":\"/d.img\",\"cache\":{\"direct\":true}}]"));
    EXPECT_EQ("/dev/sda",
              direct_io("[{\"drv\":\"host_device\",\"file\":\"/dev/sda\",\"cache\":{\"direct\":false}}]"));
    EXPECT_EQ("a drive", direct_io("[{\"drv\":\"nvme\"}]"));
}

TEST(DirectIo, LeavesBufferedDrivesAlone)
{
    EXPECT_EQ("", direct_io("[{\"drv\":\"file\",\"file\":\"/c\",\"cache\":{\"direct\":false}}, {}, 7]"));
    EXPECT_EQ("", direct_io("[]"));
}

const char FLAT_VIEW[] =
    " Root memory region: memory\n"
    "  0000000000000000-000000000009ffff (prio 0, ram): m0\r\n"
    "  00000000000a0000-00000000000bffff (prio 1, i/o): m1\n"
    "  0000000008000000-000000000fffffff (prio 0, ram): /objects/m1 @0000000000100000 KVM\n"
    "  0000000100000000-0000000107ffffff (prio 0, nv-ram): 0000:00:03.0/iv KVM\n";

TEST(FlatView, FindsABackendUnderAnyOfItsNames)
{
    uint64_t address = 1, offset = 1;
    EXPECT_TRUE(haul_qemu_flat_view_find(FLAT_VIEW, "m0", &address, &offset));
    EXPECT_EQ(0u, address);
    EXPECT_EQ(0u, offset);
    EXPECT_TRUE(haul_qemu_flat_view_find(FLAT_VIEW, "m1", &address, &offset));
    EXPECT_EQ(0x8000000u, address);
    EXPECT_EQ(0x100000u, offset);
    EXPECT_TRUE(haul_qemu_flat_view_find(FLAT_VIEW, "iv", &address, &offset));
    EXPECT_EQ(0x100000000u, address);
    EXPECT_FALSE(haul_qemu_flat_view_find(FLAT_VIEW, "0", &address, &offset));
    EXPECT_FALSE(haul_qemu_flat_view_find("", "m0", &address, &offset));
}

haul_qemu_storage storage_of(const std::string &file)
{
    haul_qemu_drive drive = {};
    haul_qemu_place place = {};
    snprintf(drive.file, sizeof drive.file, "%s", file.c_str());
    haul_qemu_drive_find(&drive, getpid(), &place);
    return place.storage;
}

TEST(Drives, KnowSharedStorageByItsName)
{
    char local[] = "/tmp/haul-drive-XXXXXX";
    int fd = mkstemp(local);
    ASSERT_GE(fd, 0);
    EXPECT_EQ(HAUL_QEMU_STORAGE_LOCAL, storage_of(local));
    close(fd);
    unlink(local);
    EXPECT_EQ(HAUL_QEMU_STORAGE_UNKNOWN, storage_of(local)) << "gone";
    EXPECT_EQ(HAUL_QEMU_STORAGE_UNKNOWN, storage_of("/dev/null")) << "no file";
    for (const char *name : {"rbd:pool/image", "nbd://host/x", "iscsi://host/target/0", "gluster+unix:///v/x",
                             "nfs://host/x", R"(json:{"driver": "raw", "file": {"driver": "rbd"}})",
                             R"(json:{"driver": "qcow2", "file.driver": "https"})"}) {
        EXPECT_EQ(HAUL_QEMU_STORAGE_SHARED, storage_of(name)) << name;
    }
    for (const char *name : {"rbdish:x", "json:{", R"(json:{"driver": "file", "filename": "/x"})", ""}) {
        EXPECT_NE(HAUL_QEMU_STORAGE_SHARED, storage_of(name)) << name;
    }
}

// A drive on a file system of that kind, and what another host says of its own.
class DriveOn : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        int fd = mkstemp(path_);
        ASSERT_GE(fd, 0);
        close(fd);
        snprintf(drive_.file, sizeof drive_.file, "%s", path_);
        snprintf(drive_.name, sizeof drive_.name, "d");
        drive_.size = 4096;
    }
    void TearDown() override
    {
        file_system = 0;
        unlink(path_);
    }
    // What haul_qemu_drive_compare says, with the description changed by `change`.
    std::string Compare(const std::function<void(json_t *)> &change)
    {
        haul_qemu_place place = {};
        char text[2048];
        haul_error error = {};
        haul_qemu_drive_find(&drive_, getpid(), &place);
        EXPECT_EQ(0, haul_qemu_drive_describe(&drive_, &place, text, sizeof text, &error)) << error.message;
        json_t *json = json_loads(text, 0, nullptr);
        json_object_set_new(json, "boot", json_string("another host's"));
        json_object_set_new(json, "device", json_integer(7));
        change(json);
        char *line = json_dumps(json, 0);
        int status = haul_qemu_drive_compare(&drive_, &place, line, &error);
        free(line);
        json_decref(json);
        return status == 0 ? "" : error.message;
    }
    const std::string same_ = "is the same image";
    char path_[32] = "/tmp/haul-drive-XXXXXX";
    haul_qemu_drive drive_ = {};
};

TEST_F(DriveOn, ANetworkFileSystemIsShared)
{
    for (uint32_t type : {0x6969u, 0xfe534d42u, 0x00c36400u, 0x5346414fu, 0x19830326u}) { // nfs first
        file_system = type;
        EXPECT_EQ(HAUL_QEMU_STORAGE_SHARED, storage_of(path_)) << std::hex << type;
    }
    file_system = 0x65735546; // fuse
    EXPECT_EQ(HAUL_QEMU_STORAGE_UNKNOWN, storage_of(path_));
}

TEST_F(DriveOn, NfsIsTheSameImageWhereTheInodeIs)
{
    file_system = 0x6969;
    auto renamed = [](json_t *json) { json_object_set_new(json, "file", json_string("/mnt/elsewhere")); };
    auto other_inode = [](json_t *json) { json_object_set_new(json, "inode", json_integer(1)); };
    auto local = [](json_t *json) { json_object_set_new(json, "shared", json_false()); };
    EXPECT_NE(std::string::npos, Compare([](json_t *) {}).find(same_));
    EXPECT_NE(std::string::npos, Compare(renamed).find(same_));
    EXPECT_EQ("", Compare(other_inode));
    EXPECT_EQ("", Compare(local));
}

TEST_F(DriveOn, FuseIsTheSameImageWhereInodeAndNameAre)
{
    file_system = 0x65735546;
    auto renamed = [](json_t *json) { json_object_set_new(json, "file", json_string("/mnt/elsewhere")); };
    EXPECT_NE(std::string::npos, Compare([](json_t *) {}).find(same_));
    EXPECT_EQ("", Compare(renamed));
}

TEST_F(DriveOn, ALocalFileSystemIsNeverTheSameImageOnAnotherHost)
{
    EXPECT_EQ("", Compare([](json_t *json) { json_object_set_new(json, "shared", json_true()); }));
}

// Others than machines have an image open too.
TEST_F(DriveOn, OnlyAnotherMachineMayBeTheDestination)
{
    haul_qemu_place place = {};
    haul_qemu_drive_find(&drive_, getpid(), &place);
    for (const char *name : {"qemu-nbd", "qemu-storage-da", "qemu-img", "qemu-system-x86", "qemu-kvm"}) {
        int ready[2];
        ASSERT_EQ(0, pipe(ready));
        pid_t child = fork();
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            prctl(PR_SET_NAME, name);
            _exit(open(path_, O_RDONLY) < 0 || write(ready[1], "x", 1) != 1 || pause());
        }
        char byte;
        EXPECT_EQ(1, read(ready[0], &byte, 1));
        bool machine = strstr(name, "system") || strstr(name, "kvm");
        EXPECT_EQ(machine ? child : 0, haul_qemu_find_other_user(&place, getpid())) << name;
        EXPECT_EQ(0, haul_qemu_find_other_user(&place, child)) << name;
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        close(ready[0]);
        close(ready[1]);
    }
}

TEST(Preamble, SurvivesTheWay)
{
    haul_qemu_preamble sent = {true, "pc-q35-7.2-machine", "7.2.22"}, received = {};
    uint8_t bytes[HAUL_QEMU_PREAMBLE_SIZE];
    haul_error error;
    haul_qemu_preamble_write(&sent, bytes);
    ASSERT_EQ(0, haul_qemu_preamble_read(bytes, &received, &error));
    EXPECT_TRUE(received.running);
    EXPECT_STREQ(sent.machine_type, received.machine_type);
    EXPECT_STREQ(sent.version, received.version);
}

TEST(Preamble, RefusesWhatItDoesNotKnow)
{
    haul_qemu_preamble preamble = {};
    uint8_t bytes[HAUL_QEMU_PREAMBLE_SIZE];
    haul_error error;
    haul_qemu_preamble_write(&preamble, bytes);
    bytes[12] = 2;
    EXPECT_EQ(-EPROTONOSUPPORT, haul_qemu_preamble_read(bytes, &preamble, &error));
    bytes[12] = 0;
    bytes[8] = 9;
    EXPECT_EQ(-EPROTONOSUPPORT, haul_qemu_preamble_read(bytes, &preamble, &error));
    EXPECT_NE(nullptr, strstr(error.message, "version 9")) << error.message;
    bytes[0] = 'X';
    EXPECT_EQ(-EPROTO, haul_qemu_preamble_read(bytes, &preamble, &error));
}

TEST(Preamble, HostileTextStaysInItsField)
{
    haul_qemu_preamble preamble = {};
    uint8_t bytes[HAUL_QEMU_PREAMBLE_SIZE];
    haul_qemu_preamble_write(&preamble, bytes);
    memset(bytes + 16, 0x1b, sizeof bytes - 16);
    ASSERT_EQ(0, haul_qemu_preamble_read(bytes, &preamble, nullptr));
    EXPECT_EQ(std::string(95, '?'), preamble.machine_type);
    EXPECT_EQ(std::string(63, '?'), preamble.version);
}

class StreamTest : public ::testing::Test
{
  protected:
    void open(size_t limit)
    {
        int pair[2];
        ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
        fd = pair[0];
        ASSERT_EQ(0, haul_qemu_stream_new(pair[1], limit, &stream, &error));
    }
    void TearDown() override
    {
        haul_qemu_stream_free(stream);
        if (fd >= 0) {
            close(fd);
        }
    }
    int fd = -1;
    haul_qemu_stream *stream = nullptr;
    haul_error error = {};
};

TEST_F(StreamTest, KeepsEveryByteInOrder)
{
    open(64 << 20);
    std::string sent;
    for (int i = 0; i < 3 << 20; i++) {
        sent += (char)(i * 7 + i / 1000);
    }
    ASSERT_EQ((ssize_t)sent.size(), write(fd, sent.data(), sent.size()));
    close(fd);
    fd = -1;
    std::string received;
    char bytes[10007];
    size_t length = 1;
    while (length) {
        ASSERT_EQ(0, haul_qemu_stream_read(stream, bytes, sizeof bytes, &length, 5000, &error))
            << error.message;
        received.append(bytes, length);
    }
    EXPECT_TRUE(sent == received);
}

TEST_F(StreamTest, SaysWhenQemuHasTooMuch)
{
    open(1 << 20);
    std::string bytes(4096, 'x');
    while (send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT) > 0 || !haul_qemu_stream_full(stream)) {
    }
    size_t length = 1;
    int result;
    while ((result = haul_qemu_stream_read(stream, bytes.data(), bytes.size(), &length, 1000, &error)) == 0) {
        ASSERT_NE(0u, length);
    }
    EXPECT_EQ(-EFBIG, result);
    EXPECT_NE(nullptr, strstr(error.message, "share=on")) << error.message;
}

TEST_F(StreamTest, SilenceEnds)
{
    open(1 << 20);
    char byte;
    size_t length;
    EXPECT_EQ(-ETIMEDOUT, haul_qemu_stream_read(stream, &byte, 1, &length, 0, &error));
}

TEST(Guardian, RefusesAnEndlessScript)
{
    haul_guardian *guardian = nullptr;
    haul_error error;
    ASSERT_EQ(0, haul_guardian_new("/nonexistent", &guardian, &error));
    EXPECT_EQ(-E2BIG, haul_guardian_arm(guardian, std::string(20000, ' ').c_str(), &error));
    haul_guardian_free(guardian);
    haul_guardian_free(nullptr);
}

} // namespace
