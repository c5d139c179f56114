// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_MACHINES_LAST_WORD_H
#define HAUL_TESTS_MACHINES_LAST_WORD_H

// What `haul resume` and `haul abandon` do with the QEMU that their record names.
#include "tools/machines/machine.h"

#include <gtest/gtest.h>

#include <string>

namespace haul_test
{

enum class LastWord { kResume, kAbandon };

// "" or why not.
inline std::string say_last_word(const std::string &qmp, LastWord word)
{
    haul_machine *machine = nullptr;
    haul_error error = {};
    if (haul_qemu_attach_existing(qmp.c_str(), &machine, &error)) {
        return error.message;
    }
    EXPECT_EQ(qmp, machine->ops->locator(machine));
    int result = (word == LastWord::kResume ? machine->ops->resume : machine->ops->abandon)(machine, &error);
    machine->ops->free(machine);
    return result ? error.message : "";
}

} // namespace haul_test

#endif
