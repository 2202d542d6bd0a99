/* A compiled graph: what the front keeps, and what a backend reads. Not for other rooms. */
#ifndef CABE_DEVICE_PROGRAM_H
#define CABE_DEVICE_PROGRAM_H

#include "device/backend.h"
#include "device/stream.h"

/* Where the parts of a program lie, in bytes from the start of its block, window or staging. */
struct cabe_placing {
    uint64_t shared; /* scratch that members share: prepared activations, or parts of attention */
    uint64_t shared_bytes;
    uint64_t member; /* scratch of member 0; the next one's follows after member_bytes */
    uint64_t member_bytes;
    uint64_t order; /* [lists][sequences] i32: sequences, longest first */
    uint64_t block_bytes;
    uint64_t slot_bytes[2]; /* of the window, one behind the other; k % 2 holds the k-th streamed segment */
    uint64_t window_bytes;
    uint64_t chunk_bytes;   /* staging: what is read before it is uploaded; 0 where it is read in place */
    uint64_t staging_bytes; /* the chunk and the reader's stack */
    int n_orders;
};

struct cabe_program_segment {
    char name[64];
    uint64_t bytes;
    struct cabe_buffer *buffer; /* resident or window; NULL without weights */
    uint64_t offset;            /* in `buffer` */
    uint64_t source;            /* streamed: offset for read() */
    int32_t stream;             /* how many streamed segments come before it; -1: resident */
};

#define CABE_CHECKS_A_NODE 3 /* at most */

/* One thing to know about an input before a run. */
struct cabe_program_check {
    enum cabe_check_kind { CABE_CHECK_IDS, CABE_CHECK_OFFSETS, CABE_CHECK_POSITIONS, CABE_CHECK_PAGES } kind;
    cabe_value input; /* PAGES: offsets of rows */
    cabe_value of;    /* IDS: the table; OFFSETS: whose rows they divide; PAGES: the cache */
    int32_t node;     /* PAGES: a node with these tables */
    int32_t order;    /* OFFSETS of an attention, PAGES: which list of the longest it makes; else -1 */
};

struct cabe_event {
    struct cabe_program *program;
    int pending;
};

struct cabe_exec;

struct cabe_program {
    struct cabe_device *device;
    char place[CABE_PLACE_BYTES];
    int64_t bounds[CABE_N_SYMBOLS];

    /* A copy of the graph. */
    int32_t n_values, n_nodes, n_segments, n_checks, n_streamed;
    struct cabe_value_info *values;
    struct cabe_node *nodes;
    struct cabe_program_segment *segments;
    struct cabe_program_check *checks;
    uint64_t *offsets;  /* per value: in `block` */
    struct cabe_buffer **bound; /* per value: of states */
    uint64_t *uploaded; /* per value: bytes of an input that have arrived; UINT64_MAX: none */

    struct cabe_placing placing;
    struct cabe_buffer *block, *window;
    uint64_t staged_bytes;      /* in the ledger */
    void *chunk;                /* of staging; NULL where weights are read in place */
    struct cabe_stream *stream; /* NULL where nothing is streamed */

    int64_t symbols[CABE_N_SYMBOLS]; /* of the last run; 0 before the first */
    int has_results;
    int looks_for_nan; /* this run looks at what each node gives */
    struct cabe_event event;
    struct cabe_exec *exec; /* the backend's */
    struct cabe_program_times times;
};

/* The one function that measures and places; `streamed`, `offsets` may be NULL. Saturates: see block_bytes.
 */
void cabe_program_place(const struct cabe_graph *graph, const int64_t bounds[CABE_N_SYMBOLS],
                        const uint8_t *streamed, int is_host_device, const struct cabe_kernels *kernels,
                        int n_members, uint64_t *offsets, struct cabe_placing *placing);
/* Whether there is anything to read, and for anyone, when the segment is streamed. */
int cabe_segment_streams(const struct cabe_graph *graph, int32_t segment);
/* Whether two nodes read the same page tables, so that one check and one order of sequences serve both. */
int cabe_same_pages(const struct cabe_node *a, const struct cabe_node *b);
/* What must be known about the inputs of node i, besides what is. */
void cabe_program_add_checks(struct cabe_program *program, int32_t i);
/*
 * Ids within their tables, offsets from 0 to the rows without a step back, pages inside what is bound; host pointers to
 * the inputs' bytes.
 */
enum cabe_status cabe_program_check_inputs(const struct cabe_program *program, const uint8_t *block,
                                           struct cabe_error *err);

#endif
