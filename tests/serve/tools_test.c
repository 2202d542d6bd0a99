/*
 * Calls of tools: what families write becomes calls in every API's form, what is not a call stays text; and templates of
 * real models are told of the tools.
 */
#include <stdlib.h>

#include <archive.h>
#include <archive_entry.h>

#include "api_setup.h"
#include "text/chat.h"

#define TEMPLATES "../shared/data/chat-templates/llama.cpp-templates.tar.gz"

#define TOOLS                                                                                                          \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"description\":\"The weather of a city\"," \
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\",\"description\":\"its name\"}},"    \
    "\"required\":[\"city\"]}}}]"
#define QUESTION "{\"role\":\"user\",\"content\":\"How warm is Oslo?\"}"
#define CALL                                                                                                           \
    "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"abcdefghi\",\"type\":\"function\",\"function\":{" \
    "\"name\":\"get_weather\",\"arguments\":\"{\\\"city\\\":\\\"Oslo\\\"}\"}}]}"

/* ---- in every form ---- */

/* The model says `text` in pieces; the answer as the API writes it. */
static json_t *answer(const char *json, api_reader *read, const struct api_form *form, const char *text, size_t piece,
                      struct recorder *r)
{
    struct api_answer *made = ask_for(r, json, read, form);
    json_t *out = NULL;

    assert_int_equal(json_array_size(played.ask[0].tools), 1);
    start_part(0);
    for (size_t i = 0, n = strlen(text); i < n; i += piece) {
        char some[1001];

        snprintf(some, sizeof some, "%.*s", (int)piece, text + i);
        say(0, 0, some);
    }
    conclude_part(0, CABE_SERVICE_STOP);
    if (r->n_begun == 0)
        out = whole_json(r);
    api_answer_release(made);
    return out;
}

/* Of a stream: the calls and the text that its pieces have, by paths in one piece. */
static void gather(const struct recorder *r, const char *calls_path, const char *text_path, json_t *calls,
                   char text[1000])
{
    json_t *piece, *call;
    size_t i;

    text[0] = '\0';
    for (int nth = 0; (piece = nth_json(r, nth)) != NULL; nth++) {
        const char *words = json_string_value(at(piece, text_path));

        json_array_foreach(at(piece, calls_path), i, call)
            json_array_append(calls, call);
        if (words)
            strncat(text, words, 999 - strlen(text));
        json_decref(piece);
    }
}

static void expect_one(const json_t *calls, int is_text, const char *shown, const char *text, const char *from)
{
    json_t *arguments = at(calls, "0.function.arguments"), *parsed;

    if (json_array_size(calls) != 1 || strcmp(shown, text) != 0)
        print_message("%s: %zu calls, '%s'\n", from, json_array_size(calls), shown);
    assert_int_equal(json_array_size(calls), 1);
    assert_string_equal(shown, text);
    assert_text(calls, "0.function.name", "get_weather");
    assert_int_equal(json_is_string(arguments), is_text);
    parsed = is_text ? json_loads(json_string_value(arguments), 0, NULL) : json_incref(arguments);
    assert_text(parsed, "city", "Oslo");
    json_decref(parsed);
}

/* `from` holds one call, of the weather of Oslo, behind `text`: as OpenAI and as Ollama, whole and as a stream. */
static void expect_call(const char *from, const char *text)
{
    static const size_t pieces[] = {1, 5, 1000};

    for (size_t p = 0; p < sizeof pieces / sizeof pieces[0]; p++) {
        for (int ollama = 0; ollama < 2; ollama++) {
            const char *const format = "{\"model\":\"m\",\"stream\":%s,\"messages\":[" QUESTION "]," TOOLS "}";
            api_reader *read = ollama ? api_read_ollama_chat : api_read_chat;
            const struct api_form *form = ollama ? &api_form_ollama_chat : &api_form_chat;
            const char *calls_at = ollama ? "message.tool_calls" : "choices.0.message.tool_calls";
            const char *text_at = ollama ? "message.content" : "choices.0.message.content";
            json_t *json, *calls = json_array();
            struct recorder r;
            char wish[800], shown[1000];

            snprintf(wish, sizeof wish, format, "false");
            json = answer(wish, read, form, from, pieces[p], &r);
            expect_one(at(json, calls_at), !ollama,
                       json_string_value(at(json, text_at)) ? json_string_value(at(json, text_at)) : "", text, from);
            if (!ollama) {
                assert_text(json, "choices.0.finish_reason", "tool_calls");
                assert_int_equal(strlen(json_string_value(at(json, "choices.0.message.tool_calls.0.id"))), 9);
            }
            json_decref(json);
            api_text_clear(&r.text);

            snprintf(wish, sizeof wish, format, "true");
            answer(wish, read, form, from, pieces[p], &r);
            gather(&r, ollama ? "message.tool_calls" : "choices.0.delta.tool_calls",
                   ollama ? "message.content" : "choices.0.delta.content", calls, shown);
            expect_one(calls, !ollama, shown, text, from);
            assert_int_equal(has(&r, "\"finish_reason\":\"tool_calls\""), !ollama);
            json_decref(calls);
            api_text_clear(&r.text);
        }
    }
}

static void expect_text(const char *from)
{
    static const char wish[] = "{\"model\":\"m\",\"messages\":[" QUESTION "]," TOOLS "}";
    struct recorder r;
    json_t *json;

    for (size_t piece = 1; piece < 100; piece *= 7) {
        json = answer(wish, api_read_chat, &api_form_chat, from, piece, &r);
        assert_text(json, "choices.0.message.content", from);
        assert_null(at(json, "choices.0.message.tool_calls"));
        assert_text(json, "choices.0.finish_reason", "stop");
        json_decref(json);
        api_text_clear(&r.text);
    }
}

static void test_families(void **state)
{
    (void)state;
    expect_call("<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>", "");
    expect_call("I look. <tool_call>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}]</tool_call>",
                "I look. ");
    expect_call("{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\"}}", "");
    expect_call("{\"type\": \"function\", \"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\"}}", "");
    expect_call("<|python_tag|>{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\"}}", "");
    expect_call("[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}]", "");
    expect_call("Let me see.[TOOL_CALLS] [{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}]", "Let me see.");
    expect_call("[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Oslo\"}", "");
    expect_call("[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{\"city\": \"Oslo\"}", "");
    expect_call("<function=get_weather>{\"city\": \"Oslo\"}</function>", "");
    expect_call("<TOOLCALL>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}]</TOOLCALL>", "");
    expect_call(" functools[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}]", " ");
}

static void test_malformed(void **state)
{
    static const char *const texts[] = {
        "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": </tool_call>",
        "<tool_call>{\"name\": \"get_weather\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"arguments\": {\"city\": \"Oslo\"}}</tool_call>",
        "<tool_call>",
        "<tool_call></tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[TOOL_CALLS]get_weather",
        "[TOOL_CALLS]get_weather[ARGS]{\"city\"",
        "[TOOL_CALLS]get weather[ARGS]{\"city\": \"Oslo\"}",
        "[TOOL_CALLS][{\"name\": \"get_weather\"}] and more",
        "<|python_tag|>get_weather.call(city=\"Oslo\")",
        "<function=get_weather>{\"city\": \"Oslo\"</function>",
        "<function=>{\"city\": \"Oslo\"}</function>",
        "functools[1, 2]",
        "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\"}} is how to ask",
        "{\"name\": \"Alice\", \"parameters\": {}}", /* JSON about something that has a name */
        "{\"name\": \"Alice\"}",
        "[{\"name\": \"Alice\"}]",
        "{\"city\": \"Oslo\"}",
        "a < b, <tool, [TOOL and <funct",
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        expect_text(texts[i]);
}

/* Marks that are control tokens: texts do not show them, the tokens tell. */
static void test_control_tokens(void **state)
{
    static const char *const special[] = {"[TOOL_CALLS]", "[ARGS]", "</s>"};
    json_t *vocab = json_object(), *added = json_array(), *document;
    struct api_scan scan = {.on = 1};
    struct api_text shown = {0};
    struct cabe_tokenizer *tokenizer = NULL;
    struct cabe_error err = {.text = ""};
    void *block;
    size_t bytes;

    (void)state;
    json_object_set_new(vocab, "a", json_integer(0));
    for (int i = 0; i < 3; i++)
        json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b}", "id", i + 1, "content", special[i], "special", 1,
                                               "normalized", 0));
    document = json_pack("{s:{s:s,s:o,s:[]},s:o,s:{s:s,s:b},s:{s:s}}", "model", "type", "BPE", "vocab", vocab,
                         "merges", "added_tokens", added, "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0,
                         "decoder", "type", "ByteLevel");
    if (cabe_tokenizer_compile_json(document, "test", &block, &bytes, &err) != CABE_OK ||
        cabe_tokenizer_open(&tokenizer, block, bytes, "test", &err) != CABE_OK)
        fail_msg("%s", err.text);
    api_scan_put(&scan, "Yes. ", 5, &shown);
    api_scan_token(&scan, tokenizer, 2, &shown); /* stands for nothing outside a call */
    api_scan_token(&scan, tokenizer, 1, &shown);
    api_scan_put(&scan, "get_weather", 11, &shown);
    api_scan_token(&scan, tokenizer, 2, &shown);
    api_scan_put(&scan, "{\"city\": \"Oslo\"}", 16, &shown);
    api_scan_token(&scan, tokenizer, 3, &shown);
    api_scan_token(&scan, tokenizer, 0, &shown);
    api_scan_end(&scan, &shown);
    assert_int_equal(scan.n_calls, 1);
    assert_string_equal(scan.calls[0].name, "get_weather");
    assert_string_equal(scan.calls[0].arguments, "{\"city\":\"Oslo\"}");
    assert_true(shown.n == 5 && memcmp(shown.bytes, "Yes. ", 5) == 0);
    api_scan_clear(&scan);
    api_text_clear(&shown);
    cabe_tokenizer_close(tokenizer);
    cabe_free(block);
    json_decref(document);
}

/* Calls and results without names of their own, as Ollama's clients send them, get some. */
static void test_numbers(void **state)
{
    struct api_request r;
    struct api_fault fault;

    (void)state;
    read_request(&r,
                 "{\"model\":\"m\",\"messages\":[" QUESTION ",{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{"
                 "\"function\":{\"name\":\"f\",\"arguments\":{}}},{\"function\":{\"name\":\"g\",\"arguments\":{}}}]},{"
                 "\"role\":\"tool\",\"tool_name\":\"f\",\"content\":\"1\"},{\"role\":\"tool\",\"content\":\"2\"}]}",
                 api_read_ollama_chat, &fault);
    assert_int_equal(fault.status, 0);
    assert_text(r.messages, "1.tool_calls.0.id", "call00000");
    assert_text(r.messages, "1.tool_calls.1.id", "call00001");
    assert_text(r.messages, "2.tool_call_id", "call00000");
    assert_text(r.messages, "2.name", "f");
    assert_text(r.messages, "3.tool_call_id", "call00001");
    api_request_clear(&r);
}

/* ---- templates of real models ---- */

static char *prompt_of(const struct cabe_chat *chat, const char *messages, int generate, const char *name)
{
    char json[2000];
    struct api_request request;
    struct api_fault fault;
    struct cabe_template_result result;
    struct cabe_error err;
    char *text;

    snprintf(json, sizeof json, "{\"model\":\"m\",\"messages\":[%s]," TOOLS "}", messages);
    read_request(&request, json, api_read_chat, &fault);
    assert_int_equal(fault.status, 0);
    if (cabe_chat_render_json(chat, request.messages, request.tools, generate, NULL, NULL, &result, &err) != CABE_OK)
        fail_msg("%s: %s", name, err.text);
    text = strndup(result.text, result.bytes);
    cabe_chat_result_clear(&result);
    api_request_clear(&request);
    return text;
}

/* What the template writes for a call is what the model was trained to write. */
static void check_template(const char *template, size_t bytes, const char *name)
{
    static const char *const ends[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "</s>"};
    struct cabe_chat_config config = {template, bytes, "<s>", "</s>", NULL, NULL, 0};
    struct cabe_chat *chat;
    struct cabe_error err;
    char *asked, *called, *told, *from;

    if (cabe_chat_open(&chat, &config, &err) != CABE_OK)
        fail_msg("%s: %s", name, err.text);
    asked = prompt_of(chat, QUESTION, 1, name);
    if (!strstr(asked, "get_weather") || !strstr(asked, "The weather of a city") || !strstr(asked, "its name"))
        fail_msg("%s: the tool is missing in\n%s", name, asked);
    called = prompt_of(chat, QUESTION "," CALL, 0, name);
    from = called;
    for (const char *a = asked; *a && *a == *from; a++)
        from++;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (strstr(from, ends[i]))
            *strstr(from, ends[i]) = '\0';
    while (from > called && (from[-1] == 't' || from[-1] == '<'))
        from--; /* "<t" begins both a thought and a call */
    if (strstr(from, "</think>"))
        from = strstr(from, "</think>") + strlen("</think>");
    while (*from == '\n' || *from == ' ')
        from++;
    expect_call(from, "");
    told = prompt_of(chat, QUESTION "," CALL ",{\"role\":\"tool\",\"tool_call_id\":\"abcdefghi\",\"name\":\"get_weather\","
                           "\"content\":\"21 degrees\"}", 1, name);
    if (!strstr(told, "21 degrees") || !strstr(told, "Oslo"))
        fail_msg("%s: the result is missing in\n%s", name, told);
    free(asked);
    free(called);
    free(told);
    cabe_chat_close(chat);
}

static void test_templates(void **state)
{
    static const char *const names[] = {
        "Qwen-Qwen2.5-7B-Instruct.jinja",
        "Qwen-Qwen3-0.6B.jinja",
        "Qwen-QwQ-32B.jinja",
        "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use.jinja",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja",
        "Bielik-11B-v3.0-Instruct.jinja",
        "meta-llama-Llama-3.1-8B-Instruct.jinja",
        "meta-llama-Llama-3.2-3B-Instruct.jinja",
        "meta-llama-Llama-3.3-70B-Instruct.jinja",
        "mistralai-Mistral-Nemo-Instruct-2407.jinja",
        "Mistral-Small-3.2-24B-Instruct-2506.jinja",
        "unsloth-mistral-Devstral-Small-2507.jinja",
        "meetkai-functionary-medium-v3.1.jinja",
    };
    struct archive *tar = archive_read_new();
    struct archive_entry *entry;
    static char text[1 << 16];
    size_t n_seen = 0;

    (void)state;
    archive_read_support_filter_all(tar);
    archive_read_support_format_all(tar);
    if (archive_read_open_filename(tar, TEMPLATES, 65536) != ARCHIVE_OK) {
        printf("skip: tools in the templates of real models: no %s\n", TEMPLATES);
        archive_read_free(tar);
        skip();
    }
    while (archive_read_next_header(tar, &entry) == ARCHIVE_OK) {
        const char *path = archive_entry_pathname(entry), *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;

        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            la_ssize_t n;

            if (strcmp(names[i], name) != 0)
                continue;
            n = archive_read_data(tar, text, sizeof text);
            assert_true(n > 0 && (size_t)n < sizeof text);
            check_template(text, (size_t)n, name);
            n_seen++;
        }
    }
    archive_read_free(tar);
    assert_int_equal(n_seen, sizeof names / sizeof names[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families), cmocka_unit_test(test_malformed), cmocka_unit_test(test_control_tokens),
        cmocka_unit_test(test_numbers),  cmocka_unit_test(test_templates),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
