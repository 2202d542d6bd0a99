/* Storage of the exact kind. */
#include "index/exact.h"

#include <string.h>
#include <unistd.h>

#include "base/memory.h"

#define PLACE "index rows"

static uint64_t row_bytes(const struct cabe_index_config *config)
{
    return cabe_dtype_bytes(config->dtype, config->dim);
}

/* Rows and scales of `capacity` rows; measures and places. */
static void place_rows(const struct cabe_index_config *config, struct cabe_arena *arena, uint8_t **rows,
                       float **scales)
{
    *rows = cabe_arena_take(arena, (uint64_t)config->capacity, row_bytes(config), 64);
    *scales = config->dtype == CABE_I8 ? cabe_arena_take(arena, (uint64_t)config->capacity, sizeof(float), 64)
                                       : NULL;
}

static uint64_t measure(const struct cabe_index_config *config)
{
    struct cabe_arena arena = {0};
    uint8_t *rows;
    float *scales;

    place_rows(config, &arena, &rows, &scales);
    return arena.used_bytes ? cabe_pages_round(arena.used_bytes) : 0;
}

void cabe_exact_outline(struct cabe_exact *out, const struct cabe_index_config *config, int64_t n_rows,
                        const struct cabe_kernels *kernels)
{
    memset(out, 0, sizeof *out);
    out->head.config = *config;
    out->head.n_rows = n_rows;
    out->head.kernels = kernels;
    out->fd = -1;
}

enum cabe_status cabe_exact_take(const struct cabe_exact *exact, void **out, uint64_t bytes,
                                 const char *place, struct cabe_error *err)
{
    enum cabe_status status =
        cabe_ledger_reserve(exact->head.ledger, CABE_HOST, CABE_PURPOSE_INDEX, bytes, place, err);

    *out = NULL;
    if (status != CABE_OK || bytes == 0)
        return status;
    status = cabe_pages_map(out, bytes, 0, err);
    if (status == CABE_OK)
        cabe_ledger_add_pages(exact->head.ledger, CABE_HOST, CABE_PURPOSE_INDEX, *out, bytes);
    else
        cabe_ledger_release(exact->head.ledger, CABE_HOST, CABE_PURPOSE_INDEX, bytes, place);
    return status;
}

void cabe_exact_give(struct cabe_ledger *ledger, void *pages, uint64_t bytes, const char *place)
{
    if (!pages)
        return;
    cabe_ledger_remove_pages(ledger, pages);
    cabe_pages_unmap(pages, bytes);
    cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_INDEX, bytes, place);
}

static void exact_close(struct cabe_index *index)
{
    struct cabe_exact *exact = (struct cabe_exact *)index;

    cabe_exact_give(index->ledger, exact->pages, exact->page_bytes, PLACE);
    if (exact->fd >= 0)
        close(exact->fd);
    cabe_free(exact->path);
    cabe_free(exact);
}

/* A handle; with `resident` also the memory of its rows. */
static enum cabe_status make(struct cabe_exact **out, const struct cabe_index_config *config, int resident,
                             struct cabe_ledger *ledger, const struct cabe_kernels *kernels,
                             struct cabe_error *err)
{
    struct cabe_exact *exact = cabe_calloc(1, sizeof *exact);
    enum cabe_status status;

    *out = NULL;
    if (!exact)
        return cabe_fail(err, CABE_ERR_OOM, "index handle");
    exact->head = (struct cabe_index){
        .kind = &cabe_index_exact, .config = *config, .ledger = ledger, .kernels = kernels};
    exact->head.config.kind = cabe_index_exact.name;
    exact->fd = -1;
    if (resident) {
        struct cabe_arena arena = {0};

        exact->page_bytes = measure(config);
        status = cabe_exact_take(exact, &exact->pages, exact->page_bytes, PLACE, err);
        if (status != CABE_OK) {
            exact_close(&exact->head);
            return status;
        }
        arena.base = exact->pages;
        arena.size_bytes = exact->page_bytes;
        if (arena.base)
            place_rows(config, &arena, &exact->rows, &exact->scales);
    }
    *out = exact;
    return CABE_OK;
}

static enum cabe_status exact_open(struct cabe_index **out, const struct cabe_index_config *config,
                                   struct cabe_ledger *ledger, const struct cabe_kernels *kernels,
                                   struct cabe_error *err)
{
    struct cabe_exact *exact;
    enum cabe_status status = make(&exact, config, 1, ledger, kernels, err);

    *out = status == CABE_OK ? &exact->head : NULL;
    return status;
}

static enum cabe_status exact_train(struct cabe_index *index, const float *rows, int64_t n,
                                    const struct cabe_index_run *run, struct cabe_error *err)
{
    (void)index, (void)rows, (void)n, (void)run, (void)err;
    return CABE_OK;
}

static enum cabe_status exact_add(struct cabe_index *index, const float *rows, int64_t n,
                                  struct cabe_error *err)
{
    struct cabe_exact *exact = (struct cabe_exact *)index;
    const struct cabe_row_kernels *kernels = &index->kernels->row;
    int64_t dim = index->config.dim;
    float *unit;

    if (exact->fd >= 0)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: a streamed index takes no more rows", exact->path);
    unit = cabe_malloc((size_t)dim * sizeof *unit);
    if (!unit)
        return cabe_fail(err, CABE_ERR_OOM, "index: one row of %lld values", (long long)dim);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = index->n_rows + i;
        uint8_t *to = exact->rows + (uint64_t)at * row_bytes(&index->config);
        const float *row = rows + i * dim;

        if (index->config.metric == CABE_METRIC_COSINE) {
            kernels->unit(0.0f, row, unit, dim, 0, 1);
            row = unit;
        }
        if (index->config.dtype == CABE_I8)
            exact->scales[at] = kernels->to_i8(row, (int8_t *)to, dim);
        else
            kernels->from_f32(index->config.dtype, row, to, dim);
    }
    index->n_rows += n;
    cabe_free(unit);
    return CABE_OK;
}

void cabe_exact_view_place(const struct cabe_exact *exact, struct cabe_arena *arena, int64_t n_max,
                           struct cabe_exact_view *view)
{
    const struct cabe_index_config *config = &exact->head.config;
    uint64_t n = (uint64_t)n_max, dim = (uint64_t)config->dim;
    int streamed = exact->fd >= 0;

    memset(view, 0, sizeof *view);
    if (streamed || config->dtype != CABE_F32)
        view->wide = cabe_arena_take(arena, n, dim * sizeof(float), 64);
    if (streamed && config->dtype != CABE_F32)
        view->raw = cabe_arena_take(arena, n, row_bytes(config), 64);
    if (streamed && config->dtype == CABE_I8)
        view->scales = cabe_arena_take(arena, n, sizeof(float), 64);
}

enum cabe_status cabe_exact_rows(const struct cabe_exact *exact, const struct cabe_exact_view *view,
                                 int64_t first, int64_t n, const float **out, struct cabe_error *err)
{
    const struct cabe_index *head = &exact->head;
    const struct cabe_row_kernels *kernels = &head->kernels->row;
    uint64_t row = row_bytes(&head->config), at = (uint64_t)first * row;
    const uint8_t *raw = exact->rows ? exact->rows + at : NULL; /* streamed: read below */
    const float *scales = exact->scales ? exact->scales + first : NULL;
    enum cabe_status status = CABE_OK;
    int64_t dim = head->config.dim;

    *out = view->wide;
    if (exact->fd >= 0) {
        uint8_t *to = view->raw ? view->raw : (uint8_t *)view->wide;

        status = cabe_index_file_read(exact->fd, to, (uint64_t)n * row, CABE_INDEX_HEADER_BYTES + at,
                                      exact->path, err);
        if (status == CABE_OK && view->scales)
            status = cabe_index_file_read(exact->fd, view->scales, (uint64_t)n * sizeof(float),
                                          CABE_INDEX_HEADER_BYTES + (uint64_t)head->n_rows * row +
                                              (uint64_t)first * sizeof(float),
                                          exact->path, err);
        if (status != CABE_OK)
            return status;
        raw = to;
        scales = view->scales;
    }
    if (head->config.dtype == CABE_F32) {
        *out = (const float *)(const void *)raw;
        return CABE_OK;
    }
    if (head->config.dtype == CABE_F16) {
        kernels->to_f32(CABE_F16, raw, view->wide, n * dim);
        return CABE_OK;
    }
    for (int64_t i = 0; i < n; i++)
        kernels->from_i8((const int8_t *)raw + (uint64_t)i * row, scales[i], view->wide + i * dim, dim);
    return CABE_OK;
}

static enum cabe_status exact_get(const struct cabe_index *index, int64_t row, float *out,
                                  struct cabe_error *err)
{
    const struct cabe_exact *exact = (const struct cabe_exact *)index;
    struct cabe_arena arena = {0};
    struct cabe_exact_view view;
    enum cabe_status status;
    const float *wide;
    void *block;

    cabe_exact_view_place(exact, &arena, 1, &view);
    block = cabe_malloc((size_t)arena.used_bytes + 64);
    if (!block)
        return cabe_fail(err, CABE_ERR_OOM, "index: one row");
    arena.base = (uint8_t *)(((uintptr_t)block + 63) & ~(uintptr_t)63);
    arena.size_bytes = arena.used_bytes;
    arena.used_bytes = 0;
    cabe_exact_view_place(exact, &arena, 1, &view);
    status = cabe_exact_rows(exact, &view, row, 1, &wide, err);
    if (status == CABE_OK)
        memcpy(out, wide, (size_t)index->config.dim * sizeof *out);
    cabe_free(block);
    return status;
}

static enum cabe_status exact_save(const struct cabe_index *index, const char *path, struct cabe_error *err)
{
    const struct cabe_exact *exact = (const struct cabe_exact *)index;
    struct cabe_index_header header = {.dtype = index->config.dtype,
                                       .metric = index->config.metric,
                                       .dim = index->config.dim,
                                       .n_rows = index->n_rows};
    struct cabe_index_writer writer;
    enum cabe_status status;

    if (exact->fd >= 0)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: a streamed index is its file already", exact->path);
    strcpy(header.kind, cabe_index_exact.name);
    status = cabe_index_writer_begin(&writer, path, err);
    if (status == CABE_OK)
        status = cabe_index_writer_append(&writer, exact->rows,
                                          (uint64_t)index->n_rows * row_bytes(&index->config), err);
    if (status == CABE_OK && exact->scales)
        status =
            cabe_index_writer_append(&writer, exact->scales, (uint64_t)index->n_rows * sizeof(float), err);
    if (status == CABE_OK)
        status = cabe_index_writer_end(&writer, &header, err);
    cabe_index_writer_drop(&writer);
    return status;
}

static struct cabe_index_config config_of(const struct cabe_index_header *header)
{
    return (struct cabe_index_config){.kind = cabe_index_exact.name,
                                      .dim = header->dim,
                                      .dtype = header->dtype,
                                      .metric = header->metric,
                                      .capacity = header->n_rows};
}

static uint64_t exact_load_bytes(const struct cabe_index_header *header, enum cabe_index_place place)
{
    struct cabe_index_config config = config_of(header);

    return place == CABE_INDEX_RESIDENT ? cabe_index_bytes(&config) : 0;
}

static enum cabe_status read_resident(struct cabe_exact *exact, int fd, const char *path,
                                      struct cabe_error *err)
{
    uint64_t bytes = (uint64_t)exact->head.n_rows * row_bytes(&exact->head.config);
    enum cabe_status status =
        cabe_index_file_read(fd, exact->rows, bytes, CABE_INDEX_HEADER_BYTES, path, err);

    if (status == CABE_OK && exact->scales)
        status = cabe_index_file_read(fd, exact->scales, (uint64_t)exact->head.n_rows * sizeof(float),
                                      CABE_INDEX_HEADER_BYTES + bytes, path, err);
    return status;
}

/* The hash is of what was read into memory, so that a file that changes between two readings is noticed. */
static enum cabe_status check_resident(const struct cabe_exact *exact, uint64_t wanted, const char *path,
                                       struct cabe_error *err)
{
    XXH3_state_t hash;

    XXH3_INITSTATE(&hash);
    XXH3_64bits_reset(&hash);
    if (exact->rows)
        XXH3_64bits_update(&hash, exact->rows,
                           (size_t)((uint64_t)exact->head.n_rows * row_bytes(&exact->head.config)));
    if (exact->scales)
        XXH3_64bits_update(&hash, exact->scales, (size_t)exact->head.n_rows * sizeof(float));
    if (XXH3_64bits_digest(&hash) != wanted)
        return cabe_fail(err, CABE_ERR_FORMAT,
                         "%s: the rows are damaged: their checksum is %016llx, wanted %016llx", path,
                         (unsigned long long)XXH3_64bits_digest(&hash), (unsigned long long)wanted);
    return CABE_OK;
}

static enum cabe_status check_header(const struct cabe_index_header *header, const char *path,
                                     struct cabe_error *err)
{
    struct cabe_index_config config = config_of(header);
    uint64_t row, bytes;

    if (cabe_index_bytes(&config) == UINT64_MAX)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: %lld rows of %lld %s values", path,
                         (long long)header->n_rows, (long long)header->dim, cabe_dtype_name(header->dtype));
    row = row_bytes(&config) + (header->dtype == CABE_I8 ? sizeof(float) : 0);
    bytes = (uint64_t)header->n_rows * row; /* at most 2^32 rows of 2^18 bytes */
    if (bytes != header->payload_bytes)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %llu bytes of rows, wanted %llu", path,
                         (unsigned long long)header->payload_bytes, (unsigned long long)bytes);
    return CABE_OK;
}

static enum cabe_status exact_load(struct cabe_index **out, int fd, const struct cabe_index_header *header,
                                   enum cabe_index_place place, struct cabe_ledger *ledger,
                                   const struct cabe_kernels *kernels, const char *path,
                                   struct cabe_error *err)
{
    struct cabe_index_config config = config_of(header);
    enum cabe_status status = check_header(header, path, err);
    struct cabe_exact *exact = NULL;

    if (status == CABE_OK)
        status = make(&exact, &config, place == CABE_INDEX_RESIDENT, ledger, kernels, err);
    if (status != CABE_OK) {
        close(fd);
        return status;
    }
    exact->head.n_rows = header->n_rows;
    if (place == CABE_INDEX_RESIDENT) {
        status = read_resident(exact, fd, path, err);
        if (status == CABE_OK)
            status = check_resident(exact, header->payload_hash, path, err);
        close(fd);
    } else {
        exact->fd = fd;
        exact->path = cabe_strdup(path);
        if (!exact->path)
            status = cabe_fail(err, CABE_ERR_OOM, "%s: a copy of its name", path);
    }
    if (status != CABE_OK) {
        exact_close(&exact->head);
        return status;
    }
    *out = &exact->head;
    return CABE_OK;
}

const struct cabe_index_kind cabe_index_exact = {
    .name = "exact",
    .bytes = measure,
    .open = exact_open,
    .close = exact_close,
    .train = exact_train,
    .add = exact_add,
    .get = exact_get,
    .search_bytes = cabe_exact_search_bytes,
    .search = cabe_exact_search,
    .save = exact_save,
    .load_bytes = exact_load_bytes,
    .load = exact_load,
};
