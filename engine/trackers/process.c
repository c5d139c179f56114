/* SPDX-License-Identifier: Apache-2.0 */
/* The tracker of a process that works here. */
#include "engine/trackers.h"

#include <unistd.h>

int haul_tracker_process_new(int pid, const struct haul_tracked_range *ranges, unsigned count,
                             struct haul_tracker **tracker, struct haul_error *error)
{
    struct haul_error first = {0}, second = {0};
    if (!haul_tracker_uffd_new(pid, ranges, count, tracker, &first) ||
        !haul_tracker_soft_dirty_new(pid, ranges, count, tracker, &second)) {
        return 0;
    }
    return haul_error_set(error, first.code, "what process %d writes cannot be tracked: %s; %s",
                          pid ? pid : getpid(), first.message, second.message);
}
