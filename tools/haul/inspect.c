/* SPDX-License-Identifier: Apache-2.0 */
/* inspect: what is in a snapshot file, and whether every byte of it is sound. */
#include "tools/haul/commands.h"

#include "engine/snapshot.h"
#include "tools/clock.h"
#include "tools/haul/described.h"
#include "tools/haul/number.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LABEL "  %-10s "
#define STATES_MAX 64 /* handlers shown; the engine has no more */

struct inspection {
    const struct cli_options *options;
    const char *path;
    struct haul_snapshot *snapshot; /* NULL: could not be opened */
    struct haul_snapshot_info info;
    struct haul_snapshot_state_info states[STATES_MAX];
    char *described[STATES_MAX]; /* NULL: state of a kind that only its handler knows */
    unsigned state_count;
    uint64_t verify_ns;
    int code; /* 0, or the negative errno of what is wrong */
    struct haul_error error;
};

static void format_time(char text[32], uint64_t seconds)
{
    time_t time = (time_t)seconds;
    struct tm parts;
    if (!gmtime_r(&time, &parts) || !strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &parts)) {
        snprintf(text, 32, "?");
    }
}

static int look_at_states(struct inspection *inspection, struct haul_error *error)
{
    int more = 1;
    while (more == 1 && inspection->state_count < STATES_MAX) {
        more = haul_snapshot_next_state(inspection->snapshot, &inspection->states[inspection->state_count],
                                        error);
        inspection->state_count += more == 1;
    }
    int code = more < 0 ? more : 0;
    for (unsigned i = 0; code == 0 && i < inspection->state_count; i++) {
        char name[sizeof inspection->states[i].name];
        haul_text_escape(name, sizeof name, inspection->states[i].name);
        memcpy(inspection->states[i].name, name, sizeof name);
        code = cli_describe_state(inspection->snapshot, &inspection->states[i], inspection->options->json,
                                  &inspection->described[i], error);
    }
    return code;
}

static int look(struct inspection *inspection)
{
    struct haul_error *error = &inspection->error;
    int code = haul_snapshot_open(inspection->path, &inspection->snapshot, error);
    if (code < 0) {
        return code;
    }
    code = look_at_states(inspection, error);
    uint64_t begun = haul_clock_ns();
    if (code == 0) {
        code = haul_snapshot_verify(inspection->snapshot, inspection->options->haul.channels,
                                    inspection->options->haul.direct_io, error);
    }
    inspection->verify_ns = haul_clock_ns() - begun;
    haul_snapshot_get_info(inspection->snapshot, &inspection->info);
    return code;
}

static void cleanup(struct inspection *inspection)
{
    for (unsigned i = 0; i < inspection->state_count; i++) {
        free(inspection->described[i]);
    }
    haul_snapshot_close(inspection->snapshot);
}

/* haul_snapshot_get_block, with a name for the eye. */
static bool get_block(const struct inspection *inspection, uint32_t index, char name[256],
                      struct haul_snapshot_block_info *block)
{
    if (haul_snapshot_get_block(inspection->snapshot, index, block) < 0) {
        return false;
    }
    haul_text_escape(name, 256, block->name); /* the file's: anything may be in it */
    block->name = name;
    return true;
}

/* ---- for people ---- */

static void print_blocks(const struct inspection *inspection)
{
    struct haul_snapshot_block_info block;
    char length[CLI_NUMBER_SIZE], page[CLI_NUMBER_SIZE], name[256];
    printf("\n  %12s %10s %16s  %s\n", "Memory", "Pages of", "At offset", "Block");
    for (uint32_t i = 0; get_block(inspection, i, name, &block); i++) {
        printf("  %12s %10s %16" PRIu64 "  %s\n", cli_format_bytes(length, block.length),
               cli_format_bytes(page, block.page_size), block.file_offset, block.name);
    }
    if (inspection->state_count > 0) {
        printf("\n  %12s %10s %16s  %s\n", "State", "", "At offset", "Handler");
    }
    for (unsigned i = 0; i < inspection->state_count; i++) {
        const struct haul_snapshot_state_info *state = &inspection->states[i];
        printf("  %12s %10s %16" PRIu64 "  %s\n", cli_format_bytes(length, state->bytes), "",
               state->file_offset, state->name);
    }
}

/* The fields of state that describes itself, a line each. */
static void print_described(const struct inspection *inspection)
{
    for (unsigned i = 0; i < inspection->state_count; i++) {
        const char *line = inspection->described[i];
        if (line) {
            printf("\n  State of %s:\n", inspection->states[i].name);
        }
        while (line && *line) {
            int length = (int)strcspn(line, "\n");
            printf("    %.*s\n", length, line);
            line += length + (line[length] == '\n');
        }
    }
}

static void print_report(const struct inspection *inspection)
{
    const struct haul_snapshot_info *info = &inspection->info;
    char text[32], bytes[CLI_NUMBER_SIZE], other[CLI_NUMBER_SIZE], rate[CLI_NUMBER_SIZE];
    bool sound = inspection->code == 0;
    printf("%s: %s.\n\n", inspection->path, sound ? "a sound snapshot" : "a damaged snapshot; do not use it");
    format_time(text, info->created_s);
    printf(LABEL "%" PRIu32 "\n", "Version", info->version);
    printf(LABEL "%s\n", "Move ID", info->id);
    printf(LABEL "%s\n", "Written", text);
    printf(LABEL "%s long, %s on the disk\n", "File", cli_format_bytes(bytes, info->file_bytes),
           cli_format_bytes(other, info->disk_bytes));
    if (sound) {
        uint64_t read = info->content_pages * 4096;
        printf(LABEL "%s: %" PRIu64 " pages with content, %" PRIu64 " zero\n", "Memory",
               cli_format_bytes(bytes, info->memory_bytes), info->content_pages, info->zero_pages);
        printf(LABEL "every byte, in %s (%s)\n", "Checked", cli_format_duration(other, inspection->verify_ns),
               cli_format_rate(rate, (uint64_t)((double)read * 1e9 / ((double)inspection->verify_ns + 1))));
    }
    print_blocks(inspection);
    print_described(inspection);
}

/* ---- for scripts ---- */

static json_t *blocks_json(const struct inspection *inspection)
{
    struct haul_snapshot_block_info block;
    char name[256];
    json_t *array = json_array();
    for (uint32_t i = 0; get_block(inspection, i, name, &block); i++) {
        json_array_append_new(array, json_pack("{s:s s:I s:i s:I}", "name", block.name, "length",
                                               (json_int_t)block.length, "page-size", (int)block.page_size,
                                               "offset", (json_int_t)block.file_offset));
    }
    return array;
}

static json_t *states_json(const struct inspection *inspection)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < inspection->state_count; i++) {
        const struct haul_snapshot_state_info *state = &inspection->states[i];
        json_array_append_new(array,
                              json_pack("{s:s s:I s:I}", "name", state->name, "length",
                                        (json_int_t)state->bytes, "offset", (json_int_t)state->file_offset));
    }
    return array;
}

static json_t *inspection_json(const struct inspection *inspection)
{
    json_t *json = json_pack("{s:s s:b}", "file", inspection->path, "sound", inspection->code == 0);
    if (json && inspection->snapshot) {
        const struct haul_snapshot_info *info = &inspection->info;
        char text[32];
        format_time(text, info->created_s);
        json_object_update_new(
            json, json_pack("{s:i s:s s:s s:I s:I s:I s:I s:o s:o}", "version", (int)info->version,
                            "migration-id", info->id, "created", text, "file-length",
                            (json_int_t)info->file_bytes, "disk-size", (json_int_t)info->disk_bytes, "memory",
                            (json_int_t)info->memory_bytes, "state-length", (json_int_t)info->state_bytes,
                            "blocks", blocks_json(inspection), "state", states_json(inspection)));
        if (inspection->code == 0) {
            json_object_update_new(json, json_pack("{s:I s:I s:f}", "normal", (json_int_t)info->content_pages,
                                                   "duplicate", (json_int_t)info->zero_pages, "verify-time",
                                                   (double)inspection->verify_ns / 1e6));
        }
    }
    if (json && inspection->code < 0) {
        const char *name = strerrorname_np(-inspection->code);
        json_object_set_new(
            json, "error",
            json_pack("{s:s s:s}", "code", name ? name : "EIO", "desc", inspection->error.message));
    }
    return json;
}

/* {"HANDLER": {...}, ...}, or NULL when no state describes itself. */
static char *described_json(const struct inspection *inspection)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    const char *before = "{";
    for (unsigned i = 0; out && i < inspection->state_count; i++) {
        json_t *name = inspection->described[i] ? json_string(inspection->states[i].name) : NULL;
        if (name) {
            fputs(before, out);
            json_dumpf(name, out, JSON_ENCODE_ANY);
            fprintf(out, ": %s", inspection->described[i]);
            before = ", ";
        }
        json_decref(name);
    }
    if (out) {
        fputs("}", out);
        fclose(out);
    }
    if (*before == '{') {
        free(text);
        return NULL;
    }
    return text;
}

static int print_json(const struct inspection *inspection)
{
    char *described = described_json(inspection);
    int code = cli_print_json(inspection_json(inspection), described);
    free(described);
    return code;
}

int cli_inspect(const struct cli_options *options)
{
    struct inspection inspection = {.options = options, .path = haul_file_path(options->uri)};
    if (cli_is_described_file(inspection.path)) {
        return cli_inspect_described(options, inspection.path);
    }
    inspection.code = look(&inspection);
    if (inspection.code < 0) {
        cli_complain(0, "%s", inspection.error.message);
    }
    if (options->json) {
        if (print_json(&inspection) < 0) {
            cli_complain(0, "the JSON object could not be written");
        }
    } else if (inspection.snapshot) {
        print_report(&inspection);
    }
    cleanup(&inspection);
    return inspection.code < 0 ? CLI_EXIT_FAILED : 0;
}
