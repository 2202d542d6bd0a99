/*
 * The executor that cpu and sim share: it computes a program with the kernels, in host memory.
 *
 * A program becomes steps. A step is a matmul (or the parts of one wide value), an attention, or a run of row-wise
 * nodes that a member takes through a few rows at a time while they are in cache, the quantisation of a matmul's
 * activations last. All members work on one step; a barrier ends it. How a step is divided changes no result.
 */
#ifndef CABE_DEVICE_EXEC_H
#define CABE_DEVICE_EXEC_H

#include "device/backend.h"

int cabe_exec_supports(const struct cabe_device *device, const struct cabe_graph *graph,
                       const struct cabe_node *node);
enum cabe_status cabe_exec_compile(struct cabe_program *program, struct cabe_error *err);
void cabe_exec_release(struct cabe_program *program);
/* The whole run; what it came to is kept for wait. */
enum cabe_status cabe_exec_submit(struct cabe_program *program, const struct cabe_cancel *cancel,
                                  struct cabe_error *err);
enum cabe_status cabe_exec_wait(struct cabe_program *program, struct cabe_error *err);

#endif
