// SPDX-License-Identifier: Apache-2.0
/* That each public header compiles alone, as C and as C++, is shown by this test's dependencies being built.
 */
#include "tests/headers/layout.h"

#include <gtest/gtest.h>

namespace
{
TEST(PublicHeaders, StructsAreTheSameInBothLanguages)
{
#define X(type) EXPECT_EQ(layout_size(#type), sizeof(type)) << #type;
    LAYOUT_STRUCTS(X)
#undef X
    EXPECT_EQ(layout_size("other"), 0u);
}
} // namespace
