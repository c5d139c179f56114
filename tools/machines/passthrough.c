/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/machines/passthrough.h"

#include <string.h>

bool haul_fd_is_passthrough(const char *link)
{
    static const char *const starts[] = {"/dev/vfio/", "/dev/vhost-vdpa", "/dev/infiniband/uverbs",
                                         "anon_inode:[vfio-device]", "anon_inode:kvm-vfio"};
    for (unsigned i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        if (strncmp(link, starts[i], strlen(starts[i])) == 0) {
            return true;
        }
    }
    return strcmp(link, "/dev/iommu") == 0 || strcmp(link, "/dev/vhost-scsi") == 0;
}
