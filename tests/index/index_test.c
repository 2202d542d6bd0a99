/* Indexes against brute force: search, self-join, files, budgets, refused allocations. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "index/index.h"

static const struct cabe_kernels *kernels;
static uint64_t seed, random_state;
static char folder[] = "/tmp/cabe-index-XXXXXX";

static uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

/* Rows with few distinct values: many ties, some equal rows, some zero rows. */
static float *rows_new(int64_t n, int64_t dim)
{
    float *x = malloc((size_t)(n * dim + 1) * sizeof *x);

    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < dim; d++) {
            x[i * dim + d] = (float)((int)(random_u32() % 7) - 3) * 0.25f;
            if (i > 0 && i % 5 == 0)
                x[i * dim + d] = x[(i / 2) * dim + d] * (i % 2 ? 2.0f : 1.0f);
            if (i % 17 == 3)
                x[i * dim + d] = 0.0f;
        }
    return x;
}

struct bench { /* what every test needs */
    struct cabe_ledger *ledger;
    struct cabe_team *team;
    struct cabe_index_run run;
};

static void bench_open(struct bench *b, int n_members, uint64_t budget)
{
    struct cabe_ledger_config config = {.n_devices = 1, .budget_bytes = {budget}};

    memset(b, 0, sizeof *b);
    assert_int_equal(cabe_ledger_open(&b->ledger, &config, NULL), CABE_OK);
    assert_int_equal(cabe_team_open(&b->team, n_members, NULL), CABE_OK);
    b->run.team = b->team;
}

static uint64_t used(const struct bench *b)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(b->ledger, &view);
    assert_int_equal(view.device[0].used_bytes, view.device[0].purpose_bytes[CABE_PURPOSE_INDEX]);
    return view.device[0].used_bytes;
}

static uint64_t high(const struct bench *b)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(b->ledger, &view);
    return view.device[0].high_bytes;
}

static void bench_close(struct bench *b)
{
    assert_int_equal(used(b), 0);
    cabe_team_close(b->team);
    cabe_ledger_close(b->ledger);
}

static struct cabe_index *index_of(struct bench *b, const float *rows, int64_t n, int64_t dim,
                                   enum cabe_dtype dtype, enum cabe_metric metric)
{
    struct cabe_index_config config = {
        .kind = "exact", .dim = dim, .dtype = dtype, .metric = metric, .capacity = n};
    struct cabe_index *index;
    struct cabe_error err;
    int64_t half = n / 2;
    uint64_t before = used(b);

    assert_int_equal(cabe_index_open(&index, &config, b->ledger, kernels, &err), CABE_OK);
    assert_int_equal(used(b), before + cabe_index_bytes(&config));
    assert_int_equal(cabe_index_train(index, rows, n, &b->run, &err), CABE_OK);
    assert_int_equal(cabe_index_add(index, rows, half, &err), CABE_OK);
    assert_int_equal(cabe_index_add(index, rows + half * dim, n - half, &err), CABE_OK);
    assert_int_equal(cabe_index_rows(index), n);
    return index;
}

/* The stored rows as f32. */
static float *stored(const struct cabe_index *index)
{
    int64_t n = cabe_index_rows(index), dim = cabe_index_config(index)->dim;
    float *x = malloc((size_t)(n * dim + 1) * sizeof *x);

    for (int64_t i = 0; i < n; i++)
        assert_int_equal(cabe_index_get(index, i, x + i * dim, NULL), CABE_OK);
    return x;
}

static float dot(const float *a, const float *b, int64_t dim)
{
    float sum = 0.0f;

    for (int64_t d = 0; d < dim; d++)
        sum = fmaf(a[d], b[d], sum);
    return sum;
}

static int by_rank(const void *a, const void *b)
{
    const struct cabe_hit *x = a, *y = b;

    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* All rows but `self` with a score >= threshold, best first. */
static int64_t brute(const float *query, const float *rows, int64_t n, int64_t dim, int64_t self,
                     float threshold, struct cabe_hit *out)
{
    int64_t found = 0;

    for (int64_t i = 0; i < n; i++) {
        struct cabe_hit hit = {.score = dot(query, rows + i * dim, dim), .row = (uint32_t)i};

        if (i != self && hit.score >= threshold)
            out[found++] = hit;
    }
    qsort(out, (size_t)found, sizeof *out, by_rank);
    return found;
}

static void same_hits(const struct cabe_hit *got, int64_t n_got, const struct cabe_hit *want, int64_t n_want,
                      int64_t k, const char *what, int64_t row)
{
    n_want = n_want < k ? n_want : k;
    if (n_got != n_want)
        fail_msg("%s, row %lld: %lld hits, wanted %lld (seed %llu)", what, (long long)row, (long long)n_got,
                 (long long)n_want, (unsigned long long)seed);
    for (int64_t i = 0; i < n_want; i++)
        if (got[i].row != want[i].row || got[i].score != want[i].score)
            fail_msg("%s, row %lld, hit %lld: row %u %.9g, wanted row %u %.9g (seed %llu)", what,
                     (long long)row, (long long)i, got[i].row, (double)got[i].score, want[i].row,
                     (double)want[i].score, (unsigned long long)seed);
}

static const enum cabe_dtype dtypes[] = {CABE_F32, CABE_F16, CABE_I8};

static void searches(void **state)
{
    static const struct {
        int64_t n, dim, n_queries, k;
    } sizes[] = {{0, 8, 2, 3},    {1, 1, 1, 1},      {5, 3, 2, 9},
                 {300, 33, 5, 7}, {400, 24, 130, 4}, {400, 384, 3, 400}};

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int kind = 0; kind < 12; kind++) {
            int64_t n = sizes[s].n, dim = sizes[s].dim, nq = sizes[s].n_queries, k = sizes[s].k;
            struct bench b;
            float *rows = rows_new(n, dim), *queries = rows_new(nq, dim),
                  *unit = malloc((size_t)(nq * dim) * 4), *back;
            struct cabe_hit *hits = calloc((size_t)(nq * k), sizeof *hits),
                            *want = malloc((size_t)(n + 1) * sizeof *want);
            int32_t *n_hits = calloc((size_t)nq, sizeof *n_hits);
            struct cabe_index *index;
            struct cabe_error err;
            uint64_t before;

            bench_open(&b, 1 + kind % 2 * 2, CABE_UNLIMITED);
            index =
                index_of(&b, rows, n, dim, dtypes[kind % 3], kind < 6 ? CABE_METRIC_COSINE : CABE_METRIC_DOT);
            back = stored(index);
            memcpy(unit, queries, (size_t)(nq * dim) * 4);
            if (kind < 6)
                kernels->row.unit(0.0f, queries, unit, dim, 0, nq);
            before = used(&b);
            cabe_ledger_mark(b.ledger);
            assert_int_equal(cabe_index_search(index, queries, nq, k, hits, n_hits, &b.run, &err), CABE_OK);
            assert_int_equal(used(&b), before);
            assert_int_equal(high(&b),
                             before + cabe_index_search_bytes(index, nq, k, cabe_team_size(b.team)));
            assert_int_equal(cabe_index_search_plan(cabe_index_config(index), n, nq, k, kernels, cabe_team_size(b.team)),
                             cabe_index_search_bytes(index, nq, k, cabe_team_size(b.team)));
            for (int64_t q = 0; q < nq; q++)
                same_hits(hits + q * k, n_hits[q], want,
                          brute(unit + q * dim, back, n, dim, -1, -INFINITY, want), k, "search", q);
            cabe_index_close(index);
            bench_close(&b);
            free(rows), free(queries), free(unit), free(back), free(hits), free(want), free(n_hits);
        }
}

/* `planned`: a resident index, whose bytes can be told before it exists. */
static void check_join(struct bench *b, struct cabe_index *index, const float *back, float threshold,
                       int32_t k, int planned)
{
    struct cabe_join_config config = {.threshold = threshold, .k = k};
    struct cabe_join_bytes bytes = cabe_join_measure(index, &config, cabe_team_size(b->team));
    int64_t n = cabe_index_rows(index), dim = cabe_index_config(index)->dim, kept = 0;
    struct cabe_hit *want = malloc((size_t)(n + 1) * sizeof *want);
    uint64_t before = used(b), n_pairs;
    struct cabe_pair *pairs;
    struct cabe_join *join;
    struct cabe_error err;

    cabe_ledger_mark(b->ledger);
    assert_int_equal(cabe_join_run(&join, index, &config, &b->run, &err), CABE_OK);
    assert_int_equal(used(b), before + bytes.output_bytes);
    if (planned) {
        struct cabe_join_bytes plan =
            cabe_join_plan(cabe_index_config(index), n, &config, kernels, cabe_team_size(b->team));

        assert_memory_equal(&plan, &bytes, sizeof plan);
    }
    assert_int_equal(high(b), before + bytes.output_bytes + bytes.work_bytes);
    for (int64_t i = 0; i < n; i++) {
        int32_t n_got;
        const struct cabe_hit *got = cabe_join_hits(join, i, &n_got);

        same_hits(got, n_got, want, brute(back + i * dim, back, n, dim, i, threshold, want), k, "join", i);
        kept += n_got;
    }
    n_pairs = cabe_join_pairs(join, NULL, 0);
    assert_true(n_pairs * 2 >= (uint64_t)kept && n_pairs <= (uint64_t)kept);
    pairs = malloc((size_t)(n_pairs + 1) * sizeof *pairs);
    assert_int_equal(cabe_join_pairs(join, pairs, n_pairs), n_pairs);
    for (uint64_t p = 0; p < n_pairs; p++) {
        assert_true(pairs[p].a < pairs[p].b && pairs[p].score >= threshold);
        assert_true(pairs[p].score == dot(back + pairs[p].a * dim, back + pairs[p].b * dim, dim));
    }
    free(pairs), free(want);
    cabe_join_close(join);
    assert_int_equal(used(b), before);
}

static void joins(void **state)
{
    static const struct {
        int64_t n, dim;
    } sizes[] = {{0, 4}, {1, 4}, {2, 1}, {17, 5}, {256, 16}, {257, 33}, {300, 24}};

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int kind = 0; kind < 12; kind++) {
            struct bench b;
            float *rows = rows_new(sizes[s].n, sizes[s].dim), *back;
            struct cabe_index *index;

            bench_open(&b, 1 + kind % 4, CABE_UNLIMITED);
            index = index_of(&b, rows, sizes[s].n, sizes[s].dim, dtypes[kind % 3],
                             kind < 9 ? CABE_METRIC_COSINE : CABE_METRIC_DOT);
            back = stored(index);
            check_join(&b, index, back, 0.5f, 4, 1);
            check_join(&b, index, back, -INFINITY, 3, 1);
            check_join(&b, index, back, INFINITY, 3, 1);
            if (sizes[s].n > 1) /* the threshold is a score that occurs */
                check_join(&b, index, back, dot(back, back + sizes[s].dim, sizes[s].dim), 1000, 1);
            cabe_index_close(index);
            bench_close(&b);
            free(rows), free(back);
        }
}

static char *path_of(const char *name)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void files(void **state)
{
    enum { N = 301, DIM = 20, K = 5 };
    struct cabe_hit hits[2][K * 3];
    int32_t n_hits[2][3];

    (void)state;
    for (size_t d = 0; d < 3; d++)
        for (int place = CABE_INDEX_RESIDENT; place <= CABE_INDEX_STREAMED; place++) {
            struct bench b;
            float *rows = rows_new(N, DIM), *back, *back2;
            struct cabe_index *index, *again;
            struct cabe_error err;
            uint64_t bytes, before;

            bench_open(&b, 2, CABE_UNLIMITED);
            index = index_of(&b, rows, N, DIM, dtypes[d], CABE_METRIC_COSINE);
            assert_int_equal(cabe_index_save(index, path_of("a.idx"), &err), CABE_OK);
            assert_int_equal(cabe_index_verify(path_of("a.idx"), &err), CABE_OK);
            before = used(&b);
            assert_int_equal(
                cabe_index_load_bytes(&bytes, path_of("a.idx"), (enum cabe_index_place)place, &err), CABE_OK);
            assert_int_equal(cabe_index_load(&again, path_of("a.idx"), (enum cabe_index_place)place, b.ledger,
                                             kernels, &err),
                             CABE_OK);
            assert_int_equal(used(&b), before + bytes);
            assert_int_equal(cabe_index_config(again)->dtype, dtypes[d]);
            back = stored(index);
            back2 = stored(again);
            assert_memory_equal(back, back2, N * DIM * 4);
            assert_int_equal(cabe_index_search(index, rows, 3, K, hits[0], n_hits[0], &b.run, &err), CABE_OK);
            assert_int_equal(cabe_index_search(again, rows, 3, K, hits[1], n_hits[1], &b.run, &err), CABE_OK);
            assert_memory_equal(hits[0], hits[1], sizeof hits[0]);
            check_join(&b, again, back, 0.6f, 6, place == CABE_INDEX_RESIDENT);
            cabe_index_close(again);
            cabe_index_close(index);
            bench_close(&b);
            free(rows), free(back), free(back2);
        }
}

/* Every byte of the header and some of the rows, flipped; and every length. */
static void damage(void **state)
{
    struct bench b;
    float *rows = rows_new(10, 6);
    struct cabe_index *index;
    struct cabe_error err;
    uint8_t *bytes;
    long size;
    FILE *f;

    (void)state;
    bench_open(&b, 1, CABE_UNLIMITED);
    index = index_of(&b, rows, 10, 6, CABE_I8, CABE_METRIC_DOT);
    assert_int_equal(cabe_index_save(index, path_of("a.idx"), &err), CABE_OK);
    cabe_index_close(index);
    f = fopen(path_of("a.idx"), "rb");
    fseek(f, 0, SEEK_END);
    size = ftell(f);
    bytes = malloc((size_t)size);
    rewind(f);
    assert_int_equal(fread(bytes, 1, (size_t)size, f), size);
    fclose(f);
    assert_int_equal(size, 4096 + 10 * (6 + 4));
    for (long i = 0; i < size; i += i < 100 || i > 4080 ? 1 : 97) {
        bytes[i] ^= 1;
        f = fopen(path_of("bad.idx"), "wb");
        fwrite(bytes, 1, (size_t)size, f);
        fclose(f);
        bytes[i] ^= 1;
        assert_int_equal(
            cabe_index_load(&index, path_of("bad.idx"), CABE_INDEX_RESIDENT, b.ledger, kernels, &err),
            CABE_ERR_FORMAT);
        assert_null(index);
        assert_non_null(strstr(err.text, "bad.idx"));
        assert_int_equal(cabe_index_verify(path_of("bad.idx"), &err), CABE_ERR_FORMAT);
    }
    for (long n = 0; n < size + 2; n += n < 4090 ? 511 : 1) {
        if (n == size)
            continue;
        f = fopen(path_of("bad.idx"), "wb");
        fwrite(bytes, 1, (size_t)(n < size ? n : size), f);
        for (long i = size; i < n; i++)
            fputc(0, f);
        fclose(f);
        assert_int_equal(
            cabe_index_load(&index, path_of("bad.idx"), CABE_INDEX_STREAMED, b.ledger, kernels, &err),
            CABE_ERR_FORMAT);
    }
    assert_int_equal(
        cabe_index_load(&index, path_of("none.idx"), CABE_INDEX_STREAMED, b.ledger, kernels, &err),
        CABE_ERR_NOT_FOUND);
    assert_int_equal(cabe_index_load(&index, folder, CABE_INDEX_STREAMED, b.ledger, kernels, &err),
                     CABE_ERR_FORMAT);
    free(bytes), free(rows);
    bench_close(&b);
}

/* A streamed index whose file is cut while it is open answers with a status. */
static void shrinks(void **state)
{
    struct bench b;
    float *rows = rows_new(2000, 16);
    struct cabe_join_config config = {.threshold = 0.5f, .k = 2};
    struct cabe_index *index;
    struct cabe_join *join;
    struct cabe_hit hits[2];
    struct cabe_error err;
    int32_t n_hits;

    (void)state;
    bench_open(&b, 2, CABE_UNLIMITED);
    index = index_of(&b, rows, 2000, 16, CABE_F32, CABE_METRIC_COSINE);
    assert_int_equal(cabe_index_save(index, path_of("cut.idx"), &err), CABE_OK);
    cabe_index_close(index);
    assert_int_equal(
        cabe_index_load(&index, path_of("cut.idx"), CABE_INDEX_STREAMED, b.ledger, kernels, &err), CABE_OK);
    assert_int_equal(truncate(path_of("cut.idx"), 50000), 0);
    assert_int_equal(cabe_index_search(index, rows, 1, 2, hits, &n_hits, &b.run, &err), CABE_ERR_CHANGED);
    assert_int_equal(cabe_join_run(&join, index, &config, &b.run, &err), CABE_ERR_CHANGED);
    assert_non_null(strstr(err.text, "cut.idx"));
    cabe_index_close(index);
    free(rows);
    bench_close(&b);
}

static int n_files(void)
{
    DIR *dir = opendir(folder);
    int n = -2; /* . and .. */

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* A save that cannot write leaves the old file and nothing else. */
static void full_disk(void **state)
{
    struct rlimit limit, small;
    struct bench b;
    float *rows = rows_new(500, 16);
    struct cabe_index *few, *many, *again;
    struct cabe_error err;
    int before;

    (void)state;
    bench_open(&b, 1, CABE_UNLIMITED);
    few = index_of(&b, rows, 5, 16, CABE_F32, CABE_METRIC_DOT);
    many = index_of(&b, rows, 500, 16, CABE_F32, CABE_METRIC_DOT);
    assert_int_equal(cabe_index_save(few, path_of("full.idx"), &err), CABE_OK);
    before = n_files();
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 10000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(cabe_index_save(many, path_of("full.idx"), &err), CABE_ERR_IO);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_non_null(strstr(err.text, "full.idx"));
    assert_int_equal(n_files(), before);
    assert_int_equal(
        cabe_index_load(&again, path_of("full.idx"), CABE_INDEX_RESIDENT, b.ledger, kernels, &err), CABE_OK);
    assert_int_equal(cabe_index_rows(again), 5);
    cabe_index_close(again);
    cabe_index_close(few);
    cabe_index_close(many);
    free(rows);
    bench_close(&b);
}

/* Killed at any moment of a save: the file is the old one or the new one, and what is left beside it can be swept. */
static void killed_while_saving(void **state)
{
    enum { KILLS = 200, FEW = 50, MANY = 400 };
    struct bench b;
    float *rows = rows_new(MANY, 16);
    struct cabe_index *few, *many, *again;
    struct cabe_error err;
    int n_few = 0;

    (void)state;
    bench_open(&b, 1, CABE_UNLIMITED);
    few = index_of(&b, rows, FEW, 16, CABE_F32, CABE_METRIC_DOT);
    many = index_of(&b, rows, MANY, 16, CABE_F32, CABE_METRIC_DOT);
    assert_int_equal(cabe_index_save(few, path_of("killed.idx"), &err), CABE_OK);
    for (int k = 0; k < KILLS; k++) {
        pid_t child = fork();
        int status;

        assert_true(child >= 0);
        if (child == 0)
            for (int i = 0;; i++)
                if (cabe_index_save(i % 2 ? few : many, path_of("killed.idx"), NULL) != CABE_OK)
                    _exit(1);
        usleep(random_u32() % 4000);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(
            cabe_index_load(&again, path_of("killed.idx"), CABE_INDEX_RESIDENT, b.ledger, kernels, &err), CABE_OK);
        assert_true(cabe_index_rows(again) == FEW || cabe_index_rows(again) == MANY);
        n_few += cabe_index_rows(again) == FEW;
        cabe_index_close(again);
    }
    print_message("%d kills, %d left the file of few rows\n", KILLS, n_few);
    assert_in_range(n_few, 1, KILLS - 1);
    cabe_index_close(few);
    cabe_index_close(many);
    free(rows);
    bench_close(&b);
}

static void mistakes(void **state)
{
    struct cabe_index_config config = {.kind = "exact", .dim = 4, .dtype = CABE_F32, .capacity = 2}, bad;
    struct cabe_join_config join_config = {.threshold = NAN, .k = 1};
    float rows[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, NAN};
    struct cabe_index *index;
    struct cabe_join *join;
    struct cabe_hit hit;
    struct cabe_error err;
    int32_t n_hits;
    struct bench b;

    (void)state;
    bench_open(&b, 1, 1 << 20);
    bad = config, bad.kind = "ivf";
    assert_int_equal(cabe_index_open(&index, &bad, b.ledger, kernels, &err), CABE_ERR_UNSUPPORTED);
    bad = config, bad.dtype = CABE_Q4_0;
    assert_int_equal(cabe_index_open(&index, &bad, b.ledger, kernels, &err), CABE_ERR_UNSUPPORTED);
    assert_true(cabe_index_bytes(&bad) == UINT64_MAX);
    bad = config, bad.dim = 0;
    assert_int_equal(cabe_index_open(&index, &bad, b.ledger, kernels, &err), CABE_ERR_ARGUMENT);
    bad = config, bad.capacity = INT64_MAX;
    assert_int_equal(cabe_index_open(&index, &bad, b.ledger, kernels, &err), CABE_ERR_ARGUMENT);
    bad = config, bad.capacity = 100000;
    assert_int_equal(cabe_index_open(&index, &bad, b.ledger, kernels, &err), CABE_ERR_BUDGET);
    assert_int_equal(err.missing_bytes, cabe_index_bytes(&bad) - (1 << 20));
    assert_int_equal(cabe_index_open(&index, &config, b.ledger, kernels, &err), CABE_OK);
    assert_int_equal(cabe_index_add(index, rows, 3, &err), CABE_ERR_LIMIT);
    assert_int_equal(cabe_index_add(index, rows + 4, 2, &err), CABE_ERR_FORMAT);
    assert_int_equal(cabe_index_rows(index), 0);
    assert_int_equal(cabe_index_add(index, rows, 2, &err), CABE_OK);
    assert_int_equal(cabe_index_search(index, rows + 8, 1, 1, &hit, &n_hits, &b.run, &err), CABE_ERR_FORMAT);
    assert_int_equal(cabe_index_search(index, rows, 1, 0, &hit, &n_hits, &b.run, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_index_get(index, 2, rows, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_join_run(&join, index, &join_config, &b.run, &err), CABE_ERR_ARGUMENT);
    join_config = (struct cabe_join_config){.threshold = 0.0f, .k = INT32_MAX};
    assert_int_equal(cabe_join_run(&join, index, &join_config, &b.run, &err), CABE_ERR_BUDGET);
    assert_int_equal(cabe_index_save(index, "/nowhere/at/all.idx", &err), CABE_ERR_NOT_FOUND);
    assert_int_equal(cabe_index_save(index, folder, &err),
                     CABE_ERR_IO); /* a folder cannot be replaced by a file */
    cabe_index_close(index);
    bench_close(&b);
}

static void report(void *self, const char *what, uint64_t done, uint64_t total, const char *unit)
{
    (void)self, (void)what, (void)unit;
    assert_true(done <= total);
}

static void cancels(void **state)
{
    struct cabe_cancel cancel = {0};
    struct cabe_progress progress = {.report = report};
    struct cabe_join_config config = {.threshold = 0.9f, .k = 4};
    float *rows = rows_new(1000, 32);
    struct cabe_index *index;
    struct cabe_hit hits[4];
    struct cabe_join *join;
    struct cabe_error err;
    int32_t n_hits;
    struct bench b;

    (void)state;
    bench_open(&b, 2, CABE_UNLIMITED);
    index = index_of(&b, rows, 1000, 32, CABE_F32, CABE_METRIC_COSINE);
    b.run.cancel = &cancel;
    b.run.progress = &progress;
    assert_int_equal(cabe_join_run(&join, index, &config, &b.run, &err), CABE_OK);
    cabe_join_close(join);
    atomic_store(&cancel.wanted, 1);
    assert_int_equal(cabe_join_run(&join, index, &config, &b.run, &err), CABE_ERR_CANCELLED);
    assert_null(join);
    assert_int_equal(cabe_index_search(index, rows, 1, 4, hits, &n_hits, &b.run, &err), CABE_ERR_CANCELLED);
    cabe_index_close(index);
    free(rows);
    bench_close(&b);
}

/* Open, add, search, join, save, load with the n-th allocation refused, for every n. */
static enum cabe_status everything(struct bench *b, const float *rows, struct cabe_error *err)
{
    struct cabe_index_config config = {.kind = "exact", .dim = 8, .dtype = CABE_I8, .capacity = 40};
    struct cabe_join_config join_config = {.threshold = 0.5f, .k = 2};
    struct cabe_index *index = NULL, *again = NULL, *streamed = NULL;
    struct cabe_join *join = NULL;
    struct cabe_hit hits[3];
    enum cabe_status status;
    float row[8];
    int32_t n_hits;

    status = cabe_index_open(&index, &config, b->ledger, kernels, err);
    if (status == CABE_OK)
        status = cabe_index_add(index, rows, 40, err);
    if (status == CABE_OK)
        status = cabe_index_search(index, rows, 1, 3, hits, &n_hits, &b->run, err);
    if (status == CABE_OK)
        status = cabe_join_run(&join, index, &join_config, &b->run, err);
    if (status == CABE_OK)
        status = cabe_index_save(index, path_of("n.idx"), err);
    if (status == CABE_OK)
        status = cabe_index_load(&again, path_of("n.idx"), CABE_INDEX_RESIDENT, b->ledger, kernels, err);
    if (status == CABE_OK)
        status = cabe_index_load(&streamed, path_of("n.idx"), CABE_INDEX_STREAMED, b->ledger, kernels, err);
    if (status == CABE_OK)
        status = cabe_index_get(streamed, 7, row, err);
    cabe_join_close(join);
    cabe_index_close(index);
    cabe_index_close(again);
    cabe_index_close(streamed);
    return status;
}

static void refused_memory(void **state)
{
    float *rows = rows_new(40, 8);
    enum cabe_status status = CABE_ERR_OOM;
    struct cabe_error err;
    struct bench b;
    uint64_t n = 0;

    (void)state;
    bench_open(&b, 2, CABE_UNLIMITED);
    assert_int_equal(everything(&b, rows, &err), CABE_OK);
    while (status != CABE_OK) {
        cabe_memory_fail_at(++n);
        status = everything(&b, rows, &err);
        assert_true(status == CABE_OK || status == CABE_ERR_OOM);
        assert_int_equal(used(&b), 0);
        assert_true(n < 1000);
    }
    cabe_memory_fail_at(0);
    assert_true(n > 10);
    free(rows);
    bench_close(&b);
}

static int remove_folder(void **state)
{
    char command[64];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(searches), cmocka_unit_test(joins),   cmocka_unit_test(files),
        cmocka_unit_test(damage),   cmocka_unit_test(shrinks), cmocka_unit_test(full_disk),
        cmocka_unit_test(killed_while_saving),
        cmocka_unit_test(mistakes), cmocka_unit_test(cancels), cmocka_unit_test(refused_memory),
    };
    const char *text = getenv("CABE_SEED");
    struct cabe_error err;

    seed = text ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);
    random_state = seed * 2654435761u + 88172645463325252u;
    printf("index: seed %llu (CABE_SEED repeats it)\n", (unsigned long long)seed);
    if (!mkdtemp(folder) || cabe_kernels_choose(&kernels, &err) != CABE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
