/* What the tests of the KV store share: a device in small and a store on it. */
#ifndef CABE_TESTS_RUNTIME_KV_FIXTURE_H
#define CABE_TESTS_RUNTIME_KV_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "runtime/kv_pages.h"

#define PAGE CABE_PAGE_TOKENS
#define SLOT_BYTES 64 /* of a page of 2 * 16 * 8 floats; where the test leaves what a slot holds */

static struct cabe_error why;
#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != CABE_OK)                                                                               \
            fail_msg("%s: %s", #call, why.text);                                                             \
    } while (0)

struct bench {
    struct cabe_ledger *ledger;
    struct cabe_team *team;
    struct cabe_device *device;
    struct cabe_kv_config config;
    struct cabe_kv *kv;
};

static inline void bench_open(struct bench *b, int is_sim, uint64_t budget, int64_t n_pages, int32_t n_seqs)
{
    struct cabe_ledger_config ledger = {.n_devices = 2, .budget_bytes = {budget, budget}};
    struct cabe_device_config device = {.ledger_device = is_sim ? 1 : CABE_HOST};

    memset(b, 0, sizeof *b);
    OK(cabe_ledger_open(&b->ledger, &ledger, &why));
    OK(cabe_team_open(&b->team, 1, &why));
    OK(cabe_kernels_choose(&device.kernels, &why));
    device.ledger = b->ledger;
    device.team = b->team;
    if (is_sim)
        OK(cabe_sim_device_open(&b->device, &device, &why));
    else
        OK(cabe_cpu_device_open(&b->device, &device, &why));
    b->config = (struct cabe_kv_config){.device = b->device,
                                        .shape = {1, 1, 8},
                                        .keys = CABE_KV_F32,
                                        .values = CABE_KV_F32,
                                        .n_tokens = n_pages * PAGE,
                                        .n_seqs = n_seqs,
                                        .seq_tokens = n_pages * PAGE,
                                        .place = "kv test"};
}

static inline void bench_start(struct bench *b, int64_t n_pages, int32_t n_seqs)
{
    bench_open(b, 0, CABE_UNLIMITED, n_pages, n_seqs);
    OK(cabe_kv_open(&b->kv, &b->config, b->ledger, &why));
}

static inline uint64_t ledger_used(const struct bench *b, int device)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(b->ledger, &view);
    return view.device[device].purpose_bytes[CABE_PURPOSE_KV];
}

static inline void bench_close(struct bench *b)
{
    cabe_kv_close(b->kv);
    assert_int_equal(ledger_used(b, 0), 0);
    assert_int_equal(ledger_used(b, 1), 0);
    cabe_device_close(b->device);
    cabe_team_close(b->team);
    cabe_ledger_close(b->ledger);
}

static inline uint64_t slot_offset(const struct cabe_kv_seq *seq, int64_t slot)
{
    int32_t n_pages;
    const struct cabe_page *pages = cabe_kv_seq_pages(seq, &n_pages);

    assert_true(slot < (int64_t)n_pages * PAGE);
    return (uint64_t)pages[slot / PAGE].unit * CABE_PAGE_UNIT + (uint64_t)(slot % PAGE) * SLOT_BYTES;
}

static inline void slot_write(struct cabe_kv_seq *seq, int64_t slot, uint64_t value)
{
    uint64_t line[SLOT_BYTES / sizeof(uint64_t)];

    for (size_t i = 0; i < sizeof line / sizeof line[0]; i++)
        line[i] = value + i;
    OK(cabe_buffer_upload(seq->kv->buffer, slot_offset(seq, slot), line, sizeof line, &why));
}

/* Whether a slot holds what slot_write() left; value 0 also stands for zeros. */
static inline int slot_is(const struct cabe_kv_seq *seq, int64_t slot, uint64_t value)
{
    uint64_t line[SLOT_BYTES / sizeof(uint64_t)];

    OK(cabe_buffer_download(seq->kv->buffer, slot_offset(seq, slot), line, sizeof line, &why));
    for (size_t i = 0; i < sizeof line / sizeof line[0]; i++)
        if (line[i] != (value ? value + i : 0))
            return 0;
    return 1;
}

#endif
