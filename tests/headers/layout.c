/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/headers/layout.h"

#include <string.h>

size_t layout_size(const char *name)
{
#define X(type)                                                                                              \
    if (strcmp(name, #type) == 0) {                                                                          \
        return sizeof(struct type);                                                                          \
    }
    LAYOUT_STRUCTS(X)
#undef X
    return 0;
}
