/* OpenAI's requests and answers, with a service that is played by hand. */
#include <math.h>
#include <stdlib.h>

#include "api_setup.h"

#define CHAT "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

/* ---- requests ---- */

static void test_faults(void **state)
{
    static const struct {
        const char *fields, *param, *words;
    } chats[] = {
        {"\"temperature\":3", "temperature", "from 0 to 2, got 3"},
        {"\"temperature\":\"hot\"", "temperature", "got a string"},
        {"\"top_p\":-0.1", "top_p", "from 0 to 1"},
        {"\"frequency_penalty\":2.5", "frequency_penalty", "-2 to 2"},
        {"\"n\":0", "n", "from 1 to 16"},
        {"\"n\":1.5", "n", "integer"},
        {"\"max_tokens\":0", "max_tokens", "from 1"},
        {"\"max_completion_tokens\":\"5\"", "max_completion_tokens", "got a string"},
        {"\"stop\":5", "stop", "string"},
        {"\"stop\":[\"a\",\"\"]", "stop[1]", "not empty"},
        {"\"stream\":1", "stream", "true or false"},
        {"\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage", "true or false"},
        {"\"logit_bias\":{\"x\":1}", "logit_bias.x", "no token id"},
        {"\"logit_bias\":{\"5\":101}", "logit_bias.5", "-100 to 100"},
        {"\"logprobs\":true,\"top_logprobs\":21", "top_logprobs", "from 0 to 20"},
        {"\"top_logprobs\":2", "top_logprobs", "logprobs"},
        {"\"response_format\":{\"type\":\"json_object\"}", "response_format", "constrained output"},
        {"\"tool_choice\":\"required\"", "tool_choice", "constrained output"},
        {"\"tools\":[{\"type\":\"web_search\"}]", "tools[0]", "only functions"},
        {"\"tools\":[{\"type\":\"function\"}]", "tools[0]", "name"},
        {"\"tools\":5", "tools", "array"},
        {"\"seed\":1e300", "seed", "integer"},
        {"\"functions\":[{}]", "functions", "use tools"},
        {"\"modalities\":[\"text\",\"audio\"]", "modalities", "only [\"text\"]"},
    };
    char json[400];

    (void)state;
    for (size_t i = 0; i < sizeof chats / sizeof chats[0]; i++) {
        snprintf(json, sizeof json, CHAT ",%s}", chats[i].fields);
        expect_fault(json, api_read_chat, chats[i].param, chats[i].words);
    }
    expect_fault("{}", api_read_chat, "model", "wanted");
    expect_fault("{\"model\":5}", api_read_chat, "model", "a string");
    expect_fault("{\"model\":\"m\"}", api_read_chat, "messages", "at least one");
    expect_fault("{\"model\":\"m\",\"messages\":[]}", api_read_chat, "messages", "at least one");
    expect_fault("{\"model\":\"m\",\"messages\":[5]}", api_read_chat, "messages[0]", "object");
    expect_fault("{\"model\":\"m\",\"messages\":[{\"role\":\"king\",\"content\":\"\"}]}", api_read_chat,
                 "messages[0].role", "king");
    expect_fault("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":7}]}", api_read_chat,
                 "messages[0].content", "a number");
    expect_fault("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
                 api_read_chat, "messages[0].content[0]", "image_url");
    expect_fault("{\"model\":\"m\"}", api_read_completion, "prompt", "a string");
    expect_fault("{\"model\":\"m\",\"prompt\":[]}", api_read_completion, "prompt", "1 to");
    expect_fault("{\"model\":\"m\",\"prompt\":[[1,-2]]}", api_read_completion, "prompt[0]", "no token id");
    expect_fault("{\"model\":\"m\",\"prompt\":\"a\",\"logprobs\":true}", api_read_completion, "logprobs", "integer");
    expect_fault("{\"model\":\"m\",\"prompt\":\"a\",\"suffix\":\"b\"}", api_read_completion, "suffix", "not supported");
    expect_fault("{\"model\":\"m\",\"prompt\":\"a\",\"best_of\":3}", api_read_completion, "best_of", "as many as n");
    expect_fault("{\"model\":\"m\",\"input\":\"a\",\"previous_response_id\":\"r\"}", api_read_response,
                 "previous_response_id", "not stored");
    expect_fault("{\"model\":\"m\",\"input\":[{\"type\":\"item_reference\"}]}", api_read_response, "input[0]",
                 "item_reference");
    expect_fault("{\"model\":\"m\"}", api_read_response, "input", "at least one");
}

static void test_request(void **state)
{
    struct api_request r;
    struct api_fault fault;

    (void)state;
    read_request(&r,
                 "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"be brief\"},{\"role\":\"user\","
                 "\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":"
                 "\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\",\"function\":{"
                 "\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}]}],\"temperature\":0,\"top_k\":-1,\"seed\":-5,"
                 "\"stop\":\"X\",\"logit_bias\":{\"7\":-100},\"max_tokens\":9,\"max_completion_tokens\":8,\"n\":2,"
                 "\"cache_salt\":\"s\",\"prompt_cache_key\":\"k\",\"ignore_eos\":true,\"unknown\":[1],\"user\":\"u\"}",
                 api_read_chat, &fault);
    assert_int_equal(fault.status, 0);
    assert_text(r.messages, "0.role", "system");
    assert_text(r.messages, "1.content", "ab");
    assert_text(r.messages, "2.content", "");
    assert_number(r.messages, "2.tool_calls.0.function.arguments.x", 1);
    assert_true(r.sampling.temperature == 0 && r.sampling.top_k == 0 && r.sampling.seed == (uint64_t)-5);
    assert_true(r.sampling.n_bias == 1 && r.sampling.bias[0].token == 7 && isinf(r.sampling.bias[0].bias));
    assert_true(r.max_new == 8 && r.n == 2 && r.ignore_end == 1 && r.n_stop == 1);
    assert_string_equal(r.salt, "s");
    api_request_clear(&r);

    read_request(&r, "{\"model\":\"m\",\"prompt\":[[1,2],[3]]}", api_read_completion, &fault);
    assert_int_equal(fault.status, 0);
    assert_true(r.n_prompts == 2 && r.n_ids[0] == 2 && r.ids[1][0] == 3 && r.max_new == 16);
    api_request_clear(&r);

    read_request(&r,
                 "{\"model\":\"m\",\"instructions\":\"be brief\",\"input\":[{\"role\":\"user\",\"content\":[{\"type\":"
                 "\"input_text\",\"text\":\"a\"}]},{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\","
                 "\"arguments\":\"{}\"},{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":\"4\"}],"
                 "\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":{}}]}",
                 api_read_response, &fault);
    assert_int_equal(fault.status, 0);
    assert_int_equal(json_array_size(r.messages), 4);
    assert_text(r.messages, "0.role", "system");
    assert_text(r.messages, "2.tool_calls.0.function.name", "f");
    assert_text(r.messages, "3.tool_call_id", "c");
    assert_text(r.tools, "0.function.name", "f");
    api_request_clear(&r);
}

/* ---- answers ---- */

static void test_chat_whole(void **state)
{
    struct recorder r;
    struct api_answer *answer = ask_for(&r, CHAT ",\"n\":2}", api_read_chat, &api_form_chat);
    json_t *json;

    (void)state;
    assert_int_equal(played.n, 1);
    assert_int_equal(played.ask[0].n_choices, 2);
    start_part(0);
    say(0, 0, "one \"");
    say(0, 1, "two");
    say(0, 0, "\x01\n");
    conclude_part(0, CABE_SERVICE_LENGTH);
    json = whole_json(&r);
    assert_text(json, "object", "chat.completion");
    assert_text(json, "choices.0.message.content", "one \"\x01\n");
    assert_text(json, "choices.1.message.content", "two");
    assert_text(json, "choices.1.finish_reason", "length");
    assert_number(json, "usage.total_tokens", 10);
    assert_number(json, "usage.prompt_tokens_details.cached_tokens", 4);
    assert_true(json_is_null(at(json, "choices.0.logprobs")));
    assert_int_equal(r.n_begun, 0);
    assert_int_equal(r.n_released, 1);
    json_decref(json);
    close_answer(&r, answer);
}

static void test_chat_stream(void **state)
{
    struct recorder r;
    struct api_answer *answer = ask_for(&r, CHAT ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
                                        api_read_chat, &api_form_chat);
    json_t *json;

    (void)state;
    start_part(0);
    assert_int_equal(r.n_begun, 1);
    json = nth_json(&r, 0);
    assert_text(json, "choices.0.delta.role", "assistant");
    assert_true(json_is_null(at(json, "choices.0.finish_reason")));
    assert_true(json_is_null(at(json, "usage")));
    json_decref(json);
    say(0, 0, "caf\xC3\xA9");
    say(0, 0, "");
    say(0, 0, "!");
    conclude_part(0, CABE_SERVICE_STOP);
    json = nth_json(&r, 1);
    assert_text(json, "choices.0.delta.content", "caf\xC3\xA9");
    assert_true(json_is_null(at(json, "choices.0.finish_reason")));
    json_decref(json);
    json = nth_json(&r, 3);
    assert_text(json, "choices.0.finish_reason", "stop");
    json_decref(json);
    json = nth_json(&r, 4);
    assert_int_equal(json_array_size(at(json, "choices")), 0);
    assert_number(json, "usage.completion_tokens", 3);
    json_decref(json);
    assert_null(nth_json(&r, 5));
    assert_true(r.text.n > 14 && memcmp(r.text.bytes + r.text.n - 14, "data: [DONE]\n\n", 14) == 0);
    assert_int_equal(r.n_ended, 1);
    close_answer(&r, answer);
}

static void test_errors(void **state)
{
    struct recorder r;
    struct cabe_error err = {.status = CABE_ERR_ARGUMENT, .text = "900 tokens, the context is 512"};
    struct api_answer *answer = ask_for(&r, CHAT ",\"stream\":true}", api_read_chat, &api_form_chat);

    (void)state;
    played.ask[0].ended(played.ask[0].self, err.status, &err, NULL); /* before the first token: a plain answer */
    assert_int_equal(r.n_begun, 0);
    assert_int_equal(r.status, 400);
    assert_string_equal(r.fault.code, "context_length_exceeded");
    api_answer_release(answer);

    answer = ask_for(&r, CHAT ",\"stream\":true}", api_read_chat, &api_form_chat);
    start_part(0);
    say(0, 0, "a");
    err = (struct cabe_error){.status = CABE_ERR_INTERNAL, .text = "not a number"};
    played.ask[0].ended(played.ask[0].self, err.status, &err, NULL); /* behind it: an event */
    assert_true(has(&r, "data: {\"error\":{\"message\":\"not a number\""));
    assert_int_equal(r.n_ended, 1);
    assert_int_equal(r.n_refused, 0);
    close_answer(&r, answer);

    answer = ask_for(&r, CHAT ",\"stream\":true}", api_read_chat, &api_form_chat);
    start_part(0);
    r.send = CABE_ERR_LIMIT; /* reads too slowly */
    say(0, 0, "a");
    assert_int_equal(played.n_cancelled, 1);
    say(0, 0, "b");
    assert_int_equal(played.n_cancelled, 1);
    err = (struct cabe_error){.status = CABE_ERR_CANCELLED, .text = "cancelled"};
    played.ask[0].ended(played.ask[0].self, err.status, &err, NULL);
    assert_int_equal(r.n_ended, 1);
    assert_int_equal(r.n_released, 1);
    close_answer(&r, answer);

    answer = ask_for(&r, CHAT "}", api_read_chat, &api_form_chat);
    api_answer_gone(answer);
    assert_int_equal(played.n_cancelled, 1);
    played.ask[0].ended(played.ask[0].self, err.status, &err, NULL);
    assert_int_equal(r.n_released, 1);
    assert_int_equal(r.n_refused, 0);
    api_answer_release(answer);
}

static void test_refusal(void **state)
{
    struct recorder r = {0};
    struct api_request request;
    struct api_fault fault;
    struct api_sink sink = recorder_sink(&r);
    struct api_answer *answer;

    (void)state;
    memset(&played, 0, sizeof played);
    played.refuse = CABE_ERR_LIMIT;
    read_request(&request, CHAT "}", api_read_chat, &fault);
    answer = api_answer_open(&request, &api_form_chat, &sink, "");
    api_answer_ask(answer, NULL);
    assert_int_equal(r.status, 429);
    assert_int_equal(r.n_released, 1);
    api_answer_release(answer);
}

static void test_completions(void **state)
{
    struct recorder r;
    struct api_answer *answer =
        ask_for(&r, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"],\"n\":2,\"echo\":true}", api_read_completion, &api_form_completion);
    json_t *json;

    (void)state;
    assert_int_equal(played.n, 2);
    start_part(1);
    say(1, 1, "four");
    conclude_part(1, CABE_SERVICE_STOP);
    assert_int_equal(r.status, 0);
    start_part(0);
    say(0, 0, "one");
    conclude_part(0, CABE_SERVICE_STOP);
    json = whole_json(&r);
    assert_text(json, "choices.0.text", "aone");
    assert_text(json, "choices.3.text", "bfour");
    assert_number(json, "usage.prompt_tokens", 14);
    json_decref(json);
    close_answer(&r, answer);
}

/* ---- tools ---- */

static const char tools[] = ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]";

/* Says `text` in pieces of `step` bytes; the answer's shown text and how many calls. */
static void expect_calls(const char *text, const char *shown, int n_calls, const char *last_arguments)
{
    for (size_t step = 1; step <= 64; step = step < 4 ? step + 1 : step * 4) {
        struct api_scan scan = {.on = 1};
        struct api_text out = {0};
        size_t n = strlen(text);

        for (size_t i = 0; i < n; i += step)
            api_scan_put(&scan, text + i, n - i < step ? n - i : step, &out);
        api_scan_end(&scan, &out);
        api_put(&out, "", 1);
        if (strcmp(out.bytes, shown) != 0 || scan.n_calls != n_calls)
            print_message("%s: shown '%s', %d calls\n", text, out.bytes, scan.n_calls);
        assert_string_equal(out.bytes, shown);
        assert_int_equal(scan.n_calls, n_calls);
        if (n_calls > 0)
            assert_string_equal(scan.calls[n_calls - 1].arguments, last_arguments);
        api_scan_clear(&scan);
        api_text_clear(&out);
    }
}

static void test_scan(void **state)
{
    (void)state;
    expect_calls("plain <b>text</b> { and more", "plain <b>text</b> { and more", 0, NULL);
    expect_calls("<tool_call>\n{\"name\":\"f\",\"arguments\":{\"x\":1}}\n</tool_call>", "", 1, "{\"x\":1}");
    expect_calls("Let me see. <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"g\","
                 "\"arguments\":{\"y\":[2]}}</tool_call>",
                 "Let me see. \n", 2, "{\"y\":[2]}");
    expect_calls("<tool_call>{\"name\":\"f\",\"arguments\":{}}", "", 1, "{}");
    expect_calls("<tool_call>not json</tool_call> so", "<tool_call>not json</tool_call> so", 0, NULL);
    expect_calls("{\"name\": \"f\", \"parameters\": {\"x\": \"a\"}}", "", 1, "{\"x\":\"a\"}");
    expect_calls("{\"name\":\"f\",\"parameters\":{}}; {\"name\":\"g\",\"parameters\":{}}", "", 2, "{}");
    expect_calls("[TOOL_CALLS] [{\"name\":\"f\",\"arguments\":{\"x\":1}},{\"name\":\"g\"}]", "", 2, "{}");
    expect_calls("[{\"name\":\"f\",\"arguments\":\"{}\"}]", "", 1, "{}");
    expect_calls("{\"answer\": 5}", "{\"answer\": 5}", 0, NULL);
    expect_calls("{\"name\":\"f\"} and more", "{\"name\":\"f\"} and more", 0, NULL);
    expect_calls("  ", "  ", 0, NULL);
    expect_calls("ends in <tool_", "ends in <tool_", 0, NULL);
}

static void test_tool_answers(void **state)
{
    struct recorder r;
    struct api_answer *answer;
    char json_text[300];
    json_t *json;

    (void)state;
    snprintf(json_text, sizeof json_text, CHAT "%s}", tools);
    answer = ask_for(&r, json_text, api_read_chat, &api_form_chat);
    assert_non_null(played.ask[0].tools);
    start_part(0);
    say(0, 0, "<tool_call>{\"name\":\"f\",\"arguments\":{\"x\":1}}</tool_call>");
    conclude_part(0, CABE_SERVICE_STOP);
    json = whole_json(&r);
    assert_true(json_is_null(at(json, "choices.0.message.content")));
    assert_text(json, "choices.0.message.tool_calls.0.function.arguments", "{\"x\":1}");
    assert_text(json, "choices.0.finish_reason", "tool_calls");
    json_decref(json);
    close_answer(&r, answer);

    snprintf(json_text, sizeof json_text, CHAT "%s,\"stream\":true}", tools);
    answer = ask_for(&r, json_text, api_read_chat, &api_form_chat);
    start_part(0);
    say(0, 0, "Well. ");
    say(0, 0, "<tool_call>{\"name\":\"f\",\"arguments\":{\"x\":1}}</tool_call>");
    conclude_part(0, CABE_SERVICE_STOP);
    json = nth_json(&r, 2);
    assert_number(json, "choices.0.delta.tool_calls.0.index", 0);
    assert_text(json, "choices.0.delta.tool_calls.0.function.name", "f");
    json_decref(json);
    json = nth_json(&r, 3);
    assert_text(json, "choices.0.finish_reason", "tool_calls");
    json_decref(json);
    close_answer(&r, answer);
}

/* ---- responses ---- */

static void test_response(void **state)
{
    struct recorder r;
    struct api_answer *answer = ask_for(&r, "{\"model\":\"m\",\"input\":\"hi\"}", api_read_response, &api_form_response);
    json_t *json;

    (void)state;
    start_part(0);
    say(0, 0, "one");
    conclude_part(0, CABE_SERVICE_LENGTH);
    json = whole_json(&r);
    assert_text(json, "object", "response");
    assert_text(json, "status", "incomplete");
    assert_text(json, "incomplete_details.reason", "max_output_tokens");
    assert_text(json, "output.0.content.0.text", "one");
    assert_number(json, "usage.input_tokens_details.cached_tokens", 4);
    json_decref(json);
    close_answer(&r, answer);
}

static void test_response_stream(void **state)
{
    static const char *const types[] = {"response.created",
                                        "response.in_progress",
                                        "response.output_item.added",
                                        "response.content_part.added",
                                        "response.output_text.delta",
                                        "response.output_text.done",
                                        "response.content_part.done",
                                        "response.output_item.done",
                                        "response.output_item.added",
                                        "response.function_call_arguments.delta",
                                        "response.function_call_arguments.done",
                                        "response.output_item.done",
                                        "response.completed"};
    struct recorder r;
    struct api_answer *answer = ask_for(&r,
                                        "{\"model\":\"m\",\"input\":\"hi\",\"stream\":true,\"tools\":[{\"type\":"
                                        "\"function\",\"name\":\"f\"}]}",
                                        api_read_response, &api_form_response);
    json_t *json;

    (void)state;
    start_part(0);
    say(0, 0, "Well. ");
    say(0, 0, "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>");
    conclude_part(0, CABE_SERVICE_STOP);
    for (int i = 0; i < (int)(sizeof types / sizeof types[0]); i++) {
        json = nth_json(&r, i);
        assert_text(json, "type", types[i]);
        assert_number(json, "sequence_number", i);
        if (i == 12) {
            assert_text(json, "response.output.0.content.0.text", "Well. ");
            assert_text(json, "response.output.1.name", "f");
        }
        json_decref(json);
    }
    assert_null(nth_json(&r, 13));
    close_answer(&r, answer);
}

/* ---- log-probabilities ---- */

/* Of a, b and the two bytes of an accented e; `*block` is the caller's, to be freed behind it. */
static struct cabe_tokenizer *open_bytes(void **block)
{
    static const char document[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"\xC3\x83\":2,\"\xC2\xA9\":3},\"merges\":[]},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"}}";
    struct cabe_tokenizer *tokenizer;
    struct cabe_error err;
    json_t *json = json_loads(document, 0, NULL);
    size_t bytes;

    assert_int_equal(cabe_tokenizer_compile_json(json, "test", block, &bytes, &err), CABE_OK);
    json_decref(json);
    assert_int_equal(cabe_tokenizer_open(&tokenizer, *block, bytes, "test", &err), CABE_OK);
    return tokenizer;
}

static void test_logprobs(void **state)
{
    struct cabe_sampled sampled = {.token = 0, .logprob = -0.5F, .n_top = 2, .top = {{0, -0.5F}, {2, -INFINITY}}};
    void *block;
    struct cabe_tokenizer *tokenizer = open_bytes(&block);
    struct recorder r;
    struct api_answer *answer;
    json_t *json;

    (void)state;
    answer = ask_for(&r, CHAT ",\"logprobs\":true,\"top_logprobs\":2}", api_read_chat, &api_form_chat);
    assert_int_equal(played.ask[0].sampling.n_logprobs, 2);
    played.ask[0].text(played.ask[0].self, 0, "a", 1, &sampled, tokenizer);
    conclude_part(0, CABE_SERVICE_STOP);
    json = whole_json(&r);
    assert_text(json, "choices.0.logprobs.content.0.token", "a");
    assert_number(json, "choices.0.logprobs.content.0.bytes.0", 'a');
    assert_true(json_number_value(at(json, "choices.0.logprobs.content.0.logprob")) == -0.5);
    assert_true(json_number_value(at(json, "choices.0.logprobs.content.0.top_logprobs.1.logprob")) == -9999.0);
    assert_number(json, "choices.0.logprobs.content.0.top_logprobs.1.bytes.0", 0xC3);
    json_decref(json);
    close_answer(&r, answer);

    answer = ask_for(&r, "{\"model\":\"m\",\"prompt\":\"x\",\"logprobs\":2}", api_read_completion, &api_form_completion);
    played.ask[0].text(played.ask[0].self, 0, "a", 1, &sampled, tokenizer);
    played.ask[0].text(played.ask[0].self, 0, "a", 1, &sampled, tokenizer);
    conclude_part(0, CABE_SERVICE_STOP);
    json = whole_json(&r);
    assert_text(json, "choices.0.logprobs.tokens.1", "a");
    assert_number(json, "choices.0.logprobs.text_offset.1", 1);
    assert_true(json_number_value(at(json, "choices.0.logprobs.top_logprobs.1.a")) == -0.5);
    json_decref(json);
    close_answer(&r, answer);

    /* A token that is not among the likeliest, and one that is part of a character. */
    sampled = (struct cabe_sampled){.token = 2, .logprob = -3, .n_top = 1, .top = {{0, -0.5F}}};
    answer = ask_for(&r, "{\"model\":\"m\",\"prompt\":\"x\",\"logprobs\":1}", api_read_completion, &api_form_completion);
    played.ask[0].text(played.ask[0].self, 0, "", 0, &sampled, tokenizer);
    conclude_part(0, CABE_SERVICE_STOP);
    json = whole_json(&r);
    assert_text(json, "choices.0.logprobs.tokens.0", "bytes:\\xc3");
    assert_int_equal(json_object_size(at(json, "choices.0.logprobs.top_logprobs.0")), 2);
    assert_true(json_number_value(json_object_get(at(json, "choices.0.logprobs.top_logprobs.0"), "bytes:\\xc3")) == -3);
    json_decref(json);
    close_answer(&r, answer);
    cabe_tokenizer_close(tokenizer);
    cabe_free(block);
}

/* What answers grow to is taken from the budget while they grow; where it is not there they end, with their memory. */
static void test_large_answers(void **state)
{
    struct cabe_sampled sampled = {.token = 0, .logprob = -0.5F, .n_top = 2, .top = {{0, -0.5F}, {2, -INFINITY}}};
    void *block;
    struct cabe_tokenizer *tokenizer = open_bytes(&block);
    struct recorder r;
    struct api_answer *answer;
    struct cabe_error err;
    size_t n = 0;

    (void)state;
    for (int way = 0; way < 3; way++) { /* enough; too little while it grows; too little for putting it together */
        answer = ask_for(&r, CHAT ",\"n\":2,\"logprobs\":true,\"top_logprobs\":2}", api_read_chat, &api_form_chat);
        r.room = way == 1 ? 200 << 10 : way == 2 ? n : 0;
        for (int i = 0; i < 4000 && played.n_cancelled == 0; i++)
            played.ask[0].text(played.ask[0].self, i % 2, "a", 1, &sampled, tokenizer);
        assert_int_equal(played.n_cancelled, way == 1);
        if (way == 0)
            n = r.charged; /* until it is put together */
        if (way == 1) {
            struct cabe_service_counts counts = {0};

            err = (struct cabe_error){.status = CABE_ERR_CANCELLED, .text = "cancelled"};
            played.ask[0].ended(played.ask[0].self, CABE_ERR_CANCELLED, &err, &counts);
        } else {
            conclude_part(0, CABE_SERVICE_STOP);
        }
        if (way == 0)
            assert_true(r.status == 200 && r.charged + (128 << 10) > 2 * r.text.n);
        else
            assert_true(r.status == 503 && strcmp(r.fault.code, "out_of_memory") == 0);
        close_answer(&r, answer);
    }
    cabe_tokenizer_close(tokenizer);
    cabe_free(block);
}

/* A prompt with its log-probabilities: as who scores texts asks for it. */
static void test_echo(void **state)
{
    static const int32_t prompt[] = {0, 2, 3, 1};
    const struct cabe_service_counts counts = {.n_prompt = 4};
    void *block;
    struct cabe_tokenizer *tokenizer = open_bytes(&block);
    struct recorder r;
    struct api_answer *answer;
    json_t *json;

    (void)state;
    for (int way = 0; way < 3; way++) { /* a text; ids; ids in a stream */
        char body[200];

        snprintf(body, sizeof body, "{\"model\":\"m\",\"prompt\":%s,\"logprobs\":1,\"echo\":true,\"max_tokens\":0,\"stream\":%s}",
                 way ? "[0,2,3,1]" : "\"a\xC3\xA9" "b\"", way == 2 ? "true" : "false");
        answer = ask_for(&r, body, api_read_completion, &api_form_completion);
        assert_int_equal(played.ask[0].max_new, -1);
        assert_int_equal(played.ask[0].sampling.n_logprobs, 1);
        played.ask[0].started(played.ask[0].self, &counts);
        for (int i = 0; i < 4; i++) {
            struct cabe_sampled sampled = {.token = prompt[i], .logprob = i ? -(float)i : NAN, .n_top = i ? 1 : 0, .top = {{0, -1}}};

            played.ask[0].prompted(played.ask[0].self, 0, &sampled, tokenizer);
        }
        conclude_part(0, CABE_SERVICE_LENGTH);
        json = way == 2 ? nth_json(&r, 0) : whole_json(&r);
        assert_text(json, "choices.0.text", "a\xC3\xA9" "b");
        assert_true(json_is_null(at(json, "choices.0.logprobs.token_logprobs.0")));
        assert_true(json_is_null(at(json, "choices.0.logprobs.top_logprobs.0")));
        assert_text(json, "choices.0.logprobs.tokens.1", "bytes:\\xc3");
        assert_true(json_number_value(at(json, "choices.0.logprobs.token_logprobs.3")) == -3);
        assert_true(json_number_value(at(json, "choices.0.logprobs.top_logprobs.3.b")) == -3);
        assert_number(json, "choices.0.logprobs.text_offset.1", 1);
        assert_number(json, "choices.0.logprobs.text_offset.3", 2);
        if (way < 2)
            assert_text(json, "choices.0.finish_reason", "length");
        json_decref(json);
        close_answer(&r, answer);
    }
    answer = ask_for(&r, "{\"model\":\"m\",\"prompt\":\"x\",\"echo\":true}", api_read_completion, &api_form_completion);
    assert_null(played.ask[0].prompted); /* its text is known */
    conclude_part(0, CABE_SERVICE_STOP);
    close_answer(&r, answer);
    cabe_tokenizer_close(tokenizer);
    cabe_free(block);
}

/* ---- embeddings ---- */

static void expect_embed_fault(const char *fields, const char *param, const char *words)
{
    struct api_embed embed = {.body = json_loads(fields, 0, NULL)};
    struct api_fault fault = {0};

    assert_non_null(embed.body);
    api_read_embeddings(&embed, &fault);
    if (!fault.status || !strstr(fault.text, words))
        print_message("%s: %s\n", fields, fault.text);
    assert_int_equal(fault.status, 400);
    assert_string_equal(fault.param, param);
    assert_non_null(strstr(fault.text, words));
    api_embed_clear(&embed);
}

static void test_embeddings(void **state)
{
    float rows[4] = {0.25F, -1.5F, 1e-9F, 0.123456789F};
    struct api_embed embed = {.body = json_loads("{\"model\":\"m\",\"input\":[\"a\",\"b\"]}", 0, NULL)};
    struct api_fault fault = {0};
    struct recorder r = {0};
    json_t *json;

    (void)state;
    expect_embed_fault("{\"input\":\"a\"}", "model", "wanted");
    expect_embed_fault("{\"model\":\"m\"}", "input", "wanted");
    expect_embed_fault("{\"model\":\"m\",\"input\":[]}", "input", "1 to");
    expect_embed_fault("{\"model\":\"m\",\"input\":[1,2]}", "input", "token ids");
    expect_embed_fault("{\"model\":\"m\",\"input\":[[1]]}", "input", "token ids");
    expect_embed_fault("{\"model\":\"m\",\"input\":[null]}", "input", "a string");
    expect_embed_fault("{\"model\":\"m\",\"input\":\"a\",\"encoding_format\":\"int8\"}", "encoding_format", "base64");
    expect_embed_fault("{\"model\":\"m\",\"input\":\"a\",\"dimensions\":0}", "dimensions", "from 1");

    api_read_embeddings(&embed, &fault);
    assert_int_equal(fault.status, 0);
    api_put_embeddings(&embed, rows, 2, 9, &r.text, &fault);
    json = whole_json(&r);
    assert_number(json, "usage.prompt_tokens", 9);
    assert_number(json, "data.1.index", 1);
    for (int i = 0; i < 4; i++) {
        char path[40];

        snprintf(path, sizeof path, "data.%d.embedding.%d", i / 2, i % 2);
        assert_true((float)json_number_value(at(json, path)) == rows[i]);
    }
    json_decref(json);
    r.text.n = 0;
    embed.base64 = 1;
    api_put_embeddings(&embed, rows, 2, 9, &r.text, &fault);
    assert_true(has(&r, "\"embedding\":\"AACAPgAAwL8=\""));
    embed.dimensions = 3;
    api_put_embeddings(&embed, rows, 2, 9, &r.text, &fault);
    assert_string_equal(fault.param, "dimensions");
    api_text_clear(&r.text);
    api_embed_clear(&embed);
}

/* Every f32 that an embedding may have reads back as itself. */
static void test_floats(void **state)
{
    uint32_t seed = 12345;

    (void)state;
    for (int k = 0; k < 200; k++) {
        struct api_embed embed = {.body = json_loads("{\"model\":\"m\",\"input\":\"a\"}", 0, NULL)};
        struct api_fault fault = {0};
        struct recorder r = {0};
        float rows[64];
        json_t *json;

        for (int i = 0; i < 64; i++) {
            seed = seed * 1664525U + 1013904223U;
            rows[i] = (float)((double)seed / 4294967296.0 - 0.5) * (k % 3 == 0 ? 0.01F : k % 3 == 1 ? 1.0F : 150.0F);
        }
        api_read_embeddings(&embed, &fault);
        api_put_embeddings(&embed, rows, 64, 1, &r.text, &fault);
        json = whole_json(&r);
        for (int i = 0; i < 64; i++) {
            char path[40];

            snprintf(path, sizeof path, "data.0.embedding.%d", i);
            assert_true((float)json_number_value(at(json, path)) == rows[i]);
        }
        json_decref(json);
        api_text_clear(&r.text);
        api_embed_clear(&embed);
    }
}

/* ---- without memory ---- */

static void play(const char *json, api_reader *read, const struct api_form *form)
{
    struct recorder r = {0};
    struct api_request request;
    struct api_fault fault = {0};
    struct api_sink sink = recorder_sink(&r);
    struct api_answer *answer;
    json_t *body = json_loads(json, 0, NULL);

    memset(&played, 0, sizeof played);
    if (!body)
        return;
    api_request_init(&request, body);
    read(&request, &fault);
    answer = fault.status ? NULL : api_answer_open(&request, form, &sink, "test-");
    if (!answer) {
        api_request_clear(&request);
        return;
    }
    api_answer_ask(answer, NULL);
    if (played.n > 0) {
        start_part(0);
        say(0, 0, "Well, this is a text. <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> ");
        conclude_part(0, CABE_SERVICE_STOP);
    }
    assert_int_equal(r.n_released, 1);
    close_answer(&r, answer);
}

static void test_memory(void **state)
{
    static const struct {
        const char *json;
        api_reader *read;
        const struct api_form *form;
    } cases[] = {
        {CHAT ",\"stream\":true,\"logit_bias\":{\"1\":2},\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}",
         api_read_chat, &api_form_chat},
        {CHAT "}", api_read_chat, &api_form_chat},
        {"{\"model\":\"m\",\"prompt\":[1,2]}", api_read_completion, &api_form_completion},
        {"{\"model\":\"m\",\"input\":\"a\",\"stream\":true,\"tools\":[{\"type\":\"function\",\"name\":\"f\"}]}",
         api_read_response, &api_form_response},
        {CHAT "}", api_read_ollama_chat, &api_form_ollama_chat},
        {"{\"model\":\"m\",\"prompt\":\"a\"}", api_read_ollama_generate, &api_form_ollama_generate},
    };

    (void)state;
    json_set_alloc_funcs(cabe_malloc, cabe_free);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t before = cabe_memory_count(), n;

        play(cases[i].json, cases[i].read, cases[i].form);
        n = cabe_memory_count() - before;
        assert_true(n > 0);
        for (uint64_t k = 1; k <= n; k++) {
            cabe_memory_fail_at(k);
            play(cases[i].json, cases[i].read, cases[i].form);
        }
        cabe_memory_fail_at(0);
    }
    json_set_alloc_funcs(malloc, free);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults),      cmocka_unit_test(test_request),         cmocka_unit_test(test_chat_whole),
        cmocka_unit_test(test_chat_stream), cmocka_unit_test(test_errors),          cmocka_unit_test(test_refusal),
        cmocka_unit_test(test_completions), cmocka_unit_test(test_scan),            cmocka_unit_test(test_tool_answers),
        cmocka_unit_test(test_response),    cmocka_unit_test(test_response_stream), cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_large_answers),
        cmocka_unit_test(test_embeddings),  cmocka_unit_test(test_floats),          cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
