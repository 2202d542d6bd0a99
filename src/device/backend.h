/*
 * What a kind of device provides to the front (device.c, program.c): one table of functions. `cpu` and `sim`
 * fill one each and share the executor of exec.h; a module opened with dlopen can bring another.
 *
 * The front checks arguments, reserves in the ledger, keeps counters and copies the graph; a backend moves
 * bytes and computes. All functions are called by the thread that uses the device, but upload also by the
 * reader of a streamed program, on a buffer that nobody else touches then.
 */
#ifndef CABE_DEVICE_BACKEND_H
#define CABE_DEVICE_BACKEND_H

#include <stdatomic.h>

#include "device/device.h"

#define CABE_PLACE_BYTES 48 /* as the ledger keeps it */

struct cabe_buffer {
    struct cabe_device *device;
    uint64_t bytes;      /* usable */
    uint64_t held_bytes; /* in the ledger; 0 where adopted */
    enum cabe_purpose purpose;
    char place[CABE_PLACE_BYTES];
    int populate;  /* resident at once */
    uint8_t *host; /* cpu, sim: where it is mapped */
    int n_open;    /* sim: holders of access rights */
    void *handle;  /* of other backends */
};

struct cabe_backend {
    const char *name;
    int is_host; /* buffers are plain host memory: weights can be read straight into them */
    enum cabe_status (*alloc)(struct cabe_buffer *buffer,
                              struct cabe_error *err); /* zeroed; already reserved */
    void (*free)(struct cabe_buffer *buffer);          /* also one that alloc refused */
    enum cabe_status (*upload)(struct cabe_buffer *buffer, uint64_t offset, const void *data, uint64_t bytes,
                               struct cabe_error *err);
    enum cabe_status (*download)(struct cabe_buffer *buffer, uint64_t offset, void *data, uint64_t bytes,
                                 struct cabe_error *err);
    /* Where the executor computes in the buffer: access before and after a run. NULL: always there. */
    enum cabe_status (*open)(struct cabe_buffer *buffer, struct cabe_error *err);
    void (*close)(struct cabe_buffer *buffer);

    int (*supports)(const struct cabe_device *device, const struct cabe_graph *graph,
                    const struct cabe_node *node);
    /* The program is whole but for `exec`, which is the backend's to set and to free. */
    enum cabe_status (*compile)(struct cabe_program *program, struct cabe_error *err);
    void (*release)(struct cabe_program *program);
    /*
     * Starts a run of program->symbols; inputs have the right sizes. What the run itself comes to is for
     * wait.
     */
    enum cabe_status (*submit)(struct cabe_program *program, const struct cabe_cancel *cancel,
                               struct cabe_error *err);
    enum cabe_status (*wait)(struct cabe_program *program, struct cabe_error *err);
};

struct cabe_device {
    const struct cabe_backend *backend;
    struct cabe_device_config config;
    atomic_int n_buffers, n_programs; /* relaxed: models are loaded by several threads */
    /* Counters, relaxed: they order nothing. */
    _Atomic uint64_t held_bytes, held_high_bytes;
    _Atomic uint64_t n_uploads, uploaded_bytes, n_downloads, downloaded_bytes, n_runs, copy_ns;
};

enum cabe_status cabe_device_open(struct cabe_device **out, const struct cabe_backend *backend,
                                  const struct cabe_device_config *config, struct cabe_error *err);
/* cabe_buffer_alloc(), with every page resident before it returns. */
enum cabe_status cabe_buffer_alloc_resident(struct cabe_buffer **out, struct cabe_device *device,
                                            uint64_t bytes, enum cabe_purpose purpose, const char *place,
                                            struct cabe_error *err);
/* For a run: access to the buffer's memory until close. */
enum cabe_status cabe_buffer_open(struct cabe_buffer *buffer, struct cabe_error *err);
void cabe_buffer_close(struct cabe_buffer *buffer);

/* What cpu and sim share: whole pages of host memory. */
enum cabe_status cabe_host_alloc(struct cabe_buffer *buffer, struct cabe_error *err);
void cabe_host_free(struct cabe_buffer *buffer);

#endif
