/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/background/patience.h"

bool haul_patience_look(struct haul_patience *patience, bool modest, bool starved)
{
    if (!patience->looked) {
        patience->looked = true;
        return modest;
    }
    if (starved && modest) {
        unsigned twice = patience->looks ? 2 * patience->looks : HAUL_PATIENCE_LEAST;
        patience->looks = twice < HAUL_PATIENCE_MOST ? twice : HAUL_PATIENCE_MOST;
        patience->left = patience->looks;
    } else if (patience->left > 0) {
        patience->left--;
    }
    return !starved && patience->left == 0;
}
