/* The parts of the OpenAPI description that the route tables do not have. */
#ifndef CABE_SERVE_OPENAPI_IMPL_H
#define CABE_SERVE_OPENAPI_IMPL_H

struct openapi_schema {
    const char *name, *json;
};

struct openapi_body {
    const char *path, *schema; /* of the request */
    int streams;               /* 1: server-sent events, 2: JSON lines, where "stream" is true */
};

/* End with NULL. */
extern const struct openapi_schema openapi_schemas[];
extern const struct openapi_body openapi_bodies[];

#endif
