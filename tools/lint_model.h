/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_LINT_MODEL_H
#define HAUL_TOOLS_LINT_MODEL_H

/*
 * What clang-tidy's analyzer cannot see, because it looks at one file at a time: haul_error_set and
 * haul_error_prefix never return 0. Without this it takes every failure for a possible success and reports
 * results that "may be uninitialised". tools/lint includes it before each file; nothing else does.
 */
#include "channels/error.h"

static inline int lint_negative(int status)
{
    return status < 0 ? status : -1;
}

#define haul_error_set(...) lint_negative(haul_error_set(__VA_ARGS__))
#define haul_error_prefix(...) lint_negative(haul_error_prefix(__VA_ARGS__))

#endif
