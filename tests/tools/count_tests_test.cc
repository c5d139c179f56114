// SPDX-License-Identifier: Apache-2.0
/* tools/bazel/count_tests.py on small runs written here: events as Bazel writes them, results as googletest
 * does. */
#include <gtest/gtest.h>

#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace
{
class CountTests : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        std::string pattern = ::testing::TempDir() + "/countXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder = pattern;
    }
    /* A result of test //t:`name` with the given cases; attempt 1 of shard 1 unless told. */
    void Result(const std::string &name, const std::string &status, const std::string &cases, int attempt = 1,
                int shard = 1)
    {
        std::string file = folder + "/" + name + std::to_string(attempt) + std::to_string(shard) + ".xml";
        std::ofstream(file) << "<testsuites name=\"AllTests\"><testsuite name=\"S\">" << cases
                            << "</testsuite></testsuites>";
        Event(name, status, file, attempt, shard);
    }
    void Event(const std::string &name, const std::string &status, const std::string &file, int attempt = 1,
               int shard = 1)
    {
        events
            << R"({"id":{"testResult":{"label":"//t:)" << name << R"(","run":1,"shard":)" << shard
            << R"(,"attempt":)" << attempt << R"(}},"testResult":{"status":")" << status
            << R"(","testActionOutput":[{"name":"test.log","uri":"file:///x"},{"name":"test.xml","uri":"file://)"
            << file << R"("}]}})"
            << "\n";
    }
    std::string Count(int status)
    {
        std::ofstream(folder + "/events") << events.str();
        std::string command = "python3 tools/bazel/count_tests.py unit " + std::to_string(status) + " " +
                              folder + "/events 2>" + folder + "/remarks";
        FILE *pipe = popen(command.c_str(), "r");
        char line[256] = "";
        if (!fgets(line, sizeof line, pipe)) {
            line[0] = '\0';
        }
        EXPECT_EQ(pclose(pipe), 0);
        std::stringstream text;
        text << std::ifstream(folder + "/remarks").rdbuf();
        remarks = text.str();
        return line;
    }
    static std::string Case(const std::string &name, const std::string &inside = "")
    {
        return "<testcase name=\"" + name + "\" classname=\"S\" status=\"run\" result=\"completed\">" +
               inside + "</testcase>";
    }
    std::string folder, remarks;
    std::stringstream events;
};

TEST_F(CountTests, SumsCases)
{
    Result("a", "PASSED", Case("One") + Case("Two"));
    Result("b", "FAILED",
           Case("One") + Case("Bad", "<failure message=\"no\"/><failure message=\"nor this\"/>"));
    EXPECT_EQ(Count(3), "3 1 0\n");
    EXPECT_EQ(remarks, "FAILED (unit) //t:b S.Bad\n");
}

TEST_F(CountTests, SkippedCasesAreCountedWithTheirReason)
{
    Result("a", "PASSED",
           Case("One") +
               "<testcase name=\"S\" classname=\"S\" status=\"run\" result=\"skipped\">"
               "<skipped message=\"a.cc:7&#x0A;needs root\"/></testcase>"
               "<testcase name=\"DISABLED_T\" classname=\"S\" status=\"notrun\" result=\"suppressed\"/>"
               "<testcase name=\"OtherShard\" classname=\"S\" status=\"notrun\" result=\"suppressed\"/>");
    EXPECT_EQ(Count(0), "1 0 2\n");
    EXPECT_EQ(remarks, "SKIPPED (unit) //t:a S.S: needs root\nSKIPPED (unit) //t:a S.DISABLED_T: disabled\n");
}

TEST_F(CountTests, ACrashIsAFailure)
{
    std::string file = folder + "/standin.xml";
    std::ofstream(file) << "<testsuites><testsuite name=\"t/a\">" << Case("t/a")
                        << "</testsuite></testsuites>";
    Event("a", "FAILED", file);
    Event("b", "TIMEOUT", folder + "/nothing.xml");
    Event("left_early", "PASSED", file);
    EXPECT_EQ(Count(3), "0 3 0\n");
    EXPECT_NE(remarks.find("//t:b: the program ended with TIMEOUT\n"), std::string::npos) << remarks;
    EXPECT_NE(remarks.find("//t:left_early: it ended without a word"), std::string::npos) << remarks;
}

TEST_F(CountTests, AFailureAfterTheLastCaseIsAFailure)
{
    Result("leaks", "FAILED", Case("One"));
    EXPECT_EQ(Count(3), "1 1 0\n");
}

TEST_F(CountTests, AProgramWithoutCasesIsAFailure)
{
    Result("empty", "PASSED", "");
    EXPECT_EQ(Count(0), "0 1 0\n");
}

TEST_F(CountTests, OnlyTheLastAttemptCountsAndEveryShard)
{
    Result("flaky", "FAILED", Case("One", "<failure/>"), 1);
    Result("flaky", "PASSED", Case("One"), 2);
    Result("sharded", "PASSED", Case("One"), 1, 1);
    Result("sharded", "PASSED", Case("Two"), 1, 2);
    EXPECT_EQ(Count(0), "3 0 0\n");
}

TEST_F(CountTests, ATestThatDidNotBuildIsAFailure)
{
    Result("a", "PASSED", Case("One"));
    events << R"({"id":{"targetConfigured":{"label":"//t:b"}},"configured":{"targetKind":"cc_test rule"}})"
           << "\n"
           << R"({"id":{"targetCompleted":{"label":"//t:b"}},"completed":{}})"
           << "\n"
           << R"({"id":{"targetConfigured":{"label":"//t:a"}},"configured":{"targetKind":"cc_test rule"}})"
           << "\n"
           << R"({"id":{"targetCompleted":{"label":"//t:a"}},"completed":{"success":true}})"
           << "\n";
    EXPECT_EQ(Count(1), "1 1 0\n");
    EXPECT_EQ(remarks, "FAILED (unit) //t:b: it did not build\n");
}

TEST_F(CountTests, ARunThatFailedWithoutACaseIsAFailure)
{
    Result("a", "PASSED", Case("One"));
    EXPECT_EQ(Count(1), "1 1 0\n");
    EXPECT_EQ(remarks, "FAILED (unit) bazel: it ended with status 1\n");
}

TEST_F(CountTests, NothingRanIsAFailure)
{
    EXPECT_EQ(Count(4), "0 1 0\n");
    EXPECT_EQ(remarks, "FAILED (unit) no test program ran\n");
    events << "not json\n";
    EXPECT_EQ(Count(0), "0 1 0\n");
}
} // namespace
