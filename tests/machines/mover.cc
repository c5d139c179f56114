// SPDX-License-Identifier: Apache-2.0
// One end of a move of a QEMU machine in a process of its own, which can be told to die, or to wait, in a
// given state. usage: mover send|receive QMP URI [NAME=VALUE...]
//   channels=N compress=C downtime=MS verify=1 timeout=S mode=M     as in haul_options
//   die=STATE     SIGKILL itself on entering the state ("handover": before HANDOVER is sent; "round1": after
//   the first) wait=STATE    print the state and wait a second in it
// Prints "LISTEN URI", "STATE NAME" for each state, and at the end "END RESULT OWNER MESSAGE". Exit: 0 moved,
// 1 not, 3 uncertain.
#include "tools/machines/machine.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <unistd.h>

namespace
{

std::map<std::string, std::string> settings;

void say(const std::string &line)
{
    if (write(1, (line + "\n").data(), line.size() + 1) < 0) {
        _exit(2);
    }
}

void reached(const std::string &state)
{
    say("STATE " + state);
    if (settings["die"] == state) {
        kill(getpid(), SIGKILL);
    }
    if (settings["wait"] == state) {
        sleep(1);
    }
}

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

void on_message(void *, const char *text)
{
    say(std::string("MESSAGE ") + text);
}

int fail(const char *step, const haul_error &error)
{
    say(std::string("END ") + step + " -1 " + error.message);
    return 1;
}

int report(haul_migration *migration, haul_machine *machine, int result, const haul_error &error)
{
    haul_stats stats = {};
    stats.size = sizeof stats;
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
    snprintf(line, sizeof line, "END %d %d %s", result, (int)stats.ownership, result ? error.message : "");
    say(line);
    return result == 0 ? 0 : stats.ownership == HAUL_OWNER_UNCERTAIN ? 3 : 1;
}

} // namespace

int main(int count, char **words)
{
    if (count < 4) {
        return 2;
    }
    bool sends = strcmp(words[1], "send") == 0;
    for (int i = 4; i < count; i++) {
        std::string word = words[i];
        size_t at = word.find('=');
        settings[word.substr(0, at)] = word.substr(at + 1);
    }
    haul_options options;
    haul_options_default(&options);
    auto number = [](const char *name, auto &to) {
        if (settings.count(name)) {
            to = (unsigned)atoi(settings[name].c_str());
        }
    };
    number("channels", options.channels);
    number("downtime", options.downtime_limit_ms);
    number("timeout", options.timeout_s);
    options.verify = settings["verify"] == "1";
    if (settings.count("compress")) {
        options.compress = settings["compress"].c_str();
    }
    if (settings.count("mode")) {
        options.mode = settings["mode"].c_str();
    }
    haul_events events = {};
    events.state = on_state;
    events.step = on_step;
    events.round = on_round;
    events.message = on_message;
    haul_error error = {};
    haul_machine *machine = nullptr;
    haul_migration *migration = nullptr;
    if ((sends ? haul_qemu_source_new : haul_qemu_destination_new)(words[2], &machine, &error)) {
        return fail("machine", error);
    }
    if ((sends ? haul_source_new : haul_destination_new)(&options, &migration, &error) ||
        machine->ops->attach(machine, migration, &error)) {
        haul_free(migration);
        machine->ops->free(machine);
        return fail("attach", error);
    }
    haul_set_events(migration, &events, nullptr, &error);
    int result = haul_start(migration, words[3], &error);
    if (result == 0) {
        if (!sends) {
            say(std::string("LISTEN ") + haul_local_uri(migration));
        }
        result = haul_wait(migration, &error);
    }
    int code = report(migration, machine, result, error);
    haul_free(migration);
    machine->ops->free(machine);
    return code;
}
