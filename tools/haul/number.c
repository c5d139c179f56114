/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/number.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Reads digits from *text on; moves *text behind them. */
static int parse_digits(const char **text, uint64_t *value)
{
    const char *next = *text;
    uint64_t sum = 0;
    if (*next < '0' || *next > '9') {
        return -EINVAL;
    }
    for (; *next >= '0' && *next <= '9'; next++) {
        if (__builtin_mul_overflow(sum, 10, &sum) ||
            __builtin_add_overflow(sum, (uint64_t)(*next - '0'), &sum)) {
            return -ERANGE;
        }
    }
    *text = next;
    *value = sum;
    return 0;
}

static const char suffixes[] = "KkMmGgTt";

int cli_parse_size(const char *text, uint64_t *value)
{
    uint64_t number;
    int result = parse_digits(&text, &number);
    if (result < 0) {
        return result;
    }
    unsigned shift = 0;
    if (*text) {
        const char *suffix = strchr(suffixes, *text);
        if (!suffix || text[1]) {
            return -EINVAL;
        }
        shift = 10 * (unsigned)((suffix - suffixes) / 2 + 1);
    }
    if (number > UINT64_MAX >> shift) {
        return -ERANGE;
    }
    *value = number << shift;
    return 0;
}

int cli_parse_number(const char *text, uint64_t minimum, uint64_t maximum, uint64_t *value)
{
    uint64_t number;
    int result = parse_digits(&text, &number);
    if (result < 0) {
        return result;
    }
    if (*text) {
        return -EINVAL;
    }
    if (number < minimum || number > maximum) {
        return -ERANGE;
    }
    *value = number;
    return 0;
}

/* Three significant digits, as long as that is shorter than the whole number. */
static void format_scaled(char text[CLI_NUMBER_SIZE], double value, const char *unit)
{
    int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
    snprintf(text, CLI_NUMBER_SIZE, "%.*f %s", decimals, value, unit);
}

static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

static const char *format_binary(char text[CLI_NUMBER_SIZE], uint64_t value, const char *tail)
{
    double scaled = (double)value;
    unsigned unit = 0;
    while (scaled >= 1023.5 && unit < sizeof units / sizeof *units - 1) {
        scaled /= 1024;
        unit++;
    }
    char name[8];
    snprintf(name, sizeof name, "%s%s", units[unit], tail);
    if (unit == 0) {
        snprintf(text, CLI_NUMBER_SIZE, "%u %s", (unsigned)value, name);
    } else {
        format_scaled(text, scaled, name);
    }
    return text;
}

const char *cli_format_bytes(char text[CLI_NUMBER_SIZE], uint64_t bytes)
{
    return format_binary(text, bytes, "");
}

const char *cli_format_rate(char text[CLI_NUMBER_SIZE], uint64_t bytes_per_s)
{
    return format_binary(text, bytes_per_s, "/s");
}

const char *cli_format_duration(char text[CLI_NUMBER_SIZE], uint64_t nanoseconds)
{
    double ms = (double)nanoseconds / 1e6;
    if (nanoseconds >= 120ULL * 1000000000) {
        uint64_t seconds = nanoseconds / 1000000000;
        snprintf(text, CLI_NUMBER_SIZE, "%llu min %u s", (unsigned long long)(seconds / 60),
                 (unsigned)(seconds % 60));
    } else if (ms >= 1999.5) {
        format_scaled(text, ms / 1e3, "s");
    } else if (ms >= 9.95) {
        snprintf(text, CLI_NUMBER_SIZE, "%.0f ms", ms);
    } else {
        snprintf(text, CLI_NUMBER_SIZE, "%.1f ms", ms);
    }
    return text;
}
