/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a receiving haul: the disk of its records is full when HANDOVER comes. With HAUL_TEST_KEEP
 * set records cannot be removed either.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int renameat(int old_directory, const char *old_name, int new_directory, const char *new_name)
{
    int (*real)(int, const char *, int, const char *) =
        (int (*)(int, const char *, int, const char *))dlsym(RTLD_NEXT, "renameat");
    if (strstr(new_name, ".destination.json")) {
        errno = ENOSPC;
        return -1;
    }
    return real(old_directory, old_name, new_directory, new_name);
}

int unlinkat(int directory, const char *name, int flags)
{
    int (*real)(int, const char *, int) = (int (*)(int, const char *, int))dlsym(RTLD_NEXT, "unlinkat");
    size_t length = strlen(name);
    if (getenv("HAUL_TEST_KEEP") && length > 5 && strcmp(name + length - 5, ".json") == 0) {
        errno = EROFS;
        return -1;
    }
    return real(directory, name, flags);
}
