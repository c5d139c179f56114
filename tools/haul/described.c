/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/described.h"

#include "engine/device_state.h"
#include "tools/haul/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STREAM_MAX ((off_t)64 << 20) /* what haul_device_print takes */

static int describe(const void *bytes, size_t length, bool json, char **text, struct haul_error *error)
{
    size_t size;
    FILE *out = open_memstream(text, &size);
    if (!out) {
        return haul_error_set(error, ENOMEM, "no memory to print device state");
    }
    int rc = haul_device_print(out, json ? HAUL_DEVICE_JSON : HAUL_DEVICE_TEXT, bytes, length, error);
    if (fclose(out) != 0 && rc == 0) {
        rc = haul_error_set(error, ENOMEM, "no memory to print device state");
    }
    if (rc < 0) {
        free(*text);
        *text = NULL;
    }
    return rc;
}

int cli_describe_state(struct haul_snapshot *snapshot, const struct haul_snapshot_state_info *info, bool json,
                       char **text, struct haul_error *error)
{
    unsigned char *bytes;
    size_t length = 0;
    *text = NULL;
    int rc = haul_snapshot_copy_state(snapshot, info, &bytes, &length, error);
    if (rc < 0) {
        return rc;
    }
    if (haul_device_is_stream(bytes, length)) {
        rc = describe(bytes, length, json, text, error);
        if (rc < 0) {
            haul_error_prefix(error, "handler %s: ", info->name);
        }
    }
    free(bytes);
    return rc;
}

int cli_print_json(json_t *json, const char *described)
{
    char *text = json ? json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(json);
    if (!text) {
        return -ENOMEM;
    }
    if (described) {
        /* Before the closing brace. Its numbers have up to 64 bits, more than jansson takes. */
        printf("%.*s,\n  \"described\": %s\n}\n", (int)(strlen(text) - strlen("\n}")), text, described);
    } else {
        printf("%s\n", text);
    }
    free(text);
    return fflush(stdout) == 0 ? 0 : -EIO;
}

/* ---- a stream in a file of its own ---- */

/* Not blocking: a FIFO of that name must not keep us. */
static int open_file(const char *path)
{
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

bool cli_is_described_file(const char *path)
{
    unsigned char head[4];
    struct stat status;
    int fd = open_file(path);
    bool is = fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
              pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head &&
              haul_device_is_stream(head, sizeof head);
    if (fd >= 0) {
        close(fd);
    }
    return is;
}

static int read_all(const char *path, unsigned char **bytes, size_t *length, struct haul_error *error)
{
    struct stat status;
    int fd = open_file(path);
    if (fd < 0 || fstat(fd, &status) < 0) {
        int rc = haul_error_set(error, errno, "%s: opening it: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    int rc = status.st_size > STREAM_MAX
                 ? haul_error_set(error, EMSGSIZE, "%s: a device state stream has at most 64 MiB", path)
                 : 0;
    *bytes = rc == 0 ? malloc((size_t)status.st_size + 1) : NULL;
    if (rc == 0 && !*bytes) {
        rc = haul_error_set(error, ENOMEM, "no memory for the device state");
    }
    *length = 0;
    while (rc == 0 && *length < (size_t)status.st_size) {
        ssize_t got = read(fd, *bytes + *length, (size_t)status.st_size - *length);
        if (got > 0) {
            *length += (size_t)got;
        } else if (got == 0) {
            break; /* it became shorter: the printer says where that hurts */
        } else if (errno != EINTR) {
            rc = haul_error_set(error, errno, "%s: reading it: %s", path, strerror(errno));
        }
    }
    close(fd);
    return rc;
}

static int show_json(const char *path, const char *text, int code, const char *message)
{
    const char *name = strerrorname_np(-code);
    json_t *json = json_pack("{s:s s:b}", "file", path, "sound", code == 0);
    if (json && code < 0) {
        json_object_set_new(json, "error",
                            json_pack("{s:s s:s}", "code", name ? name : "EIO", "desc", message));
    }
    return cli_print_json(json, text);
}

int cli_inspect_described(const struct cli_options *options, const char *path)
{
    struct haul_error error = {0};
    unsigned char *bytes = NULL;
    char *text = NULL;
    size_t length = 0;
    int code = read_all(path, &bytes, &length, &error);
    if (code == 0) {
        code = describe(bytes, length, options->json, &text, &error);
        if (code < 0) {
            haul_error_prefix(&error, "%s: ", path);
        }
    }
    free(bytes);
    if (code < 0) {
        cli_complain(0, "%s", error.message);
    }
    if (options->json && show_json(path, text, code, error.message) < 0) {
        cli_complain(0, "the JSON object could not be written");
    } else if (!options->json && code == 0) {
        printf("%s: a device state stream.\n\n%s", path, text);
    }
    free(text);
    return code < 0 ? CLI_EXIT_FAILED : 0;
}
