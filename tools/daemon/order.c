/* SPDX-License-Identifier: Apache-2.0 */
/* What `migrate` and `migrate-incoming` say: from JSON to an order. */
#include "tools/daemon/channel_uri.h"
#include "tools/daemon/moves.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

static const char *const contents[] = {"random", "text", NULL};
static const char *const trackers[] = {"auto", "kvm-log", "kvm-ring", "uffd", "bitmap", "soft-dirty", NULL};
static const char *const vcpus[] = {"auto", "kvm", "thread", NULL};

static const struct haul_qmp_argument source_memory[] = {
    {"path", HAUL_QMP_STRING},
    {"pid", HAUL_QMP_UNSIGNED, .optional = true, .maximum = INT32_MAX},
    {NULL},
};

static const struct haul_qmp_argument destination_memory[] = {
    {"path", HAUL_QMP_STRING},
    {"size", HAUL_QMP_UNSIGNED, .optional = true},
    {NULL},
};

static const struct haul_qmp_argument guest_disk[] = {
    {"path", HAUL_QMP_STRING},
    {"size", HAUL_QMP_UNSIGNED, .optional = true},
    {"rate", HAUL_QMP_UNSIGNED, .optional = true},
    {NULL},
};

static const struct haul_qmp_argument guest[] = {
    {"memory", HAUL_QMP_UNSIGNED, .optional = true},
    {"dirty-rate", HAUL_QMP_UNSIGNED, .optional = true},
    {"hot-set", HAUL_QMP_UNSIGNED, .optional = true},
    {"content", HAUL_QMP_CHOICE, .optional = true, .choices = contents},
    {"zero", HAUL_QMP_UNSIGNED, .optional = true, .maximum = 100},
    {"untouched", HAUL_QMP_UNSIGNED, .optional = true, .maximum = 100},
    {"tracker", HAUL_QMP_CHOICE, .optional = true, .choices = trackers},
    {"vcpu", HAUL_QMP_CHOICE, .optional = true, .choices = vcpus},
    {"seed", HAUL_QMP_UNSIGNED, .optional = true},
    {"disk", HAUL_QMP_OBJECT, .optional = true, .members = guest_disk},
    {NULL},
};

/* QEMU's own arguments are known where they ask for nothing that haul does not do. */
const struct haul_qmp_argument haul_moves_send_arguments[] = {
    {"uri", HAUL_QMP_STRING, .optional = true},
    {"channels", HAUL_QMP_ARRAY, .optional = true, .members = haul_channel_members},
    {"name", HAUL_QMP_STRING, .optional = true},
    {"qemu", HAUL_QMP_STRING, .optional = true},
    {"disks", HAUL_QMP_BOOLEAN, .optional = true},
    {"memory", HAUL_QMP_OBJECT, .optional = true, .members = source_memory},
    {"guest", HAUL_QMP_OBJECT, .optional = true, .members = guest},
    {"remote", HAUL_QMP_ARRAY, .optional = true},
    {"detach", HAUL_QMP_BOOLEAN, .optional = true},
    {"blk", HAUL_QMP_BOOLEAN, .optional = true},
    {"inc", HAUL_QMP_BOOLEAN, .optional = true},
    {"resume", HAUL_QMP_BOOLEAN, .optional = true},
    {NULL},
};

const struct haul_qmp_argument haul_moves_receive_arguments[] = {
    {"uri", HAUL_QMP_STRING, .optional = true},
    {"channels", HAUL_QMP_ARRAY, .optional = true, .members = haul_channel_members},
    {"name", HAUL_QMP_STRING, .optional = true},
    {"qemu", HAUL_QMP_STRING, .optional = true},
    {"disks", HAUL_QMP_BOOLEAN, .optional = true},
    {"memory", HAUL_QMP_OBJECT, .optional = true, .members = destination_memory},
    {"guest", HAUL_QMP_OBJECT, .optional = true, .members = guest},
    {NULL},
};

static uint64_t number(const json_t *object, const char *member, uint64_t otherwise)
{
    const json_t *value = json_object_get(object, member);
    return value ? (uint64_t)json_integer_value(value) : otherwise;
}

static const char *text(const json_t *object, const char *member, const char *otherwise)
{
    const json_t *value = json_object_get(object, member);
    return value ? json_string_value(value) : otherwise;
}

static void read_guest(const json_t *object, struct haul_guest_options *options)
{
    options->memory_bytes = number(object, "memory", options->memory_bytes);
    options->dirty_bytes_per_s = number(object, "dirty-rate", options->dirty_bytes_per_s);
    options->hot_bytes = number(object, "hot-set", options->hot_bytes);
    options->content = text(object, "content", options->content);
    options->zero_percent = (unsigned)number(object, "zero", options->zero_percent);
    options->untouched_percent = (unsigned)number(object, "untouched", options->untouched_percent);
    options->tracker = text(object, "tracker", options->tracker);
    options->vcpu = text(object, "vcpu", options->vcpu);
    options->seed = number(object, "seed", options->seed);
    const json_t *disk = json_object_get(object, "disk");
    options->disk = text(disk, "path", NULL);
    options->disk_bytes = number(disk, "size", 0);
    options->disk_bytes_per_s = number(disk, "rate", options->disk_bytes_per_s);
}

/* The address, in either of its two forms. */
static int read_address(const json_t *arguments, struct haul_move_order *order,
                        struct haul_qmp_failure *failure)
{
    const json_t *channels = json_object_get(arguments, "channels");
    order->uri = text(arguments, "uri", NULL);
    if (order->uri && channels) {
        return haul_qmp_fail(failure, EINVAL, "'uri' and 'channels' exclude each other");
    }
    if (channels) {
        order->uri = order->channel_uri;
        return haul_channel_uri(channels, order->channel_uri, sizeof order->channel_uri, failure);
    }
    return order->uri ? 0 : haul_qmp_fail(failure, EINVAL, "Parameter 'uri' is missing");
}

static int read_remote(const json_t *words, const char *uri, struct haul_remote *remote,
                       struct haul_qmp_failure *failure)
{
    size_t index;
    json_t *word;
    if (words && strncmp(uri, "ssh:", 4) != 0) {
        return haul_qmp_fail(failure, EINVAL, "Parameter 'remote' is for ssh: only");
    }
    json_array_foreach(words, index, word)
    {
        if (!json_is_string(word)) {
            return haul_qmp_fail(failure, EINVAL, "Parameter 'remote' expects an array of strings");
        }
        haul_remote_add(remote, json_string_value(word));
    }
    return haul_remote_check(remote, &failure->error);
}

int haul_moves_order(const json_t *arguments, bool source, struct haul_move_order *order,
                     struct haul_qmp_failure *failure)
{
    static const char *const refused[] = {"blk", "inc", "resume"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (json_is_true(json_object_get(arguments, refused[i]))) {
            return haul_qmp_fail(failure, ENOTSUP, "Parameter '%s' is not supported by haul", refused[i]);
        }
    }
    const json_t *memory = json_object_get(arguments, "memory");
    const json_t *reference = json_object_get(arguments, "guest");
    *order = (struct haul_move_order){
        .source = source,
        .spec =
            {
                .qmp = text(arguments, "qemu", NULL),
                .disks = json_is_true(json_object_get(arguments, "disks")),
                .memory = text(memory, "path", NULL),
                .pid = (int)number(memory, "pid", 0),
                .memory_size = number(memory, "size", 0),
                .guest = reference != NULL,
            },
    };
    int status = read_address(arguments, order, failure);
    if (status < 0) {
        return status;
    }
    unsigned named = (order->spec.qmp != NULL) + (memory != NULL) + (reference != NULL);
    if (named > 1) {
        return haul_qmp_fail(failure, EINVAL, "'qemu', 'memory' and 'guest' exclude each other");
    }
    if (order->spec.disks && !order->spec.qmp) {
        return haul_qmp_fail(failure, EINVAL, "Parameter 'disks' needs 'qemu'");
    }
    order->keeps_machine = named == 0;
    haul_guest_options_default(&order->spec.guest_options);
    read_guest(reference, &order->spec.guest_options);
    return read_remote(json_object_get(arguments, "remote"), order->uri, &order->remote, failure);
}
