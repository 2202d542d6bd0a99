/*
 * How long work takes on a machine: from the rates that cabe's own code was measured to have there (task/rates.h), and
 * where nobody has measured, from the machine's limits, which nothing passes.
 *
 * Names of rates, of all threads:
 *   "read <dtype> <precision>"   bytes of weights a second, where a product has one row
 *   "few <dtype> <precision>", "ops <dtype> <precision>"   operations a second, where it has 8 and 64, of 2048 inputs
 *   "few_narrow", "ops_narrow"   the same of 512 inputs
 *   "attend <format>", "attend_group <format>"   operations a second of attention over pages by one row, where 3 and
 *                where 8 heads share a kv head
 *   "attend_rows <format>"   where there are 64 rows
 *   "row", "rows"   operations a second of everything else, of one row and of 64
 *   "nodes"      nodes of a graph a second, for what each costs besides
 *   "draw"       logits a second that a token is drawn from
 *   "disk", "file"   bytes a second of a file, past the page cache and out of it
 *   "memory"     bytes a second that were read while all of these were measured, by loops that do nothing else
 */
#ifndef CABE_FIT_SECONDS_H
#define CABE_FIT_SECONDS_H

#include "cabe/machine.h"
#include "tensor/graph.h"

#define CABE_RATE_FEW 8
#define CABE_RATE_MANY 64
#define CABE_RATE_WIDE 2048
#define CABE_RATE_NARROW 512
#define CABE_RATE_GROUP_FEW 3
#define CABE_RATE_GROUP_MANY 8
#define CABE_RATE_NAME_MAX 28 /* of struct cabe_work_rate */
const char *cabe_rate_of_product(const char *what, enum cabe_dtype dtype, enum cabe_precision precision,
                                 char out[CABE_RATE_NAME_MAX]);
const char *cabe_rate_of_attention(const char *what, int kv_format, char out[CABE_RATE_NAME_MAX]);

/* A shared machine is not the same from one minute to the next: what is left of what it was when it was measured. */
struct cabe_tempo {
    double memory; /* its read rate is so much of "memory" */
    double cpu;    /* of the time of its CPUs */
};

/* Predicted seconds, no fewer for more rows or a longer context; 0: not known, because something is streamed from where nobody has measured. */
double cabe_fit_seconds(const struct cabe_machine *machine, int n_threads, const struct cabe_graph_work *work);
double cabe_fit_seconds_at(const struct cabe_machine *machine, int n_threads, const struct cabe_graph_work *work,
                           struct cabe_tempo tempo);

#endif
