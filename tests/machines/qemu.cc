// SPDX-License-Identifier: Apache-2.0
#include "tests/machines/qemu.h"
#include "tests/machines/firmware.h"
#include "tests/machines/initrd.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sstream>
#include <stdexcept>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace haul_test
{
namespace
{

namespace fs = std::filesystem;

std::string guest_program()
{
    const char *folder = getenv("TEST_SRCDIR");
    return std::string(folder ? folder : ".") + "/haul/tests/machines/guest_init";
}

// The guest program and the drivers of its disks.
void make_initrd(const std::string &path)
{
    Initrd initrd;
    initrd.add_program("init", read_file(guest_program()));
    for (const char *module :
         {"virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev",
          "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci", "block/virtio_blk", "virtio/virtio_balloon"}) {
        initrd.add_module(std::string("drivers/") + module);
    }
    initrd.write(path);
}

double now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void nap()
{
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

int connect_unix(const std::string &path, pid_t pid)
{
    double deadline = now() + 60;
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    while (now() < deadline && waitpid(pid, nullptr, WNOHANG) == 0) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (sockaddr *)&address, sizeof address) == 0) {
            return fd;
        }
        close(fd);
        nap();
    }
    return -1;
}

std::string read_line(int fd)
{
    std::string line;
    char byte;
    pollfd poller = {fd, POLLIN, 0};
    while (poll(&poller, 1, 60000) == 1 && recv(fd, &byte, 1, 0) == 1) {
        if (byte == '\n') {
            return line;
        }
        line += byte;
    }
    return "";
}

// What the machine starts with: `boot` is the initial RAM disk or the firmware.
std::vector<std::string> arguments(const MachineOptions &options, const std::string &boot,
                                   const std::string &name)
{
    std::vector<std::string> list = {
        "qemu-system-x86_64", "-accel",     "tcg", "-cpu", "max", "-display", "none",
        "-no-user-config",    "-nodefaults"};
    auto add = [&](std::initializer_list<std::string> more) { list.insert(list.end(), more); };
    unsigned each = options.mib / options.backends;
    for (unsigned i = 0; i < options.backends; i++) {
        std::string id = "ram" + std::to_string(i);
        std::string size = ",size=" + std::to_string(each) + "M" + (options.prealloc ? ",prealloc=on" : "");
        std::string path = options.mem_path.empty() ? name : options.mem_path;
        if (options.backing == "memfd") {
            add({"-object", "memory-backend-memfd,share=on,id=" + id + size});
        } else if (options.backing == "file") {
            add({"-object", "memory-backend-file,share=on,mem-path=" + path + "." + id + ",id=" + id + size});
        } else if (options.backing == "hugetlb") {
            add({"-object", "memory-backend-memfd,share=on,hugetlb=on,hugetlbsize=2M,id=" + id + size});
        } else {
            add({"-object", "memory-backend-ram,id=" + id + size});
        }
    }
    add({"-m", std::to_string(options.mib)});
    unsigned cpus = options.cpus * options.backends;
    if (options.backends == 1) {
        // One CPU and room for another: QEMU before 8.1 leaves out the memory barriers of a guest that can
        // only have one, which then misses an interrupt of virtio once in a while and waits for ever.
        add({"-machine", options.type + ",memory-backend=ram0", "-smp",
             std::to_string(cpus) + ",maxcpus=" + std::to_string(std::max(cpus, 2u))});
    } else {
        add({"-machine", options.type, "-smp", std::to_string(cpus)});
        for (unsigned i = 0; i < options.backends; i++) {
            unsigned first = i * options.cpus;
            add({"-numa", "node,memdev=ram" + std::to_string(i) + ",cpus=" + std::to_string(first) + "-" +
                              std::to_string(first + options.cpus - 1)});
        }
    }
    if (options.firmware) {
        add({"-vga", "none", "-bios", boot});
    } else {
        add({"-vga", "std"});
    }
    if (options.boot && !options.firmware) {
        add({"-kernel", "/boot/vmlinuz-" + kernel_release(), "-initrd", boot, "-append",
             "console=ttyS0 quiet panic=-1 rdinit=/init haul.mib=" + std::to_string(options.guest_mib) +
                 " haul.rate=" + std::to_string(options.rate_mib) + " haul.disk=" +
                 (options.load_disks     ? "2"
                  : options.disk.empty() ? "0"
                                         : "1") +
                 (options.balloon ? " haul.balloon=1" : "")});
    }
    if (options.balloon) {
        add({"-device", "virtio-balloon-pci,id=balloon"});
    }
    if (options.incoming) {
        add({"-incoming", "defer"});
    }
    if (options.paused) {
        add({"-S"});
    }
    unsigned drive = 0;
    for (const std::string &image : {options.disk, options.file_system}) {
        if (!image.empty()) {
            std::string id = "disk" + std::to_string(drive++);
            add({"-drive", "if=none,format=raw,cache=none,aio=native,id=" + id + ",file=" + image, "-device",
                 "virtio-blk-pci,drive=" + id});
        }
    }
    list.insert(list.end(), options.extra.begin(), options.extra.end());
    return list;
}

} // namespace

std::string missing()
{
    if (kernel_release().empty()) {
        return "no /boot/vmlinuz-*cloud* (package linux-image-cloud-amd64)";
    }
    return missing_for_firmware();
}

std::string missing_for_firmware()
{
    if (access("/usr/bin/qemu-system-x86_64", X_OK) < 0) {
        return "no qemu-system-x86_64 (package qemu-system-x86)";
    }
    if (geteuid() != 0) {
        return "not root, which tracking another process needs";
    }
    return "";
}

Machine::Machine(const Folder &folder, const std::string &name, const MachineOptions &options)
    : name_(name), qmp_(folder / (name + ".qmp")), control_(folder / (name + ".ctl")),
      console_(folder / (name + ".log")), errors_(folder / (name + ".err"))
{
    std::string boot = folder / (options.firmware ? "firmware" : "initrd");
    if (options.firmware) {
        std::ofstream(boot, std::ios::binary) << firmware();
    } else if (options.boot && access(boot.c_str(), R_OK) < 0) {
        make_initrd(boot);
    }
    std::vector<std::string> list = arguments(options, boot, folder / name);
    for (const std::string &more : {std::string("-serial"), "file:" + console_, std::string("-qmp"),
                                    "unix:" + qmp_ + ",server=on,wait=off", std::string("-qmp"),
                                    "unix:" + control_ + ",server=on,wait=off"}) {
        list.push_back(more);
    }
    std::vector<char *> argv;
    for (std::string &argument : list) {
        argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    pid_t parent = getpid();
    pid_ = fork();
    if (pid_ == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); // no machine outlives its test
        if (getppid() != parent) {
            _exit(127);
        }
        int fd = open(errors_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(open("/dev/null", O_RDONLY), 0);
        dup2(fd, 1);
        dup2(fd, 2);
        execvp(argv[0], argv.data());
        _exit(127);
    }
    monitor_ = connect_unix(control_, pid_);
    if (monitor_ < 0 || read_line(monitor_).empty()) {
        std::string text = errors();
        kill();
        throw std::runtime_error("QEMU did not start: " + text);
    }
    command("qmp_capabilities");
}

Machine::~Machine()
{
    kill();
}

void Machine::kill()
{
    if (pid_ > 0) {
        ::kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
        pid_ = -1;
    }
    if (monitor_ >= 0) {
        close(monitor_);
        monitor_ = -1;
    }
}

bool Machine::alive()
{
    if (pid_ > 0 && waitpid(pid_, nullptr, WNOHANG) != 0) {
        pid_ = -1;
    }
    return pid_ > 0;
}

std::string Machine::console() const
{
    return read_file(console_);
}

std::string Machine::last_words() const
{
    constexpr size_t kEnough = 2048;
    std::string text = console(), bad;
    for (size_t at = 0; (at = text.find("BAD ", at)) != std::string::npos; at++) {
        bad += text.substr(at, text.find('\n', at) - at) + "\n";
    }
    return bad + (text.size() > kEnough ? "..." + text.substr(text.size() - kEnough) : text);
}

std::string Machine::errors() const
{
    return read_file(errors_);
}

std::string Machine::command(const std::string &execute, const std::string &arguments)
{
    std::string line = "{\"execute\":\"" + execute + "\",\"arguments\":" + arguments + "}\n";
    if (send(monitor_, line.data(), line.size(), MSG_NOSIGNAL) != (ssize_t)line.size()) {
        return "";
    }
    std::string reply;
    do {
        reply = read_line(monitor_);
    } while (!reply.empty() && reply.rfind("{\"return\"", 0) != 0 && reply.rfind("{\"error\"", 0) != 0);
    return reply;
}

std::string Machine::status()
{
    std::string reply = command("query-status");
    size_t at = reply.find("\"status\": \"");
    return at == std::string::npos ? "" : reply.substr(at + 11, reply.find('"', at + 11) - at - 11);
}

std::string Machine::settings()
{
    return command("query-migrate-capabilities") + command("query-migrate-parameters") +
           command("qom-get", "{\"path\":\"/machine\",\"property\":\"suppress-vmdesc\"}");
}

bool Machine::wait_for(const std::string &text, double seconds, size_t from) const
{
    for (double deadline = now() + seconds; now() < deadline; nap()) {
        std::string said = console();
        size_t at = said.find(text, from);
        if (at != std::string::npos && said.find('\n', at + text.size()) != std::string::npos) {
            return true;
        }
    }
    return false;
}

bool Machine::counts(double seconds) const
{
    size_t from = console().size();
    // Twice: the first may have been on its way when the machine stopped.
    return wait_for("ok ", seconds, from) && wait_for("ok ", seconds, console().size());
}

long Machine::last_ok() const
{
    std::string text = console();
    text.resize(text.rfind('\n') + 1); // the last line may be half there
    size_t at = text.rfind("\nok ");
    return at == std::string::npos ? -1 : atol(text.c_str() + at + 4);
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

bool fill_memory(const Folder &folder, const std::string &name)
{
    std::fstream file(folder / (name + ".ram0"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(32 << 20); // no firmware is there
    for (uint64_t i = 0; i < (4 << 20) / sizeof i; i++) {
        uint64_t word = mix(i + 1);
        file.write((const char *)&word, sizeof word);
    }
    file.flush();
    return file.good();
}

void make_disk(const std::string &path, unsigned mib)
{
    std::ofstream file(path, std::ios::binary);
    std::vector<uint64_t> block(65536 / sizeof(uint64_t));
    for (uint64_t n = 0; n < mib * 16u; n++) {
        for (size_t i = 0; i < block.size(); i++) {
            block[i] = mix(n) + i;
        }
        file.write((const char *)block.data(), 65536);
    }
}

bool make_file_system(const std::string &path, unsigned mib)
{
    std::string line = "truncate -s " + std::to_string(mib) + "M " + path + " && mkfs.ext4 -q -F " + path +
                       " >/dev/null 2>&1";
    return system(line.c_str()) == 0;
}

} // namespace haul_test
