/* OpenAI's Responses API. */
#include "serve/api_impl.h"

static void respond_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    api_serve_answer(server, exchange, api_read_response, &api_form_response, "resp_");
}

static void respond(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    if (api_is_large(exchange))
        cabe_handle_later(server, exchange, tail, respond_now);
    else
        respond_now(server, exchange, tail);
}

static void not_stored(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)server;
    cabe_reply_error(exchange, 404, "response_not_found", NULL, "'%.64s': responses are not stored here", tail);
}

const struct cabe_route cabe_responses_routes[] = {
    {CABE_HTTP_POST, "/v1/responses", respond, 0, "Answers an input, as items of output"},
    {CABE_HTTP_GET, "/v1/responses/*", not_stored, 0, "Says that responses are not stored"},
    {CABE_HTTP_DELETE, "/v1/responses/*", not_stored, 0, "Says that responses are not stored"},
    {.path = NULL},
};
