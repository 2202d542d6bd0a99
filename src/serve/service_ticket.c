/* Requests: their copies, times and ends. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/service_impl.h"

#define PLACE "requests"
#define MESSAGES_DEPTH 64
#define KEY_BYTES 2048
#define TICKET_HEAP_BYTES 1024 /* callbacks' own state is not ours; handles and small blocks */

double cabe_seconds(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

/* ---- size ---- */

static int64_t text_bytes(const json_t *json, int depth)
{
    const char *key;
    json_t *value;
    size_t index;
    int64_t n = 0;

    if (json_is_string(json))
        return (int64_t)json_string_length(json);
    if (depth == 0)
        return 0;
    json_array_foreach(json, index, value)
        n += text_bytes(value, depth - 1);
    json_object_foreach((json_t *)(uintptr_t)json, key, value)
        n += text_bytes(value, depth - 1);
    return n;
}

int64_t cabe_ticket_prompt_bytes(const struct cabe_service_ask *ask)
{
    if (ask->n_ids)
        return (int64_t)(ask->n_ids * sizeof *ask->ids);
    if (ask->messages)
        return text_bytes(ask->messages, MESSAGES_DEPTH) + text_bytes(ask->tools, MESSAGES_DEPTH) +
               16 * (int64_t)json_array_size(ask->messages);
    return (int64_t)ask->prompt_bytes;
}

/* ---- keys ---- */

/* Of a long text its ends: to tell requests apart, not for safety. */
static uint64_t add_bytes(uint64_t key, const void *data, size_t n)
{
    const unsigned char *bytes = data;

    key = (key ^ n) * UINT64_C(0x100000001b3);
    for (size_t i = 0; i < n; i++) {
        if (i == KEY_BYTES && n > 2 * KEY_BYTES)
            i = n - KEY_BYTES;
        key = (key ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return key;
}

static uint64_t add_json(uint64_t key, const json_t *json, int depth)
{
    const char *name;
    json_t *value;
    size_t index;

    if (json_is_string(json))
        return add_bytes(key, json_string_value(json), json_string_length(json));
    if (depth == 0)
        return key;
    json_array_foreach(json, index, value)
        key = add_json(key, value, depth - 1);
    json_object_foreach((json_t *)(uintptr_t)json, name, value)
        key = add_json(key, value, depth - 1);
    return key;
}

uint64_t cabe_ticket_key_ask(const struct cabe_service_ask *ask)
{
    uint64_t key = UINT64_C(0xcbf29ce484222325);

    key = add_bytes(key, &ask->class_, sizeof ask->class_);
    key = add_bytes(key, ask->salt, ask->salt ? strlen(ask->salt) : 0);
    key = add_bytes(key, ask->prompt, ask->prompt ? ask->prompt_bytes : 0);
    key = add_bytes(key, ask->ids, ask->n_ids * sizeof *ask->ids);
    return add_json(key, ask->messages, MESSAGES_DEPTH);
}

uint64_t cabe_ticket_key_embed(const struct cabe_service_embed *embed)
{
    uint64_t key = add_bytes(UINT64_C(0xcbf29ce484222325), &embed->class_, sizeof embed->class_);

    for (size_t i = 0; i < embed->n_texts; i++)
        key = add_bytes(key, embed->texts[i].bytes, embed->texts[i].n_bytes);
    return key;
}

/* ---- copies ---- */

struct layout { /* measures with NULL, then places */
    char *base;
    size_t used;
};

static void *take(struct layout *l, const void *data, size_t bytes)
{
    char *to = l->base ? l->base + l->used : NULL;

    if (to && bytes)
        memcpy(to, data, bytes);
    l->used += (bytes + 15) / 16 * 16;
    return to;
}

static char *take_text(struct layout *l, const char *text)
{
    return text ? take(l, text, strlen(text) + 1) : NULL;
}

static void place_ask(struct layout *l, const struct cabe_service_ask *from, struct cabe_service_ask *to)
{
    const char **stop;

    to->prompt = from->prompt ? take(l, from->prompt, from->prompt_bytes) : NULL;
    to->ids = from->n_ids ? take(l, from->ids, from->n_ids * sizeof *from->ids) : NULL;
    to->salt = take_text(l, from->salt);
    to->sampling.bias =
        from->sampling.n_bias ? take(l, from->sampling.bias, from->sampling.n_bias * sizeof *from->sampling.bias) : NULL;
    stop = take(l, from->stop, from->n_stop * sizeof *from->stop);
    for (size_t i = 0; i < from->n_stop; i++) {
        char *copy = take_text(l, from->stop[i]);

        if (stop)
            stop[i] = copy;
    }
    to->stop = stop;
}

static void place_embed(struct layout *l, const struct cabe_service_embed *from, struct cabe_service_embed *to)
{
    struct cabe_text *texts;

    if (from->rows)
        return; /* who brings the rows keeps the texts too */
    texts = take(l, from->texts, from->n_texts * sizeof *from->texts);

    for (size_t i = 0; i < from->n_texts; i++) {
        const char *copy = take(l, from->texts[i].bytes, from->texts[i].n_bytes);

        if (texts)
            texts[i].bytes = copy;
    }
    to->texts = texts;
}

static enum cabe_status charge(struct cabe_service_ticket *t, uint64_t bytes, struct cabe_error *err)
{
    enum cabe_status status = cabe_ledger_reserve(t->service->config.session->ledger, CABE_HOST, CABE_PURPOSE_NETWORK,
                                                  bytes, PLACE, err);

    if (status == CABE_OK)
        t->charged_bytes += bytes;
    return status;
}

static enum cabe_status new_ticket(struct cabe_service_ticket **out, struct cabe_service_entry *entry,
                                   enum cabe_class class_, size_t block_bytes, uint64_t more, struct cabe_error *err)
{
    struct cabe_service_ticket *t = cabe_calloc(1, sizeof *t);
    enum cabe_status status;

    *out = NULL;
    if (!t)
        return cabe_fail(err, CABE_ERR_OOM, "a request");
    t->service = entry->service;
    t->entry = entry;
    t->class_ = (unsigned)class_ < CABE_N_CLASSES ? class_ : CABE_CLASS_NORMAL;
    status = charge(t, sizeof *t + TICKET_HEAP_BYTES + block_bytes + more, err);
    if (status == CABE_OK && block_bytes > 0 && !(t->block = cabe_malloc(block_bytes)))
        status = cabe_fail(err, CABE_ERR_OOM, "a request of %zu bytes", block_bytes);
    if (status != CABE_OK) {
        cabe_ticket_free(t);
        return status;
    }
    *out = t;
    return CABE_OK;
}

enum cabe_status cabe_ticket_ask(struct cabe_service_ticket **out, struct cabe_service_entry *entry,
                                 const struct cabe_service_ask *ask, struct cabe_error *err)
{
    struct cabe_service_ask copy = *ask;
    struct layout layout = {0};
    int64_t bytes = cabe_ticket_prompt_bytes(ask);
    struct cabe_service_ticket *t;
    enum cabe_status status;

    place_ask(&layout, ask, &copy);
    /* And the tokens that the text becomes, at most one a byte. */
    status = new_ticket(&t, entry, ask->class_, layout.used, ask->n_ids ? 0 : sizeof(int32_t) * (uint64_t)bytes, err);
    if (status != CABE_OK)
        return status;
    layout = (struct layout){.base = t->block};
    place_ask(&layout, ask, &copy);
    t->ask = copy;
    t->ask.model = entry->view.name;
    t->ask.n_choices = ask->n_choices > 0 ? ask->n_choices : 1;
    json_incref((json_t *)(uintptr_t)ask->messages);
    json_incref((json_t *)(uintptr_t)ask->tools);
    json_incref((json_t *)(uintptr_t)ask->template_extra);
    t->bytes = bytes;
    *out = t;
    return CABE_OK;
}

enum cabe_status cabe_ticket_embed(struct cabe_service_ticket **out, struct cabe_service_entry *entry,
                                   const struct cabe_service_embed *embed, struct cabe_error *err)
{
    struct cabe_service_embed copy = *embed;
    struct layout layout = {0};
    struct cabe_service_ticket *t;
    enum cabe_status status;

    place_embed(&layout, embed, &copy);
    status = new_ticket(&t, entry, embed->class_, layout.used, 0, err);
    if (status != CABE_OK)
        return status;
    layout = (struct layout){.base = t->block};
    place_embed(&layout, embed, &copy);
    t->embed = copy;
    t->embed.model = entry->view.name;
    t->embeds = 1;
    t->rows = embed->rows;
    t->rows_lent = embed->rows != NULL;
    for (size_t i = 0; i < embed->n_texts; i++)
        t->bytes += (int64_t)embed->texts[i].n_bytes;
    *out = t;
    return CABE_OK;
}

static void drop_json(struct cabe_service_ticket *t)
{
    json_decref((json_t *)(uintptr_t)t->ask.messages);
    json_decref((json_t *)(uintptr_t)t->ask.tools);
    json_decref((json_t *)(uintptr_t)t->ask.template_extra);
    t->ask.messages = t->ask.tools = t->ask.template_extra = NULL;
}

void cabe_ticket_free(struct cabe_service_ticket *t)
{
    struct cabe_ledger *ledger = t->service->config.session->ledger;

    drop_json(t);
    cabe_free(t->own_ids);
    if (!t->rows_lent)
        cabe_free(t->rows);
    cabe_free(t->block);
    if (t->charged_bytes)
        cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_NETWORK, t->charged_bytes, PLACE);
    cabe_free(t);
}

/* ---- times ---- */

void cabe_ticket_counts(const struct cabe_service_ticket *t, struct cabe_service_counts *counts)
{
    uint64_t now_ns = cabe_clock_ns(), taken_ns = t->taken_ns ? t->taken_ns : now_ns;
    double waited_s = cabe_seconds(t->admitted_ns, taken_ns), load_s = (double)t->load_ns / 1e9;

    *counts = (struct cabe_service_counts){.n_prompt = (int64_t)t->n_prompt,
                                           .n_cached = t->n_cached,
                                           .n_new = t->n_new,
                                           .load_s = load_s,
                                           .queue_s = waited_s > load_s ? waited_s - load_s : 0};
    if (t->first_ns) {
        counts->prompt_s = cabe_seconds(taken_ns, t->first_ns);
        counts->answer_s = cabe_seconds(t->first_ns, t->last_ns);
    }
    if (t->text_ns)
        counts->first_s = cabe_seconds(t->admitted_ns, t->text_ns);
}

static uint64_t after(uint64_t ns, double seconds)
{
    return seconds > 1e9 ? UINT64_MAX : ns + (uint64_t)(seconds * 1e9);
}

/*
 * Until the first token: what the person allows, from when the model is there or the prompt got on last, and twice what
 * the prompt itself takes at the speed that was measured: a long prompt is work, not a stall.
 */
static uint64_t first_deadline(const struct cabe_service_ticket *t)
{
    const struct cabe_service_entry *e = t->entry;
    uint64_t from = e->loaded_ns > t->admitted_ns ? e->loaded_ns : t->admitted_ns;
    double prompt_s = 0;
    const struct cabe_engine_stats *stats = &e->view.engine;

    from = t->read_ns > from ? t->read_ns : from;
    if (stats->prompt_tokens > 0)
        prompt_s = 2.0 * (double)t->estimated_tokens * ((double)stats->run_ns / 1e9) / (double)stats->prompt_tokens;
    return after(from, t->service->config.first_token_s + prompt_s);
}

uint64_t cabe_ticket_deadline(const struct cabe_service_ticket *t)
{
    uint64_t total = after(t->admitted_ns, t->service->config.total_s[t->class_]), first = first_deadline(t);

    return t->first_ns || first > total || t->entry->is_acquiring ? total : first;
}

enum cabe_status cabe_ticket_overdue(const struct cabe_service_ticket *t, uint64_t now_ns, struct cabe_error *err)
{
    const struct cabe_service_config *config = &t->service->config;

    if (cabe_cancelled(&t->cancel))
        return cabe_fail(err, CABE_ERR_CANCELLED, "the request was cancelled");
    if (now_ns >= after(t->admitted_ns, config->total_s[t->class_]))
        return cabe_fail(err, CABE_ERR_LIMIT, "over the %g s that a request of class %s may take",
                         config->total_s[t->class_], cabe_class_name(t->class_));
    if (t->embeds)
        return CABE_OK;
    if (!t->first_ns && !t->entry->is_acquiring && now_ns >= first_deadline(t))
        return cabe_fail(err, CABE_ERR_LIMIT, "no token within %g s", config->first_token_s);
    if (t->first_ns && now_ns >= after(t->last_ns, config->stall_s))
        return cabe_fail(err, CABE_ERR_LIMIT, "no further token within %g s", config->stall_s);
    return CABE_OK;
}

/* ---- ends ---- */

/* As one that comes now would be counted: what a token takes is known better than when it came. Under the lock. */
static double work_done(const struct cabe_service_ticket *t)
{
    if (t->embeds)
        return cabe_wait_work(t->entry, t->estimated_tokens, 0, 0, 0);
    return cabe_wait_work_ask(t->entry, t->estimated_tokens, &t->ask);
}

static void count_end(struct cabe_service_ticket *t, enum cabe_status status)
{
    struct cabe_service *service = t->service;
    struct cabe_service_entry *entry = t->entry;
    int timed_out = !t->embeds && ((status == CABE_OK && t->finish == CABE_SERVICE_TIMEOUT) || status == CABE_ERR_LIMIT);

    service->stats.n_cancelled += status == CABE_ERR_CANCELLED;
    service->stats.n_timed_out += (uint64_t)timed_out;
    if (status == CABE_OK && t->embeds) {
        service->stats.embedded_texts += t->embed.n_texts;
        service->stats.embedded_tokens += t->n_tokens;
    }
    if (t->started) {
        entry->view.n_running--;
        cabe_forecast_served(&entry->forecast, work_done(t), entry->queue.n, cabe_clock_ns());
    }
    if (status == CABE_OK && !t->embeds && t->n_ended > 0 && t->n_new > 0)
        cabe_wait_learn(entry, t->n_new / t->n_ended);
    entry->idle_since_ns = cabe_clock_ns();
}

void cabe_ticket_end(struct cabe_service_ticket *t, enum cabe_status status, const struct cabe_error *err)
{
    struct cabe_service *service = t->service;
    struct cabe_service_entry *entry = t->entry;
    struct cabe_service_counts counts;
    struct cabe_error shown;
    int timed_out;

    if (err) {
        shown = *err;
        cabe_model_hide_path(entry, &shown);
        err = &shown;
    }
    cabe_ticket_counts(t, &counts);
    pthread_mutex_lock(&service->lock);
    count_end(t, status);
    pthread_mutex_unlock(&service->lock);
    timed_out = !t->embeds && (status == CABE_ERR_LIMIT || (status == CABE_OK && t->finish == CABE_SERVICE_TIMEOUT));
    if (timed_out)
        cabe_service_tell(service, CABE_SERVICE_EVENT_TIMED_OUT, entry->view.name, cabe_seconds(t->admitted_ns, cabe_clock_ns()));
    drop_json(t); /* who asked may do with it what it likes from here on */
    if (t->embeds)
        t->embed.ended(t->embed.self, status, err, status == CABE_OK ? t->rows : NULL, t->width, t->n_tokens);
    else
        t->ask.ended(t->ask.self, status, err, &counts);
    if (service->answer && !t->embeds)
        service->answer(service->answer_self, entry->view.name, t->class_, status, t->finish, &counts);
    cabe_ticket_free(t);
    pthread_mutex_lock(&service->lock);
    service->n_tickets--;
    pthread_cond_broadcast(&service->changed);
    pthread_mutex_unlock(&service->lock);
}
