/* Weights from the file's form to the fitted one, a bounded piece at a time. */
#include <string.h>

#include "kernel/kernel.h"
#include "model/describe.h"

#define PIECE_BYTES (UINT64_C(4) << 20) /* aimed at for source rows; one panel or row at least */

struct work { /* the pieces of the caller's block, one after another */
    uint8_t *source, *scratch, *result;
    float *row; /* f32 of one row; of all rows of the piece where a matrix is widened */
    uint64_t source_bytes, scratch_bytes, result_bytes, row_bytes;
};

static uint64_t round64(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* A matrix that is packed from f32, because its own dtype is only a file's. */
static int is_widened(const struct cabe_model_weight *weight)
{
    return weight->role == CABE_ROLE_MATRIX && weight->from == CABE_Q5_K;
}

/* Rows taken at once: whole panels for a matrix. */
static int64_t piece_rows(const struct cabe_model_weight *weight)
{
    uint64_t row_bytes = cabe_dtype_bytes(is_widened(weight) ? CABE_F32 : weight->from, weight->cols);
    int64_t unit = weight->role == CABE_ROLE_MATRIX ? CABE_PANEL : 1;
    int64_t units = (int64_t)(PIECE_BYTES / (row_bytes * (uint64_t)unit));
    int64_t all = (weight->rows + unit - 1) / unit;

    return (units < 1 ? 1 : units > all ? all : units) * unit;
}

/* Bytes a row of a table or vector has after conversion, scales of I8 rows apart. */
static uint64_t row_bytes_of(enum cabe_dtype dtype, int64_t cols)
{
    return cabe_dtype_bytes(dtype, cols);
}

/* Measures the block for one weight, or places it when base is given. */
static uint64_t place(struct work *work, const struct cabe_model_weight *weight,
                      const struct cabe_model_choice *choice, uint8_t *base)
{
    enum cabe_dtype to = cabe_model_dtype(weight, choice);
    uint64_t rows = (uint64_t)piece_rows(weight), at = 0;

    work->source_bytes = round64(rows * cabe_dtype_bytes(weight->from, weight->cols));
    if (weight->role == CABE_ROLE_MATRIX) {
        work->scratch_bytes = round64(cabe_matmul_pack_scratch_bytes(weight->cols));
        work->result_bytes = round64(rows / CABE_PANEL * cabe_panel_bytes(to, weight->cols));
        work->row_bytes = is_widened(weight) ? round64(rows * (uint64_t)weight->cols * sizeof(float)) : 0;
    } else {
        work->scratch_bytes = to == CABE_I8 ? round64((uint64_t)weight->rows * sizeof(float)) : 0;
        work->result_bytes = round64(rows * row_bytes_of(to, weight->cols));
        work->row_bytes = round64((uint64_t)weight->cols * sizeof(float));
    }
    work->source = base ? base + at : NULL;
    at += work->source_bytes;
    work->scratch = base ? base + at : NULL;
    at += work->scratch_bytes;
    work->result = base ? base + at : NULL;
    at += work->result_bytes;
    work->row = base ? (float *)(void *)(base + at) : NULL;
    return at + work->row_bytes;
}

uint64_t cabe_model_convert_bytes(const struct cabe_model *model, const struct cabe_model_choice *choice)
{
    uint64_t most = 64;
    struct work work;

    for (int32_t i = 0; i < model->n_weights; i++) {
        uint64_t bytes = place(&work, &model->weight[i], choice, NULL);

        most = bytes > most ? bytes : most;
    }
    return most;
}

/* Vectors stacked end to end are one row here, but parts of it, which need not be of one length, there. */
static enum cabe_status read_vectors(const struct cabe_source *source, const struct cabe_model_weight *weight,
                                     uint8_t *out, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    for (int i = 0; i < weight->n_parts && status == CABE_OK; i++) {
        const struct cabe_source_tensor *tensor = weight->part[i].tensor;
        uint64_t bytes = cabe_dtype_bytes(weight->from, tensor->shape[3]);

        status = cabe_source_read(source, tensor, (uint64_t)weight->part[i].first_row * bytes, bytes, out, err);
        out += bytes;
    }
    return status;
}

/* Rows [begin, begin + n) of the stacked parts, as the file has them. */
static enum cabe_status read_rows(const struct cabe_source *source, const struct cabe_model_weight *weight,
                                  int64_t begin, int64_t n, uint8_t *out, struct cabe_error *err)
{
    uint64_t row_bytes = cabe_dtype_bytes(weight->from, weight->cols);
    int64_t first = 0;

    if (weight->role == CABE_ROLE_VECTOR)
        return read_vectors(source, weight, out, err);
    for (int i = 0; i < weight->n_parts && n > 0; first += weight->part[i++].n_rows) {
        int64_t in_part = begin - first, left = weight->part[i].n_rows - in_part, take = n < left ? n : left;
        enum cabe_status status;

        if (left <= 0)
            continue;
        status = cabe_source_read(source, weight->part[i].tensor,
                                  (uint64_t)(weight->part[i].first_row + in_part) * row_bytes,
                                  (uint64_t)take * row_bytes, out, err);
        if (status != CABE_OK)
            return status;
        out += (uint64_t)take * row_bytes;
        begin += take;
        n -= take;
    }
    return CABE_OK;
}

static enum cabe_status convert_matrix(const struct cabe_source *source, const struct cabe_model_weight *weight,
                                       enum cabe_dtype to, const struct work *work,
                                       const struct cabe_model_sink *sink, struct cabe_error *err)
{
    uint64_t panel_bytes = cabe_panel_bytes(to, weight->cols), written = 0, total;
    int64_t step = piece_rows(weight);
    static const uint8_t zeros[64];

    for (int64_t row = 0; row < weight->rows; row += step) {
        int64_t n = weight->rows - row < step ? weight->rows - row : step;
        int64_t panel = row / CABE_PANEL, end = panel + (n + CABE_PANEL - 1) / CABE_PANEL;
        enum cabe_status status = read_rows(source, weight, row, n, work->source, err);
        const void *rows = work->source;

        if (status == CABE_OK && is_widened(weight)) {
            cabe_kernels_at(CABE_LEVEL_SCALAR)->row.to_f32(weight->from, work->source, work->row, n * weight->cols);
            rows = work->row;
        }
        if (status == CABE_OK)
            status = cabe_matmul_pack(is_widened(weight) ? CABE_F32 : weight->from, rows, n, to, weight->cols, panel,
                                      end, work->scratch, work->result, err);
        if (status == CABE_OK)
            status = sink->write(sink->self, work->result, (uint64_t)(end - panel) * panel_bytes, err);
        if (status != CABE_OK)
            return status;
        written += (uint64_t)(end - panel) * panel_bytes;
    }
    /* A matrix is padded to 64 bytes as a whole. */
    total = cabe_packed_bytes(to, CABE_PANELS, weight->rows, weight->cols);
    return total > written ? sink->write(sink->self, zeros, total - written, err) : CABE_OK;
}

static enum cabe_status check_finite(const float *row, int64_t n, int64_t at, struct cabe_error *err)
{
    for (int64_t i = 0; i < n; i++)
        if (!(row[i] - row[i] == 0.0f))
            return cabe_fail(err, CABE_ERR_FORMAT, "row %lld, column %lld is not a finite number", (long long)at,
                             (long long)i);
    return CABE_OK;
}

/* One row of any source dtype as f32. */
static void widen(const struct cabe_row_kernels *kernels, enum cabe_dtype from, const uint8_t *in, float *out,
                  int64_t n)
{
    if (from == CABE_I8) {
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)(int8_t)in[i];
    } else if (from == CABE_F64) {
        for (int64_t i = 0; i < n; i++) {
            double value;

            memcpy(&value, in + 8 * i, 8);
            out[i] = (float)value;
        }
    } else {
        kernels->to_f32(from, in, out, n);
    }
}

/* Tables and vectors. An int8 table of a file has no scales: its rows are directions, and 1 serves. */
static enum cabe_status convert_rows(const struct cabe_source *source, const struct cabe_model_weight *weight,
                                     enum cabe_dtype to, const struct work *work, const struct cabe_model_sink *sink,
                                     struct cabe_error *err)
{
    const struct cabe_row_kernels *kernels = &cabe_kernels_at(CABE_LEVEL_SCALAR)->row;
    uint64_t from_bytes = cabe_dtype_bytes(weight->from, weight->cols), to_bytes = row_bytes_of(to, weight->cols);
    float *scales = (float *)(void *)work->scratch;
    int64_t step = piece_rows(weight);

    for (int64_t row = 0; row < weight->rows; row += step) {
        int64_t n = weight->rows - row < step ? weight->rows - row : step;
        enum cabe_status status = read_rows(source, weight, row, n, work->source, err);

        for (int64_t i = 0; i < n && status == CABE_OK; i++) {
            const uint8_t *in = work->source + (uint64_t)i * from_bytes;
            uint8_t *out = work->result + (uint64_t)i * to_bytes;

            widen(kernels, weight->from, in, work->row, weight->cols);
            status = check_finite(work->row, weight->cols, row + i, err);
            if (to == CABE_I8 && weight->from != CABE_I8)
                scales[row + i] = kernels->to_i8(work->row, (int8_t *)out, weight->cols);
            else if (to == weight->from)
                memcpy(out, in, to_bytes);
            else
                kernels->from_f32(to, work->row, out, weight->cols);
            if (to == CABE_I8 && weight->from == CABE_I8)
                scales[row + i] = 1.0f;
        }
        if (status == CABE_OK)
            status = sink->write(sink->self, work->result, (uint64_t)n * to_bytes, err);
        if (status != CABE_OK)
            return status;
    }
    return to == CABE_I8 ? sink->write(sink->self, scales, (uint64_t)weight->rows * sizeof *scales, err) : CABE_OK;
}

/* Integers that the host looks tokens up with. */
static enum cabe_status convert_integers(const struct cabe_source *source, const struct cabe_model *model,
                                         const struct cabe_model_weight *weight, const struct work *work,
                                         const struct cabe_model_sink *sink, struct cabe_error *err)
{
    const struct cabe_model_weight *table = cabe_model_find(model, "word");
    int32_t *out = (int32_t *)(void *)work->result;
    enum cabe_status status = read_rows(source, weight, 0, 1, work->source, err);

    for (int64_t i = 0; i < weight->cols && status == CABE_OK; i++) {
        int64_t value;
        int32_t small;

        if (weight->from == CABE_I64) {
            memcpy(&value, work->source + 8 * i, 8);
        } else {
            memcpy(&small, work->source + 4 * i, 4);
            value = small;
        }
        if (value < 0 || value >= table->rows)
            return cabe_fail(err, CABE_ERR_FORMAT, "entry %lld is %lld, wanted a row below %lld", (long long)i,
                             (long long)value, (long long)table->rows);
        out[i] = (int32_t)value;
    }
    return status == CABE_OK ? sink->write(sink->self, out, (uint64_t)weight->cols * 4, err) : status;
}

/* What the configuration says, divided by what the file has besides. */
static enum cabe_status convert_computed(const struct cabe_source *source, const struct cabe_model *model,
                                         const struct cabe_model_weight *weight, const struct work *work,
                                         const struct cabe_model_sink *sink, struct cabe_error *err)
{
    const struct cabe_row_kernels *kernels = &cabe_kernels_at(CABE_LEVEL_SCALAR)->row;
    float *out = (float *)(void *)work->result;
    enum cabe_status status = CABE_OK;

    cabe_decoder_frequencies(&model->config.decoder, out);
    if (weight->n_parts > 0) {
        status = read_vectors(source, weight, work->source, err);
        if (status == CABE_OK)
            widen(kernels, weight->from, work->source, work->row, weight->cols);
        for (int64_t i = 0; i < weight->cols && status == CABE_OK; i++)
            out[i] /= work->row[i];
        if (status == CABE_OK)
            status = check_finite(out, weight->cols, 0, err);
    }
    return status == CABE_OK ? sink->write(sink->self, out, (uint64_t)weight->cols * 4, err) : status;
}

enum cabe_status cabe_model_convert(const struct cabe_model *model, const struct cabe_source *source,
                                    const struct cabe_model_weight *weight, const struct cabe_model_choice *choice,
                                    void *block, const struct cabe_model_sink *sink, struct cabe_error *err)
{
    enum cabe_dtype to = cabe_model_dtype(weight, choice);
    enum cabe_status status;
    struct work work;

    place(&work, weight, choice, block);
    if (weight->is_computed)
        status = convert_computed(source, model, weight, &work, sink, err);
    else if (weight->role == CABE_ROLE_MATRIX)
        status = convert_matrix(source, weight, to, &work, sink, err);
    else if (to == CABE_I32)
        status = convert_integers(source, model, weight, &work, sink, err);
    else
        status = convert_rows(source, weight, to, &work, sink, err);
    if (status != CABE_OK)
        return cabe_fail_in(err, status, "%s: %s", cabe_source_path(source),
                            weight->n_parts > 0 ? weight->part[0].tensor->name : weight->name);
    return CABE_OK;
}
