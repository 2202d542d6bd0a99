/*
 * The fitted copy: a model's weights in the layout the kernels read, and its tokenizer compiled, in one file that is
 * mapped without copying or parsing.
 *
 * Keyed by the source's identity (path, size, time; its content hash is stored), the dtype and the version of the
 * layouts; never by budget or batch, so one copy serves every plan that wants that dtype. Panels are the same on
 * every CPU level.
 *
 * Format: a GGUF v3 file of architecture "cabe". Metadata: the description of the model as JSON, the identity of the
 * source, an XXH3 checksum per tensor and one of the header. Tensors, all of type I8 and aligned to 4096:
 * "segment.<i>" holds the weights of one segment of the graph as cabe_graph_finish() lays them out; "tokenizer" a
 * compiled block of text/tokenizer.h; "host.<name>" what the host reads.
 *
 * Header and index are checked when it is opened; a tensor's checksum at its first touch, in the background where it
 * is resident: cabe_fitted_check() before the first result is handed out. A damaged or stale copy is made anew.
 *
 * Where no cache folder can be written, the copy is made in memory and lives as long as the handle.
 *
 * Owner: who opens it. Thread: one, except read() and the background check.
 */
#ifndef CABE_FIT_FITTED_H
#define CABE_FIT_FITTED_H

#include <stdint.h>

#include "base/cancel.h"
#include "base/log.h"
#include "cabe/ledger.h"
#include "cabe/status.h"
#include "model/model.h"

struct cabe_fitted;

struct cabe_fitted_config {
    const char *path;                /* of the source: file or folder */
    struct cabe_model_choice choice; /* dtype; precision is not part of the key */
    const char *cache_dir;           /* of fitted copies; NULL: kept in memory */
    uint64_t cache_limit_bytes;      /* older copies go when a new one would pass it; 0: no limit */
    struct cabe_ledger *ledger;      /* charged for staging while it is made, and by load() */
    struct cabe_log *log;            /* may be NULL */
    const struct cabe_cancel *cancel;
    const struct cabe_progress *progress;
    uint64_t identity; /* of the source when it was looked at first: it must not have changed since; 0: not known */
    int direct; /* streamed segments are read past the system's page cache, which then holds nothing of them */
};

/*
 * The copy that is there for this source as it is now. CABE_ERR_NOT_FOUND: none, or one that is stale or damaged.
 * CABE_ERR_CHANGED: the source is no longer the one of `identity`.
 */
CABE_CHECKED enum cabe_status cabe_fitted_find(struct cabe_fitted **out, const struct cabe_fitted_config *config,
                                               struct cabe_error *err);
/*
 * Makes the copy from an open source and its description, in bounded memory: cabe_fitted_making_bytes() of staging.
 * A write that fails for want of space or rights falls back to memory, with a warning in the log.
 */
CABE_CHECKED enum cabe_status cabe_fitted_make(struct cabe_fitted **out, const struct cabe_fitted_config *config,
                                               const struct cabe_source *source, const struct cabe_model *model,
                                               struct cabe_error *err);
uint64_t cabe_fitted_making_bytes(const struct cabe_model *model, const struct cabe_model_choice *choice);
void cabe_fitted_close(struct cabe_fitted *fitted); /* NULL is fine; gives back what load() charged */

/* Valid until close. The graph's weights lie as in the segments. */
const struct cabe_model *cabe_fitted_model(const struct cabe_fitted *fitted);
const char *cabe_fitted_path(const struct cabe_fitted *fitted); /* of the copy; "(memory)" */
void cabe_fitted_discard(const struct cabe_fitted *fitted); /* removes it from disk: it is damaged, the next is made anew */
uint64_t cabe_fitted_file_bytes(const struct cabe_fitted *fitted);

/*
 * Which segments stay in host memory: all but `n` that are streamed, see cabe_fitted_streams(); or none, where the
 * weights are on another device.
 */
#define CABE_KEEP_ALL 0
#define CABE_KEEP_FIRST INT64_MAX
#define CABE_KEEP_NONE (-1)
/*
 * Whether a segment is among the n that are streamed. Layers go first, the last one before the others, so that what
 * stays is read as long as possible before the first of them is needed; then the last segment, a head that is larger
 * than a layer. The first one never goes: there are the tables that rows are gathered from.
 */
int cabe_fitted_streams(int32_t segment, int32_t n_segments, int64_t n);

/* What load() will charge: segments that stay (WEIGHTS), tokenizer and host tables (CACHES). */
void cabe_fitted_bytes(const struct cabe_fitted *fitted, int64_t n_streamed, uint64_t *weights, uint64_t *caches);
/* Charges the ledger and maps what stays. */
CABE_CHECKED enum cabe_status cabe_fitted_load(struct cabe_fitted *fitted, struct cabe_ledger *ledger,
                                               int64_t n_streamed, const char *place, struct cabe_error *err);
/*
 * Begins to make resident and to check what stays, in the background: when everything else that the first run wants is
 * there, for both take memory's time. Nothing when it has begun already.
 */
CABE_CHECKED enum cabe_status cabe_fitted_start(struct cabe_fitted *fitted, struct cabe_error *err);
/*
 * Waits for the background check, which begins now if it has not, once; later calls are cheap. CABE_ERR_CHANGED: a
 * checksum is wrong, and the copy has been removed; or the file has shrunk, or was written to, since load().
 */
CABE_CHECKED enum cabe_status cabe_fitted_check(struct cabe_fitted *fitted, struct cabe_error *err);
/* Every checksum of the copy, from disk. */
CABE_CHECKED enum cabe_status cabe_fitted_verify(struct cabe_fitted *fitted, struct cabe_error *err);

/* After load(). */
const void *cabe_fitted_tokenizer(const struct cabe_fitted *fitted, size_t *bytes);
const void *cabe_fitted_host(const struct cabe_fitted *fitted, const char *name); /* or NULL */
int32_t cabe_fitted_n_segments(const struct cabe_fitted *fitted);
/*
 * What is mapped, from the file's first byte, and where in the file a segment begins. Where the streamed segments would
 * be is nothing that may be read.
 */
const void *cabe_fitted_memory(const struct cabe_fitted *fitted, uint64_t *bytes);
uint64_t cabe_fitted_segment_offset(const struct cabe_fitted *fitted, int32_t segment);
/* For struct cabe_weights: reads from the copy's file; `offset` as given by segment_offset. */
enum cabe_status cabe_fitted_read(void *fitted, uint64_t offset, void *data, uint64_t bytes, struct cabe_error *err);

/* Removes copies of the source at `path` (all sources when NULL) from a cache folder; bytes freed in *freed. */
CABE_CHECKED enum cabe_status cabe_fitted_remove(const char *cache_dir, const char *path, uint64_t *freed,
                                                 struct cabe_error *err);

#endif
