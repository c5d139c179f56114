/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/rdma.h"

#include "channels/rma/rma.h"
#include "engine/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(HAUL_RMA_OFFER_MAX <= HAUL_FRAME_MAX, "an offer fits a frame");

bool haul_rdma_wanted(const struct haul_migration *migration)
{
    return strncmp(migration->uri, "rdma:", 5) == 0;
}

int haul_rdma_prepare(struct haul_migration *migration, struct haul_error *error)
{
    if (!haul_rdma_wanted(migration)) {
        return 0;
    }
    return haul_rma_load(migration->options.rdma_provider, !migration->source, error);
}

int haul_rdma_check_hello(const struct haul_migration *migration, const struct haul_hello *hello,
                          struct haul_error *error)
{
    bool offered = hello->capabilities & HAUL_CAPABILITY_RDMA;
    if (offered && !haul_rdma_wanted(migration)) {
        return haul_error_set(
            error, EINVAL,
            "the source sends to rdma:, this destination waits at %s; start it with rdma:", migration->uri);
    }
    if (!offered && haul_rdma_wanted(migration)) {
        return haul_error_set(error, EINVAL, "this destination waits at rdma:; send to rdma: too");
    }
    return 0;
}

static struct haul_rma_options options_of(const struct haul_migration *migration,
                                          const struct haul_block_view *views)
{
    return (struct haul_rma_options){
        .fd = haul_control_fd(migration->control),
        .provider = migration->options.rdma_provider,
        .blocks = views,
        .block_count = migration->block_count,
        .silence_timeout_ms = migration->limits.silence_timeout_ms,
    };
}

/* Counts and reports what was registered, which took since `begun_ns`. */
static void report(struct haul_migration *migration, uint64_t begun_ns)
{
    uint32_t regions;
    uint64_t bytes = haul_rma_registered(migration->rma, &regions);
    const char *provider = haul_rma_provider(migration->rma);
    pthread_mutex_lock(&migration->lock);
    strncpy(migration->stats.rdma_provider, provider, sizeof migration->stats.rdma_provider - 1);
    migration->stats.rdma_registered_bytes = bytes;
    migration->stats.rdma_regions = regions;
    pthread_mutex_unlock(&migration->lock);
    if (regions > 0) {
        haul_migration_say(migration, "rdma: provider %s, %llu MiB registered in %u region%s, in %llu ms",
                           provider, (unsigned long long)(bytes >> 20), regions, regions == 1 ? "" : "s",
                           (unsigned long long)((haul_now_ns() - begun_ns) / 1000000));
    } else {
        haul_migration_say(migration, "rdma: provider %s, which needs no memory registered here", provider);
    }
}

int haul_rdma_register(struct haul_migration *migration, const struct haul_block_view *views,
                       struct haul_error *error)
{
    uint64_t begun_ns = haul_now_ns();
    struct haul_rma_options options = options_of(migration, views);
    int rc = haul_rma_target(&options, &migration->rma, error);
    if (rc == 0) {
        report(migration, begun_ns);
    }
    return rc;
}

int haul_rdma_offer(struct haul_migration *migration, struct haul_error *error)
{
    unsigned char *payload = malloc(HAUL_RMA_OFFER_MAX);
    if (!payload) {
        return haul_error_set(error, ENOMEM, "no memory for the offer of rdma");
    }
    size_t length = haul_rma_offer(migration->rma, payload, HAUL_RMA_OFFER_MAX);
    int rc = haul_control_send(migration->control, HAUL_FRAME_RDMA_OFFER, payload, length, error);
    free(payload);
    return rc;
}

int haul_rdma_take_offer(struct haul_migration *migration, struct haul_error *error)
{
    struct haul_frame *frame = NULL;
    int rc = haul_control_expect(migration->control, HAUL_FRAME_RDMA_OFFER, -1, &frame, error);
    if (rc < 0) {
        return rc;
    }
    uint64_t begun_ns = haul_now_ns();
    struct haul_rma_options options = options_of(migration, migration->views);
    rc = haul_rma_initiator(&options, frame->payload, frame->length, &migration->rma, error);
    free(frame);
    if (rc == 0) {
        report(migration, begun_ns);
    }
    return rc;
}

void haul_rdma_end(struct haul_migration *migration)
{
    haul_rma_close(migration->rma);
    migration->rma = NULL;
}
