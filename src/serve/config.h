/*
 * Settings of the server, from defaults, a preset, a file, the environment and flags, in this order: the later counts.
 *
 * File: JSON with the names below ("queue_requests": 256; a list of texts is as good as one with commas). Environment:
 * CABE_<NAME>, and the names of the documents (THREAD_POOL_MAX_WORKERS, GENERATION_TIMEOUT, ENVIRONMENT, ...), which
 * CABE_<NAME> goes before. A setting that is unknown or out of range is an error that names it, where it came from, and
 * its range. Other variables that begin with CABE_ are not the server's and are left alone.
 *
 * Values: sizes as 512M or 1.5G, times as 30, 500ms, 5m or 2h, switches as true or false, on or off, 1 or 0.
 *
 * Presets (ENVIRONMENT, --preset): development, production, high_performance.
 */
#ifndef CABE_SERVE_CONFIG_H
#define CABE_SERVE_CONFIG_H

#include <jansson.h>
#include <stdint.h>

#include "base/class.h"
#include "cabe/status.h"

/* kind (TEXT, INT, BYTES, SECONDS, RATIO, BOOL), field, default, least, most, environment name of the documents or "",
 * what it means to a person */
#define CABE_SERVE_SETTINGS(X)                                                                                         \
    X(TEXT, preset, "", 0, 0, "ENVIRONMENT", "development, production or high_performance")                            \
    X(TEXT, host, "127.0.0.1", 0, 0, "", "address to listen on")                                                       \
    X(INT, port, 11500, 0, 65535, "", "port; 0: one that is free")                                                     \
    X(TEXT, unix_socket, "", 0, 0, "", "unix socket to listen on too")                                                 \
    X(TEXT, tls_certificate, "", 0, 0, "", "certificate chain (PEM)")                                                  \
    X(TEXT, tls_key, "", 0, 0, "", "its key (PEM)")                                                                    \
    X(TEXT, api_keys, "", 0, 0, "", "keys, by commas, or @FILE with one a line; none: no key is asked for")            \
    X(TEXT, cors_origins, "", 0, 0, "", "origins by commas that browsers may call from; * for any")                    \
    X(TEXT, models, "", 0, 0, "", "models to load at the start, by commas")                                            \
    X(TEXT, pins, "", 0, 0, "", "models that stay; loaded at the start too")                                           \
    X(BYTES, memory, 0, 0, INT64_MAX, "", "budget of the whole process; 0: what the machine allows")                   \
    X(INT, threads, 0, 0, 256, "", "threads that compute; 0: physical cores")                                          \
    X(INT, context, 0, 0, 1 << 24, "", "tokens of a sequence; 0: planned")                                             \
    X(INT, parallel, 4, 1, 256, "", "answers at a time of one model")                                                  \
    X(TEXT, kv, "", 0, 0, "", "f32, f16 or q8; empty: planned")                                                        \
    X(INT, workers, 4, 1, 64, "THREAD_POOL_MAX_WORKERS", "threads that read requests and run jobs")                    \
    X(SECONDS, worker_wait, 30, 0, 3600, "THREAD_POOL_TIMEOUT", "a request waits this long for a worker")              \
    X(SECONDS, generation_timeout, 30, 0, 86400, "GENERATION_TIMEOUT", "until the first token, and between two")       \
    X(SECONDS, training_timeout, 300, 0, 864000, "TRAINING_TIMEOUT", "of a training job")                              \
    X(SECONDS, save_load_timeout, 30, 0, 86400, "SAVE_LOAD_TIMEOUT", "of saving or loading a trained model")           \
    X(SECONDS, slot_wait, 30, 0, 86400, "", "a heavy task waits this long for a slot")                                 \
    X(INT, heavy_slots, 1, 1, 64, "", "heavy tasks at a time")                                                         \
    X(SECONDS, keep_alive, 300, -1, 31536000, "", "an idle model stays this long; -1: for ever")                       \
    X(TEXT, eviction, "cost", 0, 0, "", "idle model that goes first for room: cost, lru, lfu or largest")              \
    X(INT, queue_requests, 256, 1, 1 << 20, "", "requests that may wait for one model")                                \
    X(INT, queue_tokens, 262144, 1, 1 << 30, "", "their prompt tokens")                                                \
    X(BYTES, body, 33554432, 1024, INT64_MAX, "", "largest request body")                                              \
    X(BYTES, upload, 268435456, 1024, INT64_MAX, "", "largest document")                                               \
    X(BYTES, header, 16384, 1024, 1 << 20, "", "largest request header")                                               \
    X(INT, connections, 4096, 1, 1 << 20, "", "connections at a time")                                                 \
    X(INT, json_depth, 64, 4, 2048, "", "nesting of request bodies")                                                   \
    X(SECONDS, drain, 30, 0, 86400, "", "on SIGTERM, what runs may take this long to end")                             \
    X(INT, max_patterns, 1000, 1, 1 << 24, "MAX_PATTERNS_PER_QUERY", "patterns a query looks at")                      \
    X(INT, max_backup_patterns, 100, 1, 1 << 24, "MAX_BACKUP_PATTERNS", "of them, for the fallback")                   \
    X(INT, context_window, 6, 1, 1024, "CONTEXT_WINDOW_SIZE", "tokens a pattern model looks back")                     \
    X(RATIO, min_generated, 0.33, 0, 1, "MIN_GENERATED_TOKENS_RATIO", "share of the wanted length it must reach")      \
    X(INT, activation_cache, 1000, 0, 1 << 24, "ACTIVATION_CACHE_SIZE", "entries of the pattern model's cache")        \
    X(INT, cache_key, 20, 1, 1024, "CACHE_KEY_LENGTH", "characters of its keys")                                       \
    X(RATIO, activation_threshold, 0.1, 0, 1, "ACTIVATION_THRESHOLD", "weakest pattern that counts")                   \
    X(RATIO, frequency_normalization, 5, 0, 1e6, "FREQUENCY_NORMALIZATION", "divides a pattern's frequency")           \
    X(BOOL, performance_log, 0, 0, 1, "ENABLE_PERFORMANCE_LOGGING", "a line for every operation")                      \
    X(INT, slow_ms, 100, 0, 1 << 30, "LOG_SLOW_OPERATIONS_MS", "operations that take longer are logged")               \
    X(TEXT, jobs_path, "", 0, 0, "", "database of jobs; empty: in CABE_HOME")                                          \
    X(TEXT, metrics_prefix, "cabe_", 0, 0, "", "of metric names; vllm: gives the names of vLLM")

struct cabe_serve_config {
#define CABE_SETTING_TEXT(name) char name[1024]
#define CABE_SETTING_INT(name) int64_t name
#define CABE_SETTING_BYTES(name) uint64_t name
#define CABE_SETTING_SECONDS(name) double name
#define CABE_SETTING_RATIO(name) double name
#define CABE_SETTING_BOOL(name) int name
#define X(kind, name, fallback, least, most, environment, meaning) CABE_SETTING_##kind(name);
    CABE_SERVE_SETTINGS(X)
#undef X
};

void cabe_serve_config_defaults(struct cabe_serve_config *config);
/* One setting by its name, from `origin` ("--port", "CABE_PORT", "file:3"). */
CABE_CHECKED enum cabe_status cabe_serve_config_set(struct cabe_serve_config *config, const char *name,
                                                    const char *value, const char *origin, struct cabe_error *err);
/* The figures of a preset. */
CABE_CHECKED enum cabe_status cabe_serve_config_preset(struct cabe_serve_config *config, const char *name,
                                                       const char *origin, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_serve_config_file(struct cabe_serve_config *config, const char *path,
                                                     struct cabe_error *err);
/* Whether the settings go together (a certificate without its key), and words that a setting has are known ones. */
CABE_CHECKED enum cabe_status cabe_serve_config_check(const struct cabe_serve_config *config, struct cabe_error *err);

struct cabe_serve_flag { /* one of the command line: "--port", "8080" */
    const char *name, *value;
};
/*
 * All of it in order: defaults, the preset (of the last source that names one), the file (`path` may be NULL), the
 * environment, the flags; then checked.
 */
CABE_CHECKED enum cabe_status cabe_serve_config_read(struct cabe_serve_config *config, const char *path,
                                                     char *const *environment, const struct cabe_serve_flag *flags,
                                                     size_t n_flags, struct cabe_error *err);

/* What holds, without keys; a new reference. It can be given to cabe_serve_config_file(). */
json_t *cabe_serve_config_json(const struct cabe_serve_config *config);
/* The settings as the lines of --help, to be freed with cabe_free(); NULL without memory. */
char *cabe_serve_config_help(void);

/*
 * The next item of a list by commas, without the blanks around it, in `item`; 0: the list has ended. `*list` moves on.
 */
int cabe_serve_list_next(const char **list, char *item, size_t n);

/* ---- config_value.c ---- */

enum cabe_setting_kind {
    CABE_SETTING_KIND_TEXT,
    CABE_SETTING_KIND_INT,
    CABE_SETTING_KIND_BYTES,
    CABE_SETTING_KIND_SECONDS,
    CABE_SETTING_KIND_RATIO,
    CABE_SETTING_KIND_BOOL
};

struct cabe_setting {
    const char *name;
    enum cabe_setting_kind kind;
    size_t offset; /* of its field */
    double least, most;
    const char *environment; /* the documents' name; "" */
    const char *meaning;
};

const struct cabe_setting *cabe_setting_find(const char *name); /* with '-' or '_'; NULL: none */
/* A text as a value of its kind, into the field; the message has name, value, origin and range. */
CABE_CHECKED enum cabe_status cabe_setting_parse(void *field, const struct cabe_setting *setting, const char *value,
                                                 const char *origin, struct cabe_error *err);
json_t *cabe_setting_json(const void *field, const struct cabe_setting *setting);

#endif
