/*
 * POST /v1/analyze: documents in, repeated ideas out, as a stream by phase or as a job.
 *
 * Documents come as the body itself (text/plain, text/markdown), as files of a form, or as JSON {"text"} or
 * {"documents": [{"name", "text"}]}. They lie in unlinked files while they are worked on, so that a killed server leaves
 * none behind.
 *
 * Parts of the result, in this order: "documents", "plan", a "phase" for each one that has ended, "pairs" and "groups"
 * (lists, in pieces), "report".
 */
#ifndef CABE_SERVE_ANALYZE_H
#define CABE_SERVE_ANALYZE_H

#include "serve/jobs.h"
#include "task/analyze.h"

#define CABE_UPLOAD_FILES_MAX 64
#define CABE_ANALYZE_LIMIT 1000 /* pairs and groups of a report, by default */

struct cabe_upload {
    int n;
    struct {
        char name[256]; /* as the client calls it */
        char path[32];  /* "/proc/self/fd/N" */
        int fd;
        uint64_t bytes;
    } file[CABE_UPLOAD_FILES_MAX];
    char model[256];
    struct cabe_analyze_wishes wishes;
    int limit;
};

cabe_handler cabe_analyze_post;
/* run() of the kind. */
enum cabe_status cabe_analyze_job_run(struct cabe_server *server, struct cabe_job *job, const json_t *wish,
                                      struct cabe_error *err);

#endif
