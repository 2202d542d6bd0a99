/*
 * Chat templates: a Jinja template, compiled once and rendered as Python's jinja2 does with the settings that
 * Hugging Face's transformers use for chat templates (trim_blocks, lstrip_blocks, loop controls, generation
 * blocks, a sandbox in which lists and dicts do not change; tojson without HTML escapes; raise_exception,
 * strftime_now).
 *
 * What is left out is named when it is met (CABE_ERR_UNSUPPORTED): include, import, extends, autoescape, a
 * few filters, integers of more than 64 bits.
 *
 * A template comes from a model file, so it is hostile until shown otherwise: every render is stopped by
 * limits on steps, depth, memory and output. Errors name the template, line, column and what was found there.
 *
 * Owner: who compiles closes; variables are borrowed during a render.
 * Thread: a template may be rendered by any number of threads at once; a render belongs to one.
 */
#ifndef CABE_TEXT_TEMPLATE_H
#define CABE_TEXT_TEMPLATE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "cabe/status.h"

#define CABE_TEMPLATE_BYTES_MAX (1u << 20) /* of a template's own text */

struct cabe_template;

struct cabe_template_limits {
    uint64_t steps;        /* nodes evaluated, and bulk work in units of 64 bytes or a few items */
    uint32_t depth;        /* of nested evaluation; a level takes at most 1 KiB of stack */
    uint64_t memory_bytes; /* of one render; everything is given back at its end */
    uint64_t output_bytes; /* of the result and of any text on the way */
    int64_t now;           /* for strftime_now, seconds since 1970; 0: the clock's */
};
void cabe_template_limits_default(struct cabe_template_limits *limits);

/*
 * `text`: `bytes` of UTF-8, copied; `name` for messages ("chat template"). CABE_ERR_FORMAT: not a template,
 * with line and column.
 */
CABE_CHECKED enum cabe_status cabe_template_compile(struct cabe_template **out, const char *text,
                                                    size_t bytes, const char *name, struct cabe_error *err);
void cabe_template_close(struct cabe_template *template); /* NULL is fine */

/*
 * `variables`: a JSON object. `limits` may be NULL for the default. On CABE_OK `*out` is NUL-terminated UTF-8
 * of
 * `*bytes`, to be freed with cabe_free(). CABE_ERR_ARGUMENT: the template itself refused, by
 * raise_exception(), with its message. CABE_ERR_FORMAT: it does something that Python would refuse, as using
 * what is undefined. CABE_ERR_LIMIT: a limit stopped it.
 */
CABE_CHECKED enum cabe_status cabe_template_render(const struct cabe_template *template,
                                                   const json_t *variables,
                                                   const struct cabe_template_limits *limits, char **out,
                                                   size_t *bytes, struct cabe_error *err);

struct cabe_template_range { /* bytes [begin, end) of the result */
    size_t begin, end;
};

struct cabe_template_result {
    char *text; /* NUL-terminated */
    size_t bytes;
    struct cabe_template_range *outside; /* in ascending order, not touching each other */
    size_t n_outside;
};

/*
 * The same, and says which bytes of the result come from outside: from a string in the variables named by
 * `outside` (NULL at its end), however the template has cut, joined, trimmed or escaped it. What the template
 * wrote itself is inside. A "role" made only of letters, digits, '_' and '-' counts as inside, since
 * templates build control tokens of it.
 */
CABE_CHECKED enum cabe_status cabe_template_render_marked(const struct cabe_template *template,
                                                          const json_t *variables, const char *const *outside,
                                                          const struct cabe_template_limits *limits,
                                                          struct cabe_template_result *out,
                                                          struct cabe_error *err);
void cabe_template_result_clear(struct cabe_template_result *result);

#endif
