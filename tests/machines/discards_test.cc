// SPDX-License-Identifier: Apache-2.0
// Balloons that haul refuses, and those that took memory meanwhile, as a scripted QEMU tells of them.
#include "tools/machines/qemu/discards.h"

#include "tests/machines/fake_monitor.h"

#include <algorithm>
#include <errno.h>
#include <memory>
#include <vector>

namespace
{

using namespace haul_test;

// A QEMU with one balloon; its answers are JSON.
struct Qemu {
    std::string container = "/machine/peripheral"; // where the balloon is
    std::string property = "free-page-reporting";  // which the balloon has
    std::string value = "false";
    std::vector<std::string> sizes = {"1000"}; // of the balloon, in turn; "": QEMU has none
    std::string event;                         // before the second size

    std::string answer(const std::string &command, unsigned *asked) const
    {
        auto has = [&](const std::string &part) { return command.find(part) != std::string::npos; };
        if (has("qom-list")) {
            return has("\"" + container + "\"") ? "\"return\": [{\"name\": \"b\", \"type\": "
                                                  "\"child<virtio-balloon-pci>\"}, {\"name\": \"n\", "
                                                  "\"type\": \"child<e1000>\"}]"
                                                : "\"return\": []";
        }
        if (has("qom-get") && has(property) && has(container + "/b")) {
            return "\"return\": " + value;
        }
        if (has("query-balloon")) {
            const std::string &size = sizes[std::min<size_t>((*asked)++, sizes.size() - 1)];
            return size.empty() ? "\"error\": {\"class\": \"DeviceNotActive\", \"desc\": \"no balloon\"}"
                                : "\"return\": {\"actual\": " + size + "}";
        }
        return "\"error\": {\"class\": \"GenericError\", \"desc\": \"no such property\"}";
    }
    void talk(int fd) const
    {
        greet(fd);
        std::string command, id;
        unsigned asked = 0;
        while (!(id = hear(fd, &command)).empty()) {
            if (!event.empty() && asked == 1 && command.find("query-balloon") != std::string::npos) {
                say(fd, "{\"event\": \"" + event + "\", \"timestamp\": {}}\r\n");
            }
            say(fd, "{" + answer(command, &asked) + ", \"id\": " + id + "}\r\n");
        }
    }
};

class Discards : public testing::Test
{
  protected:
    void Talk(const Qemu &qemu)
    {
        client_.reset();
        monitor_ = std::make_unique<FakeMonitor>([qemu](int fd) { qemu.talk(fd); });
        client_ = std::make_unique<Client>();
        ASSERT_EQ(0, client_->open(monitor_->path())) << client_->error.message;
    }
    int Changed(const Qemu &qemu)
    {
        Talk(qemu);
        haul_qemu_memory memory;
        haul_qemu_memory_note(client_->qmp, &memory);
        return haul_qemu_memory_check(client_->qmp, &memory, &client_->error);
    }
    haul_qmp *qmp() const
    {
        return client_->qmp;
    }
    haul_error *error() const
    {
        return &client_->error;
    }
    std::string message() const
    {
        return client_->error.message;
    }

  private:
    std::unique_ptr<FakeMonitor> monitor_; // whose thread ends after the client
    std::unique_ptr<Client> client_;
};

TEST_F(Discards, ReportingIsRefusedWhereverTheBalloonIs)
{
    for (const char *container : {"/machine/peripheral", "/machine/peripheral-anon"}) {
        Qemu qemu;
        qemu.container = container;
        qemu.value = "true";
        Talk(qemu);
        EXPECT_EQ(-ENOTSUP, haul_qemu_refuse_reporting(qmp(), error()));
        EXPECT_NE(message().find("the balloon " + qemu.container + "/b has free-page-reporting=on"),
                  std::string::npos)
            << message();
        EXPECT_EQ(0, haul_qemu_refuse_hints(qmp(), error())) << message();
    }
}

TEST_F(Discards, HintsAreRefused)
{
    Qemu qemu;
    qemu.property = "free-page-hint";
    qemu.value = "true";
    Talk(qemu);
    EXPECT_EQ(-ENOTSUP, haul_qemu_refuse_hints(qmp(), error()));
    EXPECT_NE(message().find("/b has free-page-hint=on"), std::string::npos) << message();
    EXPECT_EQ(0, haul_qemu_refuse_reporting(qmp(), error())) << message();
}

TEST_F(Discards, BalloonsWithoutBothAreFineInAnyVersion)
{
    for (const char *property : {"free-page-reporting", "free-page-hint", "neither"}) {
        Qemu qemu;
        qemu.property = property;
        Talk(qemu);
        EXPECT_EQ(0, haul_qemu_refuse_reporting(qmp(), error())) << message();
        EXPECT_EQ(0, haul_qemu_refuse_hints(qmp(), error())) << message();
    }
}

TEST_F(Discards, NothingChanged)
{
    EXPECT_EQ(0, Changed({})) << message();
}

TEST_F(Discards, NoBalloonAtAll)
{
    Qemu qemu;
    qemu.container = "none";
    qemu.sizes = {""};
    EXPECT_EQ(0, Changed(qemu)) << message();
}

TEST_F(Discards, ASizeThatChangedTellsBeforeAnyEvent)
{
    Qemu qemu;
    qemu.sizes = {"1000", "900"};
    EXPECT_EQ(-EAGAIN, Changed(qemu));
    EXPECT_NE(message().find("changed size while memory was saved"), std::string::npos) << message();
}

TEST_F(Discards, AnEventTellsWhatWasTakenAndGivenBack)
{
    for (const char *event : {"BALLOON_CHANGE", "MEMORY_DEVICE_SIZE_CHANGE"}) {
        Qemu qemu;
        qemu.event = event;
        EXPECT_EQ(-EAGAIN, Changed(qemu)) << event;
    }
}

TEST_F(Discards, ABalloonThatWasPluggedMeanwhileAndReports)
{
    Qemu qemu;
    qemu.value = "true";
    qemu.sizes = {"1000"};
    EXPECT_EQ(-ENOTSUP, Changed(qemu));
}

} // namespace
