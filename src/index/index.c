/* Checks arguments, then hands them to the kind. */
#include "index/index.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "index/kind.h"

static const struct cabe_index_kind *const kinds[] = {&cabe_index_exact};

const char *cabe_metric_name(enum cabe_metric metric)
{
    return metric == CABE_METRIC_DOT ? "dot" : "cosine";
}

static const struct cabe_index_kind *find_kind(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (name && strcmp(kinds[i]->name, name) == 0)
            return kinds[i];
    return NULL;
}

static enum cabe_status check_config(const struct cabe_index_config *config, struct cabe_error *err)
{
    if (!find_kind(config->kind))
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "index kind \"%s\": there is \"exact\"",
                         config->kind ? config->kind : "");
    if (config->dim < 1 || config->dim > CABE_INDEX_DIM_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "index: rows of %lld values, wanted 1 to %d",
                         (long long)config->dim, CABE_INDEX_DIM_MAX);
    if (config->capacity < 0 || config->capacity > CABE_INDEX_ROWS_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "index: %lld rows, wanted 0 to %lld",
                         (long long)config->capacity, (long long)CABE_INDEX_ROWS_MAX);
    if (config->dtype != CABE_F32 && config->dtype != CABE_F16 && config->dtype != CABE_I8)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "index: rows of dtype %s, wanted f32, f16 or int8",
                         cabe_dtype_name(config->dtype));
    return CABE_OK;
}

uint64_t cabe_index_bytes(const struct cabe_index_config *config)
{
    if (check_config(config, NULL) != CABE_OK)
        return UINT64_MAX;
    return find_kind(config->kind)->bytes(config);
}

enum cabe_status cabe_index_open(struct cabe_index **out, const struct cabe_index_config *config,
                                 struct cabe_ledger *ledger, const struct cabe_kernels *kernels,
                                 struct cabe_error *err)
{
    enum cabe_status status = check_config(config, err);

    *out = NULL;
    return status == CABE_OK ? find_kind(config->kind)->open(out, config, ledger, kernels, err) : status;
}

void cabe_index_close(struct cabe_index *index)
{
    if (index)
        index->kind->close(index);
}

int64_t cabe_index_rows(const struct cabe_index *index)
{
    return index->n_rows;
}

const struct cabe_index_config *cabe_index_config(const struct cabe_index *index)
{
    return &index->config;
}

static enum cabe_status check_finite(const float *rows, int64_t n, int64_t dim, const char *what,
                                     struct cabe_error *err)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < dim; d++)
            if (!isfinite(rows[i * dim + d]))
                return cabe_fail(err, CABE_ERR_FORMAT, "%s %lld: value %lld is not a finite number", what,
                                 (long long)i, (long long)d);
    return CABE_OK;
}

enum cabe_status cabe_index_train(struct cabe_index *index, const float *rows, int64_t n,
                                  const struct cabe_index_run *run, struct cabe_error *err)
{
    enum cabe_status status = check_finite(rows, n, index->config.dim, "sample row", err);

    return status == CABE_OK ? index->kind->train(index, rows, n, run, err) : status;
}

enum cabe_status cabe_index_add(struct cabe_index *index, const float *rows, int64_t n,
                                struct cabe_error *err)
{
    enum cabe_status status;

    if (n < 0 || n > index->config.capacity - index->n_rows)
        return cabe_fail(err, CABE_ERR_LIMIT, "index: %lld rows more than the %lld of %lld it has",
                         (long long)n, (long long)index->n_rows, (long long)index->config.capacity);
    status = check_finite(rows, n, index->config.dim, "row", err);
    return status == CABE_OK ? index->kind->add(index, rows, n, err) : status;
}

enum cabe_status cabe_index_get(const struct cabe_index *index, int64_t row, float *out,
                                struct cabe_error *err)
{
    if (row < 0 || row >= index->n_rows)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "index: row %lld of %lld", (long long)row,
                         (long long)index->n_rows);
    return index->kind->get(index, row, out, err);
}

uint64_t cabe_index_search_bytes(const struct cabe_index *index, int64_t n_queries, int64_t k, int n_members)
{
    return index->kind->search_bytes(index, n_queries, k, n_members);
}

enum cabe_status cabe_index_search(struct cabe_index *index, const float *queries, int64_t n_queries,
                                   int64_t k, struct cabe_hit *hits, int32_t *n_hits,
                                   const struct cabe_index_run *run, struct cabe_error *err)
{
    enum cabe_status status;

    if (k < 1 || k > INT32_MAX || n_queries < 0)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "index: %lld hits for each of %lld queries", (long long)k,
                         (long long)n_queries);
    status = check_finite(queries, n_queries, index->config.dim, "query", err);
    if (status != CABE_OK || n_queries == 0)
        return status;
    return index->kind->search(index, queries, n_queries, k, hits, n_hits, run, err);
}

enum cabe_status cabe_index_save(const struct cabe_index *index, const char *path, struct cabe_error *err)
{
    return index->kind->save(index, path, err);
}

/* Opens a file and finds its kind; on CABE_OK `*fd` is open. */
static enum cabe_status open_file(int *fd, const struct cabe_index_kind **kind,
                                  struct cabe_index_header *header, const char *path, struct cabe_error *err)
{
    enum cabe_status status = cabe_index_file_open(fd, header, path, err);

    if (status != CABE_OK)
        return status;
    *kind = find_kind(header->kind);
    if (!*kind) {
        close(*fd);
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: index kind \"%s\": there is \"exact\"", path,
                         header->kind);
    }
    return CABE_OK;
}

enum cabe_status cabe_index_load_bytes(uint64_t *out, const char *path, enum cabe_index_place place,
                                       struct cabe_error *err)
{
    const struct cabe_index_kind *kind;
    struct cabe_index_header header;
    enum cabe_status status;
    int fd;

    *out = 0;
    status = open_file(&fd, &kind, &header, path, err);
    if (status != CABE_OK)
        return status;
    close(fd);
    *out = kind->load_bytes(&header, place);
    return CABE_OK;
}

enum cabe_status cabe_index_load(struct cabe_index **out, const char *path, enum cabe_index_place place,
                                 struct cabe_ledger *ledger, const struct cabe_kernels *kernels,
                                 struct cabe_error *err)
{
    const struct cabe_index_kind *kind;
    struct cabe_index_header header;
    enum cabe_status status;
    int fd;

    *out = NULL;
    status = open_file(&fd, &kind, &header, path, err);
    return status == CABE_OK ? kind->load(out, fd, &header, place, ledger, kernels, path, err) : status;
}

enum cabe_status cabe_index_verify(const char *path, struct cabe_error *err)
{
    const struct cabe_index_kind *kind;
    struct cabe_index_header header;
    enum cabe_status status;
    int fd;

    status = open_file(&fd, &kind, &header, path, err);
    if (status != CABE_OK)
        return status;
    status = cabe_index_file_check(fd, &header, path, err);
    close(fd);
    return status;
}
