/* SPDX-License-Identifier: Apache-2.0 */
/* haul snapshot that is killed while it has the process stopped: its guardian lets the process go on. */
#include "tests/tools/memory_writer.h"
#include "tests/tools/program.h"

#include <filesystem>

namespace
{

using haul_test::Child;
using haul_test::SharedObject;
using haul_test::writer_of;
using haul_test::writes_on;

TEST(CliSnapshotKilled, InTheMomentLetsTheWriterGoOnAndLeavesNoFile)
{
    std::string directory = MakeDirectory();
    Program::Options options;
    options.state_directory = MakeDirectory();
    SharedObject object(16 << 20);
    ASSERT_TRUE(object.ok());
    Child writer(writer_of(object));
    std::vector<std::string> words = {
        "snapshot", "file:" + directory + "/snapshot", "--memory",   object.path(),
        "--pid",    std::to_string(writer.pid()),      "--channels", "2"};
    {
        Program::Options dies = options;
        dies.preload = Runfile("tests/tools/die_before_resuming.so");
        Program snapshot(dies, words);
        EXPECT_EQ(snapshot.Wait(), 128 + SIGKILL) << snapshot.Err();
        EXPECT_TRUE(writes_on(object)) << writer.state();
        EXPECT_TRUE(std::filesystem::is_empty(directory));
        EXPECT_TRUE(std::filesystem::is_empty(options.state_directory));
    }
    Program again(options, words);
    EXPECT_EQ(again.Wait(), 0) << again.Err();
    EXPECT_TRUE(writes_on(object));
}

} // namespace
