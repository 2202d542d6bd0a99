/* How the nodes of a program are grouped into steps; see exec.h. */
#ifndef CABE_DEVICE_STEPS_H
#define CABE_DEVICE_STEPS_H

#include "device/program.h"

enum cabe_step_kind { CABE_STEP_ROWS, CABE_STEP_MATMUL, CABE_STEP_ATTENTION, CABE_STEP_CACHED };

#define CABE_STEP_MATMULS 4

struct cabe_step {
    enum cabe_step_kind kind;
    int32_t node, n_nodes; /* consecutive; ROWS may have none, MATMUL up to CABE_STEP_MATMULS of the same activations */
    int32_t prepare;       /* ROWS: the matmul whose activations are quantised at the end, or -1 */
    int32_t rows_of;       /* ROWS: a value with as many rows */
    int32_t block;         /* ROWS: rows at a time that stay in cache */
    int32_t order;         /* ATTENTION, CACHED: which list of the longest */
    int32_t segment;
    int32_t stream; /* first step of this streamed segment, or -1 */
};

/* `steps` has room for 2 * n_nodes. Returns how many there are. */
int32_t cabe_steps_build(const struct cabe_program *program, struct cabe_step *steps);

#endif
