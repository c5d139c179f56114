/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_TOOLS_TRANSPORT_MOVE_H
#define TESTS_TOOLS_TRANSPORT_MOVE_H

/* Two runs of the real program that move the reference guest over a transport of the test's choice. */
#include "tests/tools/descriptors.h"
#include "tests/tools/loopback.h"

#include <unistd.h>

class TransportMove : public Move
{
  protected:
    void SetUp() override
    {
        Move::SetUp();
        char folder[] = "/tmp/haul-cli-XXXXXX"; /* short enough for a socket's path */
        ASSERT_NE(mkdtemp(folder), nullptr);
        folder_ = folder;
    }
    void TearDown() override
    {
        EXPECT_EQ(rmdir(folder_.c_str()), 0) << "a socket is left in " << folder_;
    }
    std::string Path() const
    {
        return folder_ + "/s";
    }
    /* What carries a connection of the source to a receiver at Path. */
    std::string ExecRelay() const
    {
        return "exec:" + Runfile("tools/haul/haul") + " relay unix:" + Path();
    }
    std::unique_ptr<Program> ReceiveAt(const std::string &uri, const Words &more = {})
    {
        Words words = {"receive", "--listen", uri, "--timeout", "10"};
        Words machine = Guest(more);
        words.insert(words.end(), machine.begin(), machine.end());
        auto program = std::make_unique<Program>(destination_, words);
        address_ = program->Address();
        EXPECT_FALSE(address_.empty()) << program->Err();
        return program;
    }
    std::unique_ptr<Program> SendTo(const std::string &uri, const Words &more = {})
    {
        address_ = uri;
        return SendGuest(more);
    }
    /* Starts both programs on the two ends of `between`. */
    void MoveThrough(Descriptors &between, std::unique_ptr<Program> *send, std::unique_ptr<Program> *receive,
                     const Words &to = {}, const Words &from = {"--verify"})
    {
        destination_.keep = between.Destination();
        source_.keep = between.Source();
        *receive = ReceiveAt(between.DestinationUri(), to);
        *send = SendTo(between.SourceUri(), from);
        between.CloseOwn();
        destination_.keep.clear();
        source_.keep.clear();
    }
    std::string folder_;
};

#endif
