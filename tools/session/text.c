/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/session/text.h"

#include <stdlib.h>
#include <string.h>

json_t *haul_text_json(const char *text)
{
    json_t *string = json_string(text);
    char *copy = string ? NULL : strdup(text);
    for (char *at = copy; at && *at; at++) {
        if ((unsigned char)*at >= 0x80) {
            *at = '?';
        }
    }
    string = copy ? json_string(copy) : string;
    free(copy);
    return string;
}
