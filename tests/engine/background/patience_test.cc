// SPDX-License-Identifier: Apache-2.0
#include "engine/background/patience.h"

#include <gtest/gtest.h>

namespace
{

class Patience : public testing::Test
{
  protected:
    bool Look(bool starved)
    {
        modest_ = haul_patience_look(&patience_, modest_, starved);
        return modest_;
    }
    Patience()
    {
        Look(false);
    }
    // How many looks until they may come last again.
    unsigned Looks()
    {
        unsigned looks = 1;
        while (!Look(false) && looks < 1000) {
            looks++;
        }
        return looks;
    }

    haul_patience patience_{};
    bool modest_ = true;
};

TEST_F(Patience, WhoHasEnoughComesLast)
{
    EXPECT_TRUE(Look(false));
    EXPECT_TRUE(Look(false));
}

TEST_F(Patience, WhoStarvedStaysAsEverybodyElseEachTimeForLonger)
{
    for (unsigned looks : {5u, 10u, 20u, 40u, 80u, 80u}) {
        EXPECT_FALSE(Look(true));
        EXPECT_EQ(Looks(), looks);
    }
}

TEST_F(Patience, TheFirstLookTellsNothing)
{
    for (bool modest : {true, false}) {
        haul_patience patience{};
        EXPECT_EQ(haul_patience_look(&patience, modest, true), modest);
        EXPECT_FALSE(haul_patience_look(&patience, modest, true));
    }
}

// That is not the doing of who made them come last.
TEST_F(Patience, WhoGetsLittleAsEverybodyElseDoesComesLastAsSoonAsThereIsEnough)
{
    EXPECT_FALSE(Look(true));
    for (int i = 0; i < 20; i++) {
        EXPECT_FALSE(Look(true));
    }
    EXPECT_EQ(Looks(), 1u);
    EXPECT_FALSE(Look(true));
    EXPECT_EQ(Looks(), 10u) << "the second time";
}

} // namespace
