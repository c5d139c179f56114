/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing and opening the provider; declared in channels/rma/rma.h. */
#include "channels/rma/internal.h"

#include <errno.h>
#include <netdb.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define API_VERSION FI_VERSION(1, 17)

int haul_rma_errno(ssize_t code)
{
    return code < 0 && code > -256 ? (int)-code : EIO;
}

int haul_rma_fail(struct haul_error *error, const struct haul_rma *rma, ssize_t code, const char *step)
{
    return haul_error_set(error, haul_rma_errno(code), "%s: provider %s: %s", step,
                          rma->info ? rma->info->fabric_attr->prov_name : "?",
                          rma->library.strerror((int)-code));
}

void haul_rma_plain_address(struct sockaddr_storage *address)
{
    struct sockaddr_in6 v6;
    memcpy(&v6, address, sizeof v6);
    if (address->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
        return;
    }
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = v6.sin6_port};
    memcpy(&v4.sin_addr, &v6.sin6_addr.s6_addr[12], sizeof v4.sin_addr);
    memset(address, 0, sizeof *address);
    memcpy(address, &v4, sizeof v4);
}

/* The numeric host, without port, at which `fd` is connected on this side. */
static int local_host(int fd, char *host, size_t size, int *family, struct haul_error *error)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0) {
        return haul_error_set(error, errno, "rdma: asking for the address of the control connection: %s",
                              strerror(errno));
    }
    haul_rma_plain_address(&address);
    length = address.ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    if ((address.ss_family != AF_INET && address.ss_family != AF_INET6) ||
        getnameinfo((struct sockaddr *)&address, length, host, (socklen_t)size, NULL, 0, NI_NUMERICHOST) !=
            0) {
        return haul_error_set(error, ENODEV, "rdma: the control connection has no IP address");
    }
    *family = address.ss_family;
    return 0;
}

static struct fi_info *make_hints(const struct haul_rma *rma, int family, const char *provider)
{
    struct fi_info *hints = rma->library.dupinfo(NULL);
    if (!hints) {
        return NULL;
    }
    hints->caps = FI_RMA | (rma->target ? FI_REMOTE_WRITE | FI_REMOTE_READ : FI_WRITE | FI_READ);
    hints->mode = FI_CONTEXT | FI_CONTEXT2; /* every operation has a struct fi_context2 */
    hints->addr_format = family == AF_INET    ? FI_SOCKADDR_IN
                         : family == AF_INET6 ? FI_SOCKADDR_IN6
                                              : FI_FORMAT_UNSPEC;
    hints->ep_attr->type = FI_EP_RDM;
    /* Everything but keys of more than 64 bits and regions that belong to one endpoint. */
    hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
    hints->domain_attr->threading = FI_THREAD_SAFE; /* several channels share the domain */
    hints->tx_attr->op_flags = FI_DELIVERY_COMPLETE;
    if (provider && *provider) {
        hints->fabric_attr->prov_name = strdup(provider); /* freed by fi_freeinfo */
        if (!hints->fabric_attr->prov_name) {
            rma->library.freeinfo(hints);
            return NULL;
        }
    }
    return hints;
}

/* Fills `text` with the names of the providers for addresses of IP: "tcp;ofi_rxm, sockets". */
static void list_providers(const struct haul_rma *rma, char *text, size_t size)
{
    struct fi_info *found = NULL;
    struct fi_info *hints = make_hints(rma, AF_INET, NULL);
    size_t used = 0;
    if (hints && rma->library.getinfo(API_VERSION, NULL, NULL, 0, hints, &found) < 0) {
        found = NULL;
    }
    for (const struct fi_info *info = found, *before = NULL; info && used < size;
         before = info, info = info->next) {
        const char *name = info->fabric_attr->prov_name; /* a provider's entries follow each other */
        if (!before || strcmp(before->fabric_attr->prov_name, name) != 0) {
            used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", name);
        }
    }
    if (used == 0) {
        snprintf(text, size, "none");
    }
    rma->library.freeinfo(found);
    rma->library.freeinfo(hints);
}

int haul_rma_load(const char *provider, bool target, struct haul_error *error)
{
    struct haul_rma asking = {.target = target};
    struct fi_info *found = NULL;
    int rc = haul_rma_library_load(&asking.library, error);
    if (rc < 0) {
        return rc;
    }
    struct fi_info *hints = make_hints(&asking, AF_UNSPEC, provider);
    if (!hints) {
        rc = haul_error_set(error, ENOMEM, "rdma: no memory to look for a provider");
        goto unload;
    }
    rc = asking.library.getinfo(API_VERSION, NULL, NULL, 0, hints, &found);
    asking.library.freeinfo(hints);
    if (rc == 0) {
        asking.library.freeinfo(found);
    } else if (provider && *provider) {
        char names[256];
        list_providers(&asking, names, sizeof names);
        rc = haul_error_set(
            error, ENODEV,
            "rdma: libfabric has no provider \"%s\" here that can write remote memory, but: %s", provider,
            names);
    } else {
        rc = 0; /* choosing one, at an address, has more to say */
    }
unload:
    haul_rma_library_unload(&asking.library);
    return rc;
}

static int choose_provider(struct haul_rma *rma, const char *provider, struct haul_error *error)
{
    char host[NI_MAXHOST];
    int family = AF_UNSPEC;
    int rc = local_host(rma->options.fd, host, sizeof host, &family, error);
    if (rc < 0) {
        return rc;
    }
    struct fi_info *hints = make_hints(rma, family, provider);
    if (!hints) {
        return haul_error_set(error, ENOMEM, "rdma: no memory to look for a provider");
    }
    rc = rma->library.getinfo(API_VERSION, host, NULL, FI_SOURCE, hints, &rma->info);
    rma->library.freeinfo(hints);
    if (rc == -FI_ENODATA || (rc == 0 && !rma->info)) {
        if (provider && *provider) {
            return haul_error_set(error, ENODEV,
                                  "rdma: libfabric's provider \"%s\" cannot write remote memory at %s; "
                                  "`fi_info -t FI_EP_RDM -c FI_RMA` lists those that can",
                                  provider, host);
        }
        return haul_error_set(error, ENODEV,
                              "rdma: no provider of libfabric can write remote memory at %s; use an address "
                              "that `fi_info -t FI_EP_RDM -c FI_RMA` shows, or tcp: instead of rdma:",
                              host);
    }
    if (rc < 0) {
        return haul_rma_fail(error, rma, rc, "rdma: looking for a provider");
    }
    return 0;
}

static int open_domain(struct haul_rma *rma, struct haul_error *error)
{
    int rc = rma->library.fabric(rma->info->fabric_attr, &rma->fabric, NULL);
    if (rc == 0) {
        rc = fi_domain(rma->fabric, rma->info, &rma->domain, NULL);
    }
    return rc < 0 ? haul_rma_fail(error, rma, rc, "rdma: opening the network") : 0;
}

static int new_rma(const struct haul_rma_options *options, bool target, struct haul_rma **rma,
                   struct haul_error *error)
{
    struct haul_rma *made = calloc(1, sizeof *made);
    if (!made) {
        return haul_error_set(error, ENOMEM, "rdma: out of memory");
    }
    int rc = haul_rma_library_load(&made->library, error);
    if (rc < 0) {
        free(made);
        return rc;
    }
    made->options = *options;
    made->options.provider = NULL;
    made->target = target;
    *rma = made;
    return 0;
}

int haul_rma_target(const struct haul_rma_options *options, struct haul_rma **rma, struct haul_error *error)
{
    struct haul_rma *made = NULL;
    int rc = new_rma(options, true, &made, error);
    if (rc < 0) {
        return rc;
    }
    rc = choose_provider(made, options->provider, error);
    if (rc == 0 && strlen(made->info->fabric_attr->prov_name) > HAUL_RMA_PROVIDER_MAX) {
        rc = haul_error_set(error, ENAMETOOLONG, "rdma: the name of provider %s is too long for the wire",
                            made->info->fabric_attr->prov_name);
    }
    if (rc == 0) {
        rc = open_domain(made, error);
    }
    if (rc == 0) {
        rc = haul_rma_lay_out(made, error);
    }
    if (rc == 0) {
        rc = haul_rma_register(made, error);
    }
    if (rc < 0) {
        haul_rma_close(made);
        return rc;
    }
    *rma = made;
    return 0;
}

/* Whether a user who asked for `wanted` gets it with `offered`: "tcp" is enough for "tcp;ofi_rxm". */
static bool same_provider(const char *wanted, const char *offered)
{
    size_t length = strlen(wanted);
    return strncmp(wanted, offered, length) == 0 && (offered[length] == 0 || offered[length] == ';');
}

int haul_rma_initiator(const struct haul_rma_options *options, const void *offer, size_t length,
                       struct haul_rma **rma, struct haul_error *error)
{
    char offered[HAUL_RMA_PROVIDER_MAX + 1];
    int rc = haul_rma_offer_provider(offer, length, offered, error);
    if (rc < 0) {
        return rc;
    }
    if (options->provider && *options->provider && !same_provider(options->provider, offered)) {
        return haul_error_set(error, EINVAL,
                              "rdma: the destination uses provider %s and not %s; ask for the same on both "
                              "sides",
                              offered, options->provider);
    }
    struct haul_rma *made = NULL;
    rc = new_rma(options, false, &made, error);
    if (rc < 0) {
        return rc;
    }
    rc = choose_provider(made, offered, error);
    if (rc == 0 && strcmp(made->info->fabric_attr->prov_name, offered) != 0) {
        rc = haul_error_set(error, ENODEV, "rdma: the destination uses provider %s, here there is only %s",
                            offered, made->info->fabric_attr->prov_name);
    }
    if (rc == 0) {
        rc = open_domain(made, error);
    }
    if (rc == 0) {
        rc = haul_rma_take_offer(made, offer, length, error);
    }
    if (rc == 0) {
        rc = haul_rma_register(made, error);
    }
    if (rc < 0) {
        haul_rma_close(made);
        return rc;
    }
    *rma = made;
    return 0;
}

const char *haul_rma_provider(const struct haul_rma *rma)
{
    return rma->info->fabric_attr->prov_name;
}

uint64_t haul_rma_registered(const struct haul_rma *rma, uint32_t *regions)
{
    *regions = rma->registered_regions;
    return rma->registered_bytes;
}

void haul_rma_close(struct haul_rma *rma)
{
    if (!rma) {
        return;
    }
    haul_rma_deregister(rma);
    if (rma->domain) {
        fi_close(&rma->domain->fid);
    }
    if (rma->fabric) {
        fi_close(&rma->fabric->fid);
    }
    if (rma->info) {
        rma->library.freeinfo(rma->info);
    }
    free(rma->regions);
    free(rma->first);
    haul_rma_library_unload(&rma->library);
    free(rma);
}
