/*
 * Text documents: immutable bytes on disk, and their sentences as spans of byte offsets.
 *
 * A document is read in windows of bounded memory, once to be counted (for the plan) and once to be kept; texts are
 * read again from disk when they are needed. A file that changes in between is CABE_ERR_CHANGED.
 *
 * Owner: who opens it. Thread: one.
 */
#ifndef CABE_TASK_DOCUMENT_H
#define CABE_TASK_DOCUMENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/cancel.h"
#include "cabe/status.h"
#include "text/sentences.h"

#define CABE_DOCUMENT_WINDOW_BYTES (UINT64_C(256) << 10)

struct cabe_document {
    const char *path; /* the caller's */
    int fd;
    uint64_t n_bytes;
    uint64_t mtime_ns;
};

struct cabe_sentence {
    struct cabe_span span; /* bytes of its document */
    uint32_t document;
    uint32_t line; /* of its first byte, from 1 */
    uint32_t n_words;
    uint32_t number; /* of the sentence in its document, from 1 */
};

CABE_CHECKED enum cabe_status cabe_document_open(struct cabe_document *document, const char *path,
                                                 struct cabe_error *err);
void cabe_document_close(struct cabe_document *document); /* a zeroed or closed one is fine */

/*
 * Calls `found` for each sentence in order. `window` has CABE_DOCUMENT_WINDOW_BYTES. Ill-formed UTF-8 is
 * CABE_ERR_FORMAT with file and byte offset.
 */
CABE_CHECKED enum cabe_status cabe_document_sentences(const struct cabe_document *document, uint32_t number,
                                                      char *window,
                                                      enum cabe_status (*found)(void *self,
                                                                                const struct cabe_sentence *sentence,
                                                                                struct cabe_error *err),
                                                      void *self, const struct cabe_cancel *cancel,
                                                      struct cabe_error *err);
/* Copies at most `max` bytes of a span; how many in *n. CABE_ERR_CHANGED when the file is no longer what was opened. */
CABE_CHECKED enum cabe_status cabe_document_read(const struct cabe_document *document, struct cabe_span span,
                                                 char *out, size_t max, size_t *n, struct cabe_error *err);

#endif
