// SPDX-License-Identifier: Apache-2.0
#include "tests/machines/initrd.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace haul_test
{

namespace fs = std::filesystem;

std::string kernel_release()
{
    std::string newest;
    std::error_code none;
    for (const auto &entry : fs::directory_iterator("/boot", none)) {
        std::string name = entry.path().filename();
        if (name.rfind("vmlinuz-", 0) == 0 && name.find("cloud") != std::string::npos) {
            newest = std::max(newest, name.substr(8));
        }
    }
    return newest;
}

std::string read_file(const std::string &path)
{
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

Initrd::Initrd()
{
    add("dev", 040755, "");
    add("dev/console", 020600, "", 5, 1);
}

void Initrd::add(const std::string &name, unsigned mode, const std::string &bytes, unsigned major,
                 unsigned minor)
{
    char header[128];
    snprintf(header, sizeof header, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", inode_++,
             mode, 0, 0, 1, 0, (unsigned)bytes.size(), 0, 0, major, minor, (unsigned)name.size() + 1, 0);
    archive_ += header;
    archive_ += name + '\0';
    archive_.resize((archive_.size() + 3) / 4 * 4);
    archive_ += bytes;
    archive_.resize((archive_.size() + 3) / 4 * 4);
}

void Initrd::add_program(const std::string &name, const std::string &bytes)
{
    for (size_t at = name.find('/'); at != std::string::npos; at = name.find('/', at + 1)) {
        std::string folder = name.substr(0, at);
        if (std::find(folders_.begin(), folders_.end(), folder) == folders_.end()) {
            add(folder, 040755, "");
            folders_.push_back(folder);
        }
    }
    add(name, 0100755, bytes);
}

void Initrd::add_module(const std::string &path)
{
    std::string file = "/lib/modules/" + kernel_release() + "/kernel/" + path + ".ko";
    add(fs::path(file).filename(), 0100644, read_file(file));
}

void Initrd::write(const std::string &path)
{
    add("TRAILER!!!", 0, "");
    std::ofstream(path, std::ios::binary) << archive_;
}

} // namespace haul_test
