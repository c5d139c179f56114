// SPDX-License-Identifier: Apache-2.0
// What libvirt 9.0 said to both QEMUs of `virsh migrate --live --parallel`, said to two daemons. Its
// questions about devices and CPU models were left out of the record; what to move is added here, and the
// port is the real one.
#include "tests/tools/daemon/daemon.h"

#include <fstream>

namespace
{

class Libvirt : public ::testing::Test
{
  protected:
    // What libvirt waits for before it goes on: events in its case.
    void AwaitWhatComesBefore(const std::string &command)
    {
        if (command == "migrate") {
            to_->Until([&] { return !to_->Of("default", "socket-address").empty(); });
        } else if (command == "migrate-continue") {
            EXPECT_TRUE(from_->Reaches("default", "pre-switchover"));
            continued_ = true;
        } else if (command == "query-migrate" && continued_) {
            EXPECT_TRUE(from_->Reaches("default", "completed")) << from_.program->Err();
            EXPECT_TRUE(to_->Reaches("default", "completed")) << to_.program->Err();
        }
    }
    std::string Arguments(const std::string &command, json_t *message)
    {
        json_t *arguments = json_object_get(message, "arguments");
        Json guest(json_loads(command == "migrate" ? (std::string("{") + kSourceGuest + "}").c_str()
                                                   : (std::string("{") + kGuest + "}").c_str(),
                              0, nullptr));
        if (command == "migrate" || command == "migrate-incoming") {
            json_object_update(arguments, guest.get());
            std::string uri = command == "migrate" ? to_->Of("default", "uri") : "tcp:127.0.0.1:0";
            json_object_set_new(arguments, "uri", json_string(uri.c_str()));
        }
        char *text = arguments ? json_dumps(arguments, 0) : nullptr;
        std::string copy = text ? text : "";
        free(text);
        return copy;
    }
    Daemon from_, to_;
    bool continued_ = false;
};

TEST_F(Libvirt, MovesAMachineByWhatItTellsQemu)
{
    std::ifstream file(Runfile("tests/tools/daemon/data/libvirt.transcript"));
    std::vector<std::string> refused;
    int said = 0;
    for (std::string side, line; file >> side && std::getline(file, line); said++) {
        Json message(json_loads(line.c_str(), 0, nullptr));
        ASSERT_TRUE(message) << line;
        std::string command = json_string_value(json_object_get(message.get(), "execute"));
        if (command == "qmp_capabilities") {
            continue; // the client of this test has said so already
        }
        AwaitWhatComesBefore(command);
        Daemon &daemon = side == "source" ? from_ : to_;
        std::string failure = daemon->Fails(command, Arguments(command, message.get()));
        if (!failure.empty()) {
            refused.push_back(side + " " + command + ": " + failure);
        }
    }
    EXPECT_EQ(said, 33);
    EXPECT_TRUE(continued_);
    const auto unknown = [](const std::string &side, const std::string &command) {
        return side + " " + command + ": The command " + command + " has not been found";
    };
    EXPECT_EQ(refused, (std::vector<std::string>{
                           unknown("source", "query-chardev"),
                           unknown("source", "query-iothreads"),
                           unknown("source", "query-named-block-nodes"),
                           unknown("source", "query-block"),
                           unknown("source", "cont"),
                           unknown("source", "query-block"),
                           unknown("destination", "query-chardev"),
                           unknown("destination", "query-iothreads"),
                           "destination migrate-set-capabilities: Capability 'late-block-activate' is not "
                           "supported by haul",
                           unknown("destination", "query-chardev"),
                           unknown("destination", "query-block"),
                           unknown("destination", "cont"),
                           "destination migrate-set-parameters: Parameter 'compress-level' is unexpected",
                       }));
    EXPECT_EQ(from_->Of("default", "ownership"), "destination");
    EXPECT_EQ(to_->Guest("default"), "running");
}

} // namespace
