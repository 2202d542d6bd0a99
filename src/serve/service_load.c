/* Models into memory: found, planned, and loaded as objects of the pool. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/service_impl.h"

#define N_SEQS 4
#define CONTEXT_ENOUGH 2048 /* rather fewer sequences than less context than that */

/* ---- finding and planning ---- */

/*
 * The whole budget, less what does not go away to make room: models that are pinned, and what is no model's (documents,
 * analyses, connections); with `beside_busy` also models in use. A model that is being loaded counts with its peak, so
 * the rest is rather too small than too large: then the load waits, or is refused by the ledger. A model's bytes are on
 * the ledger only while its state is not ABSENT; both are read under the lock, or they would be taken for nobody's.
 */
static void set_budget(struct cabe_loaded *l, int beside_busy)
{
    struct cabe_service *service = l->service;
    uint64_t budget = service->config.session->budget_bytes[CABE_HOST], models = 0, stay = 0;
    struct cabe_ledger_view view;

    pthread_mutex_lock(&service->lock);
    for (struct cabe_service_entry *e = service->entries; e; e = e->next) {
        uint64_t bytes = e->view.state == CABE_SERVICE_READY ? e->view.bytes : e->view.peak_bytes;

        if (e == l->entry || e->view.state == CABE_SERVICE_ABSENT)
            continue;
        models += bytes;
        stay += e->view.pinned || (beside_busy && (e->is_serving || e->is_acquiring)) ? bytes : 0;
    }
    cabe_ledger_read(l->session.ledger, &view);
    pthread_mutex_unlock(&service->lock);
    models += l->session.process_bytes;
    if (view.device[CABE_HOST].used_bytes > models)
        stay += view.device[CABE_HOST].used_bytes - models;
    l->session.budget_bytes[CABE_HOST] = budget > stay ? budget - stay : 0;
    l->stay_bytes = stay;
}

static enum cabe_status find_encoder(struct cabe_loaded *l, struct cabe_error *err)
{
    struct cabe_encoder_wishes wishes = {.dtype = l->service->config.dtype, .precision = -1};

    cabe_encoder_close(l->encoder);
    l->encoder = NULL;
    return cabe_encoder_find(&l->encoder, &l->session, l->entry->path, &wishes, err);
}

static enum cabe_status find_generator(struct cabe_loaded *l, int32_t n_seqs, struct cabe_error *err)
{
    const struct cabe_service_config *config = &l->service->config;
    struct cabe_generator_wishes wishes = {.dtype = config->dtype,
                                           .precision = -1,
                                           .kv = config->kv,
                                           .context = config->context,
                                           .context_enough = l->context,
                                           .n_seqs = n_seqs};

    cabe_generator_close(l->generator);
    l->generator = NULL;
    return cabe_generator_find(&l->generator, &l->session, l->entry->path, &wishes, err);
}

static uint64_t rows_bytes(int64_t width)
{
    return cabe_pages_round(CABE_EMBED_ROWS * (uint64_t)width * sizeof(float));
}

static enum cabe_status measure_rows(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                     struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *err)
{
    struct cabe_loaded *l = self;

    (void)kept;
    working->bytes[CABE_HOST][CABE_PURPOSE_INDEX] += rows_bytes(cabe_encoder_config(l->encoder)->width);
    return cabe_encoder_work(l->encoder, knobs, (double)knobs->value[CABE_KNOB_BATCH],
                             (double)knobs->value[CABE_KNOB_BATCH] / 32, work, err);
}

static void make_task(struct cabe_loaded *l, struct cabe_fit_task *task)
{
    if (l->generator) {
        cabe_generator_task(l->generator, task);
    } else {
        cabe_session_task(&l->session, task, "embed");
        task->stage[task->n_stages++] = (struct cabe_fit_stage){
            "embed", UINT32_C(1) << cabe_encoder_plan(l->encoder, task), l, measure_rows};
    }
    task->always.bytes[CABE_HOST][CABE_PURPOSE_CACHES] += CABE_HOST_BYTES;
}

static enum cabe_status plan_once(struct cabe_loaded *l, struct cabe_plan *plan, struct cabe_error *err)
{
    struct cabe_fit_task *task = cabe_malloc(sizeof *task);
    enum cabe_status status;

    if (!task)
        return cabe_fail(err, CABE_ERR_OOM, "%s: its plan", l->entry->path);
    make_task(l, task);
    status = cabe_session_plan(&l->session, plan, task, err);
    cabe_free(task);
    return status;
}

/* Whether a plan with fewer sequences could be one with more context, or that need not stream. */
static int is_cramped(const struct cabe_loaded *l, const struct cabe_plan *plan)
{
    int64_t trained = cabe_model_config(cabe_generator_model(l->generator))->decoder.n_ctx;
    int64_t enough = l->context > CONTEXT_ENOUGH ? l->context : CONTEXT_ENOUGH;

    enough = trained < enough ? trained : enough;
    if (l->service->config.context > 0 && enough > l->service->config.context)
        enough = l->service->config.context;
    return !plan->fits || plan->knobs.value[CABE_KNOB_CONTEXT] < enough || plan->knobs.value[CABE_KNOB_STREAM] != 0;
}

static enum cabe_status plan_within(struct cabe_loaded *l, struct cabe_plan *plan, struct cabe_error *err)
{
    int32_t n_seqs = l->service->config.n_seqs > 0 ? l->service->config.n_seqs : N_SEQS;
    enum cabe_status status = CABE_ERR_UNSUPPORTED;

    if (l->kind != 0)
        status = find_generator(l, n_seqs, err);
    if (status == CABE_ERR_UNSUPPORTED && l->kind != 1)
        status = find_encoder(l, err);
    if (status == CABE_OK)
        status = plan_once(l, plan, err);
    while (status == CABE_OK && l->generator && n_seqs > 1 && is_cramped(l, plan)) {
        n_seqs /= 2;
        status = find_generator(l, n_seqs, err);
        if (status == CABE_OK)
            status = plan_once(l, plan, err);
    }
    return status == CABE_OK ? cabe_plan_refuse(plan, err) : status;
}

/* Whether `plan`, made beside models in use, is as good as one that waits for them. */
static int is_as_good(const struct cabe_loaded *l, const struct cabe_plan *plan, const struct cabe_plan *best)
{
    const int64_t *value = plan->knobs.value;

    return value[CABE_KNOB_DTYPE] == best->knobs.value[CABE_KNOB_DTYPE] &&
           value[CABE_KNOB_STREAM] == best->knobs.value[CABE_KNOB_STREAM] && (!l->generator || !is_cramped(l, plan));
}

/*
 * Rather a little smaller beside the models in use than as it would be alone and waiting for them; unless that costs
 * more than some context and speed of prompts. When it has waited in vain: as it can be.
 */
static enum cabe_status make_plan(struct cabe_loaded *l, struct cabe_plan *plan, struct cabe_error *err)
{
    struct cabe_plan *beside;
    enum cabe_status status;

    set_budget(l, l->beside_busy);
    status = plan_within(l, plan, err);
    if (status != CABE_OK || l->beside_busy)
        return status;
    set_budget(l, 1);
    if (plan->peak_bytes[CABE_HOST] <= l->session.budget_bytes[CABE_HOST])
        return CABE_OK;
    beside = cabe_malloc(sizeof *beside);
    if (beside && plan_within(l, beside, NULL) == CABE_OK && is_as_good(l, beside, plan)) {
        *plan = *beside;
        cabe_free(beside);
        return CABE_OK;
    }
    cabe_free(beside);
    set_budget(l, 0);
    return plan_within(l, plan, err); /* what was found is that of this plan again */
}

/* ---- what is then known of the model ---- */

static void learn(struct cabe_loaded *l, const struct cabe_plan *plan)
{
    struct cabe_service_entry *e = l->entry;
    const struct cabe_model *model =
        l->generator ? cabe_generator_model(l->generator) : cabe_encoder_model(l->encoder);
    const struct cabe_model_config *config = cabe_model_config(model);
    struct cabe_service_model *view = &e->view;
    int64_t modified_s;
    uint64_t file_bytes;

    pthread_mutex_lock(&l->service->lock);
    modified_s = view->modified_s;
    file_bytes = view->file_bytes;
    e->kind = l->generator != NULL;
    view->writes = e->kind;
    view->n_parameters = cabe_model_n_params(model);
    if (!view->family[0])
        snprintf(view->family, sizeof view->family, "%s", cabe_model_kind_name(config->kind));
    if (!view->quantisation[0])
        snprintf(view->quantisation, sizeof view->quantisation, "%s", cabe_dtype_name(cabe_model_main_dtype(model)));
    view->width = config->width;
    view->context = l->generator ? plan->knobs.value[CABE_KNOB_CONTEXT] : config->max_tokens;
    view->context_most = l->generator ? config->decoder.n_ctx : config->max_tokens;
    if (l->generator)
        cabe_context_planned(e, l->context);
    view->n_seqs = l->generator ? (int32_t)plan->knobs.value[CABE_KNOB_SEQUENCES] : 1;
    view->bytes = l->bytes.resident[CABE_HOST];
    view->peak_bytes = l->bytes.peak[CABE_HOST];
    view->knobs = plan->knobs;
    cabe_model_learn_file(view, e->path);
    if (view->modified_s != modified_s || view->file_bytes != file_bytes)
        e->is_seen = 0; /* the headers that were read are another file's */
    pthread_mutex_unlock(&l->service->lock);
}

static enum cabe_status measure(void *self, struct cabe_pool_bytes *bytes, struct cabe_error *err)
{
    struct cabe_loaded *l = self;
    struct cabe_plan *plan = cabe_malloc(sizeof *plan);
    const struct cabe_plan_phase *last;
    enum cabe_status status;

    if (!plan)
        return cabe_fail(err, CABE_ERR_OOM, "%s: its plan", l->entry->path);
    status = make_plan(l, plan, err);
    l->plan_refused = status == CABE_ERR_BUDGET;
    if (status == CABE_OK) {
        l->knobs = plan->knobs;
        last = cabe_plan_phase_find(plan, l->generator ? "answer" : "embed");
        for (int d = 0; d < plan->n_devices; d++) {
            uint64_t process = d == CABE_HOST ? l->session.process_bytes : 0;

            bytes->peak[d] = plan->peak_bytes[d] - process;
            bytes->resident[d] = last ? cabe_fit_total(&last->bytes, d) - process : bytes->peak[d];
        }
        l->bytes = *bytes;
        if (l->generator)
            cabe_generator_speed(plan, &l->prompt_speed, &l->answer_speed);
        learn(l, plan);
    }
    cabe_free(plan);
    return status;
}

/* ---- loading and unloading ---- */

static void release_host(struct cabe_loaded *l)
{
    if (l->host_bytes)
        cabe_ledger_release(l->session.ledger, CABE_HOST, CABE_PURPOSE_CACHES, l->host_bytes, l->entry->view.name);
    l->host_bytes = 0;
}

static void close_loaded(struct cabe_loaded *l)
{
    struct cabe_ledger *ledger = l->session.ledger;

    cabe_chat_tokens_close(l->chat);
    cabe_generator_close(l->generator);
    cabe_encoder_close(l->encoder);
    cabe_ledger_remove_pages(ledger, l->rows);
    cabe_pages_unmap(l->rows, l->rows_bytes);
    if (l->rows_bytes)
        cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_INDEX, l->rows_bytes, l->entry->view.name);
    release_host(l);
    cabe_free(l);
}

static enum cabe_status load_rows(struct cabe_loaded *l, struct cabe_error *err)
{
    uint64_t bytes = rows_bytes(cabe_encoder_config(l->encoder)->width);
    enum cabe_status status =
        cabe_ledger_reserve(l->session.ledger, CABE_HOST, CABE_PURPOSE_INDEX, bytes, l->entry->view.name, err);
    void *pages;

    if (status != CABE_OK)
        return status;
    l->rows_bytes = bytes;
    status = cabe_pages_map(&pages, bytes, 0, err);
    if (status != CABE_OK)
        return status;
    l->rows = pages;
    cabe_ledger_add_pages(l->session.ledger, CABE_HOST, CABE_PURPOSE_INDEX, pages, bytes);
    return CABE_OK;
}

static void on_page(void *self, enum cabe_kv_time what, double seconds)
{
    struct cabe_service_entry *e = self;

    if (e->service->seen)
        e->service->seen(e->service->seen_self, e->view.name,
                         (enum cabe_service_time)(CABE_SERVICE_KV_LIFETIME + (int)what), seconds);
}

static enum cabe_status load_parts(struct cabe_loaded *l, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    if (!l->host_bytes) {
        status = cabe_ledger_reserve(l->session.ledger, CABE_HOST, CABE_PURPOSE_CACHES, CABE_HOST_BYTES,
                                     l->entry->view.name, err);
        if (status == CABE_OK)
            l->host_bytes = CABE_HOST_BYTES;
    }
    if (status == CABE_OK)
        status = l->generator ? cabe_generator_load(l->generator, &l->knobs, err)
                              : cabe_encoder_load(l->encoder, &l->knobs, err);
    if (status == CABE_OK && l->generator)
        cabe_kv_watch(cabe_generator_kv(l->generator), &(const struct cabe_kv_watch){.seen = on_page, .self = l->entry});
    if (status == CABE_OK && l->generator && !l->chat)
        status = cabe_chat_tokens_open(&l->chat, cabe_generator_tokenizer(l->generator), err);
    if (status == CABE_OK && l->encoder && !l->rows_bytes)
        status = load_rows(l, err);
    return status;
}

/* After a failed try: it may be tried again when there is more room. */
static void unload_parts(struct cabe_loaded *l)
{
    cabe_chat_tokens_close(l->chat);
    l->chat = NULL;
    if (l->generator)
        cabe_generator_unload(l->generator);
    if (l->encoder)
        cabe_encoder_unload(l->encoder);
    release_host(l);
}

static void set_state(struct cabe_service_entry *e, enum cabe_service_state state)
{
    pthread_mutex_lock(&e->service->lock);
    e->view.state = state;
    if (state == CABE_SERVICE_ABSENT) {
        memset(&e->view.engine, 0, sizeof e->view.engine);
        e->view.kv_pages = e->view.kv_pages_used = 0;
        e->view.prefix_queried_tokens = e->view.prefix_hit_tokens = 0;
        e->context_vain = 0; /* others may have left meanwhile */
        pthread_cond_signal(&e->wake); /* its host has nothing to keep */
    }
    pthread_mutex_unlock(&e->service->lock);
}

static enum cabe_status load(void *self, const struct cabe_cancel *cancel, void **object, struct cabe_error *err)
{
    struct cabe_loaded *l = self;
    struct cabe_service_entry *e = l->entry;
    uint64_t begun_ns = cabe_clock_ns();
    enum cabe_status status;

    l->session.cancel = cancel;
    set_state(e, CABE_SERVICE_LOADING);
    cabe_service_tell(e->service, CABE_SERVICE_EVENT_LOADING, e->view.name, 0);
    status = load_parts(l, err);
    if (status != CABE_OK) {
        unload_parts(l);
        set_state(e, CABE_SERVICE_ABSENT);
        return status;
    }
    l->session.cancel = &e->step_cancel; /* of an encoder's runs */
    l->is_taken = 1;
    *object = l;
    pthread_mutex_lock(&e->service->lock);
    e->view.state = CABE_SERVICE_READY;
    e->view.failed[0] = '\0';
    e->view.n_loads++;
    e->view.load_s = cabe_seconds(begun_ns, cabe_clock_ns());
    pthread_mutex_unlock(&e->service->lock);
    cabe_service_tell(e->service, CABE_SERVICE_EVENT_LOADED, e->view.name, cabe_seconds(begun_ns, cabe_clock_ns()));
    return CABE_OK;
}

static void unload(void *object)
{
    struct cabe_loaded *l = object;
    struct cabe_service_entry *e = l->entry;
    uint64_t begun_ns = cabe_clock_ns();

    set_state(e, CABE_SERVICE_UNLOADING);
    close_loaded(l);
    set_state(e, CABE_SERVICE_ABSENT);
    cabe_service_tell(e->service, CABE_SERVICE_EVENT_UNLOADED, e->view.name, cabe_seconds(begun_ns, cabe_clock_ns()));
}

static struct cabe_loaded *new_loaded(struct cabe_service_entry *e, int beside_busy, const struct cabe_cancel *cancel,
                                      struct cabe_error *err)
{
    struct cabe_loaded *l = cabe_calloc(1, sizeof *l);

    if (!l) {
        cabe_fail(err, CABE_ERR_OOM, "%s: its handle", e->view.name);
        return NULL;
    }
    l->service = e->service;
    l->entry = e;
    l->beside_busy = beside_busy;
    pthread_mutex_lock(&e->service->lock);
    l->kind = e->kind;
    l->context = cabe_context_wanted(e);
    pthread_mutex_unlock(&e->service->lock);
    l->session = *e->service->config.session;
    l->session.cancel = cancel;
    l->session.progress = (struct cabe_progress){0};
    return l;
}

enum refused { BY_ROOM, BY_PLAN, BY_PLAN_FOR_NOW, BY_ANOTHERS_LOAD };

/* Of CABE_ERR_BUDGET: there is a plan, and others hold the room; there is none, ever, or while pins, documents and
 * requests hold their part; or it was the load of somebody else, which we only waited for. */
static enum refused who_refused(const struct cabe_loaded *l, const struct cabe_error *err)
{
    if (l->bytes.resident[CABE_HOST] > 0)
        return BY_ROOM;
    if (!l->plan_refused)
        return BY_ANOTHERS_LOAD;
    return err->missing_bytes <= l->stay_bytes ? BY_PLAN_FOR_NOW : BY_PLAN;
}

static enum cabe_status acquire(struct cabe_service_entry *e, int beside_busy, const struct cabe_cancel *cancel,
                                struct cabe_pool_use **use, enum refused *refused, struct cabe_error *err)
{
    struct cabe_loaded *l = new_loaded(e, beside_busy, cancel, err);
    struct cabe_pool_source source = {measure, load, unload, l};
    enum cabe_status status;

    *refused = BY_PLAN;
    if (!l)
        return CABE_ERR_OOM;
    status = cabe_pool_acquire(e->service->pool, e->view.name, &source, cancel, use, err);
    if (status == CABE_ERR_BUDGET)
        *refused = who_refused(l, err);
    if (!l->is_taken)
        close_loaded(l);
    return status;
}

enum cabe_status cabe_loaded_measure(struct cabe_service_entry *e, uint64_t *bytes, struct cabe_error *err)
{
    struct cabe_loaded *l = new_loaded(e, 0, NULL, err);
    struct cabe_pool_bytes planned = {0};
    enum cabe_status status;

    if (!l)
        return CABE_ERR_OOM;
    status = measure(l, &planned, err);
    *bytes = status == CABE_OK ? planned.peak[CABE_HOST] : 0;
    close_loaded(l);
    return status;
}

enum cabe_status cabe_loaded_acquire(struct cabe_service_entry *e, const struct cabe_cancel *cancel,
                                     struct cabe_pool_use **use, struct cabe_error *err)
{
    struct cabe_error own;
    enum refused refused;
    enum cabe_status status = acquire(e, 0, cancel, use, &refused, &own);

    if (status == CABE_ERR_BUDGET && refused == BY_ANOTHERS_LOAD)
        status = acquire(e, 0, cancel, use, &refused, &own);
    if (status == CABE_ERR_BUDGET && refused == BY_ROOM) /* it would fit, but others do not go away */
        status = acquire(e, 1, cancel, use, &refused, &own);
    if (status == CABE_ERR_BUDGET && refused != BY_PLAN)
        status = cabe_fail_in(&own, CABE_ERR_BUSY, "no room for it now");
    if (status == CABE_OK)
        return CABE_OK;
    cabe_model_hide_path(e, &own);
    if (status != CABE_ERR_CANCELLED) {
        pthread_mutex_lock(&e->service->lock);
        snprintf(e->view.failed, sizeof e->view.failed, "%s", own.text);
        pthread_mutex_unlock(&e->service->lock);
        cabe_service_tell(e->service, CABE_SERVICE_EVENT_LOAD_FAILED, e->view.name, 0);
    }
    if (err)
        *err = own;
    return status;
}
