#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "format/source.h"
#include "format_files.h"

static const char small[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
    "\"e\":{\"dtype\":\"I64\",\"shape\":[0,4],\"data_offsets\":[20,20]},"
    "\"scalar\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[20,22]}}  ";

static enum cabe_status open_bytes(struct cabe_source **out, const struct bytes *b, struct cabe_error *err)
{
    char path[64];
    int fd = memory_file(b->data, b->n, path);
    enum cabe_status status = cabe_source_open(out, path, err);

    close(fd);
    return status;
}

static void check_refused(const char *header, size_t data_bytes, enum cabe_status wanted, const char *words)
{
    struct cabe_source *source;
    struct cabe_error err = {0};
    struct bytes b = {0};
    enum cabe_status status;

    put_safetensors(&b, header, data_bytes);
    status = open_bytes(&source, &b, &err);
    if (status != wanted || !strstr(err.text, words))
        fail_msg("%s\n%s: '%s', wanted %s: '%s'", header, cabe_status_name(status), err.text,
                 cabe_status_name(wanted), words);
    assert_null(source);
    bytes_clear(&b);
}

static void reads_tensors(void **state)
{
    struct cabe_source *source;
    const struct cabe_source_tensor *t;
    struct bytes b = {0};
    uint8_t bytes[12];

    (void)state;
    put_safetensors(&b, small, 22);
    assert_int_equal(open_bytes(&source, &b, NULL), CABE_OK);
    assert_int_equal(cabe_source_kind(source), CABE_SOURCE_SAFETENSORS);
    assert_int_equal(cabe_source_n_tensors(source), 4);
    t = cabe_source_find(source, "b");
    assert_string_equal(t->type, "f16");
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[1], 1);
    assert_int_equal(t->shape[2], 2);
    assert_int_equal(t->shape[3], 3);
    assert_int_equal(t->bytes, 12);
    assert_int_equal(cabe_source_read(source, t, 0, 12, bytes, NULL), CABE_OK);
    assert_int_equal(bytes[0], 8);
    t = cabe_source_find(source, "scalar");
    assert_int_equal(t->n_dims, 0);
    assert_int_equal(t->shape[3], 1);
    t = cabe_source_find(source, "e");
    assert_int_equal(t->shape[2], 0);
    assert_int_equal(t->bytes, 0);
    assert_null(cabe_source_document(source, "config.json"));
    cabe_source_close(source);
    bytes_clear(&b);
}

#define T(name, dtype, shape, offsets)                                                                       \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void refuses_what_does_not_add_up(void **state)
{
    (void)state;
    check_refused("{" T("a", "F32", "[2]", "[0,8]") "}", 7, CABE_ERR_FORMAT, "tensor 'a': data_offsets [0, 8] past end 7");
    check_refused("{" T("a", "F32", "[2]", "[0,8]") "}", 9, CABE_ERR_FORMAT, "tensors end at byte");
    check_refused("{" T("a", "F32", "[2]", "[1,9]") "}", 9, CABE_ERR_FORMAT, "data_offsets begin at 1, wanted 0");
    check_refused("{" T("a", "F32", "[2]", "[0,8]") "," T("b", "F32", "[2]", "[4,12]") "}", 12, CABE_ERR_FORMAT,
                  "tensor 'b': data_offsets begin at 4, wanted 8");
    check_refused("{" T("a", "F32", "[3]", "[0,8]") "}", 8, CABE_ERR_FORMAT, "span 8 bytes, wanted 3 elements of 4");
    check_refused("{" T("a", "F32", "[2]", "[8,0]") "}", 8, CABE_ERR_FORMAT, "rising order");
    check_refused("{" T("a", "F32", "[2]", "[-8,0]") "}", 8, CABE_ERR_FORMAT, "data_offsets");
    check_refused("{" T("a", "F32", "[2]", "[0.0,8.0]") "}", 8, CABE_ERR_FORMAT, "data_offsets");
    check_refused("{" T("a", "F32", "[2]", "[0,8,9]") "}", 8, CABE_ERR_FORMAT, "data_offsets");
    check_refused("{" T("a", "F32", "[2]", "[0,99999999999999999999]") "}", 8, CABE_ERR_FORMAT, "too big");
    check_refused("{" T("a", "F32", "[-2]", "[0,8]") "}", 8, CABE_ERR_FORMAT, "shape[0] is not a count");
    check_refused("{" T("a", "F32", "[2,\"1\"]", "[0,8]") "}", 8, CABE_ERR_FORMAT, "shape[1] is not a count");
    check_refused("{" T("a", "F32", "[4294967296,4294967296]", "[0,8]") "}", 8, CABE_ERR_FORMAT, "can be counted");
    check_refused("{" T("a", "F32", "[4611686018427387904,1]", "[0,8]") "}", 8, CABE_ERR_FORMAT, "wanted 46116860");
    check_refused("{" T("a", "F32", "[1,1,1,1,2]", "[0,8]") "}", 8, CABE_ERR_UNSUPPORTED, "5 dimensions, at most 4");
    check_refused("{" T("a", "F13", "[2]", "[0,8]") "}", 8, CABE_ERR_UNSUPPORTED, "dtype 'F13' is not known");
    check_refused("{" T("a", "F32", "2", "[0,8]") "}", 8, CABE_ERR_FORMAT, "shape is missing or not an array");
    check_refused("{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, CABE_ERR_FORMAT, "dtype is missing");
    check_refused("{\"a\":7}", 0, CABE_ERR_FORMAT, "tensor 'a': is not an object");
    check_refused("{" T("a", "F32", "[2]", "[0,8]") "," T("a", "F32", "[2]", "[0,8]") "}", 8, CABE_ERR_FORMAT,
                  "duplicate object key");
    check_refused("{" T("a", "F32", "[2]", "[0,8]") "} x", 8, CABE_ERR_FORMAT, "end of file expected");
    check_refused("{\"a\":", 8, CABE_ERR_FORMAT, "header: line 1");
    check_refused("{\"a\\u0000b\":{}}", 8, CABE_ERR_FORMAT, "NUL");
}

static void refuses_hostile_lengths(void **state)
{
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 8, 1ull << 63, 100, 3};
    struct cabe_source *source;
    struct cabe_error err;

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct bytes b = {0};

        put_u64(&b, lengths[i]);
        put(&b, "{}  ", 4);
        assert_int_equal(open_bytes(&source, &b, &err), CABE_ERR_FORMAT);
        bytes_clear(&b);
    }
}

/* A header of 100 MB and more is refused before its memory is asked for. */
static void refuses_a_header_too_long(void **state)
{
    struct cabe_source *source;
    struct cabe_error err;
    struct bytes b = {0};
    char path[64];
    int fd;

    (void)state;
    put_u64(&b, 100000001);
    put(&b, "{", 1);
    fd = memory_file(b.data, b.n, path);
    assert_int_equal(ftruncate(fd, 200000000), 0);
    assert_int_equal(cabe_source_open(&source, path, &err), CABE_ERR_LIMIT);
    assert_non_null(strstr(err.text, "at most 100000000"));
    close(fd);
    bytes_clear(&b);
}

static void survives_damage(void **state)
{
    struct cabe_source *source;
    struct bytes b = {0};

    (void)state;
    put_safetensors(&b, small, 22);
    for (size_t n = 0; n < b.n; n++) {
        struct bytes cut = {.data = b.data, .n = n};

        assert_int_not_equal(open_bytes(&source, &cut, NULL), CABE_OK);
    }
    for (size_t i = 0; i < b.n - 22; i++)
        for (int bit = 0; bit < 8; bit++) {
            b.data[i] ^= (uint8_t)(1 << bit);
            if (open_bytes(&source, &b, NULL) == CABE_OK)
                cabe_source_close(source);
            b.data[i] ^= (uint8_t)(1 << bit);
        }
    bytes_clear(&b);
}

/* jansson's allocations are made to fail too. */
static void survives_refused_memory(void **state)
{
    struct cabe_source *source = NULL;
    struct cabe_error err;
    struct bytes b = {0};
    enum cabe_status status = CABE_ERR_OOM;

    (void)state;
    json_set_alloc_funcs(cabe_malloc, cabe_free);
    put_safetensors(&b, small, 22);
    for (uint64_t n = 1; status != CABE_OK; n++) {
        assert_true(n < 1000);
        cabe_memory_fail_at(n);
        status = open_bytes(&source, &b, &err);
        cabe_memory_fail_at(0);
        if (status != CABE_OK)
            if (status != CABE_ERR_OOM && status != CABE_ERR_FORMAT) /* jansson may call it a syntax error */
                fail_msg("allocation %llu: %s", (unsigned long long)n, err.text);
        cabe_source_close(source);
        source = NULL;
    }
    json_set_alloc_funcs(malloc, free);
    bytes_clear(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_tensors),           cmocka_unit_test(refuses_what_does_not_add_up),
        cmocka_unit_test(refuses_hostile_lengths), cmocka_unit_test(refuses_a_header_too_long),
        cmocka_unit_test(survives_damage),         cmocka_unit_test(survives_refused_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
