/* A service on tiny models in a folder of its own, and requests that remember what came of them. */
#ifndef CABE_TESTS_SERVICE_SETUP_H
#define CABE_TESTS_SERVICE_SETUP_H

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/service.h"
#include "task/generator.h"
#include "sanitizer.h"

struct asked { /* a request on its way, and what came */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct cabe_service_ticket *ticket;
    char *text[CABE_SERVICE_CHOICES_MAX];
    size_t n_text[CABE_SERVICE_CHOICES_MAX];
    enum cabe_service_finish finish[CABE_SERVICE_CHOICES_MAX];
    int n_started, n_tokens, n_finished, n_ended;
    enum cabe_status status;
    struct cabe_error err;
    struct cabe_service_counts counts;
    float *rows;
    size_t n_rows;
    int64_t width;
    uint64_t embedded_tokens;
    int cancel_at; /* tokens; 0: never */
    struct cabe_service *service;
};

struct fixture {
    char root[64];
    struct cabe_session *session;
    struct cabe_service *service;
};

static inline void asked_init(struct asked *a)
{
    memset(a, 0, sizeof *a);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
}

static inline void asked_clear(struct asked *a)
{
    for (int i = 0; i < CABE_SERVICE_CHOICES_MAX; i++)
        free(a->text[i]);
    free(a->rows);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->changed);
}

static inline void on_started(void *self, const struct cabe_service_counts *counts)
{
    struct asked *a = self;

    (void)counts;
    pthread_mutex_lock(&a->lock);
    a->n_started++;
    pthread_mutex_unlock(&a->lock);
}

static inline void on_text(void *self, int32_t choice, const char *bytes, size_t n, const struct cabe_sampled *sampled,
                           const struct cabe_tokenizer *tokenizer)
{
    struct asked *a = self;
    int cancel;

    (void)tokenizer;
    pthread_mutex_lock(&a->lock);
    a->text[choice] = realloc(a->text[choice], a->n_text[choice] + n + 1);
    memcpy(a->text[choice] + a->n_text[choice], bytes, n);
    a->n_text[choice] += n;
    a->text[choice][a->n_text[choice]] = '\0';
    a->n_tokens += sampled != NULL;
    cancel = a->cancel_at > 0 && a->n_tokens == a->cancel_at;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    if (cancel)
        cabe_service_cancel(a->service, a->ticket);
}

static inline void on_finished(void *self, int32_t choice, enum cabe_service_finish finish)
{
    struct asked *a = self;

    pthread_mutex_lock(&a->lock);
    a->finish[choice] = finish;
    a->n_finished++;
    pthread_mutex_unlock(&a->lock);
}

static inline void end_asked(struct asked *a, enum cabe_status status, const struct cabe_error *err)
{
    a->status = status;
    if (err)
        a->err = *err;
    a->n_ended++;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static inline void on_ended(void *self, enum cabe_status status, const struct cabe_error *err,
                            const struct cabe_service_counts *counts)
{
    struct asked *a = self;

    pthread_mutex_lock(&a->lock);
    a->counts = *counts;
    end_asked(a, status, err);
}

static inline void on_embedded(void *self, enum cabe_status status, const struct cabe_error *err, const float *rows,
                               int64_t width, uint64_t n_tokens)
{
    struct asked *a = self;

    pthread_mutex_lock(&a->lock);
    a->width = width;
    a->embedded_tokens = n_tokens;
    if (rows) {
        a->rows = malloc(a->n_rows * (size_t)width * sizeof *rows);
        memcpy(a->rows, rows, a->n_rows * (size_t)width * sizeof *rows);
    }
    end_asked(a, status, err);
}

static inline void wait_ended(struct asked *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->n_ended)
        pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

/* For requests that are asked when the service runs: ended within `seconds`? */
static inline int ends_within(struct asked *a, double seconds)
{
    struct timespec until;
    int ended;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)seconds + 1;
    pthread_mutex_lock(&a->lock);
    while (!a->n_ended && pthread_cond_timedwait(&a->changed, &a->lock, &until) == 0)
        continue;
    ended = a->n_ended;
    pthread_mutex_unlock(&a->lock);
    return ended;
}

static inline void golden_path(char out[512], const char *model)
{
    snprintf(out, 512, "%s/%s", CABE_GOLDEN_MODELS, model);
}

/* A budget for all models of a test; a sanitizer's own memory is beside it. */
static inline uint64_t enough(void)
{
    return (UINT64_C(256) << 20) + (TEST_SANITIZED ? cabe_session_process_bytes(2) : 0);
}

static inline int open_fixture(struct fixture *f, uint64_t memory, const struct cabe_service_config *wishes,
                               struct cabe_error *err)
{
    struct cabe_session_config session = {.memory_bytes = memory, .n_threads = 2};
    struct cabe_service_config config = {.kv = -1, .dtype = -1};
    char cache[128];

    snprintf(f->root, sizeof f->root, "/tmp/cabe-service-XXXXXX");
    if (!mkdtemp(f->root))
        return 0;
    setenv("CABE_HOME", f->root, 1);
    snprintf(cache, sizeof cache, "%s/fitted", f->root);
    if (mkdir(cache, 0700) != 0)
        return 0;
    session.cache_dir = cache;
    if (wishes)
        config = *wishes;
    if (config.first_token_s == 0) /* a machine that stands still is not what is tested */
        config.first_token_s = config.stall_s = 500;
    if (cabe_session_open(&f->session, &session, 0, err) != CABE_OK ||
        cabe_session_settle(f->session, err) != CABE_OK)
        return 0;
    config.session = f->session;
    return cabe_service_open(&f->service, &config, err) == CABE_OK;
}

/* Adds models of the golden folder under their file names. */
static inline int add_golden(struct fixture *f, const char *const *models, size_t n, struct cabe_error *err)
{
    char path[512];

    for (size_t i = 0; i < n; i++) {
        golden_path(path, models[i]);
        if (cabe_service_add(f->service, models[i], path, err) != CABE_OK)
            return 0;
    }
    return 1;
}

/* Closes all; returns bytes that the ledger still has beside the process. */
static inline uint64_t close_fixture(struct fixture *f)
{
    struct cabe_ledger_view view;
    char command[128];
    uint64_t left;

    cabe_service_close(f->service);
    cabe_ledger_read(f->session->ledger, &view);
    left = view.device[0].used_bytes - f->session->process_bytes;
    cabe_session_close(f->session);
    snprintf(command, sizeof command, "rm -rf %s", f->root);
    if (system(command) != 0)
        left |= UINT64_C(1) << 63;
    return left;
}

static inline struct cabe_service_ask prompt_of(struct asked *a, const char *model, const char *prompt, int64_t max_new)
{
    struct cabe_service_ask ask = {.model = model,
                                   .class_ = CABE_CLASS_NORMAL,
                                   .prompt = prompt,
                                   .prompt_bytes = prompt ? strlen(prompt) : 0,
                                   .max_new = max_new,
                                   .shift_keep = -1,
                                   .keep_alive_s = NAN,
                                   .started = on_started,
                                   .text = on_text,
                                   .finished = on_finished,
                                   .ended = on_ended,
                                   .self = a};

    cabe_sampling_defaults(&ask.sampling);
    return ask;
}

static inline struct cabe_service_embed embed_of(struct asked *a, const char *model, const struct cabe_text *texts,
                                                 size_t n)
{
    a->n_rows = n;
    return (struct cabe_service_embed){.model = model,
                                       .class_ = CABE_CLASS_NORMAL,
                                       .texts = texts,
                                       .n_texts = n,
                                       .keep_alive_s = NAN,
                                       .ended = on_embedded,
                                       .self = a};
}

#endif
