/* SPDX-License-Identifier: Apache-2.0 */
/* What haul send ssh: lets the other host receive: the words after --, or else the machine that moves here.
 */
#include "tools/haul/remote.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

struct text {
    char *bytes;
    size_t length;
    size_t size;
};

static bool add_text(struct text *text, const char *bytes, size_t length)
{
    if (text->length + length >= text->size) {
        return false;
    }
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    text->bytes[text->length] = 0;
    return true;
}

/* Adds one word in single quotes, which the shell there takes as it is. */
static bool add_word(struct text *text, const char *word)
{
    bool fits = add_text(text, text->length ? " '" : "'", text->length ? 2 : 1);
    for (; fits && *word; word++) {
        fits = *word == '\'' ? add_text(text, "'\\''", 4) : add_text(text, word, 1);
    }
    return fits && add_text(text, "'", 1);
}

static bool add_machine(struct text *text, const struct cli_options *options)
{
    char size[32];
    snprintf(size, sizeof size, "%" PRIu64, options->guest_options.memory_bytes);
    if (options->qmp) {
        return add_word(text, "--qemu") && add_word(text, options->qmp) &&
               (!options->disks || add_word(text, "--disks"));
    }
    if (options->memory) {
        return add_word(text, "--memory") && add_word(text, options->memory);
    }
    return add_word(text, "--guest") && add_word(text, "--guest-memory") && add_word(text, size);
}

static bool has_option(const char *name, int count, char **words)
{
    size_t length = strlen(name);
    bool found = false;
    for (int i = 0; i < count && !found; i++) {
        found = strncmp(words[i], name, length) == 0 && (words[i][length] == '\0' || words[i][length] == '=');
    }
    return found;
}

/* What moves along needs a place there, and only the user knows one; better said before anything is started.
 */
static int check_disks(const struct cli_options *options, int count, char **words, struct haul_error *error)
{
    if (options->disk && !has_option("--disk", count, words)) {
        return haul_error_set(error, EINVAL,
                              "with --disk the other host needs an image too: end the line with -- --guest "
                              "--disk PATH,size=SIZE%s",
                              count > 0 ? ", beside the other options there" : "");
    }
    if (options->disks && count > 0 && !has_option("--disks", count, words)) {
        return haul_error_set(
            error, EINVAL,
            "--disks is needed on both sides: say it after -- too, and the images there are "
            "overwritten");
    }
    return 0;
}

int cli_remote_options(struct cli_options *options, int count, char **words, struct haul_error *error)
{
    struct text text = {.bytes = options->remote, .size = sizeof options->remote};
    int status = check_disks(options, count, words, error);
    if (status < 0) {
        return status;
    }
    bool fits = count > 0 || add_machine(&text, options);
    for (int i = 0; i < count; i++) {
        fits = fits && add_word(&text, words[i]);
    }
    return fits ? 0
                : haul_error_set(error, E2BIG, "the options for the other host have more than %zu bytes",
                                 text.size - 1);
}
