/* Prompts to tokens. */
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/service_impl.h"

#define PLACE "prompts"
#define WORK_BYTES (UINT64_C(1) << 20)
#define RUN_MAX (256u << 10) /* the tokenizer cuts longer ones */
#define BYTES_PER_RUN_BYTE 80
#define BYTES_PER_BYTE 12 /* a rendered text, tokens and their offsets */

/*
 * Rendering a chat template. What templates in use take is at most 63 KiB and 10 bytes for each byte of the messages
 * (66 templates of the field); that and more is granted to each first. Few steps, as it may be on a thread that answers
 * wait for. What needs more comes again on a thread of its own, with all that a template may take at most, if the ledger
 * has it, and not many of them at a time.
 */
#define RENDER_PLACE "chat template"
#define RENDER_BYTES (UINT64_C(192) << 10)
#define RENDER_BYTES_PER_BYTE 24
#define RENDER_STEPS 1000000
#define RENDER_MOST_BYTES (UINT64_C(80) << 20) /* its memory, and a fifth for the text that comes out */
#define RENDER_LOOK_NS UINT64_C(50000000)

void cabe_reading_clear(struct cabe_reading *r)
{
    cabe_chat_ids_clear(&r->chat);
    cabe_encoding_clear(&r->encoding);
}

static enum cabe_status keep(struct cabe_service_ticket *t, const int32_t *ids, size_t n)
{
    t->own_ids = cabe_malloc(n * sizeof *ids);
    if (!t->own_ids)
        return cabe_fail(&t->err, CABE_ERR_OOM, "a prompt of %zu tokens", n);
    if (n)
        memcpy(t->own_ids, ids, n * sizeof *ids);
    t->prompt = t->own_ids;
    t->n_prompt = n;
    return CABE_OK;
}

/* ---- rendering ---- */

static enum cabe_status render(struct cabe_service_ticket *t, const struct cabe_loaded *loaded, uint64_t allowance,
                               uint64_t steps, struct cabe_template_result *prompt)
{
    struct cabe_ledger *ledger = loaded->session.ledger;
    struct cabe_template_limits limits;
    enum cabe_status status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_STAGING, allowance, RENDER_PLACE, &t->err);

    if (status != CABE_OK)
        return status;
    cabe_template_limits_default(&limits);
    limits.memory_bytes = allowance / 5 * 4;
    limits.output_bytes = allowance / 5;
    limits.steps = steps < limits.steps ? steps : limits.steps;
    status = cabe_chat_render_json(cabe_chat_of(loaded->chat), t->ask.messages, t->ask.tools, 1, t->ask.template_extra,
                                   &limits, prompt, &t->err);
    cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_STAGING, allowance, RENDER_PLACE);
    return status;
}

/* Waits for its turn among those that need much: CABE_RENDERS_MAX at a time. */
static enum cabe_status begin_large(struct cabe_service_ticket *t)
{
    struct cabe_service *service = t->service;
    enum cabe_status status = CABE_OK;

    pthread_mutex_lock(&service->lock);
    while (service->n_renders >= CABE_RENDERS_MAX && status == CABE_OK) {
        uint64_t until_ns = cabe_clock_ns() + RENDER_LOOK_NS;
        struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};

        (void)pthread_cond_timedwait(&service->changed, &service->lock, &until);
        if (cabe_cancelled(&t->cancel) || service->closing)
            status = cabe_fail(&t->err, CABE_ERR_CANCELLED, "the request was cancelled while others' templates were rendered");
    }
    service->n_renders += status == CABE_OK;
    pthread_mutex_unlock(&service->lock);
    return status;
}

static void end_large(struct cabe_service *service)
{
    pthread_mutex_lock(&service->lock);
    service->n_renders--;
    pthread_cond_broadcast(&service->changed);
    pthread_mutex_unlock(&service->lock);
}

/* With as much as there is of what it may take: all, or else a half of that, and so on. */
static enum cabe_status render_large(struct cabe_service_ticket *t, const struct cabe_loaded *loaded,
                                     struct cabe_template_result *prompt)
{
    uint64_t allowance = RENDER_MOST_BYTES;
    enum cabe_status status = begin_large(t);

    if (status != CABE_OK)
        return status;
    status = CABE_ERR_BUDGET;
    for (; status == CABE_ERR_BUDGET && allowance > RENDER_BYTES; allowance /= 2)
        status = render(t, loaded, allowance, UINT64_MAX, prompt);
    end_large(t->service);
    if (status == CABE_ERR_BUDGET)
        return cabe_fail_in(&t->err, CABE_ERR_BUSY, "no memory to render the chat template now");
    if (status == CABE_ERR_LIMIT && 2 * allowance < RENDER_MOST_BYTES)
        return cabe_fail_in(&t->err, CABE_ERR_BUSY, "the budget has no more than %llu bytes for the chat template now",
                            (unsigned long long)(2 * allowance));
    return status == CABE_ERR_LIMIT ? cabe_fail_in(&t->err, CABE_ERR_ARGUMENT, "the conversation") : status;
}

static enum cabe_status render_chat(struct cabe_service_ticket *t, const struct cabe_loaded *loaded,
                                    struct cabe_template_result *prompt)
{
    enum cabe_status status;

    if (!t->renders_much) {
        status = render(t, loaded, RENDER_BYTES + RENDER_BYTES_PER_BYTE * (uint64_t)t->bytes, RENDER_STEPS, prompt);
        if (status == CABE_ERR_BUDGET)
            return cabe_fail_in(&t->err, CABE_ERR_BUSY, "no memory to render the chat template now");
        t->renders_much = status == CABE_ERR_LIMIT;
        return status;
    }
    return render_large(t, loaded, prompt);
}

static enum cabe_status read_chat(struct cabe_service_ticket *t, const struct cabe_loaded *loaded,
                                  struct cabe_reading *r)
{
    struct cabe_ledger *ledger = loaded->session.ledger;
    struct cabe_template_result prompt = {0};
    uint64_t bytes;
    enum cabe_status status = render_chat(t, loaded, &prompt);

    if (status != CABE_OK)
        return status;
    bytes = BYTES_PER_BYTE * (uint64_t)prompt.bytes;
    status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_STAGING, bytes, PLACE, &t->err);
    if (status == CABE_OK) {
        status = cabe_chat_encode(loaded->chat, &prompt, &r->chat, &t->err);
        cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_STAGING, bytes, PLACE);
    } else {
        status = cabe_fail_in(&t->err, CABE_ERR_BUSY, "no memory to read the prompt now");
    }
    cabe_chat_result_clear(&prompt);
    return status == CABE_OK ? keep(t, r->chat.ids, r->chat.n) : status;
}

static enum cabe_status read_text(struct cabe_service_ticket *t, const struct cabe_loaded *loaded,
                                  struct cabe_reading *r)
{
    struct cabe_encode_options options = {.add_special = !t->ask.raw, .parse_special = 1};
    enum cabe_status status = cabe_tokenizer_encode(cabe_generator_tokenizer(loaded->generator), t->ask.prompt,
                                                    t->ask.prompt_bytes, &options, &r->encoding, &t->err);

    return status == CABE_OK ? keep(t, r->encoding.ids, r->encoding.n) : status;
}

void cabe_ticket_read(struct cabe_service_ticket *t, const struct cabe_loaded *loaded, struct cabe_reading *r)
{
    int64_t context = loaded->knobs.value[CABE_KNOB_CONTEXT];

    if (t->ask.n_ids) {
        t->prompt = t->ask.ids;
        t->n_prompt = t->ask.n_ids;
        t->read_status = CABE_OK;
    } else {
        t->read_status = t->ask.messages ? read_chat(t, loaded, r) : read_text(t, loaded, r);
    }
    if (t->read_status == CABE_OK && t->n_prompt == 0)
        t->read_status = cabe_fail(&t->err, CABE_ERR_ARGUMENT, "the prompt is empty");
    if (t->read_status == CABE_OK && (int64_t)t->n_prompt >= context)
        t->read_status =
            cabe_fail(&t->err, CABE_ERR_ARGUMENT, "the prompt has %zu tokens, the context has room for %lld and an answer",
                      t->n_prompt, (long long)context - 1);
}

/* The longest run without a space in any of the texts. */
static size_t longest_run(const char *text, size_t n)
{
    size_t run = 0, longest = 0;

    for (size_t i = 0; i < n; i++) {
        run = text[i] == ' ' || text[i] == '\n' ? 0 : run + 1;
        longest = run > longest ? run : longest;
    }
    return longest;
}

static size_t longest_of(const json_t *json, int depth)
{
    size_t longest = 0, index;
    json_t *value;
    const char *key;

    if (json_is_string(json))
        return longest_run(json_string_value(json), json_string_length(json));
    if (depth == 0)
        return 0;
    json_array_foreach(json, index, value) {
        size_t n = longest_of(value, depth - 1);

        longest = n > longest ? n : longest;
    }
    json_object_foreach((json_t *)(uintptr_t)json, key, value) {
        size_t n = longest_of(value, depth - 1);

        longest = n > longest ? n : longest;
    }
    return longest;
}

void cabe_ticket_read_long(struct cabe_service_ticket *t, const struct cabe_loaded *loaded)
{
    struct cabe_ledger *ledger = loaded->session.ledger;
    struct cabe_reading reading = {0};
    size_t run = t->ask.messages ? longest_of(t->ask.messages, 64) : longest_run(t->ask.prompt, t->ask.prompt_bytes);
    uint64_t bytes = WORK_BYTES + (uint64_t)BYTES_PER_RUN_BYTE * (run < RUN_MAX ? run : RUN_MAX) +
                     (t->ask.messages ? 0 : BYTES_PER_BYTE * (uint64_t)t->bytes); /* of messages: when they are rendered */

    t->read_status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_STAGING, bytes, PLACE, &t->err);
    if (t->read_status != CABE_OK) {
        t->read_status = cabe_fail_in(&t->err, CABE_ERR_BUSY, "no memory to read the prompt now");
        return;
    }
    if (!t->renders_much)
        cabe_ticket_read(t, loaded, &reading);
    if (t->renders_much)
        cabe_ticket_read(t, loaded, &reading);
    cabe_reading_clear(&reading);
    cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_STAGING, bytes, PLACE);
}
