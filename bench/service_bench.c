/*
 * The service against the library alone: embeddings of one sentence from many clients at a time, and models that take
 * turns.
 *
 *     service_bench embed MODEL [CLIENTS [SECONDS]]     texts a second, and the share of the library's batches
 *     service_bench switch A B [TURNS [MEMORY_MIB]]     seconds from a request to its first token, A B A B
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "serve/service.h"
#include "task/encoder.h"

#define TEXTS 512

static struct cabe_error err;
static struct cabe_text texts[TEXTS];

static int fail(void)
{
    fprintf(stderr, "%s\n", err.text);
    return 1;
}

/* Sentences of 8 to 24 words. */
static void make_texts(void)
{
    static const char *const words[] = {"river", "the", "of", "a",    "stone", "walked", "into", "morning", "and", "light",
                                        "house", "was", "in", "his", "she",   "letters", "from", "winter",  "old", "sea"};
    uint32_t state = 1;

    for (int i = 0; i < TEXTS; i++) {
        char *text = calloc(1, 512);
        size_t n = 0;

        state = state * 1664525u + 1013904223u;
        for (uint32_t w = 0, of = 8 + (state >> 8) % 17; w < of && n < 490; w++) {
            state = state * 1664525u + 1013904223u;
            n += (size_t)snprintf(text + n, 512 - n, "%s%s", w ? " " : "", words[(state >> 8) % 20]);
        }
        texts[i] = (struct cabe_text){text, n};
    }
}

/* ---- embeddings ---- */

static double library_rate(struct cabe_session *session, const char *path, double seconds)
{
    struct cabe_encoder_wishes wishes = {-1, -1, 0};
    static struct cabe_plan plan;
    static struct cabe_fit_task task;
    struct cabe_encoder *encoder;
    float *rows;
    uint64_t begun_ns;
    double n = 0, took;

    if (cabe_encoder_find(&encoder, session, path, &wishes, &err) != CABE_OK)
        return 0;
    cabe_session_task(session, &task, "embed");
    cabe_encoder_plan(encoder, &task);
    if (cabe_session_plan(session, &plan, &task, &err) != CABE_OK ||
        cabe_encoder_load(encoder, &plan.knobs, &err) != CABE_OK)
        return 0;
    rows = malloc(TEXTS * (size_t)cabe_encoder_config(encoder)->width * sizeof *rows);
    if (cabe_encoder_encode(encoder, texts, TEXTS, CABE_PREFIX_NONE, rows, NULL, &err) != CABE_OK)
        return 0;
    begun_ns = cabe_clock_ns();
    do {
        if (cabe_encoder_encode(encoder, texts, TEXTS, CABE_PREFIX_NONE, rows, NULL, &err) != CABE_OK)
            return 0;
        n += TEXTS;
        took = (double)(cabe_clock_ns() - begun_ns) / 1e9;
    } while (took < seconds);
    free(rows);
    cabe_encoder_close(encoder);
    return n / took;
}

struct client {
    struct cabe_service *service;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int ended, number;
    enum cabe_status status;
    uint64_t n, wait_ns, wait_max_ns;
    atomic_int *stop;
};

static void on_embedded(void *self, enum cabe_status status, const struct cabe_error *e, const float *rows,
                        int64_t width, uint64_t n_tokens)
{
    struct client *c = self;

    (void)e, (void)rows, (void)width, (void)n_tokens;
    pthread_mutex_lock(&c->lock);
    c->ended = 1;
    c->status = status;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void *be_client(void *self)
{
    struct client *c = self;

    while (!atomic_load(c->stop)) {
        struct cabe_service_embed embed = {.model = "model",
                                           .class_ = CABE_CLASS_NORMAL,
                                           .texts = &texts[((uint64_t)c->number * 31 + c->n) % TEXTS],
                                           .n_texts = 1,
                                           .keep_alive_s = NAN,
                                           .ended = on_embedded,
                                           .self = c};
        struct cabe_service_ticket *ticket;
        struct cabe_error e;
        uint64_t begun_ns = cabe_clock_ns(), took_ns;

        c->ended = 0;
        if (cabe_service_embed(c->service, &embed, &ticket, NULL, &e) != CABE_OK)
            break;
        pthread_mutex_lock(&c->lock);
        while (!c->ended)
            pthread_cond_wait(&c->changed, &c->lock);
        pthread_mutex_unlock(&c->lock);
        took_ns = cabe_clock_ns() - begun_ns;
        c->wait_ns += took_ns;
        c->wait_max_ns = took_ns > c->wait_max_ns ? took_ns : c->wait_max_ns;
        c->n += c->status == CABE_OK;
    }
    return NULL;
}

static double service_rate(struct cabe_service *service, int n_clients, double seconds)
{
    struct client *clients = calloc((size_t)n_clients, sizeof *clients);
    pthread_t *threads = calloc((size_t)n_clients, sizeof *threads);
    struct timespec pause = {(time_t)seconds, (long)(fmod(seconds, 1) * 1e9)};
    double n = 0, wait_s = 0, worst_s = 0, took;
    atomic_int stop = 0;
    uint64_t begun_ns;

    begun_ns = cabe_clock_ns();
    for (int i = 0; i < n_clients; i++) {
        clients[i] = (struct client){.service = service, .number = i, .stop = &stop};
        pthread_mutex_init(&clients[i].lock, NULL);
        pthread_cond_init(&clients[i].changed, NULL);
        pthread_create(&threads[i], NULL, be_client, &clients[i]);
    }
    nanosleep(&pause, NULL);
    took = (double)(cabe_clock_ns() - begun_ns) / 1e9;
    atomic_store(&stop, 1);
    for (int i = 0; i < n_clients; i++) {
        pthread_join(threads[i], NULL);
        n += (double)clients[i].n;
        wait_s += (double)clients[i].wait_ns / 1e9;
        worst_s = fmax(worst_s, (double)clients[i].wait_max_ns / 1e9);
    }
    printf("%d clients: %.0f texts/s, a request %.2f ms, the longest %.2f ms", n_clients, n / took,
           n > 0 ? 1e3 * wait_s / n : 0, 1e3 * worst_s);
    free(clients);
    free(threads);
    return n / took;
}

static int bench_embed(struct cabe_session *session, const char *path, int n_clients, double seconds)
{
    struct cabe_service_config config = {.session = session, .kv = -1, .dtype = -1};
    struct cabe_service *service;
    double alone;

    make_texts();
    alone = library_rate(session, path, seconds);
    if (alone == 0)
        return fail();
    printf("library, batches of %d: %.0f texts/s\n", TEXTS, alone);
    if (cabe_service_open(&service, &config, &err) != CABE_OK || cabe_service_add(service, "model", path, &err) != CABE_OK)
        return fail();
    service_rate(service, 1, 0.2); /* it loads */
    printf("\n");
    printf(", %.0f %% of the library\n", 100 * service_rate(service, n_clients, seconds) / alone);
    printf(", %.0f %% of the library\n", 100 * service_rate(service, 1, seconds / 2) / alone);
    cabe_service_close(service);
    return 0;
}

/* ---- turns ---- */

struct turn {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int ended;
    enum cabe_status status;
    struct cabe_error err;
    struct cabe_service_counts counts;
};

static void on_ended(void *self, enum cabe_status status, const struct cabe_error *e,
                     const struct cabe_service_counts *counts)
{
    struct turn *t = self;

    pthread_mutex_lock(&t->lock);
    t->ended = 1;
    t->status = status;
    t->counts = *counts;
    if (e)
        t->err = *e;
    pthread_cond_signal(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

static int one_turn(struct cabe_service *service, const char *model)
{
    struct turn turn = {.ended = 0};
    struct cabe_service_ask ask = {.model = model,
                                   .class_ = CABE_CLASS_NORMAL,
                                   .prompt = "Once",
                                   .prompt_bytes = 4,
                                   .max_new = 1,
                                   .shift_keep = -1,
                                   .ignore_end = 1,
                                   .keep_alive_s = NAN,
                                   .ended = on_ended,
                                   .self = &turn};
    struct cabe_service_ticket *ticket;
    uint64_t begun_ns = cabe_clock_ns();

    pthread_mutex_init(&turn.lock, NULL);
    pthread_cond_init(&turn.changed, NULL);
    cabe_sampling_defaults(&ask.sampling);
    if (cabe_service_ask(service, &ask, &ticket, NULL, &err) != CABE_OK)
        return fail();
    pthread_mutex_lock(&turn.lock);
    while (!turn.ended)
        pthread_cond_wait(&turn.changed, &turn.lock);
    pthread_mutex_unlock(&turn.lock);
    if (turn.status != CABE_OK) {
        err = turn.err;
        return fail();
    }
    printf("%s: %.1f ms; queue %.1f, load %.1f, first token %.1f\n", model, (double)(cabe_clock_ns() - begun_ns) / 1e6,
           1e3 * turn.counts.queue_s, 1e3 * turn.counts.load_s, 1e3 * turn.counts.prompt_s);
    return 0;
}

static int bench_switch(struct cabe_session *session, const char *a, const char *b, int n)
{
    struct cabe_service_config config = {.session = session, .kv = -1, .dtype = -1};
    struct cabe_service_stats stats;
    struct cabe_service *service;
    int failed = 0;

    if (cabe_service_open(&service, &config, &err) != CABE_OK || cabe_service_add(service, "A", a, &err) != CABE_OK ||
        cabe_service_add(service, "B", b, &err) != CABE_OK)
        return fail();
    for (int i = 0; i < n && !failed; i++)
        failed = one_turn(service, i % 2 ? "B" : "A");
    cabe_service_stats(service, &stats);
    printf("%llu loads, %llu evictions\n", (unsigned long long)stats.pool.n_loads,
           (unsigned long long)stats.pool.n_evictions);
    cabe_service_close(service);
    return failed;
}

int main(int argc, char **argv)
{
    struct cabe_session_config config = {0};
    struct cabe_session *session;
    int failed, embeds = argc > 2 && strcmp(argv[1], "embed") == 0;

    if (!embeds && (argc < 4 || strcmp(argv[1], "switch") != 0)) {
        fprintf(stderr, "usage: service_bench embed MODEL [CLIENTS [SECONDS]] | switch A B [TURNS [MEMORY_MIB]]\n");
        return 2;
    }
    if (!embeds && argc > 5)
        config.memory_bytes = strtoull(argv[5], NULL, 10) << 20;
    if (cabe_session_open(&session, &config, 0, &err) != CABE_OK || cabe_session_settle(session, &err) != CABE_OK)
        return fail();
    if (embeds)
        failed = bench_embed(session, argv[2], argc > 3 ? atoi(argv[3]) : 16, argc > 4 ? atof(argv[4]) : 5);
    else
        failed = bench_switch(session, argv[2], argv[3], argc > 4 ? atoi(argv[4]) : 8);
    cabe_session_close(session);
    return failed;
}
