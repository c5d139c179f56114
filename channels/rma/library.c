/* SPDX-License-Identifier: Apache-2.0 */
#include "channels/rma/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#define SONAME "libfabric.so.1"

#ifdef __SANITIZE_THREAD__
/*
 * The sanitizer sees what libfabric writes, and not what orders it: a page that a round's writes placed is
 * cleared by a receiver in a later round, which the source begins when those writes were confirmed to it.
 */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:" SONAME "\n";
}
#endif

/* With the versions that belong to the structures of the headers: without, the oldest would answer. */
static int find(struct haul_rma_library *library, const char *name, const char *version, void *function,
                struct haul_error *error)
{
    void *found = dlvsym(library->handle, name, version);
    if (!found) {
        return haul_error_set(error, ENOSYS,
                              "rdma: " SONAME " has no %s of version %s; install libfabric 1.17 or later",
                              name, version);
    }
    memcpy(function, &found, sizeof found); /* C has no conversion from an object to a function */
    return 0;
}

int haul_rma_library_load(struct haul_rma_library *library, struct haul_error *error)
{
    memset(library, 0, sizeof *library);
    /* Once loaded it stays: its providers leave threads and exit handlers behind. */
    library->handle = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library->handle) {
        return haul_error_set(error, ENOSYS,
                              "rdma: libfabric cannot be loaded (Debian package libfabric1): %s", dlerror());
    }
    int rc = find(library, "fi_getinfo", "FABRIC_1.3", &library->getinfo, error);
    if (rc == 0) {
        rc = find(library, "fi_freeinfo", "FABRIC_1.3", &library->freeinfo, error);
    }
    if (rc == 0) {
        rc = find(library, "fi_dupinfo", "FABRIC_1.3", &library->dupinfo, error);
    }
    if (rc == 0) {
        rc = find(library, "fi_fabric", "FABRIC_1.1", &library->fabric, error);
    }
    if (rc == 0) {
        rc = find(library, "fi_strerror", "FABRIC_1.0", &library->strerror, error);
    }
    if (rc < 0) {
        haul_rma_library_unload(library);
    }
    return rc;
}

void haul_rma_library_unload(struct haul_rma_library *library)
{
    if (library->handle) {
        dlclose(library->handle);
    }
    memset(library, 0, sizeof *library);
}
