/* The public face of the encoder: session, plan and encoder in one handle. */
#include "cabe/embed.h"

#include "base/memory.h"
#include "format/store.h"
#include "task/embed.h"

struct cabe_embedder {
    struct cabe_session *session;
    struct cabe_encoder *encoder;
    struct cabe_plan plan;
};

static enum cabe_status load(struct cabe_embedder *e, const struct cabe_embedder_config *config,
                             struct cabe_error *err)
{
    struct cabe_session_config session = {.memory_bytes = config->memory_bytes, .n_threads = config->n_threads};
    struct cabe_encoder_wishes wishes = {-1, config->high_precision ? CABE_PRECISION_HIGH : -1, 0};
    struct cabe_embed_job job = {0};
    struct cabe_fit_task task;
    char path[CABE_STORE_PATH_MAX];
    enum cabe_status status;

    if (config->dtype) {
        wishes.dtype = (int)cabe_dtype_find(config->dtype);
        if (wishes.dtype > CABE_Q4_0) /* those that from_f32 makes stand first */
            return cabe_fail(err, CABE_ERR_ARGUMENT, "dtype '%.32s'; wanted f32, f16, bf16, int8, q8_0 or q4_0",
                             config->dtype);
    }
    status = cabe_store_resolve(config->model, path, err);
    if (status == CABE_OK)
        status = cabe_session_open(&e->session, &session, 0, err);
    if (status == CABE_OK)
        status = cabe_encoder_find(&e->encoder, e->session, path, &wishes, err);
    if (status == CABE_OK)
        status = cabe_session_settle(e->session, err);
    if (status != CABE_OK)
        return status;
    job.session = e->session;
    job.encoder = e->encoder;
    cabe_embed_task(&job, &task);
    status = cabe_session_plan(e->session, &e->plan, &task, err);
    if (status == CABE_OK)
        status = cabe_plan_refuse(&e->plan, err);
    return status == CABE_OK ? cabe_encoder_load(e->encoder, &e->plan.knobs, err) : status;
}

enum cabe_status cabe_embedder_open(struct cabe_embedder **out, const struct cabe_embedder_config *config,
                                    struct cabe_error *err)
{
    struct cabe_embedder *e;
    enum cabe_status status;

    *out = NULL;
    if (!config->model)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "no model was named");
    if (!(e = cabe_calloc(1, sizeof *e)))
        return cabe_fail(err, CABE_ERR_OOM, "embedder");
    status = load(e, config, err);
    if (status != CABE_OK) {
        cabe_embedder_close(e);
        return status;
    }
    *out = e;
    return CABE_OK;
}

void cabe_embedder_close(struct cabe_embedder *e)
{
    if (!e)
        return;
    cabe_encoder_close(e->encoder);
    cabe_session_close(e->session);
    cabe_free(e);
}

size_t cabe_embedder_width(const struct cabe_embedder *e)
{
    return (size_t)cabe_encoder_config(e->encoder)->width;
}

uint64_t cabe_embedder_planned_bytes(const struct cabe_embedder *e)
{
    return e->plan.peak_bytes[CABE_HOST];
}

enum cabe_status cabe_embedder_encode(struct cabe_embedder *e, const struct cabe_text *texts, size_t n,
                                      enum cabe_prefix prefix, float *out, struct cabe_error *err)
{
    return cabe_encoder_encode(e->encoder, texts, n, prefix, out, NULL, err);
}
