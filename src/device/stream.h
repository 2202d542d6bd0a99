/*
 * Streamed segments: a thread that reads the next one into its slot of the window while this one computes.
 *
 * Two slots; segment k lies in slot k % 2 and stays there until another is asked for in its place, so that
 * one or two streamed segments are read once. The thread's stack and its chunk are charged to the program's
 * staging.
 *
 * Thread: request, wait and idle by one thread at a time; the reader is the only one that touches the window
 * between a request and the end of its wait.
 */
#ifndef CABE_DEVICE_STREAM_H
#define CABE_DEVICE_STREAM_H

#include "device/device.h"

#define CABE_STREAM_CHUNK_BYTES (UINT64_C(4) << 20) /* of one read(): how soon a cancelled run stops */
#define CABE_STREAM_STACK_BYTES ((uint64_t)CABE_TEAM_STACK_BYTES)

struct cabe_program;
struct cabe_stream;

enum cabe_status cabe_stream_open(struct cabe_stream **out, struct cabe_program *program,
                                  const struct cabe_weights *weights, struct cabe_error *err);
void cabe_stream_close(struct cabe_stream *stream); /* NULL is fine; ends the thread */
/*
 * Asks for segment k; the one before it in its slot is gone. Nothing else may be asked for and not waited
 * for.
 */
void cabe_stream_request(struct cabe_stream *stream, int32_t k, const struct cabe_cancel *cancel);
/* Returns when nothing is being read: CABE_OK if segment k is then in its slot. */
enum cabe_status cabe_stream_wait(struct cabe_stream *stream, int32_t k, struct cabe_error *err);
void cabe_stream_idle(struct cabe_stream *stream);

#endif
