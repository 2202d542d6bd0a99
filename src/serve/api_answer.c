#include "serve/api_impl.h"

#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"

struct api_answer *api_answer_open(struct api_request *request, const struct api_form *form,
                                   const struct api_sink *sink, const char *id_prefix)
{
    struct api_answer *answer = (struct api_answer *)cabe_calloc(1, sizeof *answer);
    pthread_mutexattr_t kind;

    if (!answer)
        return NULL;
    answer->n_parts = request->n_prompts > 0 ? request->n_prompts : 1;
    answer->n_choices = answer->n_parts * request->n;
    answer->choices = (struct api_choice *)cabe_calloc((size_t)answer->n_choices, sizeof *answer->choices);
    answer->model = cabe_strdup(request->model);
    if (!answer->choices || !answer->model) {
        cabe_free(answer->choices);
        cabe_free(answer->model);
        cabe_free(answer);
        return NULL;
    }
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&answer->lock, &kind);
    pthread_mutexattr_destroy(&kind);
    answer->n_refs = 1;
    answer->sink = *sink;
    answer->form = form;
    answer->request = *request;
    *request = (struct api_request){0};
    answer->created_s = (int64_t)time(NULL);
    answer->begun_ns = cabe_clock_ns();
    api_id(id_prefix, answer->id);
    for (int32_t i = 0; i < answer->n_choices; i++) {
        answer->choices[i].scan.on = answer->request.reads_tools;
        answer->choices[i].scan.tools = answer->request.tools;
    }
    for (int i = 0; i < answer->n_parts; i++)
        answer->part[i] = (struct api_part){.answer = answer, .index = i};
    return answer;
}

static void close_answer(struct api_answer *answer)
{
    for (int32_t i = 0; i < answer->n_choices; i++) {
        struct api_choice *choice = &answer->choices[i];

        api_text_clear(&choice->text);
        for (int k = 0; k < 4; k++)
            api_text_clear(&choice->logprob[k]);
        api_text_clear(&choice->echo);
        api_scan_clear(&choice->scan);
    }
    cabe_free(answer->choices);
    cabe_free(answer->model);
    cabe_free(answer->extra);
    api_request_clear(&answer->request);
    api_text_clear(&answer->out);
    api_text_clear(&answer->shown);
    pthread_mutex_destroy(&answer->lock);
    cabe_free(answer);
}

void api_answer_hold(struct api_answer *answer)
{
    pthread_mutex_lock(&answer->lock);
    answer->n_refs++;
    pthread_mutex_unlock(&answer->lock);
}

void api_answer_release(struct api_answer *answer)
{
    int left;

    pthread_mutex_lock(&answer->lock);
    left = --answer->n_refs;
    pthread_mutex_unlock(&answer->lock);
    if (left == 0)
        close_answer(answer);
}

/* Ends what the service still does for it. Under the lock, which keeps ended() away. */
static void cancel_parts(struct api_answer *answer)
{
    answer->cancelled = 1;
    for (int i = 0; i < answer->n_parts; i++)
        if (answer->part[i].asked && !answer->part[i].ended && answer->part[i].ticket)
            cabe_service_cancel(answer->service, answer->part[i].ticket);
}

static void fail(struct api_answer *answer, const struct api_fault *fault, const struct cabe_error *err,
                 const struct cabe_service_refusal *refusal)
{
    if (answer->failed)
        return;
    answer->failed = 1;
    answer->fault = *fault;
    if (err)
        answer->err = *err;
    if (refusal)
        answer->refusal = *refusal;
    cancel_parts(answer);
}

static void fail_memory(struct api_answer *answer)
{
    struct api_fault fault = {0};

    api_refuse_memory(&fault);
    fail(answer, &fault, NULL, NULL);
}

#define CHARGE_BYTES ((size_t)64 << 10)

static size_t choice_bytes(const struct api_choice *choice)
{
    size_t n = choice->text.capacity + choice->echo.capacity;

    for (int k = 0; k < 4; k++)
        n += choice->logprob[k].capacity;
    return n;
}

/* An answer grows with what is asked of it (log-probabilities of many choices): what it has beyond a little is on the ledger. */
static void charge(struct api_answer *answer, size_t bytes)
{
    size_t more;

    answer->bytes = bytes;
    if (!answer->sink.charge || bytes <= answer->charged + CHARGE_BYTES || answer->failed)
        return;
    more = (bytes - answer->charged + CHARGE_BYTES - 1) / CHARGE_BYTES * CHARGE_BYTES;
    if (answer->sink.charge(answer->sink.self, more))
        answer->charged += more;
    else
        fail_memory(answer);
}

/* Sends what the form has put out. A client that is gone, or reads too slowly, ends the answer. */
static void flush(struct api_answer *answer)
{
    if (answer->out.failed)
        fail_memory(answer);
    else if (answer->out.n > 0 && !answer->gone &&
             answer->sink.send(answer->sink.self, answer->out.bytes, answer->out.n) != CABE_OK) {
        answer->gone = 1;
        cancel_parts(answer);
    }
    answer->out.n = 0;
}

static void begin(struct api_answer *answer)
{
    if (answer->begun || answer->gone || !answer->request.stream)
        return;
    answer->begun = 1;
    answer->sink.begin(answer->sink.self, answer->form->stream_type);
    if (answer->form->begin)
        answer->form->begin(answer);
    flush(answer);
}

static size_t n_characters(const char *bytes, size_t n)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    return count;
}

/* Text that may be shown, and calls that are complete, to the client or to the whole. */
static void show(struct api_answer *answer, int32_t index)
{
    struct api_choice *choice = &answer->choices[index];

    api_put(&choice->text, answer->shown.bytes, answer->shown.n);
    choice->offset += n_characters(answer->shown.bytes, answer->shown.n);
    if (choice->text.failed || answer->shown.failed || choice->scan.held.failed) {
        fail_memory(answer);
        return;
    }
    if (!answer->request.stream)
        return;
    if (answer->shown.n > 0 || choice->logprob[0].n > 0)
        answer->form->piece(answer, index, answer->shown.bytes, answer->shown.n);
    while (choice->n_told < choice->scan.n_calls) {
        if (answer->form->call)
            answer->form->call(answer, index, &choice->scan.calls[choice->n_told], choice->n_told);
        choice->n_told++;
    }
}

/* ---- callbacks of the service ---- */

static void on_started(void *self, const struct cabe_service_counts *counts)
{
    struct api_part *part = (struct api_part *)self;
    struct api_answer *answer = part->answer;

    api_answer_hold(answer);
    pthread_mutex_lock(&answer->lock);
    part->counts = *counts;
    if (!answer->failed)
        begin(answer);
    pthread_mutex_unlock(&answer->lock);
    api_answer_release(answer);
}

/* The text of a token of the prompt; of the last one, what is held back too. */
static void put_echo(struct api_choice *choice, const struct cabe_tokenizer *tokenizer, int32_t token, int is_last)
{
    size_t room = cabe_decoder_room(tokenizer), n;
    char small[512], *text = room <= sizeof small ? small : (char *)cabe_malloc(room);

    if (!text) {
        choice->echo.failed = 1;
        return;
    }
    n = cabe_decoder_put(&choice->decoder, tokenizer, token, text);
    api_put(&choice->echo, text, n);
    choice->offset += n_characters(text, n);
    n = is_last ? cabe_decoder_end(&choice->decoder, text) : 0;
    api_put(&choice->echo, text, n);
    choice->offset += n_characters(text, n);
    if (text != small)
        cabe_free(text);
}

/*
 * A part tells something of a choice: the choice, its answer held and locked, or NULL where nobody wants to know. leave()
 * follows either way, with what the choice had before.
 */
static struct api_choice *enter(struct api_part *part, int32_t index, size_t *before)
{
    struct api_answer *answer = part->answer;
    struct api_choice *choice;

    api_answer_hold(answer);
    pthread_mutex_lock(&answer->lock);
    if (answer->gone || answer->failed || index < 0 || index >= answer->request.n)
        return NULL;
    choice = &answer->choices[part->index * answer->request.n + index];
    *before = choice_bytes(choice);
    begin(answer);
    return choice;
}

static void leave(struct api_part *part, const struct api_choice *choice, size_t before)
{
    struct api_answer *answer = part->answer;

    if (choice) {
        charge(answer, answer->bytes - before + choice_bytes(choice));
        flush(answer);
    }
    pthread_mutex_unlock(&answer->lock);
    api_answer_release(answer);
}

static void on_prompted(void *self, int32_t index, const struct cabe_sampled *token,
                        const struct cabe_tokenizer *tokenizer)
{
    struct api_part *part = (struct api_part *)self;
    struct api_answer *answer = part->answer;
    const char *prompt = answer->request.prompt[part->index];
    size_t before = 0;
    struct api_choice *choice = enter(part, index, &before);
    int is_last;

    if (choice) {
        is_last = ++choice->n_prompted == part->counts.n_prompt;
        if (answer->request.with_logprobs && answer->form->logprob)
            answer->form->logprob(answer, choice, token, tokenizer);
        choice->decoder.special = (unsigned char)(answer->request.ids[part->index] != NULL);
        put_echo(choice, tokenizer, token->token, is_last);
        if (choice->echo.failed)
            fail_memory(answer);
        else if (is_last && answer->request.stream)
            answer->form->piece(answer, (int32_t)(choice - answer->choices), prompt ? prompt : choice->echo.bytes,
                                prompt ? answer->request.prompt_bytes[part->index] : choice->echo.n);
    }
    leave(part, choice, before);
}

static void on_text(void *self, int32_t index, const char *bytes, size_t n, const struct cabe_sampled *sampled,
                    const struct cabe_tokenizer *tokenizer)
{
    struct api_part *part = (struct api_part *)self;
    struct api_answer *answer = part->answer;
    size_t before = 0;
    struct api_choice *choice = enter(part, index, &before);

    if (choice) {
        if (sampled && answer->request.with_logprobs && answer->form->logprob && tokenizer)
            answer->form->logprob(answer, choice, sampled, tokenizer);
        answer->shown.n = 0;
        api_scan_put(&choice->scan, bytes, n, &answer->shown);
        if (sampled && tokenizer)
            api_scan_token(&choice->scan, tokenizer, sampled->token, &answer->shown);
        show(answer, (int32_t)(choice - answer->choices));
    }
    leave(part, choice, before);
}

static void on_finished(void *self, int32_t index, enum cabe_service_finish finish)
{
    struct api_part *part = (struct api_part *)self;
    struct api_answer *answer = part->answer;
    size_t before = 0;
    struct api_choice *choice = enter(part, index, &before);

    if (choice && !choice->finished) {
        choice->finished = 1;
        choice->finish = finish;
        answer->shown.n = 0;
        api_scan_end(&choice->scan, &answer->shown);
        show(answer, (int32_t)(choice - answer->choices));
        if (answer->request.stream && answer->form->finish)
            answer->form->finish(answer, (int32_t)(choice - answer->choices));
    }
    leave(part, choice, before);
}

static void add_counts(struct api_answer *answer)
{
    struct cabe_service_counts *sum = &answer->counts;

    for (int i = 0; i < answer->n_parts; i++) {
        const struct cabe_service_counts *c = &answer->part[i].counts;

        sum->n_prompt += c->n_prompt;
        sum->n_cached += c->n_cached;
        sum->n_new += c->n_new;
        sum->queue_s = c->queue_s > sum->queue_s ? c->queue_s : sum->queue_s;
        sum->load_s = c->load_s > sum->load_s ? c->load_s : sum->load_s;
        sum->prompt_s = c->prompt_s > sum->prompt_s ? c->prompt_s : sum->prompt_s;
        sum->answer_s = c->answer_s > sum->answer_s ? c->answer_s : sum->answer_s;
        sum->first_s = c->first_s > sum->first_s ? c->first_s : sum->first_s;
    }
}

/* The last bytes of a stream that has begun. */
static void end_stream(struct api_answer *answer)
{
    int is_cut;

    answer->out.n = 0;
    answer->out.failed = 0;
    if (answer->failed)
        answer->form->error(answer, &answer->fault);
    else if (!answer->gone && answer->form->end)
        answer->form->end(answer);
    is_cut = answer->out.failed;
    flush(answer);
    if ((is_cut || answer->gone) && answer->sink.cut)
        answer->sink.cut(answer->sink.self);
    else
        answer->sink.end(answer->sink.self);
}

/* Every part has ended: the last bytes. */
static void conclude(struct api_answer *answer)
{
    add_counts(answer);
    if (!answer->gone && !answer->request.stream)
        charge(answer, 2 * answer->bytes); /* it is put together from its parts */
    if (!answer->failed && !answer->gone && !answer->request.stream) {
        answer->form->whole(answer);
        if (answer->out.failed)
            fail_memory(answer);
        else
            answer->sink.reply(answer->sink.self, "application/json", answer->out.bytes, answer->out.n);
    }
    if (answer->failed && !answer->gone && !answer->begun) {
        answer->sink.refuse(answer->sink.self, &answer->fault, answer->err.status ? &answer->err : NULL,
                            &answer->refusal);
    } else if (answer->begun) {
        end_stream(answer);
    } else if (answer->gone) {
        answer->sink.end(answer->sink.self);
    }
}

static void part_over(struct api_answer *answer)
{
    if (--answer->n_open == 0)
        conclude(answer);
}

/* Why an answer that the service had taken did not come about. */
static void why(const struct api_answer *answer, const struct cabe_error *err, struct api_fault *fault)
{
    const char *note = answer->request.note;

    if (err->status == CABE_ERR_CANCELLED)
        api_refuse(fault, 503, "cancelled", NULL, "the server ended this request: %s", err->text);
    else if (err->status == CABE_ERR_LIMIT)
        api_refuse(fault, 503, "timeout", NULL, "%s", err->text);
    else if (err->status == CABE_ERR_ARGUMENT && strstr(err->text, "context"))
        api_refuse(fault, 400, "context_length_exceeded", answer->request.n_prompts ? "prompt" : "messages", "%s%s%s",
                   err->text, note[0] ? "; " : "", note);
    else if (err->status == CABE_ERR_UNSUPPORTED && strncmp(err->text, "tools:", 6) == 0)
        api_refuse(fault, 400, "unsupported_parameter", "tools", "%s", err->text);
    else
        api_fault_of(fault, err);
}

static void on_ended(void *self, enum cabe_status status, const struct cabe_error *err,
                     const struct cabe_service_counts *counts)
{
    struct api_part *part = (struct api_part *)self;
    struct api_answer *answer = part->answer;
    struct api_fault fault = {0};
    int over;

    api_answer_hold(answer);
    pthread_mutex_lock(&answer->lock);
    part->ended = 1;
    if (counts)
        part->counts = *counts;
    if (status != CABE_OK && !(status == CABE_ERR_CANCELLED && answer->cancelled)) {
        struct cabe_error none = {.status = status, .text = "the service gave no reason"};

        why(answer, err ? err : &none, &fault);
        fail(answer, &fault, err ? err : &none, NULL);
    }
    part_over(answer);
    over = answer->n_open == 0;
    pthread_mutex_unlock(&answer->lock);
    if (over)
        answer->sink.release(answer->sink.self, answer);
    api_answer_release(answer); /* of this call */
    api_answer_release(answer); /* of the service */
}

/* ---- asking ---- */

void api_answer_fill(struct api_answer *answer, int part, struct cabe_service_ask *ask)
{
    const struct api_request *r = &answer->request;

    *ask = (struct cabe_service_ask){.model = answer->model,
                                     .class_ = r->class_,
                                     .messages = r->messages,
                                     .tools = r->tools,
                                     .template_extra = r->extra,
                                     .raw = r->raw,
                                     .n_choices = r->n,
                                     .sampling = r->sampling,
                                     .max_new = r->max_new,
                                     .shift_keep = r->shift_keep,
                                     .ignore_end = r->ignore_end,
                                     .stop = r->n_stop ? r->stop : NULL,
                                     .n_stop = r->n_stop,
                                     .salt = r->salt,
                                     .keep_alive_s = r->keep_alive_s,
                                     .context = r->context,
                                     .started = on_started,
                                     .prompted = r->score ? on_prompted : NULL,
                                     .text = on_text,
                                     .finished = on_finished,
                                     .ended = on_ended,
                                     .self = &answer->part[part]};
    if (r->n_prompts > 0) {
        ask->prompt = r->prompt[part];
        ask->prompt_bytes = r->prompt_bytes[part];
        ask->ids = r->ids[part];
        ask->n_ids = r->n_ids[part];
    }
}

void api_answer_ask(struct api_answer *answer, struct cabe_service *service)
{
    int over;

    pthread_mutex_lock(&answer->lock);
    answer->service = service;
    answer->n_open = 1; /* this call's own */
    for (int i = 0; i < answer->n_parts && !answer->failed && !answer->gone; i++) {
        struct cabe_service_refusal refusal = {0};
        struct cabe_service_ask ask;
        struct cabe_error err = {0};
        struct api_fault fault = {0};
        enum cabe_status status;

        api_answer_fill(answer, i, &ask);
        answer->n_open++;
        answer->n_refs++;
        answer->part[i].asked = 1;
        status = cabe_service_ask(service, &ask, &answer->part[i].ticket, &refusal, &err);
        if (status == CABE_OK)
            continue;
        answer->part[i].asked = 0;
        answer->n_open--;
        answer->n_refs--;
        api_fault_of(&fault, &err);
        fail(answer, &fault, &err, &refusal);
    }
    part_over(answer);
    over = answer->n_open == 0;
    pthread_mutex_unlock(&answer->lock);
    if (over)
        answer->sink.release(answer->sink.self, answer);
}

void api_answer_gone(struct api_answer *answer)
{
    pthread_mutex_lock(&answer->lock);
    if (!answer->gone) {
        answer->gone = 1;
        cancel_parts(answer);
    }
    pthread_mutex_unlock(&answer->lock);
}
