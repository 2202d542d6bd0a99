/* Ollama's requests and answers, with a service that is played by hand. */
#include <math.h>
#include <stdlib.h>

#include "api_setup.h"

static void test_faults(void **state)
{
    api_reader *chat = api_read_ollama_chat, *generate = api_read_ollama_generate;

    (void)state;
    expect_fault("{}", generate, "model", "required");
    expect_fault("{\"model\":[]}", generate, "model", "a string");
    expect_fault("{\"model\":\"m\",\"prompt\":5}", generate, "prompt", "a string");
    expect_fault("{\"model\":\"m\",\"format\":\"json\"}", generate, "format", "constrained output");
    expect_fault("{\"model\":\"m\",\"format\":{\"type\":\"object\"}}", chat, "format", "constrained output");
    expect_fault("{\"model\":\"m\",\"images\":[\"aaaa\"]}", generate, "images", "only text");
    expect_fault("{\"model\":\"m\",\"context\":[1,2]}", generate, "context", "/api/chat");
    expect_fault("{\"model\":\"m\",\"template\":\"x\"}", generate, "template", "raw");
    expect_fault("{\"model\":\"m\",\"suffix\":\"x\"}", generate, "suffix", "not supported");
    expect_fault("{\"model\":\"m\",\"options\":5}", generate, "options", "an object");
    expect_fault("{\"model\":\"m\",\"options\":{\"temperature\":\"x\"}}", generate, "options.temperature", "a number");
    expect_fault("{\"model\":\"m\",\"options\":{\"num_predict\":-3}}", generate, "options.num_predict", "-2");
    expect_fault("{\"model\":\"m\",\"options\":{\"num_ctx\":0}}", generate, "options.num_ctx", "from 1");
    expect_fault("{\"model\":\"m\",\"keep_alive\":\"soon\"}", generate, "keep_alive", "5m");
    expect_fault("{\"model\":\"m\",\"keep_alive\":[]}", generate, "keep_alive", "5m");
    expect_fault("{\"model\":\"m\",\"messages\":5}", chat, "messages", "array");
    expect_fault("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"images\":[\"b\"]}]}", chat,
                 "messages[0].images", "only text");
}

static void expect_keep(const char *value, double wanted)
{
    char json[120];
    struct api_request r;
    struct api_fault fault;

    snprintf(json, sizeof json, "{\"model\":\"m\",\"prompt\":\"a\",\"keep_alive\":%s}", value);
    read_request(&r, json, api_read_ollama_generate, &fault);
    assert_int_equal(fault.status, 0);
    assert_true(fabs(r.keep_alive_s - wanted) < 1e-9);
    api_request_clear(&r);
}

static void test_requests(void **state)
{
    struct api_request r;
    struct api_fault fault;

    (void)state;
    expect_keep("\"5m\"", 300);
    expect_keep("\"1h30m\"", 5400);
    expect_keep("\"1500ms\"", 1.5);
    expect_keep("\"0\"", 0);
    expect_keep("0", 0);
    expect_keep("-1", -1);
    expect_keep("\"-1m\"", -1);
    expect_keep("42", 42);
    read_request(&r,
                 "{\"model\":\"m\",\"system\":\"be brief\",\"prompt\":\"hi\",\"stream\":false,\"options\":{\"num_predict\":-1,"
                 "\"num_ctx\":8192,\"temperature\":0,\"repeat_penalty\":1.1,\"stop\":[\"x\"],\"seed\":3,\"mirostat\":2}}",
                 api_read_ollama_generate, &fault);
    assert_int_equal(fault.status, 0);
    assert_true(r.max_new == 0 && r.stream == 0 && r.sampling.seed == 3 && r.n_stop == 1);
    assert_non_null(strstr(r.note, "num_ctx 8192"));
    assert_text(r.messages, "0.role", "system");
    assert_text(r.messages, "1.content", "hi");
    api_request_clear(&r);
    read_request(&r, "{\"model\":\"m\",\"prompt\":\"hi\",\"raw\":true,\"options\":{\"num_predict\":7}}",
                 api_read_ollama_generate, &fault);
    assert_true(r.n_prompts == 1 && r.raw && !r.messages && r.max_new == 7 && r.stream);
    api_request_clear(&r);
    read_request(&r, "{\"model\":\"m\",\"prompt\":\"\"}", api_read_ollama_generate, &fault);
    assert_true(fault.status == 0 && r.n_prompts == 0 && !r.messages); /* only loads */
    api_request_clear(&r);
    read_request(&r, "{\"model\":\"m\",\"messages\":[],\"think\":false}", api_read_ollama_chat, &fault);
    assert_true(fault.status == 0 && !r.messages && json_is_false(at(r.extra, "enable_thinking")));
    api_request_clear(&r);
}

static void test_streams(void **state)
{
    struct recorder r;
    struct api_answer *answer = ask_for(&r, "{\"model\":\"m\",\"prompt\":\"hi\"}", api_read_ollama_generate,
                                        &api_form_ollama_generate);
    json_t *json;

    (void)state;
    start_part(0);
    say(0, 0, "one");
    say(0, 0, " two");
    conclude_part(0, CABE_SERVICE_LENGTH);
    json = nth_json(&r, 1);
    assert_text(json, "response", " two");
    assert_true(json_is_false(at(json, "done")));
    assert_non_null(at(json, "created_at"));
    json_decref(json);
    json = nth_json(&r, 2);
    assert_true(json_is_true(at(json, "done")));
    assert_text(json, "done_reason", "length");
    assert_number(json, "eval_count", 3);
    assert_number(json, "prompt_eval_count", 7);
    assert_number(json, "load_duration", 500000000);
    assert_true(json_integer_value(at(json, "total_duration")) > 0);
    json_decref(json);
    assert_null(nth_json(&r, 3));
    close_answer(&r, answer);

    answer = ask_for(&r,
                     "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"tools\":[{\"type\":"
                     "\"function\",\"function\":{\"name\":\"f\"}}]}",
                     api_read_ollama_chat, &api_form_ollama_chat);
    start_part(0);
    say(0, 0, "<tool_call>{\"name\":\"f\",\"arguments\":{\"x\":1}}</tool_call>");
    conclude_part(0, CABE_SERVICE_STOP);
    json = nth_json(&r, 0);
    assert_text(json, "message.tool_calls.0.function.name", "f");
    assert_number(json, "message.tool_calls.0.function.arguments.x", 1);
    json_decref(json);
    json = nth_json(&r, 1);
    assert_text(json, "message.role", "assistant");
    assert_text(json, "done_reason", "stop");
    json_decref(json);
    close_answer(&r, answer);
}

static void test_whole_and_errors(void **state)
{
    struct recorder r;
    struct cabe_error err = {.status = CABE_ERR_ARGUMENT, .text = "9000 tokens, the context is 4096"};
    struct api_answer *answer =
        ask_for(&r, "{\"model\":\"m\",\"stream\":false,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
                api_read_ollama_chat, &api_form_ollama_chat);
    json_t *json;

    (void)state;
    start_part(0);
    say(0, 0, "one");
    conclude_part(0, CABE_SERVICE_STOP);
    json = whole_json(&r);
    assert_text(json, "message.content", "one");
    assert_text(json, "done_reason", "stop");
    json_decref(json);
    close_answer(&r, answer);

    answer = ask_for(&r, "{\"model\":\"m\",\"prompt\":\"hi\",\"options\":{\"num_ctx\":8192}}", api_read_ollama_generate,
                     &api_form_ollama_generate);
    played.ask[0].ended(played.ask[0].self, err.status, &err, NULL);
    assert_int_equal(r.status, 400);
    assert_non_null(strstr(r.fault.text, "num_ctx 8192"));
    api_answer_release(answer);

    answer = ask_for(&r, "{\"model\":\"m\",\"prompt\":\"hi\"}", api_read_ollama_generate, &api_form_ollama_generate);
    start_part(0);
    played.ask[0].ended(played.ask[0].self, err.status, &err, NULL);
    assert_true(has(&r, "{\"error\":\"9000 tokens"));
    close_answer(&r, answer);
}

static void test_embeddings(void **state)
{
    float rows[2] = {0.5F, -0.25F};
    struct api_embed embed = {.form = API_EMBED_OLLAMA, .body = json_loads("{\"model\":\"m\",\"input\":\"a\"}", 0, NULL)};
    struct api_fault fault = {0};
    struct recorder r = {0};
    json_t *json;

    (void)state;
    api_read_ollama_embed(&embed, &fault);
    assert_int_equal(fault.status, 0);
    api_put_embeddings(&embed, rows, 2, 3, &r.text, &fault);
    json = whole_json(&r);
    assert_true(json_number_value(at(json, "embeddings.0.1")) == -0.25);
    assert_number(json, "prompt_eval_count", 3);
    json_decref(json);
    api_embed_clear(&embed);
    r.text.n = 0;

    embed = (struct api_embed){.form = API_EMBED_OLLAMA_OLD, .body = json_loads("{\"model\":\"m\",\"prompt\":\"a\"}", 0, NULL)};
    api_read_ollama_embed(&embed, &fault);
    api_put_embeddings(&embed, rows, 2, 3, &r.text, &fault);
    json = whole_json(&r);
    assert_true(json_number_value(at(json, "embedding.0")) == 0.5);
    json_decref(json);
    api_embed_clear(&embed);
    api_text_clear(&r.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults),           cmocka_unit_test(test_requests),   cmocka_unit_test(test_streams),
        cmocka_unit_test(test_whole_and_errors), cmocka_unit_test(test_embeddings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
