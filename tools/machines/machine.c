/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/machine.h"

#include <errno.h>
#include <stdlib.h>

void *haul_machine_alloc(size_t size, const struct haul_machine_ops *ops, struct haul_error *error)
{
    struct haul_machine *made = calloc(1, size);
    if (!made) {
        haul_error_set(error, ENOMEM, "no memory for a %s machine", ops->kind);
        return NULL;
    }
    made->ops = ops;
    return made;
}

int haul_machine_finish(struct haul_machine *made, int result, struct haul_machine **machine)
{
    if (result < 0) {
        made->ops->free(made);
        return result;
    }
    *machine = made;
    return 0;
}
