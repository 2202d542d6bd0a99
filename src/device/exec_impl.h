/* The executor's body and its steps, for the files that run them. */
#ifndef CABE_DEVICE_EXEC_IMPL_H
#define CABE_DEVICE_EXEC_IMPL_H

#include <stdatomic.h>

#include "device/exec.h"
#include "device/program.h"
#include "device/steps.h"

#define CHUNKS_A_MEMBER 64 /* that a member takes of a big loop: enough to even out, few to ask for */

struct exec_cursor { /* a line of cache */
    atomic_int_fast64_t next;
    uint8_t rest[64 - sizeof(atomic_int_fast64_t)];
};

struct cabe_exec {
    struct cabe_program *program;
    const struct cabe_kernels *kernels;
    struct cabe_step *steps;
    int32_t n_steps;
    int32_t n_members;
    uint8_t **data; /* per value: where it lies; fixed, because buffers and slots are */

    /* Of the present run. */
    const struct cabe_cancel *cancel;
    struct exec_cursor *taken; /* [n_members]: of a member's own tiles of the step */
    int32_t step;              /* that all members do; n_steps at the end. Written while all wait */
    uint64_t then_ns;          /* when it began */
    enum cabe_status status;
    struct cabe_error err;
};

static inline float *floats(const struct cabe_exec *exec, cabe_value value)
{
    return value == CABE_NO_VALUE ? NULL : (float *)(void *)exec->data[value];
}

static inline const int32_t *integers(const struct cabe_exec *exec, cabe_value value)
{
    return (const int32_t *)(const void *)exec->data[value];
}

static inline int64_t n_rows(const struct cabe_exec *exec, cabe_value value)
{
    return cabe_value_dim(&exec->program->values[value], 2, exec->program->symbols);
}

static inline int64_t n_cols(const struct cabe_exec *exec, cabe_value value)
{
    return cabe_value_dim(&exec->program->values[value], 3, exec->program->symbols);
}

static inline void *member_scratch(const struct cabe_exec *exec, int member)
{
    const struct cabe_placing *placing = &exec->program->placing;

    return exec->program->block->host + placing->member + placing->member_bytes * (uint64_t)member;
}

static inline void describe_matmul(const struct cabe_exec *exec, const struct cabe_node *node,
                            struct cabe_matmul *mm)
{
    *mm = (struct cabe_matmul){
        .w = exec->data[node->in[1]],
        .dtype = exec->program->values[node->in[1]].dtype,
        .n = n_rows(exec, node->in[1]),
        .k = n_cols(exec, node->in[1]),
        .x = floats(exec, node->in[0]),
        .t = n_rows(exec, node->in[0]),
        .x_stride = n_cols(exec, node->in[0]),
        .out = floats(exec, node->out) + node->first_col,
        .out_stride = n_cols(exec, node->out),
        .bias = floats(exec, node->in[2]),
        .residual = floats(exec, node->in[3]),
        .act = node->act,
        .precision = node->precision,
    };
}

#define TAKEN_PARTS 3

/* Takes the next of a run of `n`, a part of those that are left: many at first, single ones at the end. */
static inline int exec_take(struct exec_cursor *cursor, int64_t n, int64_t *begin, int64_t *end)
{
    int_fast64_t at = atomic_load_explicit(&cursor->next, memory_order_relaxed);
    int64_t next;

    /* Relaxed: a number says which of them and nothing about their bytes; barriers order those. */
    do {
        if (at >= n)
            return 0;
        next = at + (n - at + TAKEN_PARTS - 1) / TAKEN_PARTS;
    } while (!atomic_compare_exchange_weak_explicit(&cursor->next, &at, next, memory_order_relaxed,
                                                    memory_order_relaxed));
    *begin = at;
    *end = next;
    return 1;
}

/* Steps; every member calls them. */
void cabe_exec_rows(const struct cabe_exec *exec, struct cabe_team *team, const struct cabe_step *step);
/* The same by one member; whether a step is so small that it should be. */
void cabe_exec_rows_alone(const struct cabe_exec *exec, const struct cabe_step *step);
int cabe_exec_is_small(const struct cabe_exec *exec, const struct cabe_step *step);
void cabe_exec_matmul(const struct cabe_exec *exec, struct cabe_team *team, int member, const struct cabe_step *step);
void cabe_exec_attention(const struct cabe_exec *exec, struct cabe_team *team, int member,
                         const struct cabe_step *step);
void cabe_exec_cached(const struct cabe_exec *exec, struct cabe_team *team, int member, const struct cabe_step *step);
/* A step of rows by one member, node by node; the first node that gives something not finite is an error. */
enum cabe_status cabe_exec_look_rows(const struct cabe_exec *exec, const struct cabe_step *step,
                                     struct cabe_error *err);
/* Of any other step, after it. */
enum cabe_status cabe_exec_look(const struct cabe_exec *exec, const struct cabe_node *node, struct cabe_error *err);

#endif
