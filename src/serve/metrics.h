/*
 * What the server counts, for /metrics (Prometheus text format 0.0.4), /v1/stats and the dashboard.
 *
 * Names are vLLM's with our prefix ("cabe_num_requests_running"), or "vllm:" names by configuration.
 *
 * Thread: every function from any thread; counting takes no lock that anyone holds for long.
 */
#ifndef CABE_SERVE_METRICS_H
#define CABE_SERVE_METRICS_H

#include "serve/server.h"

CABE_CHECKED enum cabe_status cabe_metrics_open(struct cabe_metrics **out, struct cabe_server *server,
                                                struct cabe_error *err);
void cabe_metrics_close(struct cabe_metrics *metrics); /* NULL is fine */

/* A request that has been answered: `route` is its pattern, "" for none that matched. */
void cabe_metrics_request(struct cabe_metrics *metrics, enum cabe_http_method method, const char *route, int status,
                          double seconds);
/* An operation of any kind that took a time: "load", "tokenize", "job.analyze"...: counted, and logged when it was slow. */
void cabe_metrics_operation(struct cabe_metrics *metrics, const char *name, const char *detail, double seconds);
/* Looks at memory, queues and pressure; to be called at least every second, by one thread. One sample a second is kept. */
void cabe_metrics_sample(struct cabe_metrics *metrics);
/* 1: an engine that has work has made no step for `seconds`, or the service cannot answer; with why. */
int cabe_metrics_stalled(struct cabe_metrics *metrics, double seconds, char *why, size_t n);

#endif
