// SPDX-License-Identifier: Apache-2.0
// haul query, set, cancel, continue and watch, against a daemon whose migrations are canned.
#include "tests/tools/program.h"
#include "tests/tools/qmp/client.h"
#include "tools/qmp/server.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

namespace
{

// The answers of query-migrate in turn; the last is given for ever.
class Daemon
{
  public:
    explicit Daemon(std::map<std::string, std::vector<std::string>> migrations);
    ~Daemon()
    {
        haul_qmp_server_free(server_);
        rmdir(folder_.c_str());
    }
    const std::string &address() const
    {
        return address_;
    }
    std::string last() // command and arguments
    {
        std::lock_guard<std::mutex> guard(mutex_);
        return last_;
    }

  private:
    template <typename Answer>
    static int handle(void *opaque, const char *command, json_t *arguments, json_t **result,
                      haul_qmp_failure *failure, Answer answer)
    {
        Daemon *daemon = static_cast<Daemon *>(opaque);
        std::lock_guard<std::mutex> guard(daemon->mutex_);
        char *text = json_dumps(arguments, JSON_SORT_KEYS);
        daemon->last_ = std::string(command) + " " + text;
        free(text);
        const char *name = json_string_value(json_object_get(arguments, "name"));
        auto found = name ? daemon->migrations_.find(name) : daemon->migrations_.begin();
        if (found == daemon->migrations_.end())
            return haul_qmp_fail(failure, ENOENT, "There is no migration '%s'", name ? name : "");
        *result = answer(*daemon, found->second);
        return 0;
    }
    static int list(void *opaque, json_t *, json_t **result, haul_qmp_failure *)
    {
        *result = json_array();
        for (auto &migration : static_cast<Daemon *>(opaque)->migrations_)
            json_array_append_new(*result, json_pack("{s:s}", "name", migration.first.c_str()));
        return 0;
    }
    static int query(void *opaque, json_t *arguments, json_t **result, haul_qmp_failure *failure)
    {
        return handle(opaque, "query-migrate", arguments, result, failure,
                      [](Daemon &, std::vector<std::string> &answers) {
                          json_t *json = json_loads(answers.front().c_str(), 0, nullptr);
                          EXPECT_NE(nullptr, json) << answers.front();
                          if (answers.size() > 1)
                              answers.erase(answers.begin());
                          return json;
                      });
    }
    static int parameters(void *opaque, json_t *arguments, json_t **result, haul_qmp_failure *failure)
    {
        return handle(opaque, "query-migrate-parameters", arguments, result, failure,
                      [](Daemon &, std::vector<std::string> &) {
                          return json_pack("{s:i, s:i, s:b, s:s}", "max-bandwidth", 0, "downtime-limit", 300,
                                           "auto-converge", 0, "compress", "none");
                      });
    }
    template <int which>
    static int act(void *opaque, json_t *arguments, json_t **result, haul_qmp_failure *failure)
    {
        static const char *const names[] = {"migrate-set-parameters", "migrate_cancel", "migrate-continue"};
        return handle(opaque, names[which], arguments, result, failure,
                      [](Daemon &, std::vector<std::string> &) { return json_object(); });
    }

    static const haul_qmp_argument about_[];
    static const haul_qmp_argument set_[];
    static const haul_qmp_argument continue_[];
    static const haul_qmp_command commands_[];

    std::mutex mutex_;
    std::map<std::string, std::vector<std::string>> migrations_;
    std::string folder_, address_, last_;
    haul_qmp_server *server_ = nullptr;
};

const haul_qmp_argument Daemon::about_[] = {{"name", HAUL_QMP_STRING, true, 0, nullptr, nullptr}, {}};
const haul_qmp_argument Daemon::set_[] = {
    {"name", HAUL_QMP_STRING, true, 0, nullptr, nullptr},
    {"max-bandwidth", HAUL_QMP_UNSIGNED, true, 0, nullptr, nullptr},
    {"downtime-limit", HAUL_QMP_UNSIGNED, true, 2000000, nullptr, nullptr},
    {"auto-converge", HAUL_QMP_BOOLEAN, true, 0, nullptr, nullptr},
    {"compress", HAUL_QMP_STRING, true, 0, nullptr, nullptr},
    {},
};
const haul_qmp_argument Daemon::continue_[] = {{"name", HAUL_QMP_STRING, true, 0, nullptr, nullptr},
                                               {"state", HAUL_QMP_STRING, false, 0, nullptr, nullptr},
                                               {}};
const haul_qmp_command Daemon::commands_[] = {
    {"query-migrations", nullptr, list},
    {"query-migrate", about_, query},
    {"query-migrate-parameters", about_, parameters},
    {"migrate-set-parameters", set_, act<0>},
    {"migrate_cancel", about_, act<1>},
    {"migrate-continue", continue_, act<2>},
};

Daemon::Daemon(std::map<std::string, std::vector<std::string>> migrations)
    : migrations_(std::move(migrations))
{
    char folder[] = "/tmp/haul-qmp-XXXXXX"; // a socket's path is short
    folder_ = mkdtemp(folder);
    address_ = "unix:" + folder_ + "/s";
    haul_qmp_server_options options;
    haul_error error{};
    haul_qmp_server_defaults(&options);
    options.address = address_.c_str();
    options.package = "haul test";
    options.commands = commands_;
    options.command_count = sizeof commands_ / sizeof *commands_;
    options.opaque = this;
    EXPECT_EQ(0, haul_qmp_server_new(&options, &server_, &error)) << error.message;
    EXPECT_EQ(0, haul_qmp_server_start(server_, &error)) << error.message;
}

// A source that has sent `mebibytes` of 1024 over two channels.
std::string active(int mebibytes, const char *status = "active", const char *more = "")
{
    char text[2048];
    long half = mebibytes * 524288L;
    snprintf(
        text, sizeof text,
        "{\"status\": \"%s\", \"side\": \"source\", \"total-time\": 1000, \"expected-downtime\": 25, "
        "\"downtime\": 21, \"downtime-limit\": 300, \"ram\": {\"transferred\": %ld, \"remaining\": %ld, "
        "\"total\": 1073741824, \"dirty-pages-rate\": 2560, \"page-size\": 4096, \"dirty-sync-count\": 3}, "
        "\"channels\": [{\"id\": 0, \"bytes\": %ld, \"pages\": 7, \"zero\": 1, \"compressed\": 2, "
        "\"busy-time\": 500.5, \"stalled-time\": 1.5, \"cpu\": 3, \"node\": 0}, {\"id\": 1, \"bytes\": %ld, "
        "\"pages\": 8, \"cpu\": -1, \"node\": -1}]%s}",
        status, 2 * half, (1024L - mebibytes) << 20, half, half, more);
    return text;
}

struct Result {
    int status;
    std::string out, err;
};

Result haul(std::vector<std::string> words, const std::string &address)
{
    if (!address.empty()) {
        words.push_back("--qmp");
        words.push_back(address);
    }
    Program program({}, words);
    int status = program.Wait(20);
    return {status, program.Out(), program.Err()};
}

const char HEADLINE[] =
    "disk: active   50%  512 MiB/s  left 512 MiB  dirty 10.0 MiB/s  round 3  downtime 25 ms "
    "of 300 ms\n";

const char TABLE[] =
    "  Channel  CPU Node        Rate      Bytes     Pages      Zero   Encoded      Busy   Stalled\n"
    "        0    3    0   256 MiB/s    256 MiB         7         1         2    500 ms    1.0 ms\n"
    "        1  any  any   256 MiB/s    256 MiB         8         0         0    0.0 ms    0.0 ms\n";

TEST(ControlCommands, QueryShowsTheOnlyMigrationInFull)
{
    Daemon daemon({{"disk", {active(512)}}});
    std::string expected =
        std::string(HEADLINE) +
        "  Parameters\n    max-bandwidth=0\n    downtime-limit=300\n    auto-converge=false\n"
        "    compress=none\n" +
        TABLE;
    for (auto words : {std::vector<std::string>{"query"}, std::vector<std::string>{"query", "disk"}}) {
        Result result = haul(words, daemon.address());
        EXPECT_EQ(0, result.status) << result.err;
        EXPECT_EQ(expected, result.out);
    }
}

// Two drives of 1 GiB: the first copied but for 256 MiB written since, of the second half. Much of both are
// holes, which nobody carries.
const char DRIVES[] =
    ", \"block-jobs\": [{\"device\": \"system\", \"len\": 1073741824, \"offset\": 805306368, "
    "\"ready\": true, \"bytes\": 402653184}, {\"device\": \"a-drive-with-a-long-name\", \"len\": 1073741824, "
    "\"offset\": 536870912, \"ready\": false, \"bytes\": 134217728}], \"streams\": {\"bytes\": 536870912}";

const char DRIVE_TABLE[] = "  Drive                 Done        Rate       Left    To copy  Pass\n"
                           "  system                 75%   384 MiB/s    256 MiB   1.00 GiB  new writes\n"
                           "  a-drive-with-a-long-   50%   128 MiB/s    512 MiB   1.00 GiB  first copy\n";

TEST(ControlCommands, QueryShowsEachDriveThatMovesAlong)
{
    Daemon daemon({{"disk", {active(512, "active", DRIVES)}}});
    Result result = haul({"query"}, daemon.address());
    EXPECT_EQ(0, result.status) << result.err;
    // Of 3 GiB, 512 MiB of memory are left and 768 MiB of drives.
    EXPECT_EQ(0U, result.out.find("disk: active   58%  1.00 GiB/s  left 1.25 GiB, of drives 768 MiB  "
                                  "drives ready 1 of 2\n"))
        << result.out;
    EXPECT_NE(std::string::npos, result.out.find(std::string(DRIVE_TABLE) + TABLE)) << result.out;
}

TEST(ControlCommands, QueryShowsDisksOfTheEngineTogether)
{
    Daemon daemon({{"disk",
                    {active(1024, "active",
                            ", \"disk\": {\"disks\": 2, \"total\": 1073741824, \"remaining\": 536870912, "
                            "\"transferred\": 268435456, \"dirty-pages-rate\": 2560}")}}});
    Result result = haul({"query"}, daemon.address());
    EXPECT_EQ(0U, result.out.find("disk: active   75%  1.25 GiB/s  left 512 MiB  dirty 20.0 MiB/s  round 3"))
        << result.out;
    EXPECT_NE(std::string::npos,
              result.out.find("  2 disks                50%   256 MiB/s    512 MiB   1.00 GiB  new writes\n"))
        << result.out;
}

TEST(ControlCommands, QueryOfADestinationHasNoDrives)
{
    const std::string answer =
        R"({"status": "active", "side": "destination", "total-time": 1000, "ram": {"transferred": 1048576},
            "disk": {"disks": 1, "total": 1048576}, "streams": {"bytes": 1048576}})";
    Daemon daemon({{"disk", {answer}}});
    Result result = haul({"query"}, daemon.address());
    EXPECT_EQ(0U, result.out.find("disk: active  2.00 MiB/s  2.00 MiB so far\n")) << result.out;
    EXPECT_EQ(std::string::npos, result.out.find("Drive")) << result.out;
}

TEST(ControlCommands, QueryShowsSeveralInALineEach)
{
    Daemon daemon({{"disk", {active(512)}},
                   {"far", {"{\"status\": \"failed\", \"error\": {\"desc\": \"the peer is gone\"}}"}},
                   {"in",
                    {"{\"status\": \"active\", \"side\": \"destination\", \"total-time\": 2000, \"ram\": "
                     "{\"transferred\": 2097152}}"}},
                   {"new", {"{\"status\": \"none\"}"}}});
    Result result = haul({"query"}, daemon.address());
    EXPECT_EQ(0, result.status) << result.err;
    EXPECT_EQ(std::string(HEADLINE) + "far: failed  the peer is gone\n"
                                      "in: active  1.00 MiB/s  2.00 MiB so far\n"
                                      "new: none\n",
              result.out);
}

TEST(ControlCommands, QueryWithoutMigrations)
{
    Daemon daemon({});
    EXPECT_EQ("The daemon has no migrations.\n", haul({"query"}, daemon.address()).out);
    EXPECT_EQ("[]\n", haul({"query", "--json"}, daemon.address()).out);
}

TEST(ControlCommands, QueryJson)
{
    Daemon daemon({{"disk", {active(512)}}});
    Json all(json_loads(haul({"query", "--json"}, daemon.address()).out.c_str(), 0, nullptr));
    Json one(json_loads(haul({"query", "disk", "--json"}, daemon.address()).out.c_str(), 0, nullptr));
    ASSERT_EQ(1U, json_array_size(all.get()));
    EXPECT_TRUE(json_equal(one.get(), json_array_get(all.get(), 0)));
    EXPECT_STREQ("disk", json_string_value(json_object_get(one.get(), "name")));
    EXPECT_STREQ("active", json_string_value(json_object_get(one.get(), "status")));
    EXPECT_EQ(
        300, json_integer_value(json_object_get(json_object_get(one.get(), "parameters"), "downtime-limit")));
}

TEST(ControlCommands, SetReadsValuesAsTheDaemonHasThem)
{
    Daemon daemon({{"disk", {active(512)}}});
    Result result =
        haul({"set", "disk", "max-bandwidth=1G", "downtime-limit=50", "auto-converge=on", "compress=lz4"},
             daemon.address());
    EXPECT_EQ(0, result.status) << result.err;
    EXPECT_EQ("", result.out);
    EXPECT_EQ(
        "migrate-set-parameters {\"auto-converge\": true, \"compress\": \"lz4\", \"downtime-limit\": 50, "
        "\"max-bandwidth\": 1073741824, \"name\": \"disk\"}",
        daemon.last());
    EXPECT_EQ(0, haul({"set", "max-bandwidth=0"}, daemon.address()).status);
    EXPECT_EQ("migrate-set-parameters {\"max-bandwidth\": 0}", daemon.last());
}

TEST(ControlCommands, SetRefuses)
{
    Daemon daemon({{"disk", {active(512)}}});
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"speed=1",
         "haul: there is no parameter 'speed'; 'haul query NAME' shows a migration's parameters\n"},
        {"max-bandwidth=fast",
         "haul: parameter max-bandwidth takes a number such as 300 or 1G, not 'fast'\n"},
        {"auto-converge=1", "haul: parameter auto-converge takes on or off, not '1'\n"},
        {"downtime-limit=9999999", "haul: the haul daemon refused `migrate-set-parameters`: Parameter "
                                   "'downtime-limit' expects a value between 0 and 2000000\n"},
    };
    for (auto &[word, message] : cases) {
        Result result = haul({"set", "max-bandwidth=1G", word}, daemon.address());
        EXPECT_EQ(1, result.status);
        EXPECT_EQ(message, result.err);
        EXPECT_EQ("query-migrate-parameters {}", daemon.last()) << "nothing is set";
    }
}

TEST(ControlCommands, WrongWords)
{
    const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
        {{"set"}, "haul: say what to set: haul set [NAME] PARAM=VALUE...; try 'haul help set'\n"},
        {{"set", "disk"}, "haul: say what to set: haul set [NAME] PARAM=VALUE...; try 'haul help set'\n"},
        {{"set", "disk", "x"}, "haul: 'x' is no PARAM=VALUE; try 'haul help set'\n"},
        {{"set", "disk", "=1"}, "haul: '=1' is no PARAM=VALUE; try 'haul help set'\n"},
        {{"query", "a", "b"}, "haul: 'b' is one word too many; try 'haul help query'\n"},
        {{"cancel", "--json"},
         "haul: option --json belongs to 'haul send', not to 'haul cancel'; try 'haul help cancel'\n"},
    };
    for (auto &[words, message] : cases) {
        Result result = haul(words, "");
        EXPECT_EQ(2, result.status);
        EXPECT_EQ(message, result.err);
    }
}

TEST(ControlCommands, CancelAndContinue)
{
    Daemon daemon({{"disk", {active(512)}}});
    EXPECT_EQ(0, haul({"cancel"}, daemon.address()).status);
    EXPECT_EQ("migrate_cancel {}", daemon.last());
    EXPECT_EQ(0, haul({"continue", "disk"}, daemon.address()).status);
    EXPECT_EQ("migrate-continue {\"name\": \"disk\", \"state\": \"pre-switchover\"}", daemon.last());
    Result result = haul({"cancel", "other"}, daemon.address());
    EXPECT_EQ(1, result.status);
    EXPECT_EQ("haul: the haul daemon refused `migrate_cancel`: There is no migration 'other'\n", result.err);
}

TEST(ControlCommands, WithoutADaemon)
{
    for (const char *command : {"query", "cancel", "continue", "watch"}) {
        Result result = haul({command}, "unix:/nowhere/haul.sock");
        EXPECT_EQ(1, result.status);
        EXPECT_EQ(
            "haul: cannot connect to the haul daemon's control socket /nowhere/haul.sock: No such file or "
            "directory; start one with 'haul daemon', or say where it listens with --qmp unix:PATH\n",
            result.err);
    }
    for (const char *command : {"query", "watch"}) {
        Result result = haul({command, "--json"}, "unix:/nowhere/haul.sock");
        EXPECT_EQ(0U, result.out.find("{\"error\": {\"code\": \"ENOENT\", \"desc\": \"cannot connect to"))
            << result.out;
    }
}

TEST(ControlCommands, WatchWritesALineASecondUntilTheEnd)
{
    Daemon daemon({{"disk", {active(512), active(768), active(1024, "completed")}}});
    Result result = haul({"watch", "disk"}, daemon.address());
    EXPECT_EQ(0, result.status) << result.err;
    EXPECT_EQ(0U, result.out.find(HEADLINE)) << result.out;
    const std::string second = "\ndisk: active   75%  ";
    size_t at = result.out.find(second);
    ASSERT_NE(std::string::npos, at) << result.out;
    double rate = 0;
    char unit[16] = "";
    EXPECT_EQ(2, sscanf(result.out.c_str() + at + second.size(), "%lf %15s", &rate, unit)) << result.out;
    EXPECT_STREQ("MiB/s", unit) << result.out;
    EXPECT_GT(rate, 10) << result.out; // 256 MiB in a second, or about that on a busy machine
    EXPECT_LT(rate, 512) << result.out;
    EXPECT_NE(std::string::npos, result.out.find("\ndisk: completed  100%  1.00 GiB/s")) << result.out;
    EXPECT_NE(std::string::npos, result.out.find("downtime 21 ms of 300 ms\n")) << result.out;
}

TEST(ControlCommands, WatchSaysOnceThatNothingHappens)
{
    Daemon daemon({{"disk", {"{}", "{}", "{}", active(1024, "completed")}}});
    Result result = haul({"watch"}, daemon.address());
    EXPECT_EQ(0, result.status) << result.err;
    EXPECT_EQ(0U, result.out.find("no migration yet\ncompleted  100%")) << result.out;
}

TEST(ControlCommands, WatchJsonIsALineEach)
{
    Daemon daemon({{"disk", {active(512), active(1024, "completed")}}});
    Result result = haul({"watch", "--json"}, daemon.address());
    EXPECT_EQ(0, result.status) << result.err;
    EXPECT_EQ(2, std::count(result.out.begin(), result.out.end(), '\n'));
    json_t *first = json_loadb(result.out.data(), result.out.find('\n'), 0, nullptr);
    EXPECT_STREQ("active", json_string_value(json_object_get(first, "status")));
    json_decref(first);
}

TEST(ControlCommands, WatchExitsAsTheMigrationEnded)
{
    for (auto &[status, more, expected] : std::vector<std::tuple<const char *, const char *, int>>{
             {"failed", "", 1}, {"cancelled", "", 1}, {"failed", ", \"ownership\": \"uncertain\"", 3}}) {
        Daemon daemon({{"disk", {active(512, status, more)}}});
        EXPECT_EQ(expected, haul({"watch"}, daemon.address()).status) << status << more;
    }
}

TEST(ControlCommands, WatchEndsWithTheDaemon)
{
    auto daemon =
        std::make_unique<Daemon>(std::map<std::string, std::vector<std::string>>{{"disk", {active(512)}}});
    Program watch({}, {"watch", "--qmp", daemon->address()});
    ASSERT_TRUE(watch.WaitFor("active"));
    std::string path = daemon->address().substr(5);
    daemon.reset();
    EXPECT_EQ(1, watch.Wait());
    EXPECT_EQ("haul: the haul daemon closed its control socket " + path + ": it has exited or is exiting\n",
              watch.Err());
}

// What haul watch draws on a terminal of so many rows and columns, until the migration ends.
std::string drawn(const Daemon &daemon, unsigned short rows, unsigned short columns, int expected = 0)
{
    struct winsize window = {rows, columns, 0, 0};
    int terminal;
    pid_t child = forkpty(&terminal, nullptr, nullptr, &window);
    EXPECT_GE(child, 0);
    if (child == 0) {
        std::string program = Runfile("tools/haul/haul");
        execl(program.c_str(), "haul", "watch", "disk", "--qmp", daemon.address().c_str(), nullptr);
        _exit(127);
    }
    std::string text;
    char bytes[4096];
    for (ssize_t count; (count = read(terminal, bytes, sizeof bytes)) > 0;)
        text.append(bytes, static_cast<size_t>(count));
    int status;
    EXPECT_EQ(child, waitpid(child, &status, 0));
    close(terminal);
    EXPECT_EQ(expected, WEXITSTATUS(status)) << text;
    return text;
}

TEST(ControlCommands, WatchRedrawsOnATerminal)
{
    Daemon daemon({{"disk", {active(512), active(512), active(1024, "completed")}}});
    std::string text = drawn(daemon, 5, 60); // too small for both channels and for the whole lines
    std::string headline = std::string(HEADLINE).substr(0, 59);
    const std::string end = "\033[K\r\n", table(TABLE);
    EXPECT_EQ(0U, text.find(headline + end + table.substr(0, table.find("      Zero")) + end)) << text;
    EXPECT_NE(std::string::npos, text.find("  and 1 more\033[K\r\n\033[J\033[4Adisk: active   50%  0 B/s"))
        << text;
    EXPECT_EQ(std::string::npos, text.find("any"));
}

TEST(ControlCommands, WatchBreaksALongHeadlineAndLeavesColumnsOut)
{
    Daemon daemon({{"disk", {active(512, "active", DRIVES), active(1024, "completed")}}});
    std::string text = drawn(daemon, 24, 80);
    const std::string end = "\033[K\r\n";
    const std::string table(TABLE);
    EXPECT_EQ(0U, text.find("disk: active   58%  1.00 GiB/s  left 1.25 GiB, of drives 768 MiB" + end +
                            "  drives ready 1 of 2" + end + "  Drive "))
        << text;
    EXPECT_NE(std::string::npos, text.find(end + table.substr(0, table.find("      Busy")) + end)) << text;
    EXPECT_EQ(std::string::npos, text.find("500 ms")) << text;
}

// The last column's heading is shorter than what stands below it, which ends at column 74.
TEST(ControlCommands, WatchDrawsALastColumnWholeOrNotAtAll)
{
    for (unsigned short columns : {68, 69, 74, 75}) {
        Daemon daemon({{"disk", {active(512, "active", DRIVES), active(1024, "completed")}}});
        std::string text = drawn(daemon, 24, columns);
        std::string table(DRIVE_TABLE), end = "\033[K\r\n";
        table = table.substr(0, table.find(columns > 74 ? "\n" : "  Pass")) + end;
        EXPECT_NE(std::string::npos, text.find(table)) << columns << text;
        EXPECT_NE(std::string::npos,
                  text.find(columns > 74 ? "1.00 GiB  new writes" + end : "1.00 GiB" + end))
            << columns << text;
        EXPECT_EQ(columns > 74, text.find("new w") != std::string::npos) << columns << text;
    }
}

TEST(ControlCommands, WatchTellsTheWholeReasonOfAFailure)
{
    std::string why = "first";
    for (int i = 0; i < 60; i++) {
        why += " reason" + std::to_string(i);
    }
    why.resize(500);
    Daemon daemon({{"disk", {R"({"status": "failed", "error": {"desc": ")" + why + "\"}}"}}});
    EXPECT_EQ("disk: failed  " + why + "\n", haul({"watch", "disk"}, daemon.address()).out);
    std::string text = drawn(daemon, 24, 80, 1), words;
    for (char c : text.substr(0, text.find("\033[J"))) {
        words += c == '\r' || c == '\n' ? "" : std::string(1, c);
    }
    for (size_t at; (at = words.find("\033[K")) != std::string::npos;) {
        words.erase(at, 3);
    }
    EXPECT_EQ("disk: failed  " + why, words);
}

TEST(ControlCommands, WatchDrawsDrivesAboveChannels)
{
    Daemon daemon({{"disk", {active(512, "active", DRIVES), active(1024, "completed")}}});
    std::string text = drawn(daemon, 24, 100);
    size_t drives = text.find("  a-drive-with-a-long-   50%");
    EXPECT_NE(std::string::npos, drives) << text;
    EXPECT_GT(text.find("  Channel"), drives) << text;
    EXPECT_NE(std::string::npos, text.find("any")) << text;
}

TEST(ControlCommands, WatchDrawsNoMoreLinesThanATerminalHas)
{
    for (unsigned short rows = 2; rows < 14; rows++) {
        Daemon daemon({{"disk", {active(512, "active", DRIVES), active(1024, "completed")}}});
        std::string text = drawn(daemon, rows, 100);
        std::string first = text.substr(0, text.find("\033[J"));
        long lines = std::count(first.begin(), first.end(), '\n');
        EXPECT_LE(lines + 1, rows < 5 ? 5 : rows) << text;
    }
}

} // namespace
