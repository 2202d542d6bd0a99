#include "text/template.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "text/template_parts.h"

#define BLOCK_BYTES ((size_t)16 << 10)
#define TREE_BYTES ((uint64_t)64 << 20)

/* ---- memory ---- */

struct tpl_block {
    struct tpl_block *older;
    size_t used, room;
    _Alignas(16) char bytes[];
};

void *cabe_tpl_take(struct tpl_memory *memory, size_t n, size_t item_bytes)
{
    struct tpl_block *block = memory->blocks;
    size_t bytes, room;
    char *taken;

    if (__builtin_mul_overflow(n, item_bytes, &bytes) || bytes > SIZE_MAX - 2 * BLOCK_BYTES)
        return NULL;
    bytes = (bytes + 7) & ~(size_t)7;
    if (!block || block->room - block->used < bytes) {
        room = bytes > BLOCK_BYTES / 4 ? bytes : BLOCK_BYTES;
        if (memory->used_bytes + room > memory->limit_bytes)
            return NULL;
        block = cabe_malloc(sizeof *block + room);
        if (!block) {
            memory->refused = 1;
            return NULL;
        }
        memory->used_bytes += room;
        *block = (struct tpl_block){.older = memory->blocks, .room = room};
        memory->blocks = block;
    }
    taken = block->bytes + block->used;
    block->used += bytes;
    memset(taken, 0, bytes);
    return taken;
}

void *cabe_tpl_grow(struct tpl_memory *memory, void *old, size_t old_bytes, size_t new_bytes)
{
    struct tpl_block *block = memory->blocks;
    size_t old_room = (old_bytes + 7) & ~(size_t)7, new_room = (new_bytes + 7) & ~(size_t)7;
    void *taken;

    if (old && block && (char *)old + old_room == block->bytes + block->used &&
        new_room - old_room <= block->room - block->used) {
        block->used += new_room - old_room;
        return old;
    }
    taken = cabe_tpl_take(memory, new_bytes, 1);
    if (taken && old)
        memcpy(taken, old, old_bytes);
    return taken;
}

void cabe_tpl_memory_clear(struct tpl_memory *memory)
{
    while (memory->blocks) {
        struct tpl_block *block = memory->blocks;

        memory->blocks = block->older;
        cabe_free(block);
    }
}

/* ---- compiling ---- */

enum cabe_status cabe_tpl_fail_at(const struct cabe_template *template, size_t at, struct cabe_error *err,
                                  enum cabe_status status, const char *format, ...)
{
    char message[400];
    size_t line = 1, column = 1;
    va_list list;

    for (size_t i = 0; i < at && i < template->n_source; i++) {
        column += ((uint8_t) template->source[i] & 0xC0) != 0x80;
        if (template->source[i] == '\n') {
            line++;
            column = 1;
        }
    }
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    for (size_t i = 0, n; message[i]; i += n) { /* a name may have been cut within a character */
        n = cabe_utf8_length(message + i, strlen(message + i));
        if (n == 0) {
            message[i] = '?';
            n = 1;
        }
    }
    return cabe_fail(err, status, "%s: line %zu, column %zu: %s", template->name, line, column, message);
}

/* A copy with every newline as \n, one at the end left out. */
static const char *copy_source(struct cabe_template *t, const char *text, size_t bytes)
{
    char *copy = cabe_tpl_take(&t->memory, bytes + 1, 1);
    size_t n = 0;

    if (!copy)
        return NULL;
    for (size_t i = 0; i < bytes; i++) {
        copy[n++] = text[i] == '\r' ? '\n' : text[i];
        if (text[i] == '\r' && i + 1 < bytes && text[i + 1] == '\n')
            i++;
    }
    t->n_source = n > 0 && copy[n - 1] == '\n' ? n - 1 : n;
    return copy;
}

static enum cabe_status set_up(struct cabe_template *t, const char *text, size_t bytes, const char *name,
                               struct cabe_error *err)
{
    static const char *const names[TPL_N_NAMES] = {[TPL_NAME_LOOP] = "loop",
                                                   [TPL_NAME_CALLER] = "caller",
                                                   [TPL_NAME_VARARGS] = "varargs",
                                                   [TPL_NAME_KWARGS] = "kwargs",
                                                   [TPL_NAME_RANGE] = "range",
                                                   [TPL_NAME_DICT] = "dict",
                                                   [TPL_NAME_NAMESPACE] = "namespace",
                                                   [TPL_NAME_RAISE] = "raise_exception",
                                                   [TPL_NAME_STRFTIME] = "strftime_now"};
    char *copy;

    t->memory.limit_bytes = TREE_BYTES;
    copy = cabe_tpl_take(&t->memory, strlen(name) + 1, 1);
    t->names_room = 64;
    t->names = cabe_tpl_take(&t->memory, t->names_room, sizeof *t->names);
    t->source = copy_source(t, text, bytes);
    if (!copy || !t->names || !t->source)
        return cabe_fail(err, CABE_ERR_OOM, "%s: %zu bytes", name, bytes);
    t->name = memcpy(copy, name, strlen(name) + 1);
    for (t->n_names = 0; t->n_names < TPL_N_NAMES; t->n_names++)
        t->names[t->n_names] = cabe_tpl_literal(names[t->n_names]);
    return CABE_OK;
}

enum cabe_status cabe_template_compile(struct cabe_template **out, const char *text, size_t bytes,
                                       const char *name, struct cabe_error *err)
{
    struct cabe_template *t;
    enum cabe_status status;

    *out = NULL;
    if (bytes > CABE_TEMPLATE_BYTES_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: %zu bytes, at most %u", name, bytes,
                         CABE_TEMPLATE_BYTES_MAX);
    for (size_t i = 0, n; i < bytes; i += n) {
        n = cabe_utf8_length(text + i, bytes - i);
        if (n == 0)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: byte %zu is not UTF-8", name, i);
    }
    t = cabe_calloc(1, sizeof *t);
    if (!t)
        return cabe_fail(err, CABE_ERR_OOM, "%s", name);
    status = set_up(t, text, bytes, name, err);
    if (status == CABE_OK && cabe_tpl_parse(t, &status, err)) {
        *out = t;
        return CABE_OK;
    }
    cabe_template_close(t);
    return status;
}

void cabe_template_close(struct cabe_template *template)
{
    if (!template)
        return;
    cabe_tpl_memory_clear(&template->memory);
    cabe_free(template);
}

/* ---- running ---- */

void cabe_template_limits_default(struct cabe_template_limits *limits)
{
    *limits = (struct cabe_template_limits){.steps = 20000000,
                                            .depth = 1000,
                                            .memory_bytes = (uint64_t)64 << 20,
                                            .output_bytes = (uint64_t)16 << 20};
}

int cabe_tpl_fail(struct tpl_run *run, enum cabe_status status, const char *format, ...)
{
    char message[400];
    va_list list;

    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    run->status = cabe_tpl_fail_at(run->template, run->at, run->err, status, "%s", message);
    return 0;
}

int cabe_tpl_step(struct tpl_run *run, uint64_t n)
{
    run->steps += n;
    if (run->steps <= run->limits.steps)
        return 1;
    return cabe_tpl_fail(run, CABE_ERR_LIMIT, "stopped after %llu steps",
                         (unsigned long long)run->limits.steps);
}

int cabe_tpl_enter(struct tpl_run *run)
{
    if (run->depth >= run->limits.depth)
        return cabe_tpl_fail(run, CABE_ERR_LIMIT, "nested deeper than %u", run->limits.depth);
    run->depth++;
    return 1;
}

int cabe_tpl_no_memory(struct tpl_run *run)
{
    if (run->memory.refused)
        return cabe_tpl_fail(run, CABE_ERR_OOM, "no memory");
    return cabe_tpl_fail(run, CABE_ERR_LIMIT, "needs more than %llu bytes of memory",
                         (unsigned long long)run->limits.memory_bytes);
}

void *cabe_tpl_new(struct tpl_run *run, size_t n, size_t item_bytes)
{
    void *taken = cabe_tpl_take(&run->memory, n, item_bytes);

    if (!taken)
        cabe_tpl_no_memory(run);
    return taken;
}

static int is_outside(const char *const *outside, const struct tpl_value *name)
{
    for (; outside && *outside; outside++)
        if (cabe_tpl_is_text(name, *outside))
            return 1;
    return 0;
}

/* The variables that the template names, as its outermost scope. */
static int set_variables(struct tpl_run *run, struct tpl_scope *scope, const json_t *variables,
                         const char *const *outside)
{
    for (uint32_t id = 0; id < run->template->n_names; id++) {
        const struct tpl_value *name = &run->template->names[id];
        const json_t *json = json_object_getn(variables, name->s, name->n);
        struct tpl_value value;

        if (json && (!cabe_tpl_from_json(run, json, is_outside(outside, name), &value) ||
                     !cabe_tpl_assign(run, scope, id, &value)))
            return 0;
    }
    return 1;
}

static size_t read_ranges(const struct tpl_out *out, struct cabe_template_range *ranges)
{
    size_t n = 0;

    for (size_t i = 0; out->mark && i < out->n; i++) {
        if (!out->mark[i])
            continue;
        if (ranges && (i == 0 || !out->mark[i - 1]))
            ranges[n].begin = i;
        n += i == 0 || !out->mark[i - 1];
        if (ranges)
            ranges[n - 1].end = i + 1;
    }
    return n;
}

static enum cabe_status take_result(struct tpl_run *run, struct cabe_template_result *result)
{
    const struct tpl_out *out = run->out;

    result->n_outside = read_ranges(out, NULL);
    result->text = cabe_malloc(out->n + 1);
    result->outside = cabe_calloc(result->n_outside + 1, sizeof *result->outside);
    if (!result->text || !result->outside) {
        cabe_template_result_clear(result);
        return cabe_fail(run->err, CABE_ERR_OOM, "%s: a result of %zu bytes", run->template->name, out->n);
    }
    if (out->n)
        memcpy(result->text, out->s, out->n);
    result->text[out->n] = '\0';
    result->bytes = out->n;
    read_ranges(out, result->outside);
    return CABE_OK;
}

enum cabe_status cabe_template_render_marked(const struct cabe_template *template, const json_t *variables,
                                             const char *const *outside,
                                             const struct cabe_template_limits *limits,
                                             struct cabe_template_result *result, struct cabe_error *err)
{
    struct tpl_run run = {.template = template, .err = err, .status = CABE_OK};
    struct tpl_out out = {.run = &run};
    struct tpl_scope scope = {NULL, NULL};

    *result = (struct cabe_template_result){0};
    cabe_template_limits_default(&run.limits);
    if (limits)
        run.limits = *limits;
    run.memory.limit_bytes = run.limits.memory_bytes;
    run.out = &out;
    if (!json_is_object(variables))
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: the variables are no object", template->name);
    if (set_variables(&run, &scope, variables, outside) &&
        cabe_tpl_exec(&run, &scope, template->body) != TPL_FAILED)
        run.status = take_result(&run, result);
    cabe_tpl_memory_clear(&run.memory);
    return run.status;
}

enum cabe_status cabe_template_render(const struct cabe_template *template, const json_t *variables,
                                      const struct cabe_template_limits *limits, char **out, size_t *bytes,
                                      struct cabe_error *err)
{
    struct cabe_template_result result;
    enum cabe_status status = cabe_template_render_marked(template, variables, NULL, limits, &result, err);

    *out = result.text;
    *bytes = result.bytes;
    cabe_free(result.outside);
    return status;
}

void cabe_template_result_clear(struct cabe_template_result *result)
{
    cabe_free(result->text);
    cabe_free(result->outside);
    *result = (struct cabe_template_result){0};
}
