/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into haul: a call fails for as long as the file $HAUL_TEST_FAILS is there. Its text says which:
 * "pthread_create", or "bind PART" for sockets whose path has PART.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/* The second word goes to `part`. */
static bool fails(const char *call, char part[64])
{
    const char *path = getenv("HAUL_TEST_FAILS");
    char word[64] = "";
    FILE *file = path ? fopen(path, "re") : NULL;
    part[0] = '\0';
    if (file) {
        (void)!fscanf(file, "%63s %63s", word, part);
        fclose(file);
    }
    return strcmp(word, call) == 0;
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    int (*real)(int, const struct sockaddr *, socklen_t) =
        (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
    const struct sockaddr_un *local = (const struct sockaddr_un *)address;
    char part[64];
    if (address->sa_family == AF_UNIX && fails("bind", part) && strstr(local->sun_path, part)) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, address, length);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *opaque)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT,
                                                                                       "pthread_create");
    char part[64];
    return fails("pthread_create", part) ? EAGAIN : real(thread, attributes, run, opaque);
}
