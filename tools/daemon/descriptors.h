/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TOOLS_DAEMON_DESCRIPTORS_H
#define HAUL_TOOLS_DAEMON_DESCRIPTORS_H

/* Descriptors that clients handed over with getfd, by name, until a migration's fd: URI takes them. */

#include "tools/qmp/arguments.h"
#include "tools/session/session.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HAUL_DESCRIPTORS_MAX 1024
#define HAUL_DESCRIPTOR_NAME_SIZE 64

/* A zeroed one is empty. */
struct haul_descriptors {
    struct haul_descriptor {
        char name[HAUL_DESCRIPTOR_NAME_SIZE];
        int fd;
    } list[HAUL_DESCRIPTORS_MAX];
    unsigned count;
};

void haul_descriptors_cleanup(struct haul_descriptors *descriptors);

/* haul_descriptors_put takes `fd` over, in place of one of the same name, which is closed; closed itself by a
 * failure. -EINVAL: the name; -ENOSPC: there are HAUL_DESCRIPTORS_MAX. */
int haul_descriptors_put(struct haul_descriptors *descriptors, const char *name, int fd,
                         struct haul_qmp_failure *failure);

/* haul_descriptors_drop closes one. -ENOENT. */
int haul_descriptors_drop(struct haul_descriptors *descriptors, const char *name,
                          struct haul_qmp_failure *failure);

/*
 * haul_descriptors_check tells whether everything that an fd: URI names is here; other URIs name nothing.
 * -ENOENT: one is not; -EINVAL: it names a number: the descriptors of the daemon itself are nobody's to use.
 * haul_descriptors_give then hands them to `session`. -ENOMEM: they are closed.
 */
int haul_descriptors_check(const struct haul_descriptors *descriptors, const char *uri,
                           struct haul_error *error);
int haul_descriptors_give(struct haul_descriptors *descriptors, const char *uri, struct haul_session *session,
                          struct haul_error *error);

#ifdef __cplusplus
}
#endif
#endif
