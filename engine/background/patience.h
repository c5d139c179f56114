/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_ENGINE_BACKGROUND_PATIENCE_H
#define HAUL_ENGINE_BACKGROUND_PATIENCE_H

/*
 * How long threads that come after everybody else, and starved, stay as everybody else: what kept the CPU
 * from them is likely to be there still, so each time for longer.
 */

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_PATIENCE_LEAST 5u /* looks */
#define HAUL_PATIENCE_MOST 80u

/* Zeroed to begin with. */
struct haul_patience {
    unsigned looks; /* after they starved last */
    unsigned left;
    bool looked;
};

/*
 * haul_patience_look tells whether they may come last until the next look, from whether they did (`modest`)
 * and got too little (`starved`) since the one before. The first look tells nothing: since when they have had
 * work is not known.
 */
bool haul_patience_look(struct haul_patience *patience, bool modest, bool starved);

#ifdef __cplusplus
}
#endif
#endif
