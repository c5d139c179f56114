/* SPDX-License-Identifier: Apache-2.0 */
/* Several trackers as one: the union of what they report. */
#include "engine/trackers/tracker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct group_tracker {
    struct haul_tracker base;
    struct haul_tracker_ops ops; /* of this object: its name says what is inside */
    char name[40];
    unsigned count;
    struct haul_tracker *members[];
};

static int group_arm(struct haul_tracker *base, struct haul_error *error)
{
    struct group_tracker *group = (struct group_tracker *)base;
    int result = 0;
    for (unsigned i = 0; !result && i < group->count; i++) {
        result = haul_tracker_arm(group->members[i], error);
    }
    return result;
}

static int group_start(void *opaque, struct haul_error *error)
{
    struct group_tracker *group = opaque;
    for (unsigned i = 0; i < group->count; i++) {
        struct haul_tracker *member = group->members[i];
        int result = member->ops->start(haul_tracker_get_opaque(member), error);
        if (result) {
            return result;
        }
    }
    return 0;
}

static int group_sync(void *opaque, uint64_t *const *bitmaps, uint64_t *pages, struct haul_error *error)
{
    struct group_tracker *group = opaque;
    *pages = 0;
    for (unsigned i = 0; i < group->count; i++) {
        struct haul_tracker *member = group->members[i];
        uint64_t reported = 0;
        int result = member->ops->sync(haul_tracker_get_opaque(member), bitmaps, &reported, error);
        if (result) {
            return result;
        }
        *pages += reported;
    }
    return 0;
}

static void group_stop(void *opaque)
{
    struct group_tracker *group = opaque;
    for (unsigned i = group->count; i-- > 0;) {
        group->members[i]->ops->stop(haul_tracker_get_opaque(group->members[i]));
    }
}

static void group_free(struct haul_tracker *base)
{
    struct group_tracker *group = (struct group_tracker *)base;
    for (unsigned i = group->count; i-- > 0;) {
        haul_tracker_free(group->members[i]);
    }
    free(group);
}

static void group_set_name(struct group_tracker *group)
{
    const char *first = group->members[0]->ops->name;
    for (unsigned i = 1; i < group->count; i++) {
        if (strcmp(group->members[i]->ops->name, first) != 0) {
            first = "mixed";
        }
    }
    snprintf(group->name, sizeof group->name, "%.20s x%u", first, group->count);
}

int haul_tracker_group_new(struct haul_tracker *const *members, unsigned count, struct haul_tracker **result,
                           struct haul_error *error)
{
    int failure = 0;
    struct group_tracker *group = NULL;
    if (count == 0) {
        failure = haul_error_set(error, EINVAL, "tracker group: it has no members");
        goto free_members;
    }
    group = calloc(1, sizeof *group + count * sizeof group->members[0]);
    if (!group) {
        failure = haul_error_set(error, ENOMEM, "tracker group: no memory for %u members", count);
        goto free_members;
    }
    group->base = (struct haul_tracker){.ops = &group->ops, .free = group_free, .arm = group_arm};
    memcpy(group->members, members, count * sizeof members[0]);
    group->count = count;
    group_set_name(group);
    group->ops = (struct haul_tracker_ops){
        .name = group->name, .start = group_start, .sync = group_sync, .stop = group_stop};
    *result = &group->base;
    return 0;

free_members:
    for (unsigned i = 0; i < count; i++) {
        haul_tracker_free(members[i]);
    }
    return failure;
}
