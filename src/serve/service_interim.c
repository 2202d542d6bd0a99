/* The simplest form of what runtime/ will have; weak, so that it gives way. */
#include "runtime/pool.h"

#define WEAK __attribute__((weak))

WEAK void cabe_pool_configure(struct cabe_pool *pool, const struct cabe_pool_config *config)
{
    (void)pool, (void)config;
}

WEAK int cabe_pool_should_yield(struct cabe_pool *pool, const struct cabe_pool_use *use)
{
    (void)pool, (void)use;
    return 0;
}

WEAK enum cabe_status cabe_pool_pin(struct cabe_pool *pool, const char *key, int pinned, struct cabe_error *err)
{
    (void)pool, (void)key, (void)pinned, (void)err;
    return CABE_OK;
}

WEAK enum cabe_status cabe_pool_keep_alive(struct cabe_pool *pool, const char *key, uint64_t keep_alive_ns,
                                           struct cabe_error *err)
{
    (void)err;
    if (keep_alive_ns == 0)
        (void)!cabe_pool_unload(pool, key, NULL);
    return CABE_OK;
}

WEAK int cabe_pool_tick(struct cabe_pool *pool)
{
    (void)pool;
    return 0;
}
