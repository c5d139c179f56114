// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_ENGINE_FILE_FILE_H
#define HAUL_TESTS_ENGINE_FILE_FILE_H

// Saving a test guest into a snapshot file and starting another one from it, in one process.

#include "tests/directory.h"
#include "tests/engine/move.h"

#include <gtest/gtest.h>

#include <string>

namespace haul_test
{

// One end and its file. Start and Wait are apart so that a test can do something meanwhile.
class FileEnd
{
  public:
    FileEnd(Guest &guest, bool source, const haul_options &options)
    {
        int result = source ? haul_source_new(&options, &migration, &error)
                            : haul_destination_new(&options, &migration, &error);
        EXPECT_EQ(result, 0) << error.message;
        guest.Attach(migration, source);
    }
    ~FileEnd()
    {
        haul_free(migration);
    }
    FileEnd(const FileEnd &) = delete;
    int Start(const std::string &path)
    {
        return haul_start(migration, ("file:" + path).c_str(), &error);
    }
    int Run(const std::string &path)
    {
        int result = Start(path);
        return result < 0 ? result : Wait();
    }
    int Wait()
    {
        int result = haul_wait(migration, &error);
        haul_get_stats(migration, &stats);
        return result;
    }
    std::string message() const
    {
        return error.message;
    }
    haul_migration *migration = nullptr;
    haul_error error{};
    haul_stats stats{};
};

} // namespace haul_test

#endif
