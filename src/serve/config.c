#include "serve/config.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "runtime/pool.h"

#define NAME_MAX_BYTES 48

static const struct cabe_setting settings[] = {
#define X(kind, name, fallback, least, most, environment, meaning)                                                     \
    {#name, CABE_SETTING_KIND_##kind, offsetof(struct cabe_serve_config, name), (double)(least), (double)(most),       \
     environment, meaning},
    CABE_SERVE_SETTINGS(X)
#undef X
};
#define N_SETTINGS (sizeof settings / sizeof settings[0])

void cabe_serve_config_defaults(struct cabe_serve_config *config)
{
#define CABE_DEFAULT_TEXT(field, value) snprintf(field, sizeof(field), "%s", value)
#define CABE_DEFAULT_INT(field, value) field = value
#define CABE_DEFAULT_BYTES(field, value) field = value
#define CABE_DEFAULT_SECONDS(field, value) field = value
#define CABE_DEFAULT_RATIO(field, value) field = value
#define CABE_DEFAULT_BOOL(field, value) field = value
    memset(config, 0, sizeof *config);
#define X(kind, name, fallback, least, most, environment, meaning) CABE_DEFAULT_##kind(config->name, fallback);
    CABE_SERVE_SETTINGS(X)
#undef X
}

/* '-' and '_' are one: a flag is "--queue-requests", a field "queue_requests". */
const struct cabe_setting *cabe_setting_find(const char *name)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        const char *a = settings[i].name, *b = name;

        while (*a && (*a == *b || (*a == '_' && *b == '-'))) {
            a++;
            b++;
        }
        if (*a == '\0' && *b == '\0')
            return &settings[i];
    }
    return NULL;
}

static void *field_of(struct cabe_serve_config *config, const struct cabe_setting *s)
{
    return (char *)config + s->offset;
}

enum cabe_status cabe_serve_config_set(struct cabe_serve_config *config, const char *name, const char *value,
                                       const char *origin, struct cabe_error *err)
{
    const struct cabe_setting *s = cabe_setting_find(name);

    if (!s)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: no setting '%.80s'; 'cabe serve --help' lists them", origin, name);
    return cabe_setting_parse(field_of(config, s), s, value, origin, err);
}

/* ---- presets: the figures of the documents ---- */

struct preset {
    const char *name;
    int64_t workers, max_patterns, slow_ms;
    int64_t activation_cache; /* 0: the default */
    int performance_log;
};

static const struct preset presets[] = {
    {"development", 2, 500, 50, 0, 1},
    {"production", 8, 2000, 200, 0, 0},
    {"high_performance", 16, 5000, 10, 5000, 0},
};

enum cabe_status cabe_serve_config_preset(struct cabe_serve_config *config, const char *name, const char *origin,
                                          struct cabe_error *err)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
        const struct preset *p = &presets[i];

        if (strcmp(p->name, name) != 0)
            continue;
        snprintf(config->preset, sizeof config->preset, "%s", name);
        config->workers = p->workers;
        config->max_patterns = p->max_patterns;
        config->slow_ms = p->slow_ms;
        config->performance_log = p->performance_log;
        if (p->activation_cache)
            config->activation_cache = p->activation_cache;
        return CABE_OK;
    }
    return cabe_fail(err, CABE_ERR_ARGUMENT,
                     "%s: preset '%.80s', wanted development, production or high_performance", origin, name);
}

/* ---- file ---- */

/* A list of texts as one with commas. */
static enum cabe_status join(char *out, size_t n, const json_t *list, const char *origin, const char *name,
                             struct cabe_error *err)
{
    const json_t *item;
    size_t i, used = 0;

    out[0] = '\0';
    json_array_foreach(list, i, item)
    {
        if (!json_is_string(item) || strchr(json_string_value(item), ','))
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s[%zu], wanted a text without a comma", origin, name, i);
        if (used + json_string_length(item) + 2 > n)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s, wanted at most %zu bytes", origin, name, n - 1);
        used += (size_t)snprintf(out + used, n - used, "%s%s", i ? "," : "", json_string_value(item));
    }
    return CABE_OK;
}

static enum cabe_status set_json(struct cabe_serve_config *config, const char *name, const json_t *value,
                                 const char *origin, struct cabe_error *err)
{
    char text[sizeof config->models];
    enum cabe_status status = CABE_OK;

    switch (json_typeof(value)) {
    case JSON_STRING:
        if (strlen(json_string_value(value)) != json_string_length(value))
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s has a control character", origin, name);
        return cabe_serve_config_set(config, name, json_string_value(value), origin, err);
    case JSON_INTEGER:
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        snprintf(text, sizeof text, "%.17g", json_real_value(value));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        snprintf(text, sizeof text, "%s", json_is_true(value) ? "true" : "false");
        break;
    case JSON_ARRAY:
        if (cabe_setting_find(name) && cabe_setting_find(name)->kind != CABE_SETTING_KIND_TEXT)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s is a list, wanted one value", origin, name);
        status = join(text, sizeof text, value, origin, name, err);
        break;
    default:
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s is null or an object, wanted a value", origin, name);
    }
    return status == CABE_OK ? cabe_serve_config_set(config, name, text, origin, err) : status;
}

static enum cabe_status file_open(json_t **out, const char *path, struct cabe_error *err)
{
    json_error_t why;

    *out = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (!*out && why.line < 0)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: cannot be read", path);
    if (!*out)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s:%d:%d: %s", path, why.line, why.column, why.text);
    if (json_is_object(*out))
        return CABE_OK;
    json_decref(*out);
    *out = NULL;
    return cabe_fail(err, CABE_ERR_FORMAT, "%s: wanted an object of settings", path);
}

static enum cabe_status take_file(struct cabe_serve_config *config, const char *path, json_t *file,
                                  struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    const char *name;
    json_t *value;

    json_object_foreach(file, name, value)
    {
        status = set_json(config, name, value, path, err);
        if (status != CABE_OK)
            break;
    }
    return status;
}

enum cabe_status cabe_serve_config_file(struct cabe_serve_config *config, const char *path, struct cabe_error *err)
{
    json_t *file;
    const char *preset;
    enum cabe_status status = file_open(&file, path, err);

    if (status != CABE_OK)
        return status;
    preset = json_string_value(json_object_get(file, "preset"));
    if (preset && preset[0])
        status = cabe_serve_config_preset(config, preset, path, err);
    if (status == CABE_OK)
        status = take_file(config, path, file, err);
    json_decref(file);
    return status;
}

/* ---- environment ---- */

static const char *variable(char *const *environment, const char *name)
{
    size_t n = strlen(name);

    for (; environment && *environment; environment++)
        if (strncmp(*environment, name, n) == 0 && (*environment)[n] == '=')
            return *environment + n + 1;
    return NULL;
}

/* The value of a setting and the variable it is in; NULL: in none. An empty one is as good as none. */
static const char *from_environment(char *const *environment, const struct cabe_setting *s, char name[NAME_MAX_BYTES])
{
    const char *value;
    size_t n = (size_t)snprintf(name, NAME_MAX_BYTES, "CABE_%s", s->name);

    for (size_t i = 0; i < n; i++)
        name[i] = (char)toupper((unsigned char)name[i]);
    value = variable(environment, name);
    if (value && value[0])
        return value;
    if (!s->environment[0])
        return NULL;
    snprintf(name, NAME_MAX_BYTES, "%s", s->environment);
    value = variable(environment, name);
    return value && value[0] ? value : NULL;
}

static enum cabe_status take_environment(struct cabe_serve_config *config, char *const *environment,
                                         struct cabe_error *err)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        char name[NAME_MAX_BYTES];
        const char *value = from_environment(environment, &settings[i], name);
        enum cabe_status status;

        if (!value)
            continue;
        status = cabe_setting_parse(field_of(config, &settings[i]), &settings[i], value, name, err);
        if (status != CABE_OK)
            return status;
    }
    return CABE_OK;
}

/* ---- all of it ---- */

int cabe_serve_list_next(const char **list, char *item, size_t n)
{
    while (**list) {
        const char *begin = *list, *end = strchr(begin, ',');
        size_t length;

        end = end ? end : begin + strlen(begin);
        *list = *end ? end + 1 : end;
        while (begin < end && *begin == ' ')
            begin++;
        while (end > begin && end[-1] == ' ')
            end--;
        length = (size_t)(end - begin) < n ? (size_t)(end - begin) : n - 1;
        if (length == 0)
            continue;
        memcpy(item, begin, length);
        item[length] = '\0';
        return 1;
    }
    return 0;
}

enum cabe_status cabe_serve_config_check(const struct cabe_serve_config *config, struct cabe_error *err)
{
    static const char *const formats[] = {"", "f32", "f16", "q8"};
    struct cabe_serve_config unused;
    enum cabe_pool_policy policy;
    int known = 0;

    if (config->preset[0]) {
        enum cabe_status status = cabe_serve_config_preset(&unused, config->preset, "preset", err);

        if (status != CABE_OK)
            return status;
    }
    if (!config->tls_certificate[0] != !config->tls_key[0])
        return cabe_fail(err, CABE_ERR_ARGUMENT, "tls_%s without tls_%s: both or none",
                         config->tls_key[0] ? "key" : "certificate", config->tls_key[0] ? "certificate" : "key");
    for (int i = 0; i < 4; i++)
        known |= strcmp(config->kv, formats[i]) == 0;
    if (!known)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "kv '%.80s', wanted f32, f16 or q8", config->kv);
    if (cabe_pool_policy_parse(config->eviction, &policy, NULL) != CABE_OK)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "eviction '%.80s', wanted cost, lru, lfu or largest", config->eviction);
    if (config->keep_alive < 0 && config->keep_alive != -1)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "keep_alive %g, wanted seconds, or -1 for ever", config->keep_alive);
    if (strlen(config->unix_socket) > 107) /* sun_path */
        return cabe_fail(err, CABE_ERR_ARGUMENT, "unix_socket of %zu bytes, wanted at most 107",
                         strlen(config->unix_socket));
    return CABE_OK;
}

enum cabe_status cabe_serve_config_read(struct cabe_serve_config *config, const char *path, char *const *environment,
                                        const struct cabe_serve_flag *flags, size_t n_flags, struct cabe_error *err)
{
    char variable_name[NAME_MAX_BYTES];
    const char *preset = from_environment(environment, cabe_setting_find("preset"), variable_name);
    const char *origin = preset ? variable_name : path;
    enum cabe_status status = CABE_OK;
    json_t *file = NULL;

    cabe_serve_config_defaults(config);
    if (path)
        status = file_open(&file, path, err);
    if (!preset && file)
        preset = json_string_value(json_object_get(file, "preset"));
    for (size_t i = 0; i < n_flags; i++) {
        if (cabe_setting_find(flags[i].name) == cabe_setting_find("preset")) {
            preset = flags[i].value;
            origin = "--preset";
        }
    }
    if (status == CABE_OK && preset && preset[0])
        status = cabe_serve_config_preset(config, preset, origin, err);
    if (status == CABE_OK && file)
        status = take_file(config, path, file, err);
    if (status == CABE_OK)
        status = take_environment(config, environment, err);
    for (size_t i = 0; status == CABE_OK && i < n_flags; i++) {
        char flag[NAME_MAX_BYTES + 2];

        snprintf(flag, sizeof flag, "--%s", flags[i].name);
        status = cabe_serve_config_set(config, flags[i].name, flags[i].value, flag, err);
    }
    json_decref(file);
    return status == CABE_OK ? cabe_serve_config_check(config, err) : status;
}

/* ---- shown ---- */

json_t *cabe_serve_config_json(const struct cabe_serve_config *config)
{
    json_t *out = json_object();

    for (size_t i = 0; out && i < N_SETTINGS; i++) {
        const void *field = (const char *)config + settings[i].offset;

        /* A file of keys is named; a key is not shown. */
        if (field == config->api_keys && config->api_keys[0] != '@')
            continue;
        if (json_object_set_new(out, settings[i].name, cabe_setting_json(field, &settings[i])) != 0) {
            json_decref(out);
            out = NULL;
        }
    }
    return out;
}

static const char *value_name(enum cabe_setting_kind kind)
{
    static const char *const names[] = {"TEXT", "N", "SIZE", "TIME", "X", "true|false"};

    return names[kind];
}

static void print_default(FILE *to, const struct cabe_serve_config *config, const struct cabe_setting *s)
{
    json_t *value = cabe_setting_json((const char *)config + s->offset, s);
    char *text;

    if (json_is_real(value))
        fprintf(to, " [%g]", json_real_value(value));
    else if ((text = value && json_string_length(value) == 0 && json_is_string(value)
                         ? NULL
                         : json_dumps(value, JSON_ENCODE_ANY)) != NULL) {
        fprintf(to, " [%s]", text);
        cabe_free(text);
    }
    json_decref(value);
}

char *cabe_serve_config_help(void)
{
    struct cabe_serve_config *config = cabe_malloc(sizeof *config);
    char *text = NULL;
    size_t n = 0;
    FILE *to = config ? open_memstream(&text, &n) : NULL;

    if (to) {
        cabe_serve_config_defaults(config);
        for (size_t i = 0; i < N_SETTINGS; i++) {
            char flag[80];
            int used = snprintf(flag, sizeof flag, "--%s %s", settings[i].name, value_name(settings[i].kind));

            for (char *c = flag; *c && *c != ' '; c++)
                *c = *c == '_' ? '-' : *c;
            fprintf(to, "  %s%*s%s", flag, used < 34 ? 34 - used : 1, "", settings[i].meaning);
            print_default(to, config, &settings[i]);
            if (settings[i].environment[0])
                fprintf(to, " (%s)", settings[i].environment);
            fputc('\n', to);
        }
        fclose(to);
    }
    cabe_free(config);
    return text;
}
