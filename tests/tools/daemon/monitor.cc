// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/daemon/monitor.h"

#include "tests/waiting.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <unistd.h>

static std::string Text(const json_t *value)
{
    if (json_is_string(value)) {
        return json_string_value(value);
    }
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY) : nullptr;
    std::string copy = text ? text : "";
    free(text);
    return copy;
}

static std::string Error(const Json &answer)
{
    return Text(json_object_get(json_object_get(answer.get(), "error"), "desc"));
}

std::string Named(const std::string &name, const std::string &more)
{
    return "{\"name\": \"" + name + "\"" + (more.empty() ? "" : ", " + more) + "}";
}

Monitor::Monitor(const std::string &path) : client_(path, true)
{
    EXPECT_TRUE(client_.connected()) << "nobody listens at " << path;
    client_.negotiate();
}

void Monitor::Note(const json_t *event)
{
    const json_t *data = json_object_get(event, "data");
    std::string text = json_string_value(json_object_get(event, "event"));
    for (const char *member : {"status", "pass", "reason"}) {
        std::string value = Text(json_object_get(data, member));
        text += value.empty() ? "" : " " + value;
    }
    events_.emplace_back(Text(json_object_get(data, "name")), text);
}

Json Monitor::Run(const std::string &command, const std::string &arguments)
{
    std::string more = arguments.empty() ? "" : ", \"arguments\": " + arguments;
    client_.send("{\"execute\": \"" + command + "\"" + more + "}\n");
    return Answer();
}

Json Monitor::Answer()
{
    for (;;) {
        Json answer = client_.object();
        if (!answer || !json_object_get(answer.get(), "event")) {
            return answer;
        }
        Note(answer.get());
    }
}

Json Monitor::Get(const std::string &command, const std::string &arguments)
{
    Json answer = Run(command, arguments);
    json_t *value = json_object_get(answer.get(), "return");
    EXPECT_NE(value, nullptr) << command << " " << arguments << ": " << Text(answer.get());
    return Json(json_incref(value));
}

std::string Monitor::Fails(const std::string &command, const std::string &arguments)
{
    return Error(Run(command, arguments));
}

std::string Monitor::HandOver(const std::string &name, int fd)
{
    client_.send_with_fd(R"({"execute": "getfd", "arguments": {"fdname": ")" + name + "\"}}\n", fd);
    close(fd);
    return Error(Answer());
}

std::string Monitor::Of(const std::string &migration, const std::string &member)
{
    Json answer = Get("query-migrate", Named(migration));
    return Text(json_object_get(answer.get(), member.c_str()));
}

long Monitor::Number(const std::string &migration, const std::string &object, const std::string &member)
{
    Json answer = Get("query-migrate", Named(migration));
    return json_integer_value(json_object_get(json_object_get(answer.get(), object.c_str()), member.c_str()));
}

bool Monitor::Until(const std::function<bool()> &true_now, int seconds)
{
    for (auto end = haul_test::Clock::now() + std::chrono::seconds(seconds); !true_now();) {
        if (haul_test::Clock::now() > end) {
            return false;
        }
        usleep(10000);
    }
    return true;
}

bool Monitor::Reaches(const std::string &migration, const std::string &status)
{
    bool reached = Until([&] { return Of(migration, "status") == status; });
    EXPECT_TRUE(reached) << migration << " is " << Of(migration, "status") << ": "
                         << Of(migration, "error-desc");
    return reached;
}

std::string Monitor::Guest(const std::string &migration)
{
    Json answer = Get("query-status", Named(migration));
    return Text(json_object_get(answer.get(), "status"));
}

std::vector<std::string> Monitor::Events(const std::string &migration)
{
    Run("query-version"); // what was raised before comes before its answer
    return EventsSoFar(migration);
}

std::vector<std::string> Monitor::EventsSoFar(const std::string &migration) const
{
    std::vector<std::string> events;
    for (const auto &event : events_) {
        if (event.first == migration) {
            events.push_back(event.second);
        }
    }
    return events;
}

bool Monitor::Saw(const std::string &migration, const std::string &event)
{
    return Until([&] {
        std::vector<std::string> events = Events(migration);
        return std::count(events.begin(), events.end(), event) > 0;
    });
}

bool Monitor::Gone()
{
    for (Json event; (event = client_.object());) {
        Note(event.get());
    }
    return client_.at_end();
}
