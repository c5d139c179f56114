// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_FOLDER_H
#define HAUL_TESTS_MACHINES_FOLDER_H

#include <cstdlib>
#include <filesystem>
#include <string>

namespace haul_test
{

// Where a test may put files and sockets; a new short path, removed by the destructor.
class Folder
{
  public:
    Folder()
    {
        char path[] = "/tmp/haul-qemu-XXXXXX"; // short: socket paths end at 107 characters
        const char *made = mkdtemp(path);
        path_ = made ? made : "";
    }
    ~Folder()
    {
        std::error_code none;
        std::filesystem::remove_all(path_, none);
    }
    Folder(const Folder &) = delete;
    std::string operator/(const std::string &name) const
    {
        return path_ + "/" + name;
    }

  private:
    std::string path_;
};

} // namespace haul_test

#endif
