/*
 * Events of the library: one event, one line, key=value or JSON. The library never prints; a sink does.
 *
 *     cabe_log(log, CABE_LOG_INFO, "model_loaded", "{s:s,s:I}", "model", name, "bytes", (json_int_t)bytes);
 *
 * The fields are given as jansson's json_pack() takes them, an object. Thread: any; a line is written whole.
 */
#ifndef CABE_BASE_LOG_H
#define CABE_BASE_LOG_H

#include <jansson.h>
#include <stdio.h>

#include "cabe/status.h"

enum cabe_log_level { CABE_LOG_DEBUG, CABE_LOG_INFO, CABE_LOG_WARN, CABE_LOG_ERROR };
enum cabe_log_form { CABE_LOG_HUMAN, CABE_LOG_JSON };

struct cabe_log;

/* Writes to `stream`, which stays the caller's, what is at `level` or above. */
CABE_CHECKED enum cabe_status cabe_log_open(struct cabe_log **out, FILE *stream, enum cabe_log_form form,
                                            enum cabe_log_level level, struct cabe_error *err);
void cabe_log_close(struct cabe_log *log); /* NULL is fine */

/*
 * `log` may be NULL: nothing is written. Every line carries "time" (RFC 3339, UTC, ms), "level" and "event";
 * fields of these names are left out. `fields` may be NULL. Text of unknown origin goes in as "o" with
 * cabe_json_text(); fields that cannot be packed leave the event with "fields_lost". No control character
 * reaches the stream.
 */
void cabe_log(struct cabe_log *log, enum cabe_log_level level, const char *event, const char *fields, ...);
/* The same with an object that stays the caller's; NULL: no fields. */
void cabe_log_fields(struct cabe_log *log, enum cabe_log_level level, const char *event,
                     const json_t *fields);
/* Whether a line of this level would be written: to spare the work of making it. */
int cabe_log_wants(const struct cabe_log *log, enum cabe_log_level level);

#endif
