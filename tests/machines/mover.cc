// SPDX-License-Identifier: Apache-2.0
// One end of a move in a process of its own, which can be told to die, or to hold still, in a given state.
// usage: mover send|receive MACHINE URI [NAME=VALUE...]
//        mover receive --listen URI --quiet MACHINE [NAME=VALUE...]      as haul send ssh: starts it
//        mover relay URI
// MACHINE is a QMP socket, or "guest" for a small reference guest of threads.
//   channels=N compress=C downtime=MS verify=1 timeout=S mode=M pause=1 bandwidth=BYTES_PER_S ssh=COMMAND
//   remote=PROGRAM there=OPTIONS provider=NAME     as in haul_options
//   die=STATE     SIGKILL itself on entering the state; see also below
//   hold=STATE    stand still on entering the state until told to go on
//   cancel=STATE  cancel on entering it
//   disks=1       with the machine's drives
//   pid=FILE      write the process id there
// States are haul's, and: "handshake" in setup, when the control connection stands (source);
// "handover" before HANDOVER is sent; "handover-received"; "pass1" before the first pass over memory,
// "round1" after it; "armed" before QEMU is told to stop its machine; "continuing" before it is told to let
// the machine go on; "mirroring" and "mirrored" of drives; "saved" when a file is complete and about to be
// made durable, "naming" before it gets its name. Standard input takes "go" and "cancel", a line each. Prints
// "LISTEN URI", "STATE NAME" for each state, and at the end "CHECK REPORT" for a guest that runs here and
// "END RESULT OWNER MESSAGE". Exit: 0 moved, 1 not, 3 uncertain.
#include "tools/machines/machine.h"

#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace
{

std::map<std::string, std::string> settings;
int output = 1;

void say(const std::string &line)
{
    if (write(output, (line + "\n").data(), line.size() + 1) < 0) {
        _exit(2);
    }
}

// ---- orders ----

std::mutex use;
haul_migration *current; // under `use`
std::mutex lock;
std::condition_variable told;
bool go; // under `lock`

// On a thread of its own, to the end of the process.
void obey()
{
    std::string order;
    while (std::getline(std::cin, order)) {
        std::lock_guard<std::mutex> using_it(use);
        if (order == "cancel" && current) {
            haul_cancel(current);
        } else if (order == "go") {
            std::lock_guard<std::mutex> held(lock);
            go = true;
            told.notify_all();
        }
    }
}

void set_current(haul_migration *migration)
{
    std::lock_guard<std::mutex> using_it(use);
    current = migration;
}

void reached(const std::string &state)
{
    say("STATE " + state);
    if (settings["die"] == state) {
        kill(getpid(), SIGKILL);
    }
    if (settings["cancel"] == state) {
        std::lock_guard<std::mutex> using_it(use);
        haul_cancel(current);
    }
    if (settings["hold"] == state) {
        std::unique_lock<std::mutex> held(lock);
        told.wait(held, [] { return go; });
    }
}

// ---- events ----

void on_state(void *, haul_state, haul_state to)
{
    reached(haul_state_name(to));
}

int on_step(void *, haul_step step, haul_error *)
{
    if (step == HAUL_STEP_HANDOVER_SENDING) {
        reached("handover");
    }
    if (step == HAUL_STEP_HANDOVER_RECEIVED) {
        reached("handover-received");
    }
    return 0;
}

void on_round(void *, uint32_t round)
{
    reached("round" + std::to_string(round));
}

void on_pass(void *, uint32_t pass)
{
    reached("pass" + std::to_string(pass));
}

void on_message(void *, const char *text)
{
    say(std::string("MESSAGE ") + text);
    if (strstr(text, "ahead of the memory")) {
        reached("mirroring");
    } else if (strstr(text, "the memory follows")) {
        reached("mirrored");
    }
}

const haul_events events = {.state = on_state,
                            .pass = on_pass,
                            .round = on_round,
                            .guest = nullptr,
                            .step = on_step,
                            .message = on_message};

int on_setup(void *, haul_error *)
{
    reached("handshake");
    return 0;
}

// Beside the machine's own state, and empty.
const haul_state_ops probe = {
    .name = "probe", .early = false, .setup = on_setup, .iterate = nullptr, .save = nullptr, .load = nullptr};

// ---- the move ----

int fail(const char *step, const haul_error &error)
{
    say(std::string("END ") + step + " -1 " + error.message);
    return 1;
}

// A guest that is said to be here must run, with its memory whole.
void check(haul_machine *machine)
{
    char text[256] = "";
    haul_error error = {};
    say(std::string("CHECK ") +
        (machine->ops->self_check(machine, 10, text, sizeof text, &error) ? error.message : text));
}

int report(haul_migration *migration, haul_machine *machine, bool sends, int result, const haul_error &error)
{
    haul_stats stats = {};
    haul_get_stats(migration, &stats);
    char line[768];
    auto ms = [](uint64_t ns) { return (double)ns / 1e6; };
    snprintf(line, sizeof line,
             "STATS total %.0f ms, downtime %.1f ms (expected %.1f): stop %.1f, pass %.1f, device %.1f, "
             "start %.1f; rounds %llu, %llu MiB, %s, tracker %s",
             ms(stats.total_time_ns), ms(stats.actual.total_ns), ms(stats.expected.total_ns),
             ms(stats.actual.stop_ns), ms(stats.actual.last_pass_ns), ms(stats.actual.device_ns),
             ms(stats.actual.start_ns), (unsigned long long)stats.dirty_sync_count,
             (unsigned long long)stats.transferred >> 20, haul_mode_name(stats.mode), stats.tracker);
    say(line);
    if (machine->ops->summary) {
        machine->ops->summary(machine, line, sizeof line);
        say(std::string("SUMMARY ") + line);
    }
    if (machine->ops->self_check && stats.ownership == (sends ? HAUL_OWNER_SOURCE : HAUL_OWNER_DESTINATION)) {
        check(machine);
    }
    snprintf(line, sizeof line, "END %d %d %s", result, (int)stats.ownership, result ? error.message : "");
    say(line);
    return result == 0 ? 0 : stats.ownership == HAUL_OWNER_UNCERTAIN ? 3 : 1;
}

haul_options options_of_settings()
{
    haul_options options;
    haul_options_default(&options);
    auto number = [](const char *name, auto &to) {
        if (settings.count(name)) {
            to = (unsigned)atoi(settings[name].c_str());
        }
    };
    auto text = [](const char *name, const char *&to) {
        if (settings.count(name)) {
            to = settings[name].c_str();
        }
    };
    number("channels", options.channels);
    number("downtime", options.downtime_limit_ms);
    number("timeout", options.timeout_s);
    number("bandwidth", options.max_bandwidth_bytes_per_s);
    text("compress", options.compress);
    text("mode", options.mode);
    text("ssh", options.ssh);
    text("remote", options.remote_haul);
    text("there", options.remote_options);
    text("provider", options.rdma_provider);
    options.verify = settings["verify"] == "1";
    options.pause_before_switchover = settings["pause"] == "1";
    return options;
}

int make_machine(bool sends, const std::string &name, haul_machine **machine, haul_error *error)
{
    if (name != "guest") {
        return (sends ? haul_qemu_source_new
                      : haul_qemu_destination_new)(name.c_str(), settings["disks"] == "1", machine, error);
    }
    haul_guest_options options;
    haul_guest_options_default(&options);
    options.memory_bytes = 16 << 20;
    options.dirty_bytes_per_s = 50 << 20;
    options.hot_bytes = 1 << 20; // its check ends when it rewrote this
    options.tracker = "bitmap";
    options.vcpu = "thread";
    return (sends ? haul_guest_source_new : haul_guest_destination_new)(&options, machine, error);
}

bool saves = false; // into a file
// In "armed" and in "continuing", which are looked for only then.
bool holds_armed = false, holds_continuing = false;

int move(bool sends, const std::string &name, const std::string &uri)
{
    saves = sends && uri.rfind("file:", 0) == 0;
    holds_armed = settings["hold"] == "armed";
    holds_continuing = settings["hold"] == "continuing";
    haul_options options = options_of_settings();
    haul_error error = {};
    haul_machine *machine = nullptr;
    haul_migration *migration = nullptr;
    if (make_machine(sends, name, &machine, &error)) {
        return fail("machine", error);
    }
    if ((sends ? haul_source_new : haul_destination_new)(&options, &migration, &error) ||
        machine->ops->attach(machine, migration, &error) ||
        haul_add_state(migration, &probe, nullptr, &error)) {
        haul_free(migration);
        machine->ops->free(machine);
        return fail("attach", error);
    }
    haul_set_events(migration, &events, nullptr, &error);
    if (output == 1) { // else standard input is the control connection
        set_current(migration);
        std::thread(obey).detach();
    }
    int result = haul_start(migration, uri.c_str(), &error);
    if (result == 0) {
        if (!sends) {
            say(std::string("LISTEN ") + haul_local_uri(migration));
        }
        result = haul_wait(migration, &error);
    }
    int code = report(migration, machine, sends, result, error);
    set_current(nullptr);
    haul_free(migration);
    machine->ops->free(machine);
    return code;
}

} // namespace

// In place of the C library's, for what no event tells.
extern "C" int fsync(int fd)
{
    struct stat status = {};
    if (saves && fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        reached("saved");
    }
    return (int)syscall(SYS_fsync, fd);
}

extern "C" ssize_t send(int fd, const void *bytes, size_t length, int flags)
{
    ssize_t sent = syscall(SYS_sendto, fd, bytes, length, flags, nullptr, 0);
    // To the guardian, all its lines at a time; what it says itself has one.
    if (holds_armed && length > 0 && memmem(bytes, length, "migrate_cancel", strlen("migrate_cancel")) &&
        ((const char *)bytes)[length - 1] == '\n') {
        reached("armed");
    }
    return sent;
}

extern "C" ssize_t sendmsg(int fd, const msghdr *message, int flags)
{
    static const char command[] = "\"cont\"";
    const iovec *first = message->msg_iov;
    if (holds_continuing && message->msg_iovlen > 0 &&
        memmem(first->iov_base, first->iov_len, command, strlen(command))) {
        reached("continuing");
    }
    return syscall(SYS_sendmsg, fd, message, flags);
}

extern "C" int linkat(int from, const char *path, int to, const char *name, int flags) noexcept
{
    if (saves) {
        reached("naming");
    }
    return (int)syscall(SYS_linkat, from, path, to, name, flags);
}

int main(int count, char **arguments)
{
    std::vector<std::string> words(arguments + 1, arguments + count);
    signal(SIGPIPE, SIG_IGN);
    if (words.size() == 2 && words[0] == "relay") {
        haul_error error = {};
        return haul_relay(words[1].c_str(), 0, 1, 20, &error) ? 1 : 0;
    }
    if (words.size() >= 5 && words[1] == "--listen") {
        output = 2; // standard output is the control connection
        words = std::vector<std::string>{words[0], words[4], words[2]};
        words.insert(words.end(), arguments + 6, arguments + count);
    }
    if (words.size() < 3) {
        return 2;
    }
    for (size_t i = 3; i < words.size(); i++) {
        size_t at = words[i].find('=');
        settings[words[i].substr(0, at)] = words[i].substr(at + 1);
    }
    if (settings.count("pid")) {
        std::ofstream(settings["pid"]) << getpid() << std::endl;
    }
    return move(words[0] == "send", words[1], words[2]);
}
