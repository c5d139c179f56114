// SPDX-License-Identifier: Apache-2.0
/* tools/setup against stand-ins for the system's commands: nothing is installed. */
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace
{
class Setup : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        std::string pattern = ::testing::TempDir() + "/setupXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder = pattern;
        for (const char *tool : {"env", "cat", "bash"}) {
            ASSERT_EQ(symlink((std::string("/usr/bin/") + tool).c_str(), (folder + "/" + tool).c_str()), 0);
        }
        /* dpkg-query: installed is what the file says, one package a line. */
        Command("dpkg-query",
                "while read -r line; do [ \"$line\" = \"${!#}\" ] && { printf installed; exit 0; }; "
                "done <\"" +
                    folder + "/installed\"\nexit 1");
        Command("apt-get", "echo \"apt-get $*\" >>\"" + folder +
                               "/log\"\n"
                               "for word in \"$@\"; do [ -f \"" +
                               folder + "/broken\" ] || echo \"$word\" >>\"" + folder +
                               "/installed\"; done\n"
                               "[ ! -f \"" +
                               folder + "/failing\" ]");
        Command("id", "echo 0");
        Write("log", "");
    }
    void Command(const std::string &name, const std::string &body)
    {
        Write(name, "#!/bin/bash\n" + body + "\n");
        chmod((folder + "/" + name).c_str(), 0700);
    }
    void Write(const std::string &name, const std::string &text)
    {
        std::ofstream(folder + "/" + name) << text;
    }
    void NotRoot()
    {
        Command("id", "echo 1000");
    }
    void Installed(std::initializer_list<const char *> packages)
    {
        std::string text;
        for (const char *package : packages) {
            text += std::string(package) + "\n";
        }
        Write("installed", text);
    }
    /* Runs tools/setup; its output, standard error included, is in `output`. */
    int Run(const std::string &arguments)
    {
        std::string command = "PATH=" + folder + " /bin/bash tools/setup " + arguments + " 2>&1";
        FILE *pipe = popen(command.c_str(), "r");
        output.clear();
        char buffer[512];
        while (fgets(buffer, sizeof buffer, pipe)) {
            output += buffer;
        }
        int status = pclose(pipe);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    std::string Log()
    {
        std::ifstream file(folder + "/log");
        std::stringstream text;
        text << file.rdbuf();
        return text.str();
    }
    std::string folder, output;
};

TEST_F(Setup, IsQuietWhenNothingIsMissing)
{
    Installed({"clang-format", "clang-tidy"});
    EXPECT_EQ(Run("lint"), 0);
    EXPECT_EQ(output, "");
    EXPECT_EQ(Log(), "");
}

TEST_F(Setup, CheckListsAndInstallsNothing)
{
    Installed({"clang-tidy"});
    EXPECT_EQ(Run("--check lint"), 1);
    EXPECT_EQ(output, "clang-format\n");
    EXPECT_EQ(Log(), "");
    EXPECT_EQ(Run("--check build benchmark test lint"), 1);
    std::string all = output;
    size_t qemu = all.find("qemu-system-x86\n");
    EXPECT_NE(qemu, std::string::npos) << all;
    EXPECT_EQ(all.find("qemu-system-x86\n", qemu + 1), std::string::npos) << "in two groups, listed twice:\n"
                                                                          << all;
    EXPECT_EQ(Run("--check"), 1);
    EXPECT_EQ(output, all);
}

TEST_F(Setup, AGroupIsOnlyItself)
{
    Installed({});
    EXPECT_EQ(Run("--check build"), 1);
    EXPECT_NE(output.find("bazel-bootstrap\n"), std::string::npos);
    EXPECT_EQ(output.find("qemu"), std::string::npos);
    EXPECT_EQ(output.find("gtest"), std::string::npos);
}

TEST_F(Setup, InstallsOnlyWhatIsMissingAndSaysSo)
{
    Installed({"clang-tidy"});
    EXPECT_EQ(Run("lint"), 0);
    EXPECT_EQ(output, "tools/setup: installing: clang-format\n");
    EXPECT_EQ(Log(),
              "apt-get -q -o DPkg::Lock::Timeout=300 update\n"
              "apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends clang-format\n");
}

TEST_F(Setup, KeepsAnSshServerThatItInstallsFromStarting)
{
    Installed({});
    Command("systemctl", "echo \"systemctl $*\" >>\"" + folder + "/log\"");
    EXPECT_EQ(Run("test"), 0) << output;
    size_t masked = Log().find("systemctl mask ssh.service ssh.socket\n");
    ASSERT_NE(masked, std::string::npos) << Log();
    EXPECT_LT(masked, Log().find(" install ")) << "before it is there to be started";
    EXPECT_NE(output.find("masking the ssh service"), std::string::npos) << output;
}

TEST_F(Setup, LeavesAnSshServerThatWasThereAlone)
{
    Installed({"openssh-server"});
    Command("systemctl", "echo \"systemctl $*\" >>\"" + folder + "/log\"");
    EXPECT_EQ(Run("test"), 0) << output;
    EXPECT_EQ(Log().find("systemctl"), std::string::npos) << Log();
}

TEST_F(Setup, StopsWhenTheSshServiceCannotBeKeptOff)
{
    Installed({});
    Command("systemctl", "exit 1");
    EXPECT_EQ(Run("test"), 1);
    EXPECT_NE(output.find("the ssh service could not be masked"), std::string::npos) << output;
    EXPECT_EQ(Log(), "");
}

TEST_F(Setup, GoesThroughSudoWithoutRoot)
{
    Installed({});
    NotRoot();
    Command("sudo", "echo \"sudo $*\" >>\"" + folder + "/log\"; \"$@\"");
    EXPECT_EQ(Run("lint"), 0);
    EXPECT_NE(output.find("asking sudo, because apt-get needs root"), std::string::npos) << output;
    EXPECT_EQ(Log().find("sudo env DEBIAN_FRONTEND=noninteractive apt-get "), 0u) << Log();
}

TEST_F(Setup, SaysThatItNeedsRoot)
{
    Installed({});
    NotRoot();
    EXPECT_EQ(Run("lint"), 1);
    EXPECT_NE(output.find("installing packages needs root: run tools/setup as root, or install sudo\n"),
              std::string::npos)
        << output;
    EXPECT_EQ(Log(), "");
}

TEST_F(Setup, NeedsNoRootWhenNothingIsMissing)
{
    Installed({"clang-format", "clang-tidy"});
    NotRoot();
    EXPECT_EQ(Run("lint"), 0);
}

TEST_F(Setup, RefusesAnotherSystem)
{
    unlink((folder + "/apt-get").c_str());
    EXPECT_EQ(Run("lint"), 1);
    EXPECT_EQ(output,
              "tools/setup: this is not Debian or a system like it (no apt-get); install the equivalents "
              "of: clang-format clang-tidy\n");
}

TEST_F(Setup, SaysThatAptFailed)
{
    Installed({});
    Write("failing", "");
    EXPECT_EQ(Run("lint"), 1);
    EXPECT_NE(output.find("apt-get update failed, going on with the lists here\n"), std::string::npos)
        << output;
    EXPECT_NE(output.find("apt-get could not install them"), std::string::npos) << output;
}

TEST_F(Setup, BelievesTheSystemAndNotApt)
{
    Installed({});
    Write("broken", "");
    EXPECT_EQ(Run("lint"), 1);
    EXPECT_NE(output.find("still missing after apt-get: clang-format clang-tidy\n"), std::string::npos)
        << output;
}

TEST_F(Setup, RefusesUnknownWords)
{
    EXPECT_EQ(Run("everything"), 2);
    EXPECT_EQ(output.find("usage: tools/setup"), 0u) << output;
    EXPECT_EQ(Run("--help"), 0);
    EXPECT_EQ(output.find("usage: tools/setup"), 0u) << output;
}
} // namespace
