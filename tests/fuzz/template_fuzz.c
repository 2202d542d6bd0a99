/*
 * Outside bytes as a chat template, with variables of every kind. An input is a template; or, up to a zero
 * byte, a template, and behind it JSON for the variables.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char variables[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\" Be kind. "
    "\"},{\"role\":\"user\",\"content\":\"h\\u00e9 <|x|>\","
    "\"n\":1},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\","
    "\"arguments\":"
    "{\"a\":[1,2.5,true]}}}]}],\"tools\":[{\"type\":\"function\",\"b\":\"A\"}],\"add_generation_prompt\":"
    "true,"
    "\"a\":[3,1,2],\"s\":\"Hello "
    "World\",\"d\":{\"x\":1,\"y\":[]},\"n\":null,\"f\":-1.5,\"bos_token\":\"<s>\"}";

static void require(int holds)
{
    if (!holds)
        abort();
}

static void check_text(const char *text, size_t n)
{
    for (size_t i = 0, k; i < n; i += k) {
        k = cabe_utf8_length(text + i, n - i);
        require(k > 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const outside[] = {"messages", "tools", "s", "d", NULL};
    static const struct cabe_template_limits limits = {
        .steps = 200000, .depth = 200, .memory_bytes = 8 << 20, .output_bytes = 1 << 20, .now = 1700000000};
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    json_t *values = zero ? json_loadb((const char *)zero + 1, size - n - 1, JSON_ALLOW_NUL, NULL) : NULL;
    struct cabe_template_result result;
    struct cabe_template *t;
    struct cabe_error err = {.text = ""};

    if (!json_is_object(values)) {
        json_decref(values);
        values = json_loads(variables, 0, NULL);
    }
    if (cabe_template_compile(&t, (const char *)data, n, "fuzz", &err) == CABE_OK) {
        if (cabe_template_render_marked(t, values, outside, &limits, &result, &err) == CABE_OK) {
            check_text(result.text, result.bytes);
            for (size_t i = 0; i < result.n_outside; i++)
                require(result.outside[i].begin < result.outside[i].end &&
                        result.outside[i].end <= result.bytes &&
                        (i == 0 || result.outside[i].begin > result.outside[i - 1].end));
            cabe_template_result_clear(&result);
        } else {
            require(err.text[0] != '\0' && result.text == NULL);
        }
        cabe_template_close(t);
    }
    check_text(err.text, strlen(err.text));
    json_decref(values);
    return 0;
}
