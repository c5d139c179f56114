/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_SESSION_TEXT_H
#define HAUL_TOOLS_SESSION_TEXT_H

#include <jansson.h>

/*
 * haul_text_json makes a JSON string of any text. Texts may hold a file's name in any encoding, or be cut
 * within a character, and JSON is UTF-8: in one that is not, every byte beyond ASCII becomes '?'. NULL: no
 * memory.
 */
json_t *haul_text_json(const char *text);

#endif
