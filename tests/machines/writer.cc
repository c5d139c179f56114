// SPDX-License-Identifier: Apache-2.0
// writer FILE: maps the file and writes all of it for ever, for guests in which nothing else does.
#include "tests/tools/memory_writer.h"

#include <cstdio>
#include <sys/stat.h>

int main(int, char **argv)
{
    int fd = argv[1] ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
    struct stat file = {};
    void *data = fd < 0 || fstat(fd, &file) < 0
                     ? MAP_FAILED
                     : mmap(nullptr, (size_t)file.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        perror("writer");
        return 1;
    }
    haul_test::write_for_ever(static_cast<unsigned char *>(data), (size_t)file.st_size, 1);
}
