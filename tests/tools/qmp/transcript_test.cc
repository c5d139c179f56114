// SPDX-License-Identifier: Apache-2.0
// One QMP session, spoken with QEMU and with our server. data/qemu.transcript holds QEMU's side of it, as
// recorded by the first test with HAUL_RECORD=PATH; that test also shows that QEMU still answers so.
#include "tests/tools/program.h"
#include "tests/tools/qmp/test_server.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <spawn.h>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

namespace
{

struct Step {
    const char *request;
    bool protocol; // answered by the server itself, whatever its commands are
};

// What a client that migrates a machine says, its mistakes included.
const Step script[] = {
    {"{\"execute\": \"query-status\", \"id\": 0}", true},
    {"{\"execute\": \"nope\", \"id\": 1}", true},
    {"{\"execute\": \"qmp_capabilities\", \"arguments\": {\"x\": 1}, \"id\": 2}", true},
    {"{\"execute\": \"qmp_capabilities\", \"id\": 3}", true},
    {"{\"execute\": \"qmp_capabilities\", \"id\": {\"a\": [4]}}", true},
    {"{\"execute\": \"nope\", \"id\": null}", true},
    {"[]", true},
    {"{}", true},
    {"{\"id\": 8}", true},
    {"{\"execute\": 9, \"id\": 9}", true},
    {"{\"execute\": \"query-version\", \"foo\": 1, \"id\": 10}", true},
    {"{\"execute\": \"query-version\", \"arguments\": [], \"id\": 11}", true},
    {"{\"execute\": \"query-version\", \"arguments\": {\"a\": 1}, \"id\": 12}", true},
    {"{'execute': 'query-version', 'id': 'it\\'s 13'}", true},
    {"{\"execute\":\n\"query-version\", \"id\": 14.5}", true},
    {"{\"execute\": \"query-status\", \"id\": 20}", false},
    {"{\"execute\": \"query-migrate\", \"id\": 21}", false},
    {"{\"execute\": \"query-migrate-capabilities\", \"id\": 22}", false},
    {"{\"execute\": \"query-migrate-parameters\", \"id\": 23}", false},
    {"{\"execute\": \"migrate\", \"id\": 24}", false},
    {"{\"execute\": \"migrate\", \"arguments\": {\"uri\": 1}, \"id\": 25}", false},
    {"{\"execute\": \"migrate-set-parameters\", \"arguments\": {\"max-bandwidth\": \"x\"}, \"id\": 26}",
     false},
    {"{\"execute\": \"migrate-set-parameters\", \"arguments\": {\"foo\": 1}, \"id\": 27}", false},
    {"{\"execute\": \"migrate-set-parameters\", \"arguments\": {\"downtime-limit\": 200, \"max-bandwidth\": "
     "1000000000}, \"id\": 28}",
     false},
    {"{\"execute\": \"migrate-set-capabilities\", \"arguments\": {\"capabilities\": {}}, \"id\": 29}", false},
    {"{\"execute\": \"migrate-set-capabilities\", \"arguments\": {\"capabilities\": [{\"capability\": "
     "\"events\"}]}, \"id\": 30}",
     false},
    {"{\"execute\": \"migrate-set-capabilities\", \"arguments\": {\"capabilities\": [{\"capability\": "
     "\"nothing\", \"state\": true}]}, \"id\": 31}",
     false},
    {"{\"execute\": \"migrate-set-capabilities\", \"arguments\": {\"capabilities\": [{\"capability\": "
     "\"events\", \"state\": true}]}, \"id\": 32}",
     false},
    {"{\"execute\": \"migrate-continue\", \"arguments\": {\"state\": \"foo\"}, \"id\": 33}", false},
    {"{\"execute\": \"migrate_cancel\", \"id\": 34}", false},
};

// What tells answers apart is kept, what differs from run to run becomes a sample of its type.
json_t *shape(const json_t *json, bool keep)
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
            bool kept = keep || !strcmp(name, "id") || !strcmp(name, "error") || !strcmp(name, "event") ||
                        !strcmp(name, "capability");
            json_object_set_new(result, name, shape(member, kept));
        }
        return result;
    case JSON_ARRAY:
        result = json_array();
        json_array_foreach(json, index, member) json_array_append_new(result, shape(member, keep));
        return result;
    case JSON_STRING:
        return keep ? json_copy(const_cast<json_t *>(json)) : json_string("");
    case JSON_INTEGER:
        return keep ? json_copy(const_cast<json_t *>(json)) : json_integer(0);
    case JSON_REAL:
        return keep ? json_copy(const_cast<json_t *>(json)) : json_real(0.5);
    case JSON_TRUE:
    case JSON_FALSE:
        return keep ? json_copy(const_cast<json_t *>(json)) : json_false();
    default:
        return json_null();
    }
}

// jansson cannot read QEMU's default for max-bandwidth, the largest unsigned number.
std::string readable(std::string line)
{
    size_t at;
    while ((at = line.find("18446744073709551615")) != std::string::npos)
        line.replace(at, 20, "0");
    return line;
}

std::string shape_of(const std::string &line)
{
    Json json(json_loads(readable(line).c_str(), 0, nullptr));
    if (!json)
        return "no JSON: " + line;
    Json shaped(shape(json.get(), false));
    char *text = json_dumps(shaped.get(), JSON_SORT_KEYS);
    std::string result = text;
    free(text);
    return result;
}

// A line ends each answer in QEMU, and no step of the script brings an event.
std::string talk(const std::string &path, bool all)
{
    RawClient client(path);
    std::string text = shape_of(client.line()) + "\n";
    for (const Step &step : script)
        if (all || step.protocol)
            text += shape_of(client.ask(step.request)) + "\n";
    return text;
}

std::string recorded(bool all)
{
    std::ifstream file(Runfile("tests/tools/qmp/data/qemu.transcript"));
    std::string line, text;
    std::getline(file, line); // the greeting
    text = line + "\n";
    for (const Step &step : script) {
        EXPECT_TRUE(std::getline(file, line)) << step.request;
        if (all || step.protocol)
            text += line + "\n";
    }
    return text;
}

class Qemu
{
  public:
    explicit Qemu(const std::string &path)
    {
        std::string qmp = "unix:" + path + ",server=on,wait=off";
        const char *words[] = {"qemu-system-x86_64", "-nodefaults", "-display", "none",      "-S",
                               "-machine",           "none",        "-qmp",     qmp.c_str(), nullptr};
        if (posix_spawnp(&pid_, words[0], nullptr, nullptr, const_cast<char **>(words), environ) != 0)
            pid_ = -1;
        for (int i = 0; i < 1000 && pid_ > 0 && !RawClient(path).connected(); i++)
            usleep(10000);
    }
    ~Qemu()
    {
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
    }
    bool runs() const
    {
        return pid_ > 0;
    }

  private:
    pid_t pid_ = -1;
};

TEST(QmpTranscript, IsWhatQemuAnswers)
{
    char folder[] = "/tmp/haul-qmp-XXXXXX";
    std::string path = std::string(mkdtemp(folder)) + "/qmp";
    {
        Qemu qemu(path);
        if (!qemu.runs()) {
            rmdir(folder);
            GTEST_SKIP() << "there is no qemu-system-x86_64";
        }
        std::string text = talk(path, true);
        const char *record = getenv("HAUL_RECORD");
        if (record)
            std::ofstream(record) << text;
        else
            EXPECT_EQ(recorded(true), text);
    }
    unlink(path.c_str());
    rmdir(folder);
}

TEST(QmpTranscript, TheServerAnswersLikeQemu)
{
    TestServer server;
    std::istringstream ours(talk(server.path(), false));
    std::istringstream qemus(recorded(false));
    std::string our_line, qemus_line;
    std::getline(ours, our_line);
    std::getline(qemus, qemus_line);
    EXPECT_EQ(
        "{\"QMP\": {\"capabilities\": [\"\"], \"version\": {\"package\": \"\", \"qemu\": {\"major\": 0, "
        "\"micro\": 0, \"minor\": 0}}}}",
        qemus_line);
    EXPECT_EQ("{\"QMP\": {\"capabilities\": [], \"version\": {\"package\": \"\", \"qemu\": {\"major\": 0, "
              "\"micro\": 0, \"minor\": 0}}}}",
              our_line)
        << "but for QEMU's out-of-band capability";
    while (std::getline(qemus, qemus_line)) {
        ASSERT_TRUE(std::getline(ours, our_line)) << qemus_line;
        EXPECT_EQ(qemus_line, our_line);
    }
}

// Members and array elements that both have are of one type; what only one has is its own affair.
void expect_compatible(const json_t *ours, const json_t *qemus, const std::string &where)
{
    const char *name;
    json_t *member;
    ASSERT_EQ(json_typeof(qemus), json_typeof(ours)) << where;
    json_object_foreach(const_cast<json_t *>(qemus), name, member)
    {
        const json_t *other = json_object_get(ours, name);
        if (other)
            expect_compatible(other, member, where + "." + name);
    }
    if (json_array_size(qemus) && json_array_size(ours))
        expect_compatible(json_array_get(ours, 0), json_array_get(qemus, 0), where + "[0]");
}

TEST(QmpTranscript, TheDaemonAnswersInQemusShapes)
{
    char folder[] = "/tmp/haul-qmp-XXXXXX";
    std::string path = std::string(mkdtemp(folder)) + "/qmp";
    Program::Options options;
    options.state_directory = MakeDirectory();
    Program daemon(options, {"daemon", "--qmp", "unix:" + path});
    ASSERT_TRUE(daemon.WaitFor("listening"));
    std::istringstream ours(talk(path, true));
    std::istringstream qemus(recorded(true));
    std::string our_line, qemus_line;
    for (int step = -1; std::getline(qemus, qemus_line); step++) {
        ASSERT_TRUE(std::getline(ours, our_line));
        Json our_answer(json_loads(our_line.c_str(), 0, nullptr));
        Json qemus_answer(json_loads(qemus_line.c_str(), 0, nullptr));
        std::string where = step < 0 ? "greeting" : script[step].request;
        if (json_object_get(qemus_answer.get(), "error"))
            EXPECT_EQ(qemus_line, our_line) << where;
        else {
            EXPECT_EQ(json_object_size(qemus_answer.get()), json_object_size(our_answer.get())) << our_line;
            expect_compatible(our_answer.get(), qemus_answer.get(), where);
        }
    }
    daemon.Signal(SIGTERM);
    EXPECT_EQ(0, daemon.Wait(20)) << daemon.Err();
    EXPECT_EQ(0, rmdir(folder)) << "the socket is left";
}

} // namespace
