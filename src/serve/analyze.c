#include "serve/analyze.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/home.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "serve/analyze_form.h"
#include "serve/jobs_impl.h"

#define DEFAULT_MODEL "all-minilm-l6-v2"
#define LIMIT_MAX 100000

static const struct cabe_job_kind kind = {"analyze", 1, CABE_CLASS_LOW, cabe_analyze_job_run};

/* ---- what was uploaded, into files ---- */

static void drop_upload(void *self)
{
    struct cabe_upload *upload = self;

    for (int i = 0; upload && i < upload->n; i++)
        close(upload->file[i].fd);
    cabe_free(upload);
}

/* A document is UTF-8 text: said here, with its name, before anything is begun. */
static enum cabe_status check_text(const char *name, const char *bytes, size_t n, struct cabe_error *err)
{
    if (n == 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: is empty", name);
    if (memchr(bytes, '\0', n))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: byte %zu is 0: this is no text", name,
                         (size_t)((const char *)memchr(bytes, '\0', n) - bytes));
    for (size_t i = 0; i < n;) {
        size_t length;

        if ((unsigned char)bytes[i] < 0x80) {
            i++;
            continue;
        }
        length = cabe_utf8_length(bytes + i, n - i);
        if (length == 0)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: byte %zu is not UTF-8", name, i);
        i += length;
    }
    return CABE_OK;
}

static enum cabe_status write_all(int fd, const char *name, const char *bytes, size_t n, struct cabe_error *err)
{
    while (n > 0) {
        ssize_t wrote = write(fd, bytes, n);

        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0)
            return cabe_fail_errno(err, errno, "%s: keeping the upload", name);
        bytes += wrote;
        n -= (size_t)wrote;
    }
    return CABE_OK;
}

static enum cabe_status add_file(struct cabe_upload *upload, const char *name, const char *bytes, size_t n,
                                 struct cabe_error *err)
{
    char path[CABE_HOME_PATH_MAX];
    enum cabe_status status;
    int fd;

    if (upload->n == CABE_UPLOAD_FILES_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "more than %d documents", CABE_UPLOAD_FILES_MAX);
    status = check_text(name, bytes, n, err);
    if (status == CABE_OK)
        status = cabe_home_file(path, CABE_HOME_STATE, "upload-XXXXXX", err);
    if (status != CABE_OK)
        return status;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return cabe_fail_errno(err, errno, "%s", path);
    unlink(path);
    status = write_all(fd, name, bytes, n, err);
    if (status != CABE_OK) {
        close(fd);
        return status;
    }
    snprintf(upload->file[upload->n].name, sizeof upload->file[0].name, "%s", name);
    snprintf(upload->file[upload->n].path, sizeof upload->file[0].path, "/proc/self/fd/%d", fd);
    upload->file[upload->n].fd = fd;
    upload->file[upload->n].bytes = n;
    upload->n++;
    return CABE_OK;
}

/* ---- wishes: the same names in queries, forms and JSON ---- */

static enum cabe_status set_wish(struct cabe_upload *upload, const char *name, const char *value, struct cabe_error *err)
{
    static const char *const dtypes[] = {"f32", "f16", "int8"};
    static const enum cabe_dtype rows[] = {CABE_F32, CABE_F16, CABE_I8};
    char *end = NULL;
    double number = strtod(value, &end);
    int is_number = end != value && *end == '\0';

    if (strcmp(name, "model") == 0) {
        if (!value[0] || snprintf(upload->model, sizeof upload->model, "%s", value) >= (int)sizeof upload->model)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "model: wanted a name");
        return CABE_OK;
    }
    if (strcmp(name, "threshold") == 0) {
        upload->wishes.threshold = (float)number;
        return is_number && number > 0 && number <= 1
                   ? CABE_OK
                   : cabe_fail(err, CABE_ERR_ARGUMENT, "threshold '%.40s': wanted a number above 0, at most 1", value);
    }
    if (strcmp(name, "min_words") == 0) {
        upload->wishes.min_words = (int)fmin(number, 1e6);
        return is_number && number >= 1
                   ? CABE_OK
                   : cabe_fail(err, CABE_ERR_ARGUMENT, "min_words '%.40s': wanted a number from 1", value);
    }
    if (strcmp(name, "limit") == 0) {
        upload->limit = (int)fmin(number, LIMIT_MAX);
        return is_number && number >= 1 && number <= LIMIT_MAX
                   ? CABE_OK
                   : cabe_fail(err, CABE_ERR_ARGUMENT, "limit '%.40s': wanted a number from 1 to %d", value, LIMIT_MAX);
    }
    if (strcmp(name, "rows") == 0) {
        for (int i = 0; i < 3; i++) {
            if (strcmp(value, dtypes[i]) == 0) {
                upload->wishes.rows = (int)rows[i];
                return CABE_OK;
            }
        }
        return cabe_fail(err, CABE_ERR_ARGUMENT, "rows '%.40s': wanted f32, f16 or int8", value);
    }
    return cabe_fail(err, CABE_ERR_NOT_FOUND, "no field '%.40s'", name);
}

static const char *const wish_names[] = {"model", "threshold", "min_words", "limit", "rows"};
#define N_WISHES (sizeof wish_names / sizeof *wish_names)

static enum cabe_status read_query(struct cabe_upload *upload, const struct cabe_http_exchange *exchange,
                                   struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    for (size_t i = 0; i < N_WISHES && status == CABE_OK; i++) {
        const char *value = cabe_http_query(exchange, wish_names[i]);

        if (value)
            status = set_wish(upload, wish_names[i], value, err);
    }
    return status;
}

static enum cabe_status take_part(void *self, const struct cabe_form_part *part, struct cabe_error *err)
{
    struct cabe_upload *upload = self;
    char value[512];

    if (part->filename[0] || strcmp(part->name, "text") == 0)
        return add_file(upload, part->filename[0] ? part->filename : "text", part->bytes, part->n, err);
    if (part->n >= sizeof value)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "field '%s': longer than %zu bytes", part->name, sizeof value - 1);
    memcpy(value, part->bytes, part->n);
    value[part->n] = '\0';
    return set_wish(upload, part->name, value, err) == CABE_ERR_NOT_FOUND
               ? cabe_fail(err, CABE_ERR_ARGUMENT, "no field '%s'", part->name)
               : set_wish(upload, part->name, value, err);
}

static enum cabe_status take_json_text(struct cabe_upload *upload, const json_t *name, const json_t *text, int number,
                                       struct cabe_error *err)
{
    char made[32];

    if (number > 0)
        snprintf(made, sizeof made, "document %d", number);
    else
        snprintf(made, sizeof made, "text, name");
    if (!json_is_string(text) || (name && !json_is_string(name)))
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: wanted \"name\": \"...\", \"text\": \"...\"", made);
    return add_file(upload, name && json_string_length(name) ? json_string_value(name) : number ? made : "text",
                    json_string_value(text), json_string_length(text), err);
}

static enum cabe_status read_json(struct cabe_upload *upload, const json_t *body, struct cabe_error *err)
{
    const json_t *documents = json_object_get(body, "documents"), *text = json_object_get(body, "text"), *document;
    enum cabe_status status = CABE_OK;
    size_t number;

    if (json_object_get(body, "path") || json_object_get(body, "paths"))
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "path: the server reads no files for clients; send the document");
    for (size_t i = 0; i < N_WISHES && status == CABE_OK; i++) {
        const json_t *value = json_object_get(body, wish_names[i]);
        char number_text[40];

        if (!value || json_is_null(value))
            continue;
        if (json_is_number(value))
            snprintf(number_text, sizeof number_text, "%.9g", json_number_value(value));
        status = json_is_number(value)   ? set_wish(upload, wish_names[i], number_text, err)
                 : json_is_string(value) ? set_wish(upload, wish_names[i], json_string_value(value), err)
                                         : cabe_fail(err, CABE_ERR_ARGUMENT, "%s: wanted text or a number", wish_names[i]);
    }
    if (status == CABE_OK && text)
        status = take_json_text(upload, json_object_get(body, "name"), text, 0, err);
    if (documents && !json_is_array(documents))
        return cabe_fail(err, CABE_ERR_ARGUMENT, "documents: wanted a list of {\"name\", \"text\"}");
    json_array_foreach(documents, number, document)
    {
        if (status == CABE_OK)
            status = take_json_text(upload, json_object_get(document, "name"), json_object_get(document, "text"),
                                    (int)number + 1, err);
    }
    return status;
}

static int has_type(const char *type, const char *wanted)
{
    size_t n = strlen(wanted);

    return strncasecmp(type, wanted, n) == 0 && (type[n] == '\0' || type[n] == ';' || type[n] == ' ');
}

/* 0: it has been answered. */
static int read_upload(struct cabe_upload *upload, struct cabe_http_exchange *exchange)
{
    const char *type = cabe_http_header(exchange, "content-type"), *name = cabe_http_query(exchange, "name");
    struct cabe_error err = {0};
    enum cabe_status status;
    const char *body;
    size_t n;
    json_t *json;

    body = cabe_http_body(exchange, &n);
    status = read_query(upload, exchange, &err);
    if (status != CABE_OK) {
        cabe_reply_status(exchange, &err, NULL);
        return 0;
    }
    if (type && has_type(type, "application/json")) {
        json = cabe_request_json(exchange);
        if (!json)
            return 0;
        status = read_json(upload, json, &err);
        json_decref(json);
    } else if (type && has_type(type, "multipart/form-data")) {
        status = cabe_form_read(type, body, n, take_part, upload, &err);
    } else if (!type || strncasecmp(type, "text/", 5) == 0) {
        status = add_file(upload, name && name[0] ? name : "document", body, n, &err);
    } else {
        cabe_reply_error(exchange, 415, "unsupported_type", NULL,
                         "%.80s: wanted text/plain, text/markdown, multipart/form-data or application/json", type);
        return 0;
    }
    if (status == CABE_OK && upload->n == 0)
        status = cabe_fail(&err, CABE_ERR_ARGUMENT, "no document: wanted a file, or \"text\"");
    if (status != CABE_OK)
        cabe_reply_status(exchange, &err, NULL);
    return status == CABE_OK;
}

/* ---- the job ---- */

static json_t *wish_json(const struct cabe_upload *upload)
{
    json_t *documents = json_array(), *wish;

    for (int i = 0; i < upload->n; i++)
        json_array_append_new(documents, json_pack("{s:o,s:o}", "name",
                                                   cabe_json_text(upload->file[i].name, strlen(upload->file[i].name)),
                                                   "bytes", cabe_json_count(upload->file[i].bytes)));
    wish = json_pack("{s:s,s:o,s:i}", "model", upload->model, "documents", documents, "limit", upload->limit);
    if (wish && upload->wishes.threshold > 0)
        json_object_set_new(wish, "threshold", json_real((double)upload->wishes.threshold));
    if (wish && upload->wishes.min_words > 0)
        json_object_set_new(wish, "min_words", json_integer(upload->wishes.min_words));
    return wish;
}

static int is_async(const struct cabe_http_exchange *exchange)
{
    const char *prefer = cabe_http_header(exchange, "prefer");

    return prefer && strcasestr(prefer, "respond-async") != NULL;
}

/* 0: it has been answered. Asked for early, so that a wrong name is an answer and not the end of a stream. */
static int check_model(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *name)
{
    struct cabe_service_model *model = cabe_calloc(1, sizeof *model);
    struct cabe_error err;
    enum cabe_status status = model ? cabe_service_model(server->service, name, model, &err)
                                    : cabe_fail(&err, CABE_ERR_OOM, "model");

    if (status == CABE_OK && model->writes)
        status = cabe_fail(&err, CABE_ERR_UNSUPPORTED, "%s writes text: an analysis wants a model that embeds", name);
    cabe_free(model);
    if (status == CABE_ERR_NOT_FOUND)
        cabe_reply_error(exchange, 404, "model_not_found", "model", "%s", err.text);
    else if (status != CABE_OK)
        cabe_reply_status(exchange, &err, NULL);
    return status == CABE_OK;
}

static void start_job(struct cabe_server *server, struct cabe_http_exchange *exchange, struct cabe_upload *upload)
{
    int async = is_async(exchange);
    struct cabe_job_start start = {.kind = &kind,
                                   .class_ = cabe_request_class(exchange, NULL, kind.class_),
                                   .exchange = async ? NULL : exchange,
                                   .form = cabe_stream_wanted(exchange),
                                   .is_fleeting = !async,
                                   .payload = upload,
                                   .drop = drop_upload};
    char id[CABE_JOB_ID_MAX], location[CABE_JOB_ID_MAX + 16];
    struct cabe_error err;

    start.wish = wish_json(upload);
    if (!start.wish) {
        drop_upload(upload);
        cabe_reply_no_memory(exchange, "the job");
        return;
    }
    if (cabe_jobs_begin(server->jobs, &start, id, &err) != CABE_OK) {
        cabe_reply_status(exchange, &err, NULL);
        return;
    }
    if (!async)
        return;
    snprintf(location, sizeof location, "/v1/jobs/%s", id);
    cabe_http_set(exchange, "location", location);
    cabe_http_set(exchange, "preference-applied", "respond-async");
    cabe_reply_json(exchange, 202, json_pack("{s:s,s:s,s:s,s:s}", "id", id, "object", "job", "kind", kind.name, "state",
                                             "waiting"));
}

static void analyze_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    struct cabe_upload *upload = cabe_calloc(1, sizeof *upload);

    (void)tail;
    if (!upload) {
        cabe_reply_no_memory(exchange, "the upload");
        return;
    }
    snprintf(upload->model, sizeof upload->model, DEFAULT_MODEL);
    upload->wishes.rows = -1;
    upload->limit = CABE_ANALYZE_LIMIT;
    if (read_upload(upload, exchange) && check_model(server, exchange, upload->model))
        start_job(server, exchange, upload);
    else
        drop_upload(upload);
}

void cabe_analyze_post(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, analyze_now);
}
