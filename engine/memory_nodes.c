/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/memory_nodes.h"

#include "channels/live_read.h"
#include "engine/trackers/uffd_call.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define SAMPLES 256 /* pages per block that are asked for their node */

int haul_memory_node_of_content(const unsigned char *page)
{
    HAUL_LIVE_READ_BEGIN();
    (void)*(const volatile unsigned char *)page;
    HAUL_LIVE_READ_END();
    return haul_memory_node(page);
}

/* Whether the file behind the block has the page, so that reading it makes none. */
static bool is_in_file(const struct haul_block *block, uint64_t page)
{
    off_t at = (off_t)(block->fd_offset + page * HAUL_PAGE_SIZE);
    return block->fd >= 0 && lseek(block->fd, at, SEEK_DATA) == at;
}

/*
 * A second mapping of a block of huge pages, only to ask in: hugetlbfs does not tell its holes, and to read
 * one takes a page from the pool. A userfaultfd for minor faults maps a page that is in the file and makes
 * none.
 */
struct huge_view {
    unsigned char *at; /* NULL: not to be asked */
    uint64_t length;
    int uffd;
};

static void huge_view_close(struct huge_view *view)
{
    if (view->at) {
        munmap(view->at, view->length);
    }
    if (view->uffd >= 0) {
        close(view->uffd);
    }
    *view = (struct huge_view){.uffd = -1};
}

/* For small pages, and where the kernel does not allow it, the view stays closed. */
static void huge_view_open(struct huge_view *view, const struct haul_block *block)
{
    *view = (struct huge_view){.uffd = -1};
    if (block->fd < 0 || block->page_size == HAUL_PAGE_SIZE) {
        return;
    }
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", block->fd);
    /* To be watched, a shared mapping must be one that may be made writable, and kernels before 6.0 spoil the
     * pages of a private one (Linux commit ab74ef708dc5). */
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    void *at = mmap(NULL, block->length, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, (off_t)block->fd_offset);
    close(fd);
    if (at == MAP_FAILED) {
        return;
    }
    view->at = at;
    view->length = block->length;
    struct uffdio_register request = {.range = {.start = (uintptr_t)at, .len = block->length},
                                      .mode = UFFDIO_REGISTER_MODE_MINOR};
    if (haul_uffd_open(O_CLOEXEC | UFFD_USER_MODE_ONLY, UFFD_FEATURE_MINOR_HUGETLBFS, &view->uffd, NULL) ||
        ioctl(view->uffd, UFFDIO_REGISTER, &request)) {
        huge_view_close(view);
    }
}

static int huge_view_node(const struct huge_view *view, const struct haul_block *block, uint64_t page)
{
    if (!view->at) {
        return HAUL_NODE_UNKNOWN;
    }
    uint64_t offset = page * HAUL_PAGE_SIZE;
    const unsigned char *at = view->at + offset;
    int node = haul_memory_node(at); /* a page is mapped by the first that asks */
    if (node == HAUL_NODE_UNKNOWN) {
        struct uffdio_continue request = {
            .range = {.start = (uintptr_t)at - offset % block->page_size, .len = block->page_size}};
        node = ioctl(view->uffd, UFFDIO_CONTINUE, &request) ? HAUL_NODE_UNKNOWN : haul_memory_node(at);
    }
    return node;
}

static int node_of(const struct haul_block *block, const struct huge_view *view, uint64_t page)
{
    const unsigned char *at = block->host + page * HAUL_PAGE_SIZE;
    int node = haul_memory_node(at);
    if (node != HAUL_NODE_UNKNOWN) {
        return node;
    }
    if (block->page_size != HAUL_PAGE_SIZE) {
        return huge_view_node(view, block, page);
    }
    return is_in_file(block, page) ? haul_memory_node_of_content(at) : HAUL_NODE_UNKNOWN;
}

void haul_memory_by_node(const struct haul_migration *migration, uint64_t bytes[HAUL_MEMORY_NODES_MAX])
{
    for (uint32_t i = 0; i < migration->block_count; i++) {
        const struct haul_block *block = &migration->blocks[i];
        uint64_t pages = block->length / HAUL_PAGE_SIZE;
        uint64_t step = pages / SAMPLES + 1;
        struct huge_view view;
        huge_view_open(&view, block);
        for (uint64_t page = 0; page < pages; page += step) {
            int node = node_of(block, &view, page);
            if (node >= 0 && node < HAUL_MEMORY_NODES_MAX) {
                bytes[node] += step * HAUL_PAGE_SIZE;
            }
        }
        huge_view_close(&view);
    }
}
