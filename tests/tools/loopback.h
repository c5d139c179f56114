/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_TOOLS_LOOPBACK_H
#define TESTS_TOOLS_LOOPBACK_H

/* Two runs of the real program that move the reference guest over loopback. */
#include "tests/tools/program.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

using Words = std::vector<std::string>;

inline bool Has(const std::string &text, const std::string &part)
{
    return text.find(part) != std::string::npos;
}

class Move : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        source_.state_directory = MakeDirectory();
        destination_.state_directory = MakeDirectory();
    }
    /* A small guest that any machine can run: no KVM, no kernel feature. */
    static Words Guest(const Words &more)
    {
        Words words = {"--guest", "--guest-memory", "16M", "--guest-vcpu", "thread", "--run-for", "1"};
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
    std::unique_ptr<Program> Receive(const Words &machine)
    {
        Words words = {"receive", "--listen", "tcp:127.0.0.1:0", "--timeout", "10"};
        words.insert(words.end(), machine.begin(), machine.end());
        auto program = std::make_unique<Program>(destination_, words);
        address_ = program->Address();
        EXPECT_EQ(address_.rfind("tcp:127.0.0.1:", 0), 0u) << program->Err();
        return program;
    }
    std::unique_ptr<Program> Send(const Words &machine)
    {
        Words words = {"send", address_, "--timeout", "10"};
        words.insert(words.end(), machine.begin(), machine.end());
        return std::make_unique<Program>(source_, words);
    }
    /* Its self-check ends when it has rewritten its hot set, a quarter of its memory: soon. */
    std::unique_ptr<Program> SendGuest(const Words &more)
    {
        Words words = Guest({"--guest-tracker", "bitmap", "--guest-dirty-rate", "40M"});
        words.insert(words.end(), more.begin(), more.end());
        return Send(words);
    }
    /* A move that is slow enough to be broken in the middle. */
    std::unique_ptr<Program> SendSlowly()
    {
        auto program = SendGuest({"--max-bandwidth", "1M"});
        EXPECT_TRUE(program->WaitFor("round 1")) << program->Err();
        return program;
    }
    int Recover(const char *command, const std::string &id)
    {
        Program program(source_, {command, id});
        int status = program.Wait();
        recovery_ = program.Out() + program.Err();
        return status;
    }
    static size_t Files(const std::string &directory)
    {
        std::string command = "test -z \"$(ls -A '" + directory + "')\"";
        return system(command.c_str()) == 0 ? 0 : 1;
    }
    static void ExpectGoesOnAtSource(Program &send)
    {
        EXPECT_EQ(send.Wait(), 1) << send.Err();
        EXPECT_TRUE(Has(send.Out(), "Not moved (")) << send.Out();
        EXPECT_TRUE(Has(send.Out(), "the guest goes on here")) << send.Out();
        EXPECT_TRUE(Has(send.Out(), "self-check passed")) << send.Out() << send.Err();
        EXPECT_TRUE(Has(send.Out(), " writes during the check")) << "it was not moved" << send.Out();
    }
    Program::Options source_, destination_;
    std::string address_, recovery_;
};

#endif
