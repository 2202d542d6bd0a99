/*
 * The ledger: every byte that cabe holds, by device and purpose, under one budget.
 *
 * A reservation is made before the allocation and can be refused. At every instant the sum of the
 * reservations on a device is at most its budget. Bytes are a u64 count; device 0 is the host.
 *
 * Owner:  who opens it closes it, after every holder has released.
 * Thread: every function from any thread; reserve and release take one short lock.
 */
#ifndef CABE_LEDGER_H
#define CABE_LEDGER_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cabe/status.h"

/* symbol, name in messages and JSON */
#define CABE_PURPOSE_MAP(X)                                                                                  \
    X(PROCESS, "process")         /* code, libraries, stacks, small heap */                                  \
    X(WEIGHTS, "weights")         /* resident model weights and gather tables */                             \
    X(KV, "kv")                   /* keys and values of tokens already seen */                               \
    X(ACTIVATIONS, "activations") /* the working set of a compiled graph */                                  \
    X(INDEX, "index")             /* vector indexes, search and join outputs */                              \
    X(DOCUMENTS, "documents")     /* texts and their spans */                                                \
    X(CACHES, "caches")           /* tokenizers, result caches */                                            \
    X(STAGING, "staging")         /* conversion and transfer buffers */                                      \
    X(NETWORK, "network")         /* connections, requests */                                                \
    X(CHILDREN, "children")       /* limits granted to child processes */                                    \
    X(PROMISED, "promised")       /* of shares: granted to admitted work that has not taken it yet */

enum cabe_purpose {
#define X(symbol, name) CABE_PURPOSE_##symbol,
    CABE_PURPOSE_MAP(X)
#undef X
    CABE_N_PURPOSES
};

#define CABE_HOST 0
#define CABE_DEVICES_MAX 16
#define CABE_UNLIMITED UINT64_MAX

struct cabe_ledger;

struct cabe_ledger_config {
    int n_devices;                           /* 1 = the host alone */
    uint64_t budget_bytes[CABE_DEVICES_MAX]; /* CABE_UNLIMITED: counted, never refused */
    const char *shared_dir; /* where cabe processes see each other's reservations; NULL: not shared */
};

struct cabe_ledger_view { /* one consistent reading */
    int n_devices;
    struct {
        uint64_t budget_bytes;
        uint64_t used_bytes;
        uint64_t high_bytes; /* highest used_bytes since open or the last cabe_ledger_mark() */
        uint64_t purpose_bytes[CABE_N_PURPOSES];
        uint64_t purpose_high_bytes[CABE_N_PURPOSES];
        uint64_t others_bytes; /* reserved on this device by other live cabe processes of this user */
    } device[CABE_DEVICES_MAX];
    uint64_t n_refused;
};

/*
 * How much of what is reserved has been touched: the system gives memory page by page, when it is first written, and
 * this is the part that it has given. A reservation is a promise that holds to its last byte (keys and values of every
 * sequence that may come); this is what a look at the process from outside can find of it (VmRSS, a control group's
 * usage).
 *
 * Source: pages that their holders have named by cabe_ledger_add_pages() are asked for by mincore(2); bytes that are only
 * promised count as untouched; everything else counts as touched. Weights in a mapped fitted copy are such: loading
 * makes them resident, and mincore(2) of a file would speak of the page cache, not of this process.
 * So the sum is a little more than what is resident where something reserved on the heap is not wholly used, and where
 * the system has taken pages of a file back.
 */
struct cabe_ledger_touched {
    struct {
        uint64_t bytes; /* at most used_bytes */
        uint64_t purpose_bytes[CABE_N_PURPOSES];
    } device[CABE_DEVICES_MAX];
};

struct cabe_ledger_holder { /* one place that holds bytes; same place strings are summed */
    char place[48];
    int device;
    enum cabe_purpose purpose;
    uint64_t bytes;
};

CABE_API const char *cabe_purpose_name(enum cabe_purpose purpose);

/*
 * On CABE_OK `*out` lives until cabe_ledger_close(). A shared_dir that cannot be used is not an error: see
 * others_bytes.
 */
CABE_API CABE_CHECKED enum cabe_status
cabe_ledger_open(struct cabe_ledger **out, const struct cabe_ledger_config *config, struct cabe_error *err);
CABE_API void cabe_ledger_close(struct cabe_ledger *ledger); /* NULL is fine */

/*
 * A share of `parent`: `bytes` of the host for work that is admitted as a whole, granted at once or refused with
 * CABE_ERR_BUDGET. They count in the parent as CABE_PURPOSE_PROMISED by `place`. A reservation in the share takes from
 * them: in the parent it then stands under its own purpose and place, and nothing but the share's end can refuse it.
 * Closing it gives back what was not taken. The parent outlives it, and is no share itself; of the parent's devices a
 * share has only the host.
 */
CABE_API CABE_CHECKED enum cabe_status cabe_ledger_open_share(struct cabe_ledger **out, struct cabe_ledger *parent,
                                                              uint64_t bytes, const char *place,
                                                              struct cabe_error *err);
/* Gives `bytes` that were not taken, at most all of those, back to the parent before the end. */
CABE_API void cabe_ledger_shrink_share(struct cabe_ledger *share, uint64_t bytes);
/*
 * What the rest of the parent holds on the host beside a share, without what is only promised: now, and the most
 * (*high_bytes) since the share was opened or this was last asked.
 */
CABE_API void cabe_ledger_beside(struct cabe_ledger *share, uint64_t *now_bytes, uint64_t *high_bytes);

/*
 * Grants `bytes` or refuses with CABE_ERR_BUDGET (err->missing_bytes says by how much) and changes nothing.
 * `place` names what holds them ("all-minilm-l6-v2"); it is copied, cut to 47 bytes.
 */
CABE_API CABE_CHECKED enum cabe_status cabe_ledger_reserve(struct cabe_ledger *ledger, int device,
                                                           enum cabe_purpose purpose, uint64_t bytes,
                                                           const char *place, struct cabe_error *err);
/*
 * Gives back what was reserved; the four arguments as they were. Never fails. A release of more than is held
 * asserts.
 */
CABE_API void cabe_ledger_release(struct cabe_ledger *ledger, int device, enum cabe_purpose purpose,
                                  uint64_t bytes, const char *place);

/*
 * The `bytes` from `pages`, which are reserved under this purpose, are memory that the system gives as it is written, whole
 * pages that begin on one. To be taken away before they are unmapped. Never fails: what there is no room to note counts as
 * touched. In a share they are the parent's, where its reservations stand.
 */
CABE_API void cabe_ledger_add_pages(struct cabe_ledger *ledger, int device, enum cabe_purpose purpose, const void *pages,
                                    uint64_t bytes);
CABE_API void cabe_ledger_remove_pages(struct cabe_ledger *ledger, const void *pages); /* NULL, unknown ones: nothing */

CABE_API void cabe_ledger_read(const struct cabe_ledger *ledger, struct cabe_ledger_view *view);
/*
 * `view` as cabe_ledger_read() gives it, and what of it is touched, both of one moment. Not for shares. 0.1 to 0.5 ms for
 * 500 MiB of pages; who adds or removes pages meanwhile waits, who reserves does not. For who shows it, once a second, not
 * for every step.
 */
CABE_API void cabe_ledger_read_touched(const struct cabe_ledger *ledger, struct cabe_ledger_view *view,
                                       struct cabe_ledger_touched *touched);
/*
 * Host bytes that live cabe processes sharing `shared_dir` have reserved and not touched yet: the system
 * still counts them as available, and they will not be. For who chooses a budget. NULL, or nobody there: 0.
 */
CABE_API uint64_t cabe_ledger_promised_bytes(const char *shared_dir);
CABE_API uint64_t cabe_ledger_free_bytes(const struct cabe_ledger *ledger, int device);
/* Starts new high-water marks at the present values; returns nothing to the old ones. */
CABE_API void cabe_ledger_mark(struct cabe_ledger *ledger);
/* Reads and marks in one step, so that no peak falls between the two. For the one who measures phases. */
CABE_API void cabe_ledger_read_and_mark(struct cabe_ledger *ledger, struct cabe_ledger_view *view);
/* The holders with most bytes first, at most n_max; returns how many were written. */
CABE_API size_t cabe_ledger_top(const struct cabe_ledger *ledger, struct cabe_ledger_holder *out,
                                size_t n_max);

#endif
