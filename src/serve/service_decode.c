/*
 * Serving answers: one host drives its model's engine, a step at a time; between steps requests join, leave and are
 * looked at.
 *
 * The choices of one prompt: the first computes it, the others join when it has its first token and then find the
 * prompt's pages in the store.
 */
#include <math.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"
#include "serve/service_impl.h"

#define READ_AT_ONCE_BYTES (8 << 10) /* longer prompts are read on a thread of their own: no step waits for them */
#define READING_MAX 2                /* such prompts taken from the queue at a time */
#define SUSPECT_MAX 2                /* answers that were no numbers, without a good one between: the model is broken */
#define TOOL_HEAD 24
#define WAIT_NS UINT64_C(10000000)

struct answer { /* a choice on its way: a sequence of the engine */
    struct decoding_host *host;
    struct cabe_service_ticket *ticket; /* NULL: not in use */
    int32_t choice, slot;
    struct cabe_decoder decoder;
    struct cabe_stop *stop;
    char *decoded, *shown;
    char head[TOOL_HEAD]; /* of its text */
    size_t n_head;
    int ended; /* by an end token */
    int fresh; /* no token yet */
    int64_t n_read; /* of its prompt */
    int prompted; /* the beginning of its prompt was told */
    uint64_t last_ns; /* its last token came */
    enum cabe_status status;
};

struct decoding_host {
    struct cabe_service_entry *entry;
    struct cabe_loaded *loaded;
    struct cabe_pool_use *use;
    struct cabe_engine *engine;
    const struct cabe_tokenizer *tokenizer;
    struct cabe_service_ticket *first; /* taken, by class */
    struct answer *answers;
    int32_t n_answers;
    int yields, suspects;
    uint64_t new_tokens, prompt_tokens; /* of the step */
    uint64_t n_parked;

    /* The reader of one long prompt at a time. */
    pthread_t reader;
    struct cabe_service_ticket *reading;
    int read_done; /* under the lock */
    struct cabe_reading work; /* of short ones */
    struct cabe_error err; /* of what broke the model */
};

/* ---- reading prompts ---- */

/* What a token of this model takes in bytes, for estimates. Under the lock. */
static void calibrate(struct cabe_service_entry *e, const struct cabe_service_ticket *t)
{
    double ratio;

    if (t->read_status != CABE_OK || t->ask.n_ids || t->bytes < 64 || t->n_prompt == 0)
        return;
    ratio = (double)t->bytes / (double)t->n_prompt;
    e->bytes_per_token += 0.1 * ((ratio < 0.5 ? 0.5 : ratio > 16 ? 16 : ratio) - e->bytes_per_token);
}

static void *reader_main(void *self)
{
    struct decoding_host *h = self;
    struct cabe_service *service = h->entry->service;

    cabe_ticket_read_long(h->reading, h->loaded);
    pthread_mutex_lock(&service->lock);
    h->read_done = 1;
    pthread_cond_signal(&h->entry->wake);
    pthread_mutex_unlock(&service->lock);
    return NULL;
}

static void finish_reading(struct decoding_host *h)
{
    struct cabe_service *service = h->entry->service;
    int done;

    if (!h->reading)
        return;
    pthread_mutex_lock(&service->lock);
    done = h->read_done;
    if (done)
        calibrate(h->entry, h->reading);
    pthread_mutex_unlock(&service->lock);
    if (!done)
        return;
    pthread_join(h->reader, NULL);
    h->reading->phase = CABE_TICKET_READY;
    h->reading->ready_ns = cabe_clock_ns();
    h->reading = NULL;
}

static void read_here(struct decoding_host *h, struct cabe_service_ticket *t)
{
    cabe_ticket_read(t, h->loaded, &h->work);
    if (t->read_status == CABE_ERR_LIMIT && t->renders_much)
        return; /* still to be read, not here */
    t->phase = CABE_TICKET_READY;
    t->ready_ns = cabe_clock_ns();
    pthread_mutex_lock(&h->entry->service->lock);
    calibrate(h->entry, t);
    pthread_mutex_unlock(&h->entry->service->lock);
}

static void begin_reading(struct decoding_host *h, struct cabe_service_ticket *t)
{
    pthread_attr_t attributes;
    int failed;

    if (t->ask.n_ids || (t->bytes <= READ_AT_ONCE_BYTES && !t->renders_much)) {
        read_here(h, t);
        if (t->phase == CABE_TICKET_READY)
            return;
    }
    if (h->reading)
        return;
    h->reading = t;
    h->read_done = 0;
    t->phase = CABE_TICKET_READING;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, CABE_HOST_STACK_BYTES);
    failed = pthread_create(&h->reader, &attributes, reader_main, h);
    pthread_attr_destroy(&attributes);
    if (failed) {
        h->reading = NULL;
        t->phase = CABE_TICKET_READY;
        t->read_status = cabe_fail_errno(&t->err, failed, "a thread for the prompt");
    }
}

static void read_prompts(struct decoding_host *h)
{
    finish_reading(h);
    for (struct cabe_service_ticket *t = h->first; t; t = t->next)
        if (t->phase == CABE_TICKET_TAKEN)
            begin_reading(h, t);
}

/* ---- texts ---- */

/* Hands `n` decoded bytes on, as far as no stop string may begin in them. */
static void show(struct answer *a, size_t n, const struct cabe_sampled *sampled, int last)
{
    struct cabe_service_ticket *t = a->ticket;
    size_t ready = cabe_stop_push(a->stop, a->decoded, n, a->shown), kept;

    if (last && cabe_stop_which(a->stop) < 0)
        ready += cabe_stop_flush(a->stop, a->shown + ready);
    if (ready > 0 && t->text_ns == 0)
        t->text_ns = cabe_clock_ns();
    kept = ready < TOOL_HEAD - a->n_head ? ready : TOOL_HEAD - a->n_head;
    memcpy(a->head + a->n_head, a->shown, kept);
    a->n_head += kept;
    if ((ready > 0 || sampled) && t->ask.text)
        t->ask.text(t->ask.self, a->choice, a->shown, ready, sampled, a->host->tokenizer);
}

static void tell_started(struct cabe_service_ticket *t)
{
    struct cabe_service_counts counts;

    if (t->told)
        return;
    t->told = 1;
    cabe_ticket_counts(t, &counts);
    if (t->ask.started)
        t->ask.started(t->ask.self, &counts);
}

static void first_token(struct answer *a)
{
    struct cabe_service_ticket *t = a->ticket;
    struct cabe_engine_view view;

    a->fresh = 0;
    cabe_engine_view(a->host->engine, a->slot, &view);
    t->n_cached += view.n_cached;
    if (t->first_ns)
        return;
    t->first_ns = t->last_ns = cabe_clock_ns();
    tell_started(t);
}

/* No text leaves before the copy is known to be whole. */
static int is_whole(struct answer *a)
{
    a->status = cabe_generator_check(a->host->loaded->generator, &a->host->err);
    return a->status == CABE_OK;
}

/* Nothing stands before a prompt's first token that it could be likely behind. */
static void tell_first_prompted(struct answer *a)
{
    struct cabe_service_ticket *t = a->ticket;
    struct cabe_sampled first = {.token = t->prompt[0], .n_kept = 1, .logprob = NAN};

    if (!t->ask.prompted || a->prompted)
        return;
    a->prompted = 1;
    tell_started(t);
    t->ask.prompted(t->ask.self, a->choice, &first, a->host->tokenizer);
}

static int on_scored(void *self, const struct cabe_sampled *scored)
{
    struct answer *a = self;
    struct cabe_service_ticket *t = a->ticket;

    if (!a->prompted && !is_whole(a))
        return 1;
    t->last_ns = a->last_ns = cabe_clock_ns();
    if (!t->first_ns)
        t->first_ns = t->last_ns;
    tell_first_prompted(a);
    t->ask.prompted(t->ask.self, a->choice, scored, a->host->tokenizer);
    return cabe_cancelled(&t->cancel);
}

static int on_token(void *self, const struct cabe_sampled *sampled)
{
    struct answer *a = self;
    struct cabe_service_ticket *t = a->ticket;
    struct cabe_service *service = t->service;
    const struct cabe_tokenizer *tokenizer = a->host->tokenizer;

    if (!a->fresh && service->seen)
        service->seen(service->seen_self, t->entry->view.name, CABE_SERVICE_BETWEEN_TOKENS,
                      cabe_seconds(a->last_ns, cabe_clock_ns()));
    if (a->fresh) {
        if (!is_whole(a))
            return 1;
        first_token(a);
        tell_first_prompted(a);
    }
    t->n_new++;
    a->host->new_tokens++;
    t->last_ns = a->last_ns = cabe_clock_ns();
    if (!t->ask.ignore_end && cabe_tokenizer_is_end(tokenizer, sampled->token)) {
        a->ended = 1;
        return 1;
    }
    show(a, cabe_decoder_put(&a->decoder, tokenizer, sampled->token, a->decoded), sampled, 0);
    return cabe_stop_which(a->stop) >= 0 || cabe_cancelled(&t->cancel);
}

/* ---- sequences ---- */

static void salt_of(const char *salt, uint8_t out[16])
{
    memset(out, 0, 16);
    if (salt && salt[0])
        cabe_kv_salt(salt, strlen(salt), out);
}

static enum cabe_status open_stop(struct answer *a, struct cabe_error *err)
{
    const struct cabe_service_ask *ask = &a->ticket->ask;
    const char *strings[CABE_STOP_MAX], *of_chat = NULL;
    size_t bytes[CABE_STOP_MAX], n = ask->n_stop;

    if (ask->messages && !ask->n_ids)
        of_chat = cabe_chat_stop(cabe_chat_of(a->host->loaded->chat));
    if (n + (of_chat != NULL) > CABE_STOP_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%zu stop strings, at most %d", n, CABE_STOP_MAX - (of_chat != NULL));
    for (size_t i = 0; i < n; i++)
        strings[i] = ask->stop[i];
    if (of_chat)
        strings[n++] = of_chat;
    for (size_t i = 0; i < n; i++)
        bytes[i] = strlen(strings[i]);
    return cabe_stop_open(&a->stop, strings, bytes, n, err);
}

static void clear_answer(struct answer *a)
{
    cabe_stop_close(a->stop);
    a->stop = NULL;
    a->ticket = NULL;
}

/* The next choice of the ticket into the engine. CABE_ERR_BUSY: no place for it now. */
static enum cabe_status begin_choice(struct decoding_host *h, struct cabe_service_ticket *t, struct cabe_error *err)
{
    const struct cabe_service_ask *ask = &t->ask;
    struct cabe_request request = {.prompt = t->prompt,
                                   .n_prompt = (int64_t)t->n_prompt,
                                   .sampling = ask->sampling,
                                   .max_new = ask->max_new,
                                   .sequence = (uint64_t)t->n_begun,
                                   .shift_keep = ask->shift_keep,
                                   .class_ = t->class_,
                                   .token = on_token,
                                   .scored = ask->prompted ? on_scored : NULL};
    struct answer *a = NULL;
    enum cabe_status status;

    for (int32_t i = 0; i < h->n_answers && !a; i++)
        if (!h->answers[i].ticket)
            a = &h->answers[i];
    if (!a || !cabe_engine_has_room(h->engine, t->class_))
        return CABE_ERR_BUSY;
    a->ticket = t;
    a->choice = t->n_begun;
    a->decoder = (struct cabe_decoder){.special = (unsigned char)(ask->special != 0)};
    a->n_head = 0;
    a->ended = 0;
    a->fresh = 1;
    a->n_read = 0;
    a->prompted = 0;
    a->status = CABE_OK;
    request.self = a;
    salt_of(ask->salt, request.salt);
    status = open_stop(a, err);
    if (status == CABE_OK)
        status = cabe_sampling_check(&request.sampling,
                                     (int32_t)cabe_model_config(cabe_generator_model(h->loaded->generator))->n_vocab, err);
    if (status == CABE_OK)
        status = cabe_engine_add(h->engine, &request, &a->slot, err);
    if (status == CABE_OK)
        t->n_begun++;
    else
        clear_answer(a);
    return status == CABE_ERR_LIMIT ? CABE_ERR_BUSY : status; /* the prompt's length was looked at before */
}

static int is_tool_call(const struct answer *a)
{
    static const char *const heads[] = {"<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<function", "{\"name\"",
                                        "{\"type\": \"function\"", "{\"function\""};
    size_t at = 0;

    if (json_array_size(a->ticket->ask.tools) == 0)
        return 0;
    while (at < a->n_head && (a->head[at] == ' ' || a->head[at] == '\n'))
        at++;
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        size_t n = strlen(heads[i]);

        if (n <= a->n_head - at && memcmp(a->head + at, heads[i], n) == 0)
            return 1;
    }
    return 0;
}

static enum cabe_service_finish finish_of(const struct answer *a, enum cabe_finish finish)
{
    if (is_tool_call(a))
        return CABE_SERVICE_TOOLS;
    return finish == CABE_FINISH_STOP ? CABE_SERVICE_STOP : CABE_SERVICE_LENGTH;
}

static void end_choice(struct answer *a, enum cabe_service_finish finish)
{
    struct cabe_service_ticket *t = a->ticket;

    if (a->fresh && t->ask.max_new < 0 && finish == CABE_SERVICE_LENGTH) { /* no token was asked for */
        first_token(a);
        tell_first_prompted(a);
    }
    if (cabe_stop_which(a->stop) < 0)
        show(a, cabe_decoder_end(&a->decoder, a->decoded), NULL, 1);
    t->finish = finish;
    t->n_ended++;
    if (t->ask.finished)
        t->ask.finished(t->ask.self, a->choice, finish);
    cabe_engine_remove(a->host->engine, a->slot);
    clear_answer(a);
}

/* ---- tickets ---- */

/* Takes it out of the host's list and ends it; its sequences are gone before anybody hears of it. */
static void end_ticket(struct decoding_host *h, struct cabe_service_ticket *t, enum cabe_status status,
                       const struct cabe_error *err)
{
    struct cabe_service_ticket **at = &h->first;

    for (int32_t i = 0; i < h->n_answers; i++) {
        if (h->answers[i].ticket != t)
            continue;
        cabe_engine_remove(h->engine, h->answers[i].slot);
        clear_answer(&h->answers[i]);
    }
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    cabe_ticket_end(t, status, err);
}

/* Its time is over: the text so far counts, where there is some; a prompt that is scored in part does not. */
static void end_late(struct decoding_host *h, struct cabe_service_ticket *t, const struct cabe_error *err)
{
    if (!t->first_ns || (t->ask.prompted && t->n_new == 0)) {
        end_ticket(h, t, CABE_ERR_LIMIT, err);
        return;
    }
    for (int32_t i = 0; i < h->n_answers; i++)
        if (h->answers[i].ticket == t)
            end_choice(&h->answers[i], CABE_SERVICE_TIMEOUT);
    for (int32_t choice = t->n_begun; choice < t->ask.n_choices && t->ask.finished; choice++)
        t->ask.finished(t->ask.self, choice, CABE_SERVICE_TIMEOUT);
    t->finish = CABE_SERVICE_TIMEOUT;
    end_ticket(h, t, CABE_OK, NULL);
}

/* Cancelled, late, or a prompt that could not be read. */
static void look_at(struct decoding_host *h, struct cabe_service_ticket *t)
{
    struct cabe_service *service = h->entry->service;
    struct cabe_error err;
    enum cabe_status status;

    if (t->phase == CABE_TICKET_READING)
        return; /* its reader is at it, and bounded */
    pthread_mutex_lock(&service->lock);
    status = service->closing ? cabe_fail(&err, CABE_ERR_CANCELLED, "the service ends")
                              : cabe_ticket_overdue(t, cabe_clock_ns(), &err);
    pthread_mutex_unlock(&service->lock);
    if (status == CABE_ERR_LIMIT)
        end_late(h, t, &err);
    else if (status != CABE_OK)
        end_ticket(h, t, status, &err);
    else if (t->phase == CABE_TICKET_READY && t->read_status != CABE_OK)
        end_ticket(h, t, t->read_status, &t->err);
}

static void look_at_all(struct decoding_host *h)
{
    struct cabe_service_ticket *next;

    for (struct cabe_service_ticket *t = h->first; t; t = next) {
        next = t->next;
        look_at(h, t);
    }
}

/* Choices that have no sequence yet and could have one. */
static void begin_choices(struct decoding_host *h)
{
    struct cabe_service_ticket *next;
    struct cabe_error err;

    for (struct cabe_service_ticket *t = h->first; t; t = next) {
        next = t->next;
        while ((t->phase == CABE_TICKET_READY || t->phase == CABE_TICKET_RUNS) && t->n_begun < t->ask.n_choices &&
               (t->n_begun == 0 || t->first_ns)) {
            enum cabe_status status = begin_choice(h, t, &err);

            if (status == CABE_ERR_BUSY)
                break;
            if (status != CABE_OK) {
                end_ticket(h, t, status, &err);
                break;
            }
            t->phase = CABE_TICKET_RUNS;
        }
    }
}

/* ---- the queue ---- */

/*
 * Whether one of this class, taken now, could begin: places in the engine that nobody before it waits for; 2: by parking
 * another. That is for who comes now and then: where a class waits for its turn all the time it would only be work done
 * twice. Under the lock.
 */
static int wants_more(const struct decoding_host *h, enum cabe_class class_)
{
    int64_t n_seqs = h->loaded->knobs.value[CABE_KNOB_SEQUENCES];
    int room;
    int32_t waiting = 0, reading = 0, used = 0;

    for (const struct cabe_service_ticket *t = h->first; t && t->class_ <= class_; t = t->next) {
        reading += t->phase == CABE_TICKET_READING || t->phase == CABE_TICKET_TAKEN;
        waiting += t->phase == CABE_TICKET_READY || (t->phase == CABE_TICKET_RUNS && t->n_begun < t->ask.n_choices);
    }
    for (int32_t i = 0; i < h->n_answers; i++)
        used += h->answers[i].ticket != NULL;
    if (waiting > 0 || reading >= READING_MAX || used >= h->n_answers)
        return 0;
    room = cabe_engine_has_room(h->engine, class_);
    return room == 2 && class_ != CABE_CLASS_CRITICAL && h->entry->queue.by_class[class_].n > n_seqs ? 0 : room;
}

/*
 * The queue's next one; where there is no place for it, the oldest of a higher class that one of a lower class is parked
 * for. A free place is that of what is parked. Under the lock.
 */
static struct cabe_queue_item *choose(struct decoding_host *h, uint64_t now_ns)
{
    struct cabe_service_entry *e = h->entry;
    uint64_t next_ns;
    struct cabe_queue_item *item = cabe_host_next(e, now_ns, &next_ns), *higher;

    if (!item || wants_more(h, item->class_))
        return item;
    for (int class_ = 0; class_ < (int)item->class_; class_++) {
        higher = cabe_queue_oldest(&e->queue, (enum cabe_class)class_);
        if (higher && wants_more(h, higher->class_) >= (class_ == CABE_CLASS_CRITICAL ? 1 : 2))
            return higher;
    }
    return NULL;
}

static struct cabe_service_ticket *take_one(struct decoding_host *h)
{
    struct cabe_service_entry *e = h->entry;
    struct cabe_service *service = e->service;
    struct cabe_service_ticket *t = NULL, **at = &h->first;
    struct cabe_queue_item *item;
    uint64_t now_ns = cabe_clock_ns();

    pthread_mutex_lock(&service->lock);
    item = cabe_context_grows(e, now_ns) ? NULL : choose(h, now_ns);
    if (item)
        t = cabe_host_take_item(e, item, now_ns);
    pthread_mutex_unlock(&service->lock);
    if (!t)
        return NULL;
    while (*at && (*at)->class_ <= t->class_)
        at = &(*at)->next;
    t->next = *at;
    *at = t;
    return t;
}

/* Requests from the queue, as many as can begin. */
static void take(struct decoding_host *h)
{
    struct cabe_service_ticket *t;
    struct cabe_error err;

    h->yields = cabe_pool_should_yield(h->entry->service->pool, h->use);
    while (!h->yields && (t = take_one(h))) {
        if (t->embeds) {
            cabe_fail(&err, CABE_ERR_UNSUPPORTED, "%s: a model that writes text; wanted one that embeds it",
                      h->entry->view.name);
            end_ticket(h, t, CABE_ERR_UNSUPPORTED, &err);
            continue;
        }
        read_prompts(h);
        look_at_all(h);
        begin_choices(h);
    }
}

/* ---- steps ---- */

/* When one of each class could begin, if nothing waited; and whose prompt got on. Under the lock. */
static void publish_places(struct decoding_host *h, const struct cabe_engine_stats *stats, uint64_t now_ns)
{
    struct cabe_service_entry *e = h->entry;
    struct cabe_engine_view view;
    double least = -1;
    int n = 0;

    for (int32_t i = 0; i < h->n_answers; i++) {
        struct cabe_service_ticket *t = h->answers[i].ticket;
        double left;

        if (!t)
            continue;
        cabe_engine_view(h->engine, h->answers[i].slot, &view);
        if (view.n_done > h->answers[i].n_read) {
            h->answers[i].n_read = view.n_done;
            t->read_ns = now_ns;
        }
        left = cabe_wait_left(e, view.n_new, t->ask.max_new, t->ask.ignore_end);
        least = least < 0 || left < least ? left : least;
        n += !view.parked;
    }
    for (int c = 0; c < CABE_N_CLASSES; c++)
        e->place_s[c] = least > 0 && e->mean_new > 0 && !wants_more(h, (enum cabe_class)c) ? least * stats->answer_s * n : 0;
}

/* What others see of the engine; and that it is alive. */
static void publish(struct decoding_host *h)
{
    struct cabe_service_entry *e = h->entry;
    struct cabe_service *service = e->service;
    struct cabe_engine_stats stats;
    struct cabe_kv_stats kv;
    uint64_t now_ns = cabe_clock_ns(), n_parked;

    cabe_engine_stats(h->engine, &stats);
    cabe_kv_stats(cabe_generator_kv(h->loaded->generator), &kv);
    pthread_mutex_lock(&service->lock);
    service->stats.new_tokens += h->new_tokens;
    service->stats.prompt_tokens += stats.prompt_tokens - h->prompt_tokens;
    service->stats.prefix_queried_tokens += kv.queried_tokens - e->view.prefix_queried_tokens;
    service->stats.prefix_hit_tokens += kv.hit_tokens - e->view.prefix_hit_tokens;
    n_parked = stats.n_parked - h->n_parked;
    service->stats.n_preempted += n_parked;
    cabe_meter_add(&e->meter, now_ns, (int64_t)h->new_tokens);
    e->view.engine = stats;
    e->view.kv_pages = kv.n_pages;
    e->view.kv_pages_used = kv.n_referenced;
    e->view.prefix_queried_tokens = kv.queried_tokens;
    e->view.prefix_hit_tokens = kv.hit_tokens;
    e->step_ns = now_ns;
    publish_places(h, &stats, now_ns);
    pthread_mutex_unlock(&service->lock);
    h->new_tokens = 0;
    h->prompt_tokens = stats.prompt_tokens;
    h->n_parked = stats.n_parked;
    while (n_parked-- > 0)
        cabe_service_tell(service, CABE_SERVICE_EVENT_PREEMPTED, e->view.name, 0);
}

/* Whether the error of a step is that of a sequence, which has then ended. */
static int is_of_one(const struct decoding_host *h)
{
    struct cabe_engine_view view;

    for (int32_t i = 0; i < h->n_answers; i++) {
        if (!h->answers[i].ticket)
            continue;
        cabe_engine_view(h->engine, h->answers[i].slot, &view);
        if (view.finish == CABE_FINISH_ERROR)
            return 1;
    }
    return 0;
}

/* Ends the choices that have finished, and tickets of which that was the last. */
static void settle(struct decoding_host *h, enum cabe_status status, const struct cabe_error *err)
{
    for (int32_t i = 0; i < h->n_answers; i++) {
        struct answer *a = &h->answers[i];
        struct cabe_service_ticket *t = a->ticket;
        struct cabe_engine_view view;

        if (!t)
            continue;
        cabe_engine_view(h->engine, a->slot, &view);
        if (view.finish == CABE_FINISH_NOT)
            continue;
        if (a->status != CABE_OK) {
            end_ticket(h, t, a->status, &h->err);
            h->suspects = SUSPECT_MAX;
        } else if (view.finish == CABE_FINISH_ERROR) {
            h->suspects += status == CABE_ERR_INTERNAL; /* otherwise its own bias leaves nothing to draw */
            end_ticket(h, t, status, err);
        } else if (cabe_cancelled(&t->cancel)) {
            continue; /* look_at() ends it */
        } else {
            h->suspects = 0;
            end_choice(a, finish_of(a, view.finish));
            if (t->n_ended == t->ask.n_choices)
                end_ticket(h, t, CABE_OK, NULL);
        }
    }
}

static enum cabe_class highest_class(const struct decoding_host *h)
{
    enum cabe_class class_ = CABE_CLASS_LOW;

    for (int32_t i = 0; i < h->n_answers; i++)
        if (h->answers[i].ticket && h->answers[i].ticket->class_ < class_)
            class_ = h->answers[i].ticket->class_;
    return class_;
}

/* Nothing runs: waits for the reader. Who comes meanwhile may be short, and is looked at soon. */
static void wait_for_reader(struct decoding_host *h)
{
    struct cabe_service_entry *e = h->entry;
    uint64_t until_ns = cabe_clock_ns() + WAIT_NS;
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};

    pthread_mutex_lock(&e->service->lock);
    e->step_ns = cabe_clock_ns();
    if (!h->read_done)
        (void)pthread_cond_timedwait(&e->wake, &e->service->lock, &until);
    pthread_mutex_unlock(&e->service->lock);
}

static enum cabe_status step(struct decoding_host *h)
{
    struct cabe_service_entry *e = h->entry;
    struct cabe_error err = {0};
    enum cabe_status status;

    cabe_thread_class(highest_class(h));
    status = cabe_engine_step(h->engine, &e->step_cancel, &err);
    publish(h);
    if (status == CABE_ERR_CANCELLED) { /* it lasted too long; who is late is ended, the others go on */
        atomic_store_explicit(&e->step_cancel.wanted, 0, memory_order_relaxed);
        return CABE_OK;
    }
    if (status != CABE_OK && !is_of_one(h)) {
        h->err = err;
        return status;
    }
    settle(h, status, &err);
    return CABE_OK;
}

static int n_used(const struct decoding_host *h)
{
    int n = 0;

    for (int32_t i = 0; i < h->n_answers; i++)
        n += h->answers[i].ticket != NULL;
    return n;
}

static enum cabe_status serve(struct decoding_host *h)
{
    enum cabe_status status = CABE_OK;

    publish(h);
    while (status == CABE_OK && h->suspects < SUSPECT_MAX) {
        take(h);
        read_prompts(h);
        look_at_all(h);
        begin_choices(h);
        if (n_used(h) > 0)
            status = step(h);
        else if (h->reading)
            wait_for_reader(h);
        else if (!h->first)
            break; /* nothing waits, or others want the room */
    }
    publish(h);
    if (status == CABE_OK && h->suspects < SUSPECT_MAX)
        return CABE_OK;
    return status == CABE_OK ? cabe_fail(&h->err, CABE_ERR_INTERNAL, "its answers are not numbers") : status;
}

/* ---- the host ---- */

static enum cabe_status open_answers(struct decoding_host *h, struct cabe_error *err)
{
    size_t room = cabe_decoder_room(h->tokenizer) + 8;

    h->n_answers = CABE_ENGINE_SLOTS((int32_t)h->loaded->knobs.value[CABE_KNOB_SEQUENCES]);
    h->answers = cabe_calloc((size_t)h->n_answers, sizeof *h->answers);
    if (!h->answers)
        return cabe_fail(err, CABE_ERR_OOM, "%d answers", h->n_answers);
    for (int32_t i = 0; i < h->n_answers; i++) {
        struct answer *a = &h->answers[i];

        a->host = h;
        a->decoded = cabe_malloc(room);
        a->shown = cabe_malloc(room + 2 * CABE_STOP_BYTES_MAX);
        if (!a->decoded || !a->shown)
            return cabe_fail(err, CABE_ERR_OOM, "an answer's text");
    }
    return CABE_OK;
}

static void close_answers(struct decoding_host *h)
{
    for (int32_t i = 0; h->answers && i < h->n_answers; i++) {
        cabe_free(h->answers[i].decoded);
        cabe_free(h->answers[i].shown);
    }
    cabe_free(h->answers);
    cabe_reading_clear(&h->work);
}

/* What is left when the model is broken, or could not be served at all. */
static void end_all(struct decoding_host *h, enum cabe_status status)
{
    if (h->reading) {
        pthread_join(h->reader, NULL);
        h->reading = NULL;
    }
    while (h->first)
        end_ticket(h, h->first, status, &h->err);
}

enum cabe_status cabe_host_decode(struct cabe_service_entry *e, struct cabe_loaded *loaded, struct cabe_pool_use *use,
                                  struct cabe_error *err)
{
    struct decoding_host h = {.entry = e,
                              .loaded = loaded,
                              .use = use,
                              .engine = cabe_generator_engine(loaded->generator),
                              .tokenizer = cabe_generator_tokenizer(loaded->generator)};
    struct cabe_engine_stats stats;
    enum cabe_status status;

    cabe_engine_stats(h.engine, &stats);
    h.prompt_tokens = stats.prompt_tokens;
    h.n_parked = stats.n_parked;
    status = open_answers(&h, &h.err);
    if (status == CABE_OK)
        status = serve(&h);
    if (status != CABE_OK)
        end_all(&h, status);
    close_answers(&h);
    if (err)
        *err = h.err;
    return status;
}
