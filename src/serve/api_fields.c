#include "serve/api_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

void api_refuse(struct api_fault *fault, int status, const char *code, const char *param, const char *format, ...)
{
    va_list args;

    if (fault->status != 0)
        return;
    fault->status = status;
    fault->code = code;
    snprintf(fault->param, sizeof fault->param, "%.*s",
             param ? (int)cabe_utf8_cut(param, sizeof fault->param - 1) : 0, param ? param : "");
    va_start(args, format);
    vsnprintf(fault->text, sizeof fault->text, format, args);
    va_end(args);
    fault->text[cabe_utf8_cut(fault->text, sizeof fault->text - 1)] = '\0';
}

void api_refuse_memory(struct api_fault *fault)
{
    api_refuse(fault, 503, "out_of_memory", NULL, "out of memory");
}

void api_fault_of(struct api_fault *fault, const struct cabe_error *err)
{
    const char *code;
    int status = cabe_reply_code(err->status, &code);

    if (err->status == CABE_ERR_NOT_FOUND)
        api_refuse(fault, status, "model_not_found", "model", "%s", err->text);
    else
        api_refuse(fault, status, code, NULL, "%s", err->text);
}

const char *api_error_type(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "overloaded_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

const char *api_kind(const json_t *json)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

/* The field, unless it is absent, null, or something was wrong before. */
static const json_t *field(const struct api_object *object, const char *name)
{
    const json_t *value = json_object_get(object->json, name);

    return object->fault->status == 0 && value && !json_is_null(value) ? value : NULL;
}

static void wrong(const struct api_object *object, const char *name, const char *code, const json_t *value,
                  const char *wanted)
{
    char param[96], got[64];

    snprintf(param, sizeof param, "%s%s", object->prefix, name);
    if (json_is_integer(value))
        snprintf(got, sizeof got, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(got, sizeof got, "%g", json_real_value(value));
    else
        snprintf(got, sizeof got, "%s", api_kind(value));
    api_refuse(object->fault, 400, code, param, "%s: wanted %s, got %s", param, wanted, got);
}

int api_get_number(const struct api_object *object, const char *name, double least, double most, double *out)
{
    const json_t *value = field(object, name);
    char wanted[80];
    double number;

    if (!value)
        return 0;
    snprintf(wanted, sizeof wanted, "a number from %g to %g", least, most);
    if (!json_is_number(value)) {
        wrong(object, name, "invalid_type", value, wanted);
        return 0;
    }
    number = json_number_value(value);
    if (!(number >= least && number <= most)) {
        wrong(object, name, "invalid_value", value, wanted);
        return 0;
    }
    *out = number;
    return 1;
}

int api_get_integer(const struct api_object *object, const char *name, int64_t least, int64_t most, int64_t *out)
{
    const json_t *value = field(object, name);
    char wanted[80];
    double real;
    int64_t number;

    if (!value)
        return 0;
    if (most == INT64_MAX)
        snprintf(wanted, sizeof wanted, "an integer of %lld or more", (long long)least);
    else
        snprintf(wanted, sizeof wanted, "an integer from %lld to %lld", (long long)least, (long long)most);
    real = json_number_value(value);
    if (!json_is_number(value) || (json_is_real(value) && (real != floor(real) || fabs(real) > 9e15))) {
        wrong(object, name, "invalid_type", value, wanted);
        return 0;
    }
    number = json_is_integer(value) ? json_integer_value(value) : (int64_t)real;
    if (number < least || number > most) {
        wrong(object, name, "invalid_value", value, wanted);
        return 0;
    }
    *out = number;
    return 1;
}

int api_get_flag(const struct api_object *object, const char *name, int *out)
{
    const json_t *value = field(object, name);

    if (!value)
        return 0;
    if (!json_is_boolean(value)) {
        wrong(object, name, "invalid_type", value, "true or false");
        return 0;
    }
    *out = json_is_true(value);
    return 1;
}

int api_get_string(const struct api_object *object, const char *name, const char **out, size_t *bytes)
{
    const json_t *value = field(object, name);

    if (!value)
        return 0;
    if (!json_is_string(value)) {
        wrong(object, name, "invalid_type", value, "a string");
        return 0;
    }
    *out = json_string_value(value);
    if (bytes) {
        *bytes = json_string_length(value);
    } else if (strlen(*out) != json_string_length(value)) {
        wrong(object, name, "invalid_value", value, "a string without NUL");
        return 0;
    }
    return 1;
}

static int get_of(const struct api_object *object, const char *name, json_type type, const char *wanted,
                  const json_t **out)
{
    const json_t *value = field(object, name);

    if (!value)
        return 0;
    if (json_typeof(value) != type) {
        wrong(object, name, "invalid_type", value, wanted);
        return 0;
    }
    *out = value;
    return 1;
}

int api_get_array(const struct api_object *object, const char *name, const json_t **out)
{
    return get_of(object, name, JSON_ARRAY, "an array", out);
}

int api_get_object(const struct api_object *object, const char *name, const json_t **out)
{
    return get_of(object, name, JSON_OBJECT, "an object", out);
}
