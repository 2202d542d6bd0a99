/* What is known about inputs before a run: which checks a graph needs, and the checks. */
#include "device/program.h"

/* One check of a kind for inputs that must fit the same thing; a new one has no list. */
static struct cabe_program_check *add_check(struct cabe_program *program, enum cabe_check_kind kind, cabe_value input,
                                            cabe_value of)
{
    struct cabe_program_check *check;

    for (int32_t c = 0; c < program->n_checks; c++) {
        check = &program->checks[c];
        if (check->kind == kind && check->input == input &&
            (check->of == of || (kind == CABE_CHECK_OFFSETS && cabe_dim_same(program->values[check->of].dim[2],
                                                                             program->values[of].dim[2]))))
            return check;
    }
    check = &program->checks[program->n_checks++];
    *check = (struct cabe_program_check){.kind = kind, .input = input, .of = of, .order = -1};
    return check;
}

static int32_t count_orders(const struct cabe_program *program)
{
    int32_t n = 0;

    for (int32_t c = 0; c < program->n_checks; c++)
        n += program->checks[c].order >= 0;
    return n;
}

/* Offsets of attention: one of the checks of this input makes the list. */
static void add_attention(struct cabe_program *program, const struct cabe_node *node)
{
    struct cabe_program_check *check = add_check(program, CABE_CHECK_OFFSETS, node->in[1], node->in[0]);

    for (int32_t c = 0; c < program->n_checks; c++)
        if (program->checks[c].kind == CABE_CHECK_OFFSETS && program->checks[c].input == node->in[1] &&
            program->checks[c].order >= 0)
            return;
    check->order = count_orders(program);
}

static void add_cached(struct cabe_program *program, int32_t i)
{
    const struct cabe_node *node = &program->nodes[i];
    struct cabe_program_check *check;

    for (int32_t c = 0; c < program->n_checks; c++)
        if (program->checks[c].kind == CABE_CHECK_PAGES &&
            cabe_same_pages(&program->nodes[program->checks[c].node], node))
            return;
    (void)add_check(program, CABE_CHECK_OFFSETS, node->in[2], node->in[0]);
    (void)add_check(program, CABE_CHECK_OFFSETS, node->in[4], node->in[5]);
    check = &program->checks[program->n_checks++];
    *check = (struct cabe_program_check){.kind = CABE_CHECK_PAGES, .input = node->in[2], .of = node->in[1], .node = i};
    check->order = count_orders(program) - 1; /* it counts itself */
}

void cabe_program_add_checks(struct cabe_program *program, int32_t i)
{
    const struct cabe_node *node = &program->nodes[i];

    if (node->op == CABE_OP_GATHER)
        (void)add_check(program, CABE_CHECK_IDS, node->in[1], node->in[0]);
    if (node->op == CABE_OP_POOL)
        (void)add_check(program, CABE_CHECK_OFFSETS, node->in[1], node->in[0]);
    if (node->op == CABE_OP_ANGLES)
        (void)add_check(program, CABE_CHECK_POSITIONS, node->in[0], node->in[0]);
    if (node->op == CABE_OP_ATTENTION)
        add_attention(program, node);
    if (node->op == CABE_OP_CACHED)
        add_cached(program, i);
}

static enum cabe_status check_ids(const struct cabe_program *program, const struct cabe_program_check *check,
                                  const int32_t *ids, struct cabe_error *err)
{
    const struct cabe_value_info *input = &program->values[check->input],
                                 *table = &program->values[check->of];
    int64_t n = cabe_value_dim(input, 2, program->symbols) * cabe_value_dim(input, 3, program->symbols);
    int64_t rows = cabe_value_dim(table, 2, program->symbols);

    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= rows)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s[%lld] is %d, %s has %lld rows", program->place,
                             input->name, (long long)i, (int)ids[i], table->name, (long long)rows);
    return CABE_OK;
}

static enum cabe_status check_offsets(const struct cabe_program *program,
                                      const struct cabe_program_check *check, const int32_t *offsets,
                                      struct cabe_error *err)
{
    const struct cabe_value_info *input = &program->values[check->input], *x = &program->values[check->of];
    int64_t n = cabe_value_dim(input, 2, program->symbols) * cabe_value_dim(input, 3, program->symbols);
    int64_t rows = cabe_value_dim(x, 2, program->symbols);

    if (offsets[0] != 0 || offsets[n - 1] != rows)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s go from %d to %d, wanted from 0 to %lld",
                         program->place, input->name, (int)offsets[0], (int)offsets[n - 1], (long long)rows);
    for (int64_t i = 1; i < n; i++)
        if (offsets[i] < offsets[i - 1])
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s[%lld] is %d after %d", program->place,
                             input->name, (long long)i, (int)offsets[i], (int)offsets[i - 1]);
    return CABE_OK;
}

static enum cabe_status check_positions(const struct cabe_program *program, const struct cabe_program_check *check,
                                        const int32_t *positions, struct cabe_error *err)
{
    const struct cabe_value_info *input = &program->values[check->input];
    int64_t n = cabe_value_dim(input, 2, program->symbols) * cabe_value_dim(input, 3, program->symbols);

    for (int64_t i = 0; i < n; i++)
        if (positions[i] < 0)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s[%lld] is %d", program->place, input->name, (long long)i,
                             (int)positions[i]);
    return CABE_OK;
}

static const int32_t *input_of(const struct cabe_program *program, const uint8_t *block, cabe_value input)
{
    return (const int32_t *)(const void *)(block + program->offsets[input]);
}

/* Every entry, also one that no row of this run reaches, is a page inside the buffer. */
static enum cabe_status check_table(const struct cabe_program *program, const struct cabe_program_check *check,
                                    const struct cabe_page *pages, struct cabe_error *err)
{
    const struct cabe_value_info *cache = &program->values[check->of];
    const struct cabe_kv_shape shape = {(int32_t)cache->dim[0].n, (int32_t)cache->dim[1].n, (int32_t)cache->dim[3].n};
    uint64_t room = program->bound[check->of]->bytes, bytes = 0;
    uint32_t formats = UINT32_MAX;

    for (int64_t i = 0; i < program->symbols[CABE_SYM_PAGES]; i++) {
        uint64_t begin = (uint64_t)pages[i].unit * CABE_PAGE_UNIT;
        uint32_t keys = pages[i].formats & 255, values = pages[i].formats >> 8;

        if (keys >= CABE_N_KV_FORMATS || values >= CABE_N_KV_FORMATS)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: page %lld has formats 0x%x", program->place, (long long)i,
                             (unsigned)pages[i].formats);
        if (pages[i].formats != formats)
            bytes = cabe_page_bytes((enum cabe_kv_format)keys, (enum cabe_kv_format)values, &shape);
        formats = pages[i].formats;
        if (begin > room || bytes > room - begin)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: page %lld has %llu bytes at %llu of the %llu of %s",
                             program->place, (long long)i, (unsigned long long)bytes, (unsigned long long)begin,
                             (unsigned long long)room, cache->name);
    }
    return CABE_OK;
}

/* After the checks of its offsets: pages for every slot up to a sequence's last row. */
static enum cabe_status check_pages(const struct cabe_program *program, const struct cabe_program_check *check,
                                    const uint8_t *block, struct cabe_error *err)
{
    const struct cabe_node *node = &program->nodes[check->node];
    const int32_t *offsets = input_of(program, block, node->in[2]), *starts = input_of(program, block, node->in[3]);
    const int32_t *page_offsets = input_of(program, block, node->in[4]);

    for (int64_t s = 0; s < program->symbols[CABE_SYM_SEQUENCES]; s++) {
        int64_t rows = (int64_t)offsets[s + 1] - offsets[s], n_pages = (int64_t)page_offsets[s + 1] - page_offsets[s];

        if (starts[s] < 0 || starts[s] + rows > n_pages * CABE_PAGE_TOKENS)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: sequence %lld has %lld rows from slot %d on, and %lld pages",
                             program->place, (long long)s, (long long)rows, (int)starts[s], (long long)n_pages);
    }
    return check_table(program, check, (const struct cabe_page *)(const void *)input_of(program, block, node->in[5]),
                       err);
}

static enum cabe_status check_input(const struct cabe_program *program, const struct cabe_program_check *check,
                                    const uint8_t *block, struct cabe_error *err)
{
    const int32_t *data = input_of(program, block, check->input);

    switch (check->kind) {
    case CABE_CHECK_IDS:
        return check_ids(program, check, data, err);
    case CABE_CHECK_OFFSETS:
        return check_offsets(program, check, data, err);
    case CABE_CHECK_POSITIONS:
        return check_positions(program, check, data, err);
    case CABE_CHECK_PAGES:
        return check_pages(program, check, block, err);
    }
    return CABE_OK;
}

enum cabe_status cabe_program_check_inputs(const struct cabe_program *program, const uint8_t *block,
                                           struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    for (int32_t c = 0; c < program->n_checks && status == CABE_OK; c++)
        status = check_input(program, &program->checks[c], block, err);
    return status;
}
