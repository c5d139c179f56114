// SPDX-License-Identifier: Apache-2.0
// A QEMU machine moved by daemons: it arrives; and a daemon that is killed, told to end, or cancelled before
// the handover leaves it running where it was. Also the daemon's answers beside those of QEMU itself.
#include "tests/machines/qemu.h"
#include "tests/tools/daemon/daemon.h"

#include <algorithm>
#include <csignal>
#include <set>
#include <sys/socket.h>
#include <sys/wait.h>

namespace
{

using haul_test::Folder;
using haul_test::Machine;
using haul_test::MachineOptions;

class QemuDaemon : public ::testing::Test
{
  protected:
    static void SetUpTestSuite()
    {
        if (haul_test::missing().empty()) {
            folder = new Folder;
            source = new Machine(*folder, "from", MachineOptions());
            source->wait_for("sweep 1 ok", haul_test::kBootSeconds);
        }
    }
    static void TearDownTestSuite()
    {
        delete source;
        delete folder;
        source = nullptr;
        folder = nullptr;
    }
    void SetUp() override
    {
        if (!haul_test::missing().empty()) {
            GTEST_SKIP() << haul_test::missing();
        }
        ASSERT_EQ("running", source->status()) << source->last_words() << source->errors();
        from_ = std::make_unique<Daemon>();
        to_ = std::make_unique<Daemon>();
        static int number;
        MachineOptions options;
        options.incoming = true;
        options.paused = true;
        target_ = std::make_unique<Machine>(*folder, "to" + std::to_string(number++), options);
    }
    // Starts a move and waits until the source is in `state`, where it stays.
    void MoveUntil(const std::string &state)
    {
        if (state == "active") {
            from()->Get("migrate-set-parameters", R"({"max-bandwidth": 1048576})");
        } else if (state == "pre-switchover") {
            from()->Get("migrate-set-capabilities",
                        R"({"capabilities": [{"capability": "pause-before-switchover", "state": true}]})");
        }
        to()->Get("migrate-incoming", R"({"uri": "tcp:127.0.0.1:0", "qemu": ")" + target_->qmp() + "\"}");
        ASSERT_TRUE(to()->Until([&] { return !to()->Of("default", "socket-address").empty(); }));
        from()->Get("migrate",
                    "{\"uri\": \"" + to()->Of("default", "uri") + R"(", "qemu": ")" + source->qmp() + "\"}");
        ASSERT_TRUE(from()->Reaches("default", state)) << from_->program->Err() << to_->program->Err();
    }
    void ExpectGoesOnHere()
    {
        for (int i = 0; i < 600 && source->status() != "running"; i++) {
            usleep(50000); // the guardian may still be at it
        }
        EXPECT_EQ("running", source->status());
        EXPECT_TRUE(source->counts()) << source->last_words() << source->errors();
        EXPECT_FALSE(source->says_bad()) << source->last_words();
        EXPECT_FALSE(target_->alive() && target_->status() == "running");
    }
    Monitor *from() const
    {
        return from_->monitor.get();
    }
    Monitor *to() const
    {
        return to_->monitor.get();
    }
    static Folder *folder;
    static Machine *source;
    std::unique_ptr<Daemon> from_, to_;
    std::unique_ptr<Machine> target_;
};

Folder *QemuDaemon::folder;
Machine *QemuDaemon::source;

class KilledIn : public QemuDaemon, public ::testing::WithParamInterface<const char *>
{
};

TEST_P(KilledIn, LeavesTheMachineRunningAtTheSource)
{
    MoveUntil(GetParam());
    from_->program->Signal(SIGKILL);
    EXPECT_EQ(from_->program->Wait(), 128 + SIGKILL);
    ExpectGoesOnHere();
    EXPECT_TRUE(to()->Reaches("default", "failed"));
}

INSTANTIATE_TEST_SUITE_P(Daemon, KilledIn, ::testing::Values("active", "pre-switchover"),
                         [](const auto &info) {
                             return std::string(info.param) == "active" ? "active" : "pre_switchover";
                         });

TEST_F(QemuDaemon, CancelWhileHeldRunsTheMachineAgain)
{
    MoveUntil("pre-switchover");
    EXPECT_EQ(from()->Guest("default"), "finish-migrate");
    EXPECT_NE("running", source->status());
    from()->Get("migrate_cancel");
    ASSERT_TRUE(from()->Reaches("default", "cancelled"));
    ExpectGoesOnHere();
}

TEST_F(QemuDaemon, QuitRunsTheMachineAgain)
{
    MoveUntil("pre-switchover");
    from()->Get("quit");
    EXPECT_EQ(from_->program->Wait(30), 0) << from_->program->Err();
    ExpectGoesOnHere();
}

TEST_F(QemuDaemon, ABackgroundSnapshotLeavesTheMachineRunning)
{
    std::string path = *folder / "snapshot";
    from()->Get("migrate-set-capabilities",
                R"({"capabilities": [{"capability": "background-snapshot", "state": true}]})");
    from()->Get("migrate", R"({"uri": "file:)" + path + R"(", "qemu": ")" + source->qmp() + "\"}");
    ASSERT_TRUE(from()->Reaches("default", "completed")) << from_->program->Err();
    EXPECT_EQ(from()->Guest("default"), "running");
    ASSERT_TRUE(from()->Saw("default", "RESUME"));
    EXPECT_EQ("running", source->status());
    EXPECT_TRUE(source->counts()) << source->last_words() << source->errors();
    // The machine as it was, beside the one that goes on.
    to()->Get("migrate-incoming", R"({"uri": "file:)" + path + R"(", "qemu": ")" + target_->qmp() + "\"}");
    ASSERT_TRUE(to()->Reaches("default", "completed")) << to_->program->Err();
    EXPECT_EQ("running", target_->status());
    EXPECT_TRUE(target_->counts()) << target_->last_words();
    EXPECT_FALSE(target_->says_bad()) << target_->last_words();
    unlink(path.c_str());
}

// Onto a new QEMU of this host: the memory itself goes over a connection that a client made and handed over.
TEST_F(QemuDaemon, MemoryIsHandedOver)
{
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    for (Monitor *daemon : {from(), to()}) {
        EXPECT_EQ(daemon->HandOver("old-new", ends[daemon == to()]), "");
        daemon->Get("migrate-set-parameters", R"({"mode": "cpr-transfer"})");
    }
    long before = source->last_ok();
    to()->Get("migrate-incoming", R"({"uri": "fd:old-new", "qemu": ")" + target_->qmp() + "\"}");
    from()->Get("migrate", R"({"uri": "fd:old-new", "qemu": ")" + source->qmp() + "\"}");
    ASSERT_TRUE(from()->Reaches("default", "completed")) << from_->program->Err();
    ASSERT_TRUE(to()->Reaches("default", "completed")) << to_->program->Err();
    EXPECT_EQ(from()->Of("default", "mode"), "cpr-transfer");
    EXPECT_EQ(from()->Number("default", "ram", "transferred"), 0);
    EXPECT_EQ(from()->Number("default", "ram", "total"), 192 << 20);
    EXPECT_EQ("postmigrate", source->status());
    EXPECT_EQ("running", target_->status());
    source->command("quit"); // the new one needs nothing of it
    ASSERT_TRUE(target_->counts()) << target_->last_words();
    EXPECT_GE(target_->last_ok(), before);
    EXPECT_TRUE(target_->wait_for("sweep", 60, target_->console().size())) << target_->last_words();
    EXPECT_FALSE(target_->says_bad()) << target_->last_words();
    delete source;
    source = target_.release();
}

TEST_F(QemuDaemon, ParametersFinishASlowMove) // the last one: the machine leaves
{
    MoveUntil("active");
    from()->Get("migrate-set-parameters", R"({"max-bandwidth": 0, "downtime-limit": 2000})");
    ASSERT_TRUE(from()->Reaches("default", "completed")) << from_->program->Err();
    ASSERT_TRUE(to()->Reaches("default", "completed")) << to_->program->Err();
    EXPECT_EQ("postmigrate", source->status());
    EXPECT_EQ("running", target_->status());
    EXPECT_TRUE(target_->counts()) << target_->last_words();
    EXPECT_FALSE(target_->says_bad()) << target_->last_words();
    EXPECT_EQ(from()->Of("default", "machine"), "qemu");
    EXPECT_TRUE(from()->Saw("default", "STOP"));
    EXPECT_TRUE(to()->Saw("default", "RESUME"));
}

// ---- a machine with a drive, which moves along ----

class Drive : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (system("qemu-system-x86_64 --version > /dev/null 2>&1") != 0) {
            GTEST_SKIP() << "qemu-system-x86_64 is not installed";
        }
        ASSERT_EQ(
            0,
            system(
                ("head -c 8M /dev/urandom >" + Image("from") + " && truncate -s 8M " + Image("to")).c_str()));
        source_ = Make("from", false);
        target_ = Make("to", true);
    }
    std::string Image(const std::string &name) const
    {
        return folder_ / (name + ".raw");
    }
    std::unique_ptr<Machine> Make(const std::string &name, bool incoming)
    {
        MachineOptions options;
        options.boot = false;
        options.mib = 64;
        options.incoming = incoming;
        options.extra = {"-drive", "if=none,id=disk0,format=raw,file=" + Image(name), "-device",
                         "virtio-blk-pci,drive=disk0"};
        return std::make_unique<Machine>(folder_, name, options);
    }
    void Begin()
    {
        from_->Get("migrate-set-parameters", R"({"max-bandwidth": 1000000})");
        to_->Get("migrate-incoming",
                 R"({"uri": "tcp:127.0.0.1:0", "disks": true, "qemu": ")" + target_->qmp() + "\"}");
        ASSERT_TRUE(to_->Until([&] { return !to_->Of("default", "socket-address").empty(); }));
        from_->Get("migrate", "{\"uri\": \"" + to_->Of("default", "uri") + R"(", "disks": true, "qemu": ")" +
                                  source_->qmp() + "\"}");
        ASSERT_TRUE(from_->Reaches("default", "active")) << from_.program->Err();
        ASSERT_TRUE(from_->Until([&] { return Job("offset") > 0; })) << from_.program->Err();
        EXPECT_EQ(Job("ready"), 0);
        EXPECT_GE(Job("len"), 8 << 20);
    }
    // A number of the only one in query-migrate's block-jobs.
    long Job(const char *member)
    {
        Json answer = from_->Get("query-migrate");
        const json_t *job = json_array_get(json_object_get(answer.get(), "block-jobs"), 0);
        const json_t *value = json_object_get(job, member);
        EXPECT_TRUE(!job || std::string(json_string_value(json_object_get(job, "device"))) == "disk0");
        return json_is_boolean(value) ? json_is_true(value) : (long)json_integer_value(value);
    }
    Folder folder_;
    Daemon from_, to_;
    std::unique_ptr<Machine> source_, target_;
};

TEST_F(Drive, MovesAndIsToldOf)
{
    Begin();
    from_->Get("migrate-set-parameters", R"({"max-bandwidth": 0, "downtime-limit": 2000})");
    ASSERT_TRUE(from_->Reaches("default", "completed")) << from_.program->Err();
    ASSERT_TRUE(to_->Reaches("default", "completed")) << to_.program->Err();
    EXPECT_EQ(Job("ready"), 1);
    EXPECT_EQ("running", target_->status());
    EXPECT_EQ(0, system(("cmp " + Image("from") + " " + Image("to")).c_str()));
}

TEST_F(Drive, StaysAfterACancel)
{
    Begin();
    from_->Get("migrate_cancel");
    ASSERT_TRUE(from_->Reaches("default", "cancelled"));
    EXPECT_EQ("running", source_->status());
    EXPECT_TRUE(
        from_->Until([&] { return source_->command("query-jobs").find("haul-") == std::string::npos; }));
}

TEST_F(Drive, NeedsAQemuMachineThatSaysWhereItIs)
{
    EXPECT_NE(from_->Fails("migrate", R"({"uri": "tcp:127.0.0.1:1", "disks": true, "guest": {}})")
                  .find("'disks' needs"),
              std::string::npos);
}

// ---- a machine that its operator paused ----

class PausedMachine : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (system("qemu-system-x86_64 --version > /dev/null 2>&1") != 0) {
            GTEST_SKIP() << "qemu-system-x86_64 is not installed";
        }
        MachineOptions options;
        options.boot = false;
        options.paused = true;
        options.mib = 64;
        options.backing = "file";
        source_ = std::make_unique<Machine>(folder_, "from", options);
        ASSERT_TRUE(haul_test::fill_memory(folder_, "from"));
        options.backing = "memfd";
        options.incoming = true;
        target_ = std::make_unique<Machine>(folder_, "to", options);
    }
    void Move()
    {
        to_->Get("migrate-incoming", R"({"uri": "tcp:127.0.0.1:0", "qemu": ")" + target_->qmp() + "\"}");
        ASSERT_TRUE(to_->Until([&] { return !to_->Of("default", "socket-address").empty(); }));
        from_->Get("migrate",
                   "{\"uri\": \"" + to_->Of("default", "uri") + R"(", "qemu": ")" + source_->qmp() + "\"}");
    }
    static bool Tells(const std::vector<std::string> &events, const std::string &event)
    {
        return std::find(events.begin(), events.end(), event) != events.end();
    }
    Folder folder_;
    Daemon from_, to_;
    std::unique_ptr<Machine> source_, target_;
};

TEST_F(PausedMachine, IsSaidToBePausedOnItsWay)
{
    from_->Get("migrate-set-parameters", R"({"max-bandwidth": 10000})");
    Move();
    ASSERT_TRUE(from_->Reaches("default", "active")) << from_.program->Err();
    EXPECT_TRUE(from_->Until([&] { return from_->Guest("default") == "paused"; })) << from_->Guest("default");
    from_->Get("migrate-set-parameters", R"({"max-bandwidth": 0})");
    ASSERT_TRUE(from_->Reaches("default", "completed")) << from_.program->Err();
    ASSERT_TRUE(to_->Reaches("default", "completed")) << to_.program->Err();
    EXPECT_EQ(from_->Guest("default"), "postmigrate");
    EXPECT_EQ(to_->Guest("default"), "paused");
    EXPECT_NE(target_->status(), "running");
    EXPECT_FALSE(Tells(from_->Events("default"), "STOP"));
    EXPECT_FALSE(Tells(to_->Events("default"), "RESUME"));
}

TEST_F(PausedMachine, StaysPausedAfterACancelledMove)
{
    from_->Get("migrate-set-capabilities",
               R"({"capabilities": [{"capability": "pause-before-switchover", "state": true}]})");
    Move();
    ASSERT_TRUE(from_->Reaches("default", "pre-switchover")) << from_.program->Err();
    EXPECT_EQ(from_->Guest("default"), "finish-migrate");
    from_->Get("migrate_cancel");
    ASSERT_TRUE(from_->Reaches("default", "cancelled"));
    EXPECT_EQ(from_->Guest("default"), "paused");
    EXPECT_FALSE(Tells(from_->Events("default"), "RESUME"));
}

// ---- beside QEMU ----

class BesideQemu : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        if (system("qemu-system-x86_64 --version > /dev/null 2>&1") != 0) {
            GTEST_SKIP() << "qemu-system-x86_64 is not installed";
        }
        std::string socket = folder_ / "qmp";
        std::string option = "unix:" + socket + ",server=on,wait=off";
        pid_ = fork();
        if (pid_ == 0) {
            execlp("qemu-system-x86_64", "qemu-system-x86_64", "-M", "none", "-nodefaults", "-display",
                   "none", "-S", "-qmp", option.c_str(), nullptr);
            _exit(127);
        }
        qemu_ = std::make_unique<Monitor>(socket);
    }
    void TearDown() override
    {
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
    }
    static std::set<std::string> Members(const json_t *object)
    {
        std::set<std::string> names;
        const char *name;
        json_t *value;
        json_object_foreach(const_cast<json_t *>(object), name, value)
        {
            names.insert(name);
        }
        return names;
    }
    Folder folder_;
    pid_t pid_ = -1;
    std::unique_ptr<Monitor> qemu_;
    Daemon haul_;
};

TEST_F(BesideQemu, RefusalsAreInTheSameWords)
{
    struct {
        const char *command, *arguments;
    } same[] = {
        {"migrate", "{}"},
        {"migrate", R"({"uri": 5})"},
        {"migrate", R"({"uri": "tcp:127.0.0.1:1", "wrong": 1})"},
        {"migrate_cancel", ""},
        {"migrate-continue", R"({"state": "pre-switchover"})"},
        {"migrate-set-parameters", R"({"nope": 1})"},
        {"migrate-set-parameters", R"({"multifd-compression": "zip"})"},
        {"migrate-set-capabilities", R"({"capabilities": [{"capability": "nope", "state": true}]})"},
        {"migrate-set-capabilities", R"({"capabilities": [{"capability": "events"}]})"},
        {"migrate-set-capabilities", R"({"capabilities": [{"capability": "events", "state": true}]})"},
        {"migrate-set-parameters", R"({"downtime-limit": 400, "max-bandwidth": 1000})"},
        {"query-nothing", ""},
    };
    for (const auto &one : same) {
        EXPECT_EQ(haul_->Fails(one.command, one.arguments), qemu_->Fails(one.command, one.arguments))
            << one.command << " " << one.arguments;
    }
}

TEST_F(BesideQemu, AnswersHaveTheSameShape)
{
    EXPECT_EQ(Members(haul_->Get("query-migrate").get()), Members(qemu_->Get("query-migrate").get()));
    EXPECT_EQ(Members(haul_->Get("query-status").get()), Members(qemu_->Get("query-status").get()));
    for (const char *parameter : {"max-bandwidth", "downtime-limit", "multifd-channels"}) {
        EXPECT_TRUE(
            json_is_integer(json_object_get(haul_->Get("query-migrate-parameters").get(), parameter)));
        EXPECT_TRUE(
            json_is_integer(json_object_get(qemu_->Get("query-migrate-parameters").get(), parameter)));
    }
    Json mine = haul_->Get("query-migrate-capabilities"), theirs = qemu_->Get("query-migrate-capabilities");
    EXPECT_EQ(Members(json_array_get(mine.get(), 0)), Members(json_array_get(theirs.get(), 0)));
}

// A finished move of each: whatever QEMU tells of its memory haul tells too, but for what haul does not have.
TEST_F(BesideQemu, AFinishedMoveTellsWhatQemuTells)
{
    qemu_->Get("migrate", R"({"uri": "exec:cat > /dev/null"})");
    Json theirs;
    ASSERT_TRUE(qemu_->Until([&] {
        theirs = qemu_->Get("query-migrate");
        return std::string(json_string_value(json_object_get(theirs.get(), "status"))) == "completed";
    }));
    haul_->Get("migrate-incoming",
               R"({"name": "to", "uri": "tcp:127.0.0.1:0", )" + std::string(kGuest) + "}");
    ASSERT_TRUE(haul_->Until([&] { return !haul_->Of("to", "socket-address").empty(); }));
    haul_->Get("migrate",
               R"({"name": "from", "uri": ")" + haul_->Of("to", "uri") + "\", " + kSourceGuest + "}");
    ASSERT_TRUE(haul_->Reaches("from", "completed"));
    Json mine = haul_->Get("query-migrate", Named("from"));
    const char *name;
    json_t *value;
    json_object_foreach(theirs.get(), name, value)
    {
        const json_t *own = json_object_get(mine.get(), name);
        ASSERT_NE(own, nullptr) << name;
        EXPECT_EQ(json_typeof(own), json_typeof(value)) << name;
    }
    const std::set<std::string> not_ours = {"precopy-bytes", "downtime-bytes", "postcopy-bytes",
                                            "dirty-sync-missed-zero-copy"};
    json_object_foreach(json_object_get(theirs.get(), "ram"), name, value)
    {
        const json_t *own = json_object_get(json_object_get(mine.get(), "ram"), name);
        if (not_ours.count(name) == 0) {
            ASSERT_NE(own, nullptr) << name;
            EXPECT_EQ(json_is_number(own), json_is_number(value)) << name;
        }
    }
}

} // namespace
