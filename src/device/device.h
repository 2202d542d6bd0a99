/*
 * A device owns buffers and runs graphs: `cpu`, `sim`, later `cuda`.
 *
 * A tensor is (buffer, offset, shape, dtype), never a host pointer: bytes enter a buffer by upload and leave
 * it by download. Exceptions are declared, not assumed: `cpu` can adopt host memory (a mapped fitted copy)
 * without a copy.
 *
 * `sim` computes on the CPU but keeps the manners of a GPU: its buffers are mappings of their own, without
 * access rights for the host outside transfers and runs; its capacity is a cap that is never passed; copies
 * are counted.
 *
 * Determinism: results depend on the graph, its dtypes and the kernel level; not on threads, bounds,
 * neighbours in the batch or the device.
 *
 * Thread: buffers and programs may be opened and closed by any thread; one thread at a time uses a buffer or a
 * program, and runs of several are as many as the team allows. Every byte of a buffer is reserved in the ledger first.
 */
#ifndef CABE_DEVICE_DEVICE_H
#define CABE_DEVICE_DEVICE_H

#include <stdint.h>

#include "base/cancel.h"
#include "base/threads.h"
#include "cabe/ledger.h"
#include "cabe/status.h"
#include "kernel/kernel.h"
#include "tensor/graph.h"

struct cabe_device;
struct cabe_buffer;
struct cabe_program;
struct cabe_event;

struct cabe_device_config {
    struct cabe_ledger *ledger;         /* must outlive the device */
    int ledger_device;                  /* CABE_HOST for cpu; another index for sim */
    struct cabe_team *team;             /* must outlive the device; runs use all its members */
    const struct cabe_kernels *kernels; /* of one CPU level */
    uint64_t cap_bytes;                 /* sim: capacity; 0: as the ledger has */
    double copy_bytes_per_s;            /* sim: how long a copy is said to take; 0: not modelled */
};

struct cabe_device_stats {
    uint64_t held_bytes, held_high_bytes;
    uint64_t n_uploads, uploaded_bytes;
    uint64_t n_downloads, downloaded_bytes;
    uint64_t n_runs;
    uint64_t copy_ns; /* measured, or modelled for sim */
};

CABE_CHECKED enum cabe_status cabe_cpu_device_open(struct cabe_device **out,
                                                   const struct cabe_device_config *config,
                                                   struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_sim_device_open(struct cabe_device **out,
                                                   const struct cabe_device_config *config,
                                                   struct cabe_error *err);
/* NULL is fine; every buffer and program must be closed before. */
void cabe_device_close(struct cabe_device *device);
const char *cabe_device_name(const struct cabe_device *device);
/* Whether its memory is the host's: no staging, and cabe_buffer_adopt() works. For cabe_program_measure(). */
int cabe_device_is_host(const struct cabe_device *device);
void cabe_device_stats(const struct cabe_device *device, struct cabe_device_stats *stats);

/* `place` names the holder in the ledger. Zeroed. */
CABE_CHECKED enum cabe_status cabe_buffer_alloc(struct cabe_buffer **out, struct cabe_device *device,
                                                uint64_t bytes, enum cabe_purpose purpose, const char *place,
                                                struct cabe_error *err);
/*
 * `cpu` only (others: CABE_ERR_UNSUPPORTED): memory of the caller's that it has charged and keeps alive;
 * read-only.
 */
CABE_CHECKED enum cabe_status cabe_buffer_adopt(struct cabe_buffer **out, struct cabe_device *device,
                                                const void *memory, uint64_t bytes, struct cabe_error *err);
void cabe_buffer_free(struct cabe_buffer *buffer); /* NULL is fine */
uint64_t cabe_buffer_bytes(const struct cabe_buffer *buffer);
CABE_CHECKED enum cabe_status cabe_buffer_upload(struct cabe_buffer *buffer, uint64_t offset,
                                                 const void *data, uint64_t bytes, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_buffer_download(const struct cabe_buffer *buffer, uint64_t offset,
                                                   void *data, uint64_t bytes, struct cabe_error *err);
/* Within the device: `bytes` at `from` to `to`, which do not overlap; and zeros. Not counted as transfers. */
CABE_CHECKED enum cabe_status cabe_buffer_copy(struct cabe_buffer *buffer, uint64_t to, uint64_t from,
                                               uint64_t bytes, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_buffer_zero(struct cabe_buffer *buffer, uint64_t offset, uint64_t bytes,
                                               struct cabe_error *err);

int cabe_device_supports(const struct cabe_device *device, const struct cabe_graph *graph,
                         const struct cabe_node *node);

/* Where the weights of a graph's segments are. */
struct cabe_segment_weights {
    struct cabe_buffer *buffer; /* resident: they begin at `offset` of it. NULL: streamed before each use */
    uint64_t offset;            /* in `buffer`, or in what `read` reads */
};

struct cabe_weights {
    const struct cabe_segment_weights *segment; /* one per segment of the graph; copied by compile */
    /*
     * Streamed segments: copies `bytes` from `offset` of the source to `data`. Called by a thread of the
     * program's own, with a stack of CABE_TEAM_STACK_BYTES, one call at a time and only between submit and
     * the end of its wait.
     */
    enum cabe_status (*read)(void *self, uint64_t offset, void *data, uint64_t bytes, struct cabe_error *err);
    void *self;
};

struct cabe_program_bytes {
    /* Temporaries, inputs, outputs, kernel scratch of all members; in the ledger as activations. */
    uint64_t activations;
    /* On the device: two slots, each for every second streamed segment; in the ledger as staging. */
    uint64_t window;
    /* On the host: the reader of streamed segments, its stack and what it transfers; likewise. */
    uint64_t staging;
};

/*
 * Exactly what compile reserves for these bounds (UINT64_MAX where there is no such size);
 * `streamed[segment]` non-zero where streamed (NULL: none is).
 */
void cabe_program_measure(const struct cabe_graph *graph, const int64_t bounds[CABE_N_SYMBOLS],
                          const uint8_t *streamed, int is_host_device, const struct cabe_kernels *kernels,
                          int n_members, struct cabe_program_bytes *bytes);

/*
 * Prepares `graph` for runs up to `bounds` and reserves all they need: submit allocates nothing. The program
 * keeps `weights->read` and the buffers; they must outlive it. CABE_ERR_UNSUPPORTED names the node and its
 * dtypes.
 */
CABE_CHECKED enum cabe_status cabe_program_compile(struct cabe_program **out, struct cabe_device *device,
                                                   const struct cabe_graph *graph,
                                                   const int64_t bounds[CABE_N_SYMBOLS],
                                                   const struct cabe_weights *weights, const char *place,
                                                   struct cabe_error *err);
void cabe_program_close(struct cabe_program *program); /* NULL is fine */

/*
 * The memory of a STATE, from the next run on; NULL takes it away. A buffer of this device, not an adopted one; it must
 * outlive the program or be taken away. Two programs may share it, not run on it at once. What two sequences of a run
 * may have in common is pages that neither writes to: that is not checked.
 */
CABE_CHECKED enum cabe_status cabe_program_bind(struct cabe_program *program, cabe_value state,
                                                struct cabe_buffer *buffer, struct cabe_error *err);

/* Inputs are given and outputs fetched by value; bytes must be those of the symbols of the run. */
CABE_CHECKED enum cabe_status cabe_program_upload(struct cabe_program *program, cabe_value input,
                                                  const void *data, uint64_t bytes, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_program_download(struct cabe_program *program, cabe_value output,
                                                    void *data, uint64_t bytes, struct cabe_error *err);

/*
 * Starts a run with these symbol values (each at most its bound, at least 1, outputs at least 0; those that the
 * graph does not use are ignored). The event is the program's own: wait for it before the next submit. `cancel` (may be NULL) is looked at between
 * nodes. Ids, offsets, pages and the like are checked against their tables: a bad one is CABE_ERR_ARGUMENT, not a
 * crash. What goes wrong during the run, and that it was cancelled, is told by cabe_event_wait(); the next
 * run is whole again. Inputs stay until they are replaced.
 */
CABE_CHECKED enum cabe_status cabe_program_submit(struct cabe_program *program,
                                                  const int64_t symbols[CABE_N_SYMBOLS],
                                                  const struct cabe_cancel *cancel, struct cabe_event **event,
                                                  struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_event_wait(struct cabe_event *event, struct cabe_error *err);
/*
 * Runs once more with the inputs at hand and looks at what every node gives: CABE_OK if all of it is finite, else
 * CABE_ERR_FORMAT naming the segment and the first node of which it is not. Slow; to explain results that are not
 * finite. Afterwards outputs are those of a run that ended well, or none.
 */
CABE_CHECKED enum cabe_status cabe_program_find_nan(struct cabe_program *program,
                                                    const int64_t symbols[CABE_N_SYMBOLS], struct cabe_error *err);

/* Where the time of all runs so far went, on the clock of the calling thread. */
struct cabe_program_times {
    uint64_t n_runs;
    uint64_t total_ns;
    uint64_t matmul_ns, attention_ns;
    uint64_t rows_ns;   /* everything else that computes, quantising activations too */
    uint64_t stream_ns; /* waiting for streamed weights */
};
void cabe_program_times(const struct cabe_program *program, struct cabe_program_times *times);

#endif
