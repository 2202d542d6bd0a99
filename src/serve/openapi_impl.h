/* The parts of the OpenAPI description that the route tables do not have. */
#ifndef CABE_SERVE_OPENAPI_IMPL_H
#define CABE_SERVE_OPENAPI_IMPL_H

#include "serve/http.h"

struct openapi_schema {
    const char *name, *json;
};

struct openapi_body {
    const char *path, *schema; /* of the request */
};

struct openapi_form {
    const char *path, *type; /* that a request's body may have besides JSON */
    const char *schema;      /* NULL: it is a text */
};

struct openapi_parameter {
    enum cabe_http_method method;
    const char *path, *name;
    const char *in;      /* "query" or "header" */
    const char *meaning; /* NULL: as in the body's schema */
};

struct openapi_answer { /* a route without one answers with errors only */
    enum cabe_http_method method;
    const char *path;
    int status;
    const char *schema; /* of its JSON; NULL: it has none */
    const char *type;   /* another type that it may have, such as that of a stream; NULL: none */
};

/* End with NULL. */
extern const struct openapi_schema openapi_schemas[], openapi_answer_schemas[];
extern const struct openapi_answer openapi_answers[];
extern const struct openapi_body openapi_bodies[];
extern const struct openapi_form openapi_forms[];
extern const struct openapi_parameter openapi_parameters[];

#endif
