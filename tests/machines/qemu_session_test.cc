// SPDX-License-Identifier: Apache-2.0
// One session of a client that moves a running machine, changes it on its way and holds it before the
// switchover, spoken with a pair of QEMUs and with a pair of daemons. data/running.transcript holds QEMU's
// side, as recorded by the first test with HAUL_RECORD=PATH; that test also shows that QEMU still answers so.
#include "tests/machines/qemu.h"
#include "tests/tools/daemon/daemon.h"
#include "tests/tools/program.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

namespace
{

using haul_test::Folder;
using haul_test::Machine;
using haul_test::MachineOptions;

// Values differ from run to run, and become a sample of their type; these tell answers and events apart.
bool Tells(const std::string &member)
{
    static const std::set<std::string> members = {"class", "desc", "id", "status", "running", "event"};
    return members.count(member) > 0;
}

json_t *Shape(const json_t *json, bool keep)
{
    const char *name;
    json_t *member;
    size_t index;
    json_t *result;
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        result = json_object();
        json_object_foreach(const_cast<json_t *>(json), name, member)
        {
            json_object_set_new(result, name, Shape(member, Tells(name)));
        }
        return result;
    case JSON_ARRAY:
        result = json_array();
        json_array_foreach(json, index, member)
        {
            json_array_append_new(result, Shape(member, keep));
        }
        return result;
    case JSON_STRING:
        return keep ? json_copy(const_cast<json_t *>(json)) : json_string("");
    case JSON_INTEGER:
    case JSON_REAL: // a rate of QEMU's is the one or the other
        return keep ? json_copy(const_cast<json_t *>(json)) : json_integer(0);
    default:
        return json_is_boolean(json) && !keep ? json_false() : json_copy(const_cast<json_t *>(json));
    }
}

std::string Text(json_t *owned)
{
    Json json(owned);
    char *text = json_dumps(json.get(), JSON_SORT_KEYS);
    std::string result = text;
    free(text);
    return result;
}

// One client, and what it heard: answers in the order of its commands, events in theirs.
class Client
{
  public:
    explicit Client(const std::string &path) : client_(path)
    {
        Hear(client_.line(30000));
    }
    void Say(const std::string &command, const std::string &arguments = "")
    {
        std::string id = std::to_string(++count_);
        std::string line = R"({"execute": ")" + command + R"(", "id": )" + id;
        client_.send(line + (arguments.empty() ? "" : ", \"arguments\": " + arguments) + "}\n");
        while (answered_ < count_ && Hear(client_.line(30000))) {
        }
        EXPECT_EQ(answered_, count_) << command;
    }
    // Asks until the answer has `member`, with the text `value` unless that is null; only the last one
    // counts.
    void SayUntil(const std::string &command, const char *member, const char *value)
    {
        for (int i = 0; i < 1000; i++) {
            Say(command);
            const json_t *found = json_object_get(json_object_get(last(), "return"), member);
            if (found && (!value || !strcmp(json_string_value(found), value))) {
                return;
            }
            answers.pop_back();
            count_--; // the next one has the same id
            answered_--;
            usleep(10000);
        }
        ADD_FAILURE() << command << " shows no " << member << " " << (value ? value : "");
    }
    // Waits for an event, unless it came already, and asks nothing meanwhile.
    void Await(const std::string &event)
    {
        while (std::find(events.begin(), events.end(), event) == events.end()) {
            if (!Hear(client_.line(30000))) {
                ADD_FAILURE() << "no " << event;
                return;
            }
        }
    }
    const json_t *last() const
    {
        return last_.get();
    }
    std::vector<std::string> answers, events;

  private:
    bool Hear(std::string line)
    {
        // jansson cannot read QEMU's default for max-bandwidth, the largest unsigned number.
        for (size_t at; (at = line.find("18446744073709551615")) != std::string::npos;) {
            line.replace(at, 20, "0");
        }
        Json json(json_loads(line.c_str(), 0, nullptr));
        const char *event = json_string_value(json_object_get(json.get(), "event"));
        if (!json) {
            return false;
        }
        if (event) {
            Note(event, json_object_get(json.get(), "data"));
            return true;
        }
        answers.push_back(Text(Shape(json.get(), false)));
        answered_ += json_object_get(json.get(), "QMP") ? 0 : 1;
        last_ = std::move(json);
        return true;
    }
    // As "MIGRATION active"; how many passes there are is chance, that they are counted is not.
    void Note(const std::string &event, const json_t *data)
    {
        if (event == "MIGRATION_PASS") {
            EXPECT_EQ(json_integer_value(json_object_get(data, "pass")), ++passes_);
            if (passes_ > 1) {
                return;
            }
        }
        const char *status = json_string_value(json_object_get(data, "status"));
        events.push_back(event + (status ? std::string(" ") + status : ""));
    }
    RawClient client_;
    size_t count_ = 0, answered_ = 0;
    int passes_ = 0;
    Json last_;
};

struct Session {
    std::vector<std::string> lines; // answers and events of both sides, as in the file
    std::string Whole() const
    {
        std::string text;
        for (const std::string &line : lines) {
            text += line + "\n";
        }
        return text;
    }
    void Add(const std::string &side, const Client &client)
    {
        for (const std::string &answer : client.answers) {
            lines.push_back(side + " " + answer);
        }
        for (const std::string &event : client.events) {
            lines.push_back(side + " event " + event);
        }
    }
};

// What the arguments of a command need to have besides those for QEMU: which machine is meant.
using Meant = std::function<std::string(const std::string &members)>;

Session Talk(const std::string &from_path, const std::string &to_path, const Meant &from_meant,
             const Meant &to_meant)
{
    const char *events = R"({"capabilities": [{"capability": "events", "state": true}]})";
    const char *hold = R"({"capabilities": [{"capability": "pause-before-switchover", "state": true}]})";
    Client from(from_path), to(to_path);
    to.Say("qmp_capabilities");
    to.Say("migrate-set-capabilities", events);
    to.Say("migrate-incoming", to_meant(R"("uri": "tcp:127.0.0.1:0")"));
    to.Say("query-status");
    to.SayUntil("query-migrate", "socket-address", nullptr); // the daemon begins after its answer
    const json_t *address = json_object_get(json_object_get(to.last(), "return"), "socket-address");
    const char *port = json_string_value(json_object_get(json_array_get(address, 0), "port"));
    std::string uri = from_meant(R"("uri": "tcp:127.0.0.1:)" + std::string(port ? port : "none") + "\"");
    from.Say("qmp_capabilities");
    from.Say("query-version");
    from.Say("query-status");
    from.Say("query-migrate");
    from.Say("migrate-set-capabilities", events);
    from.Say("migrate-set-capabilities", hold);
    from.Say("migrate-set-parameters", R"({"max-bandwidth": 65536})");
    from.Say("migrate-continue", R"({"state": "pre-switchover"})"); // nothing is held
    from.Say("migrate", uri);
    from.Await("MIGRATION active");
    from.Await("MIGRATION_PASS");
    from.Say("query-migrate");
    from.Say("query-status");
    from.Say("migrate", uri);                                       // one is under way
    from.Say("migrate-set-capabilities", hold);                     // too late
    from.Say("migrate-continue", R"({"state": "pre-switchover"})"); // not yet
    from.Say("migrate-set-parameters", R"({"downtime-limit": 500})");
    from.Say("migrate-set-parameters", R"({"downtime-limit": 2000001})");
    from.Say("migrate-set-parameters", R"({"max-bandwidth": "fast"})");
    from.Say("query-migrate-parameters");
    from.Say("migrate-set-parameters", R"({"max-bandwidth": 1000000000})");
    from.Await("MIGRATION pre-switchover");
    from.Say("query-status");
    from.Say("query-migrate");
    from.Say("migrate-continue", R"({"state": "pre-switchover"})");
    from.Await("MIGRATION completed");
    from.Say("query-migrate");
    from.SayUntil("query-status", "status", "postmigrate");
    from.Say("migrate_cancel"); // there is nothing left to cancel
    to.Await("MIGRATION completed");
    to.Await("RESUME");
    to.Say("query-status");
    Session session;
    session.Add("source", from);
    session.Add("destination", to);
    return session;
}

class RunningSession : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (system("qemu-system-x86_64 --version > /dev/null 2>&1") != 0) {
            GTEST_SKIP() << "qemu-system-x86_64 is not installed";
        }
        MachineOptions options;
        options.boot = false;
        options.mib = 64;
        options.backing = "file";
        source_ = std::make_unique<Machine>(folder_, "from", options);
        ASSERT_TRUE(haul_test::fill_memory(folder_, "from"));
        options.backing = "memfd";
        options.incoming = true;
        target_ = std::make_unique<Machine>(folder_, "to", options);
    }
    static std::vector<std::string> Recorded()
    {
        std::ifstream file(Runfile("tests/machines/data/running.transcript"));
        std::vector<std::string> lines;
        for (std::string line; std::getline(file, line);) {
            lines.push_back(line);
        }
        return lines;
    }
    Folder folder_;
    std::unique_ptr<Machine> source_, target_;
};

TEST_F(RunningSession, IsWhatQemuAnswers)
{
    Meant nothing = [](const std::string &members) { return "{" + members + "}"; };
    Session session = Talk(source_->qmp(), target_->qmp(), nothing, nothing);
    if (const char *record = getenv("HAUL_RECORD")) {
        std::ofstream(record) << session.Whole();
    } else {
        EXPECT_EQ(session.lines, Recorded());
    }
}

// QEMU's members that haul does not have, each for a reason.
bool IsNamed(const std::string &member)
{
    static const std::set<std::string> named = {
        // counted by ways to send that haul has not: post-copy, QEMU's zero-copy
        "precopy-bytes", "downtime-bytes", "postcopy-bytes", "dirty-sync-missed-zero-copy",
        // an address of ours is of one family only
        "ipv4",
        // parameters of what haul refuses or does otherwise; docs/control.md lists them
        "announce-initial", "announce-max", "announce-rounds", "announce-step", "block-incremental",
        "compress-level", "compress-threads", "compress-wait-thread", "decompress-threads",
        "max-postcopy-bandwidth", "multifd-zlib-level", "multifd-zstd-level", "throttle-trigger-threshold",
        "tls-authz", "tls-creds", "tls-hostname", "x-checkpoint-delay", "xbzrle-cache-size"};
    return named.count(member) > 0;
}

// Where a line of QEMU's is another one of ours, each for a reason.
std::string Expected(const std::string &line)
{
    static const std::map<std::string, std::string> named = {
        // a migration has no machine before it is told which one
        {R"(source {"id": 3, "return": {"running": true, "singlestep": false, "status": "running"}})",
         R"(source {"id": 3, "return": {"running": false, "singlestep": false, "status": "prelaunch"}})"},
        // the parameter is called what the client called it
        {R"(source {"error": {"class": "GenericError", "desc": "Parameter 'downtime_limit' expects an integer )"
         R"(in the range of 0 to (2000 * 1000) ms"}, "id": 16})",
         R"(source {"error": {"class": "GenericError", "desc": "Parameter 'downtime-limit' expects an integer )"
         R"(in the range of 0 to 2000000"}, "id": 16})"},
        // the first pass is what active begins with
        {"source event MIGRATION_PASS", "source event MIGRATION active"},
        {"source event MIGRATION active", "source event MIGRATION_PASS"},
    };
    auto found = named.find(line);
    return found == named.end() ? line : found->second;
}

// Ours say it where QEMU does not: the device state is being loaded.
const char kOurs[] = "destination event MIGRATION device";

// Whatever QEMU tells is told, in the same type; what is said in words is said in the same words.
void ExpectAlike(const json_t *ours, const json_t *qemus, const std::string &where)
{
    const char *name;
    json_t *member;
    ASSERT_EQ(json_typeof(ours), json_typeof(qemus)) << where;
    json_object_foreach(const_cast<json_t *>(qemus), name, member)
    {
        const json_t *own = json_object_get(ours, name);
        if (!IsNamed(name)) {
            ASSERT_NE(own, nullptr) << where << " lacks " << name;
            ExpectAlike(own, member, where + "." + name);
        }
    }
    if (json_array_size(qemus) > 0 && json_array_size(ours) > 0) {
        ExpectAlike(json_array_get(ours, 0), json_array_get(qemus, 0), where + "[0]");
    }
    if (!json_is_object(qemus) && !json_is_array(qemus)) {
        EXPECT_TRUE(json_equal(ours, qemus)) << where;
    }
}

TEST_F(RunningSession, TheDaemonsAnswerLikeQemu)
{
    if (!haul_test::missing().empty()) {
        GTEST_SKIP() << haul_test::missing();
    }
    Daemon from, to;
    auto with = [](const std::string &qmp) {
        return [qmp](const std::string &members) { return "{" + members + R"(, "qemu": ")" + qmp + "\"}"; };
    };
    Session session = Talk(from.path, to.path, with(source_->qmp()), with(target_->qmp()));
    std::vector<std::string> qemus = Recorded();
    auto more = std::find(session.lines.begin(), session.lines.end(), kOurs);
    ASSERT_NE(more, session.lines.end());
    session.lines.erase(more);
    ASSERT_EQ(session.lines.size(), qemus.size()) << session.Whole() << from.program->Err();
    for (size_t i = 0; i < qemus.size(); i++) {
        qemus[i] = Expected(qemus[i]);
        size_t ours_at = session.lines[i].find('{'), qemus_at = qemus[i].find('{');
        if (ours_at == std::string::npos || qemus_at == std::string::npos) {
            EXPECT_EQ(session.lines[i], qemus[i]);
            continue;
        }
        Json ours(json_loads(session.lines[i].c_str() + ours_at, 0, nullptr));
        Json theirs(json_loads(qemus[i].c_str() + qemus_at, 0, nullptr));
        ExpectAlike(ours.get(), theirs.get(), "line " + std::to_string(i + 1));
    }
    EXPECT_EQ(source_->status(), "postmigrate");
    EXPECT_EQ(target_->status(), "running");
}

} // namespace
