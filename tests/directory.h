// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_DIRECTORY_H
#define HAUL_TESTS_DIRECTORY_H

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace haul_test
{

// A new directory for a test's files, removed by the destructor with what is in it.
class Directory
{
  public:
    Directory()
    {
        const char *root = getenv("TEST_TMPDIR");
        path_ = std::string(root ? root : "/tmp") + "/haul-XXXXXX";
        EXPECT_NE(mkdtemp(path_.data()), nullptr);
    }
    ~Directory()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    Directory(const Directory &) = delete;
    const std::string &path() const
    {
        return path_;
    }
    std::string operator/(const std::string &name) const
    {
        return path_ + "/" + name;
    }
    // What is in it, sorted.
    std::vector<std::string> Names() const
    {
        std::vector<std::string> names;
        for (const auto &entry : std::filesystem::directory_iterator(path_)) {
            names.push_back(entry.path().filename());
        }
        std::sort(names.begin(), names.end());
        return names;
    }

  private:
    std::string path_;
};

} // namespace haul_test

#endif
