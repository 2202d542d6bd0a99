/* Fitted copies: made once, found again, and never believed when they are stale, damaged, cut or gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fit/key.h"
#include "fitted_setup.h"

#include <sys/mount.h>

#include "format/source.h"

#define MODEL "bert-mean-q4_0.gguf"

static struct cabe_error err;

static void must(enum cabe_status status)
{
    if (status != CABE_OK)
        fail_msg("%s", err.text);
}

/* Makes the copy, keeps its path, closes it. */
static void make_and_close(const struct setup *s, char path[PATH_MAX])
{
    struct cabe_fitted *fitted;

    must(make_copy(s, &fitted, &err));
    snprintf(path, PATH_MAX, "%s", cabe_fitted_path(fitted));
    cabe_fitted_close(fitted);
}

static void made_found_loaded_checked_closed(void **state)
{
    static const char *const models[] = {"bert-mean-f32.gguf", MODEL, "e5-q4_0.gguf"};

    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        struct cabe_fitted *made, *found;
        struct setup s;
        uint64_t weights, caches, bytes;
        size_t tokenizer_bytes;

        setup_begin(&s, models[i], CABE_F32);
        assert_int_equal(cabe_fitted_find(&found, &s.config, &err), CABE_ERR_NOT_FOUND);
        assert_null(found);
        must(make_copy(&s, &made, &err));
        assert_int_equal(used_bytes(&s), 0);
        must(cabe_fitted_find(&found, &s.config, &err));
        assert_string_equal(cabe_fitted_path(found), cabe_fitted_path(made));
        cabe_fitted_close(made);
        must(cabe_fitted_verify(found, &err));
        assert_null(cabe_fitted_tokenizer(found, &tokenizer_bytes)); /* nothing is mapped yet */
        cabe_fitted_bytes(found, CABE_KEEP_ALL, &weights, &caches);
        must(cabe_fitted_load(found, s.ledger, CABE_KEEP_ALL, "model", &err));
        assert_int_equal(used_bytes(&s), weights + caches);
        must(cabe_fitted_check(found, &err));
        must(cabe_fitted_check(found, &err));
        assert_non_null(cabe_fitted_memory(found, &bytes));
        assert_int_equal(bytes, cabe_fitted_file_bytes(found));
        assert_true(weights + caches >= bytes && weights + caches < bytes + 4096);
        assert_non_null(cabe_fitted_tokenizer(found, &tokenizer_bytes));
        cabe_fitted_close(found);
        assert_int_equal(used_bytes(&s), 0);
        setup_end(&s);
    }
}

/* One copy for each dtype; budget and precision are no part of its name. */
static void one_copy_for_each_dtype(void **state)
{
    struct cabe_fitted *fitted;
    char path[PATH_MAX];
    struct setup s;

    (void)state;
    setup_begin(&s, "bert-mean-f32.gguf", CABE_F32);
    make_and_close(&s, path);
    s.config.choice.dtype = CABE_I8;
    assert_int_equal(cabe_fitted_find(&fitted, &s.config, &err), CABE_ERR_NOT_FOUND);
    make_and_close(&s, path);
    assert_int_equal(count_in(s.cache, NULL), 2);
    s.config.choice.precision = CABE_PRECISION_INT8;
    must(cabe_fitted_find(&fitted, &s.config, &err));
    cabe_fitted_close(fitted);
    setup_end(&s);
}

static void a_found_copy_needs_no_source_but_its_identity(void **state)
{
    struct cabe_fitted *fitted;
    struct cabe_model *model = NULL;
    struct cabe_source *source;
    struct stat info;
    char path[PATH_MAX];
    struct setup s;
    json_t *a, *b;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    must(cabe_source_open(&source, s.source_path, &err));
    must(cabe_model_describe(&model, source, &err));
    a = cabe_model_json(model);
    cabe_model_close(model);
    cabe_source_close(source);
    make_and_close(&s, path);
    /* Same name, size and time, but not one byte of a model in it. */
    assert_int_equal(stat(s.source_path, &info), 0);
    {
        uint8_t *zeros = calloc(1, (size_t)info.st_size);
        struct timespec times[2] = {info.st_atim, info.st_mtim};

        write_file(s.source_path, zeros, (size_t)info.st_size);
        free(zeros);
        assert_int_equal(utimensat(AT_FDCWD, s.source_path, times, 0), 0);
    }
    must(cabe_fitted_find(&fitted, &s.config, &err));
    must(cabe_fitted_load(fitted, s.ledger, CABE_KEEP_ALL, "model", &err));
    must(cabe_fitted_check(fitted, &err));
    b = cabe_model_json(cabe_fitted_model(fitted));
    assert_true(json_equal(a, b));
    json_decref(a);
    json_decref(b);
    cabe_fitted_close(fitted);
    setup_end(&s);
}

static void a_changed_source_is_fitted_again(void **state)
{
    struct timespec later[2] = {{0, UTIME_NOW}, {1000000000, 5}};
    char first[PATH_MAX], second[PATH_MAX];
    struct cabe_fitted *fitted;
    struct setup s;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    make_and_close(&s, first);
    assert_int_equal(utimensat(AT_FDCWD, s.source_path, later, 0), 0); /* touched */
    assert_int_equal(cabe_fitted_find(&fitted, &s.config, &err), CABE_ERR_NOT_FOUND);
    make_and_close(&s, second);
    assert_string_not_equal(first, second);
    assert_int_equal(access(first, F_OK), -1); /* the stale one is gone */
    assert_int_equal(count_in(s.cache, NULL), 1);
    {
        FILE *file = fopen(s.source_path, "ab"); /* longer, with the old time */

        fputc(0, file);
        fclose(file);
        assert_int_equal(utimensat(AT_FDCWD, s.source_path, later, 0), 0);
    }
    assert_int_equal(cabe_fitted_find(&fitted, &s.config, &err), CABE_ERR_NOT_FOUND);
    setup_end(&s);
}

/* Whatever byte of the header is wrong: not found, and removed. */
static void a_flipped_byte_of_the_header_is_not_found(void **state)
{
    struct cabe_fitted *fitted;
    char path[PATH_MAX];
    struct setup s;
    uint8_t *data;
    size_t n, head;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    make_and_close(&s, path);
    data = read_file(path, &n);
    {
        struct cabe_source *copy;

        must(cabe_source_open(&copy, path, &err));
        head = cabe_source_find(copy, "tokenizer")->offset;
        cabe_source_close(copy);
    }
    assert_true(head > 1000 && head < n);
    for (size_t at = 0; at < head; at += at < 64 || at + 64 > head ? 1 : 5) {
        uint8_t bit = (uint8_t)(1u << (at % 8));

        data[at] ^= bit;
        write_file(path, data, n);
        if (cabe_fitted_find(&fitted, &s.config, &err) != CABE_ERR_NOT_FOUND)
            fail_msg("byte %zu of the header is wrong: %s", at, fitted ? "accepted" : err.text);
        assert_null(fitted);
        if (access(path, F_OK) == 0)
            fail_msg("byte %zu of the header is wrong, and the copy is still there", at);
        data[at] ^= bit;
    }
    write_file(path, data, n);
    must(cabe_fitted_find(&fitted, &s.config, &err));
    cabe_fitted_close(fitted);
    free(data);
    setup_end(&s);
}

/* One wrong byte in each tensor, at its begin, middle and end. */
static void a_flipped_byte_of_a_tensor_is_named(void **state)
{
    struct cabe_source *copy;
    char path[PATH_MAX];
    struct setup s;
    uint8_t *data;
    size_t n;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    make_and_close(&s, path);
    data = read_file(path, &n);
    must(cabe_source_open(&copy, path, &err));
    for (size_t t = 0; t < cabe_source_n_tensors(copy); t++) {
        const struct cabe_source_tensor *tensor = cabe_source_tensor(copy, t);
        size_t places[] = {tensor->offset, tensor->offset + tensor->bytes / 2, tensor->offset + tensor->bytes - 1};

        for (size_t p = 0; p < 3; p++)
            for (int way = 0; way < 2; way++) {
                struct cabe_fitted *fitted;
                enum cabe_status status;

                data[places[p]] ^= 0x10;
                write_file(path, data, n);
                must(cabe_fitted_find(&fitted, &s.config, &err));
                if (way == 0) {
                    must(cabe_fitted_load(fitted, s.ledger, CABE_KEEP_ALL, "model", &err));
                    status = cabe_fitted_check(fitted, &err);
                } else {
                    status = cabe_fitted_verify(fitted, &err);
                }
                assert_int_equal(status, CABE_ERR_CHANGED);
                if (!strstr(err.text, tensor->name))
                    fail_msg("%s is damaged, but: %s", tensor->name, err.text);
                if (way == 0)
                    assert_int_equal(cabe_fitted_check(fitted, &err), CABE_ERR_CHANGED); /* and stays so */
                cabe_fitted_close(fitted);
                assert_int_equal(access(path, F_OK), -1);
                data[places[p]] ^= 0x10;
            }
    }
    cabe_source_close(copy);
    free(data);
    assert_int_equal(used_bytes(&s), 0);
    setup_end(&s);
}

/* Segments that are streamed are checked at their first read. */
static void a_streamed_segment_is_checked_when_it_is_read(void **state)
{
    struct cabe_fitted *fitted;
    struct cabe_source *copy;
    uint64_t at, bytes, weights, all, caches;
    char path[PATH_MAX];
    struct setup s;
    uint8_t *data, *piece;
    size_t n;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    make_and_close(&s, path);
    data = read_file(path, &n);
    must(cabe_source_open(&copy, path, &err));
    at = cabe_source_find(copy, "segment.1")->offset;
    bytes = cabe_source_find(copy, "segment.1")->bytes;
    cabe_source_close(copy);
    piece = malloc(bytes);
    for (int damaged = 0; damaged < 2; damaged++) {
        data[at + bytes / 2] ^= (uint8_t)damaged;
        write_file(path, data, n);
        must(cabe_fitted_find(&fitted, &s.config, &err));
        cabe_fitted_bytes(fitted, CABE_KEEP_ALL, &all, &caches);
        cabe_fitted_bytes(fitted, CABE_KEEP_FIRST, &weights, &caches);
        assert_true(weights < all);
        must(cabe_fitted_load(fitted, s.ledger, CABE_KEEP_FIRST, "model", &err));
        assert_int_equal(used_bytes(&s), weights + caches);
        must(cabe_fitted_check(fitted, &err)); /* what is resident is whole */
        assert_int_equal(cabe_fitted_segment_offset(fitted, 1), at);
        assert_int_equal(cabe_fitted_read(fitted, at, piece, bytes, &err), damaged ? CABE_ERR_CHANGED : CABE_OK);
        if (damaged)
            assert_non_null(strstr(err.text, "segment.1"));
        cabe_fitted_close(fitted);
    }
    free(piece);
    free(data);
    setup_end(&s);
}

/* The tokenizer of a llama2.c checkpoint is a file beside it, and part of what the copy is made of. */
static void a_checkpoint_is_known_with_its_tokenizer(void **state)
{
    static const char *const names[] = {"model.bin", "tok512.bin", "tokenizer.bin", "token.txt", "other.bin"};
    struct cabe_fit_key key, before = {0};
    char path[PATH_MAX + 20], first[PATH_MAX + 20];
    struct setup s;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    snprintf(first, sizeof first, "%s/model.bin", s.root);
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", s.root, names[i]);
        write_file(path, names[i], 5);
        assert_int_equal(cabe_fit_key_read(&key, first, &err), CABE_OK);
        if (i > 0)
            assert_int_equal(key.identity != before.identity, i < 3);
        assert_int_equal(key.path_hash == before.path_hash, i > 0);
        before = key;
    }
    setup_end(&s);
}

/* Layers go from the last one on, then the head; never the first segment. */
static void which_segments_are_streamed(void **state)
{
    static const char *const wanted[] = {"......", "....s.", "...ss.", "..sss.", ".ssss.", ".sssss", ".sssss"};

    (void)state;
    for (int64_t n = 0; n < 7; n++)
        for (int32_t s = 0; s < 6; s++)
            assert_int_equal(cabe_fitted_streams(s, 6, n == 6 ? INT64_MAX : n), wanted[n][s] == 's');
    assert_false(cabe_fitted_streams(0, 1, INT64_MAX));
    assert_false(cabe_fitted_streams(3, 6, CABE_KEEP_NONE));
}

/* What stays is charged, mapped and checked on both sides of the hole; the rest is summed as it is read in pieces. */
static void a_copy_that_stays_in_part(void **state)
{
    struct cabe_fitted *fitted;
    char path[PATH_MAX];
    struct setup s;
    uint64_t all, caches, bytes, at;
    const uint8_t *map;
    uint8_t *data, *piece;
    size_t n;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    make_and_close(&s, path);
    data = read_file(path, &n);
    for (int damaged = 0; damaged < 2; damaged++)
        for (int direct = 0; direct < 2; direct++) {
            int32_t last;

            s.config.direct = direct;
            write_file(path, data, n);
            must(cabe_fitted_find(&fitted, &s.config, &err));
            last = cabe_fitted_n_segments(fitted) - 1;
            assert_true(last >= 2);
            at = cabe_fitted_segment_offset(fitted, last - 1);
            cabe_fitted_bytes(fitted, CABE_KEEP_ALL, &all, &caches);
            cabe_fitted_close(fitted);
            if (damaged) {
                data[at + 100] ^= 1;
                write_file(path, data, n);
                data[at + 100] ^= 1;
            }
            must(cabe_fitted_find(&fitted, &s.config, &err));
            must(cabe_fitted_load(fitted, s.ledger, 1, "model", &err));
            bytes = cabe_fitted_segment_offset(fitted, last) - at;
            assert_int_equal(used_bytes(&s), all + caches - bytes);
            must(cabe_fitted_check(fitted, &err));
            map = cabe_fitted_memory(fitted, &all);
            assert_int_equal(all, n);
            assert_memory_equal(map, data, at);
            assert_memory_equal(map + at + bytes, data + at + bytes, n - at - bytes);
            piece = aligned_alloc(4096, bytes);
            for (uint64_t done = 0; done < bytes; done += 4096) {
                enum cabe_status status = cabe_fitted_read(fitted, at + done, piece + done, 4096, &err);

                assert_int_equal(status, damaged && done + 4096 == bytes ? CABE_ERR_CHANGED : CABE_OK);
            }
            if (damaged)
                assert_non_null(strstr(err.text, "segment."));
            else
                assert_memory_equal(piece, data + at, bytes);
            free(piece);
            cabe_fitted_close(fitted);
            assert_int_equal(used_bytes(&s), 0);
        }
    free(data);
    setup_end(&s);
}

static void a_truncated_copy_is_not_found(void **state)
{
    struct cabe_fitted *fitted;
    char path[PATH_MAX];
    struct setup s;
    uint8_t *data;
    size_t n;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    make_and_close(&s, path);
    data = read_file(path, &n);
    for (size_t length = 0; length < n; length += length < 200 ? 7 : n / 97) {
        write_file(path, data, length);
        if (cabe_fitted_find(&fitted, &s.config, &err) != CABE_ERR_NOT_FOUND)
            fail_msg("cut at %zu of %zu: %s", length, n, fitted ? "accepted" : err.text);
        assert_int_equal(access(path, F_OK), -1);
    }
    write_file(path, data, n - 1);
    assert_int_equal(cabe_fitted_find(&fitted, &s.config, &err), CABE_ERR_NOT_FOUND);
    free(data);
    setup_end(&s);
}

/* ---- without a cache ---- */

static void is_made_in_memory(const struct setup *s, const uint8_t *wanted, size_t wanted_bytes)
{
    struct cabe_fitted *fitted;
    struct cabe_error why;
    uint64_t bytes;

    if (make_copy(s, &fitted, &why) != CABE_OK)
        fail_msg("cache at %s: %s", s->config.cache_dir ? s->config.cache_dir : "none", why.text);
    assert_string_equal(cabe_fitted_path(fitted), "(memory)");
    must(cabe_fitted_load(fitted, s->ledger, CABE_KEEP_ALL, "model", &err));
    must(cabe_fitted_check(fitted, &err));
    assert_non_null(cabe_fitted_memory(fitted, &bytes));
    assert_int_equal(bytes, wanted_bytes);
    assert_memory_equal(cabe_fitted_memory(fitted, &bytes), wanted, wanted_bytes);
    cabe_fitted_close(fitted);
    assert_int_equal(used_bytes(s), 0);
}

static void without_a_cache_the_copy_is_in_memory(void **state)
{
    char path[PATH_MAX], other[SETUP_PATH + 20];
    struct setup s;
    uint8_t *data;
    size_t n;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    make_and_close(&s, path);
    data = read_file(path, &n);
    s.config.cache_dir = NULL;
    is_made_in_memory(&s, data, n);
    s.config.cache_dir = other;
    snprintf(other, sizeof other, "%s/missing", s.root);
    is_made_in_memory(&s, data, n);
    snprintf(other, sizeof other, "%s", s.source_path); /* a file */
    is_made_in_memory(&s, data, n);
    snprintf(other, sizeof other, "%s/below", s.source_path);
    is_made_in_memory(&s, data, n);
    snprintf(other, sizeof other, "/proc/self"); /* no one may write here, root neither */
    is_made_in_memory(&s, data, n);
    snprintf(other, sizeof other, "%s/small", s.root);
    assert_int_equal(mkdir(other, 0700), 0);
    if (mount("cabe-test", other, "tmpfs", MS_NODEV, "size=64k") == 0) { /* the disk is full in the middle */
        is_made_in_memory(&s, data, n);
        assert_int_equal(count_in(other, NULL), 0);
        umount(other);
    } else {
        print_message("a full disk was not tried: a tmpfs cannot be mounted here\n");
    }
    rmdir(other);
    free(data);
    setup_end(&s);
}

/* ---- changes while it is open ---- */

static void a_copy_cut_while_it_is_mapped_is_noticed(void **state)
{
    struct cabe_fitted *fitted;
    const uint8_t *map;
    volatile uint8_t sum = 0;
    char path[PATH_MAX];
    struct setup s;
    uint64_t bytes;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    make_and_close(&s, path);
    must(cabe_fitted_find(&fitted, &s.config, &err));
    must(cabe_fitted_load(fitted, s.ledger, CABE_KEEP_ALL, "model", &err));
    must(cabe_fitted_check(fitted, &err));
    assert_int_equal(truncate(path, 8192), 0);
    map = cabe_fitted_memory(fitted, &bytes);
    for (uint64_t i = 0; i < bytes; i += 4096)
        sum = (uint8_t)(sum + map[i]); /* no signal ends the process */
    assert_int_equal(cabe_fitted_check(fitted, &err), CABE_ERR_CHANGED);
    assert_non_null(strstr(err.text, path));
    cabe_fitted_close(fitted);
    assert_int_equal(cabe_fitted_find(&fitted, &s.config, &err), CABE_ERR_NOT_FOUND);
    setup_end(&s);
}

static void a_removed_copy_serves_who_has_it_open(void **state)
{
    struct cabe_fitted *fitted, *again;
    uint64_t freed;
    struct setup s;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    must(make_copy(&s, &fitted, &err));
    must(cabe_fitted_load(fitted, s.ledger, CABE_KEEP_ALL, "model", &err));
    must(cabe_fitted_remove(s.cache, s.source_path, &freed, &err));
    assert_int_equal(freed, cabe_fitted_file_bytes(fitted));
    assert_int_equal(count_in(s.cache, NULL), 0);
    must(cabe_fitted_check(fitted, &err));
    must(cabe_fitted_verify(fitted, &err));
    assert_int_equal(cabe_fitted_find(&again, &s.config, &err), CABE_ERR_NOT_FOUND);
    cabe_fitted_close(fitted);
    setup_end(&s);
}

static void staging_is_what_was_said(void **state)
{
    static const struct {
        const char *model;
        enum cabe_dtype dtype;
    } cases[] = {{"bert-mean-f32.gguf", CABE_F32}, {"bert-mean-f32.gguf", CABE_I8}, {"bert-mean-f32.gguf", CABE_Q4_0},
                 {"bert-mean-f16.gguf", CABE_F16}, {MODEL, CABE_F32},               {"e5-q4_0.gguf", CABE_F32}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cabe_ledger_view view;
        struct cabe_fitted *fitted;
        struct cabe_source *source;
        struct cabe_model *model;
        struct setup s;
        uint64_t said;

        setup_begin(&s, cases[i].model, cases[i].dtype);
        must(cabe_source_open(&source, s.source_path, &err));
        must(cabe_model_describe(&model, source, &err));
        said = cabe_fitted_making_bytes(model, &s.config.choice);
        must(cabe_fitted_make(&fitted, &s.config, source, model, &err));
        cabe_ledger_read(s.ledger, &view);
        assert_int_equal(view.device[0].purpose_high_bytes[CABE_PURPOSE_STAGING], said);
        assert_int_equal(view.device[0].high_bytes, said);
        /* A copy knows its own making as well as the source did, and so does the plan of a second start. */
        assert_int_equal(cabe_fitted_making_bytes(cabe_fitted_model(fitted), &s.config.choice), said);
        cabe_fitted_close(fitted);
        cabe_model_close(model);
        cabe_source_close(source);
        setup_end(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(made_found_loaded_checked_closed),
        cmocka_unit_test(one_copy_for_each_dtype),
        cmocka_unit_test(a_found_copy_needs_no_source_but_its_identity),
        cmocka_unit_test(a_changed_source_is_fitted_again),
        cmocka_unit_test(a_flipped_byte_of_the_header_is_not_found),
        cmocka_unit_test(a_flipped_byte_of_a_tensor_is_named),
        cmocka_unit_test(a_streamed_segment_is_checked_when_it_is_read),
        cmocka_unit_test(a_checkpoint_is_known_with_its_tokenizer),
        cmocka_unit_test(which_segments_are_streamed),
        cmocka_unit_test(a_copy_that_stays_in_part),
        cmocka_unit_test(a_truncated_copy_is_not_found),
        cmocka_unit_test(without_a_cache_the_copy_is_in_memory),
        cmocka_unit_test(a_copy_cut_while_it_is_mapped_is_noticed),
        cmocka_unit_test(a_removed_copy_serves_who_has_it_open),
        cmocka_unit_test(staging_is_what_was_said),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
