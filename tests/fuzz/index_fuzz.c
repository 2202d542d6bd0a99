/*
 * An index file of any bytes: it loads or is refused, and whatever loads can be searched and joined.
 *
 * Input: a byte of flags (1: the header's checksum is made right, 2: the payload's size and checksum too),
 * the first 80 bytes of the header, the payload.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "index/file.h"
#include "index/index.h"

#define HEAD 80

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct cabe_ledger *ledger;
static struct cabe_team *team;
static const struct cabe_kernels *kernels;

static void open_once(void)
{
    struct cabe_ledger_config config = {.n_devices = 1, .budget_bytes = {CABE_UNLIMITED}};

    if (ledger)
        return;
    if (cabe_ledger_open(&ledger, &config, NULL) != CABE_OK || cabe_team_open(&team, 1, NULL) != CABE_OK ||
        cabe_kernels_choose(&kernels, NULL) != CABE_OK)
        abort();
}

static int write_file(int fd, const uint8_t *data, size_t size)
{
    static uint8_t header[CABE_INDEX_HEADER_BYTES];
    const uint8_t *payload = data + 1 + HEAD;
    uint64_t n = size - 1 - HEAD, hash;

    memset(header, 0, sizeof header);
    memcpy(header, data + 1, HEAD);
    if (data[0] & 2) {
        hash = XXH3_64bits(payload, (size_t)n);
        memcpy(header + 56, &n, 8);
        memcpy(header + 64, &hash, 8);
    }
    hash = XXH3_64bits(header, sizeof header - 8);
    if (data[0] & 1)
        memcpy(header + sizeof header - 8, &hash, 8);
    return write(fd, header, sizeof header) == (ssize_t)sizeof header &&
           write(fd, payload, (size_t)n) == (ssize_t)n;
}

static void use(struct cabe_index *index)
{
    const struct cabe_index_run run = {.team = team};
    const struct cabe_join_config join_config = {.threshold = 0.5f, .k = 2};
    int64_t dim = cabe_index_config(index)->dim;
    float *row = calloc((size_t)dim, sizeof *row);
    struct cabe_hit hits[3];
    struct cabe_join *join;
    int32_t n_hits;

    if (!row)
        abort();
    (void)!cabe_index_get(index, cabe_index_rows(index) - 1, row, NULL);
    (void)!cabe_index_search(index, row, 1, 3, hits, &n_hits, &run, NULL);
    if (cabe_index_rows(index) < 2000 && cabe_join_run(&join, index, &join_config, &run, NULL) == CABE_OK) {
        cabe_join_pairs(join, NULL, 0);
        cabe_join_close(join);
    }
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cabe_index *index;
    char path[64];
    int fd;

    open_once();
    if (size < 1 + HEAD)
        return 0;
    fd = memfd_create("index", MFD_CLOEXEC);
    if (fd < 0 || !write_file(fd, data, size))
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    (void)!cabe_index_verify(path, NULL);
    for (int place = CABE_INDEX_RESIDENT; place <= CABE_INDEX_STREAMED; place++)
        if (cabe_index_load(&index, path, (enum cabe_index_place)place, ledger, kernels, NULL) == CABE_OK) {
            use(index);
            cabe_index_close(index);
        }
    close(fd);
    return 0;
}
