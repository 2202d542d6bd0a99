#include "device/stream.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/memory.h"
#include "device/program.h"

struct cabe_stream {
    struct cabe_program *program;
    enum cabe_status (*read)(void *self, uint64_t offset, void *data, uint64_t bytes, struct cabe_error *err);
    void *self;
    uint8_t *chunk; /* NULL: read straight into the window */
    int started;
    pthread_t thread;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    int32_t wanted; /* streamed segment to read; -1: none */
    int closing;
    const struct cabe_cancel *cancel;
    int32_t held[2]; /* by slot; -1: nothing whole */
    enum cabe_status status;
    struct cabe_error err;
};

static int slot_of(int32_t k)
{
    return k % 2;
}

static const struct cabe_program_segment *segment_of(const struct cabe_program *program, int32_t k)
{
    for (int32_t s = 0; s < program->n_segments; s++)
        if (program->segments[s].stream == k)
            return &program->segments[s];
    return NULL;
}

/* In chunks, so that a wish to stop is heard and staging stays small. */
static enum cabe_status read_segment(struct cabe_stream *stream, int32_t k, const struct cabe_cancel *cancel,
                                     struct cabe_error *err)
{
    const struct cabe_program *program = stream->program;
    const struct cabe_program_segment *segment = segment_of(program, k);
    enum cabe_status status = CABE_OK;

    assert(segment);
    for (uint64_t at = 0; at < segment->bytes && status == CABE_OK;) {
        uint64_t n =
            segment->bytes - at < CABE_STREAM_CHUNK_BYTES ? segment->bytes - at : CABE_STREAM_CHUNK_BYTES;
        uint8_t *to = stream->chunk ? stream->chunk : program->window->host + segment->offset + at;

        if (cabe_cancelled(cancel))
            return cabe_fail(err, CABE_ERR_CANCELLED, "%s: cancelled while segment %s was read",
                             program->place, segment->name);
        status = stream->read(stream->self, segment->source + at, to, n, err);
        if (status == CABE_OK && stream->chunk)
            status = cabe_buffer_upload(program->window, segment->offset + at, stream->chunk, n, err);
        at += n;
    }
    if (status != CABE_OK)
        return cabe_fail_in(err, status, "%s: segment %s", program->place, segment->name);
    return CABE_OK;
}

static void *reader(void *arg)
{
    struct cabe_stream *stream = arg;

    pthread_mutex_lock(&stream->lock);
    for (;;) {
        struct cabe_error err = {.status = CABE_OK};
        enum cabe_status status;
        int32_t k;

        while (stream->wanted < 0 && !stream->closing)
            pthread_cond_wait(&stream->changed, &stream->lock);
        if (stream->closing)
            break;
        k = stream->wanted;
        pthread_mutex_unlock(&stream->lock);
        status = read_segment(stream, k, stream->cancel, &err);
        pthread_mutex_lock(&stream->lock);
        stream->status = status;
        stream->err = err;
        if (status == CABE_OK)
            stream->held[slot_of(k)] = k;
        stream->wanted = -1;
        pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

/* Signals stay with the threads that expect them. */
static int start_reader(struct cabe_stream *stream)
{
    pthread_attr_t attr;
    sigset_t all, old;
    int error;

    if (pthread_attr_init(&attr) != 0)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    error = pthread_attr_setstacksize(&attr, CABE_STREAM_STACK_BYTES);
    if (error == 0)
        error = pthread_create(&stream->thread, &attr, reader, stream);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return error == 0;
}

enum cabe_status cabe_stream_open(struct cabe_stream **out, struct cabe_program *program,
                                  const struct cabe_weights *weights, struct cabe_error *err)
{
    struct cabe_stream *stream = cabe_calloc(1, sizeof *stream);

    *out = NULL;
    if (!stream)
        return cabe_fail(err, CABE_ERR_OOM, "%s: no memory for the reader of streamed weights",
                         program->place);
    stream->program = program;
    stream->read = weights->read;
    stream->self = weights->self;
    stream->chunk = program->chunk;
    stream->wanted = stream->held[0] = stream->held[1] = -1;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    stream->started = start_reader(stream);
    if (!stream->started) {
        cabe_stream_close(stream);
        return cabe_fail(err, CABE_ERR_OOM, "%s: the system refused a thread to read streamed weights",
                         program->place);
    }
    *out = stream;
    return CABE_OK;
}

void cabe_stream_close(struct cabe_stream *stream)
{
    if (!stream)
        return;
    if (stream->started) {
        pthread_mutex_lock(&stream->lock);
        stream->closing = 1;
        pthread_cond_broadcast(&stream->changed);
        pthread_mutex_unlock(&stream->lock);
        pthread_join(stream->thread, NULL);
    }
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    cabe_free(stream);
}

void cabe_stream_request(struct cabe_stream *stream, int32_t k, const struct cabe_cancel *cancel)
{
    pthread_mutex_lock(&stream->lock);
    assert(stream->wanted < 0);
    stream->status = CABE_OK;
    if (stream->held[slot_of(k)] != k) {
        stream->held[slot_of(k)] = -1;
        stream->cancel = cancel;
        stream->wanted = k;
        pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&stream->lock);
}

enum cabe_status cabe_stream_wait(struct cabe_stream *stream, int32_t k, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    pthread_mutex_lock(&stream->lock);
    while (stream->wanted >= 0)
        pthread_cond_wait(&stream->changed, &stream->lock);
    if (stream->held[slot_of(k)] != k) {
        status = stream->status;
        if (err)
            *err = stream->err;
    }
    pthread_mutex_unlock(&stream->lock);
    return status;
}

void cabe_stream_idle(struct cabe_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    while (stream->wanted >= 0)
        pthread_cond_wait(&stream->changed, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
}
