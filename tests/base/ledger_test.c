#include "cabe/ledger.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"

#define MIB (UINT64_C(1) << 20)

static struct cabe_ledger *open_ledger(uint64_t host_bytes, const char *shared_dir)
{
    struct cabe_ledger_config config = {
        .n_devices = 2, .budget_bytes = {host_bytes, CABE_UNLIMITED}, .shared_dir = shared_dir};
    struct cabe_ledger *ledger;

    assert_int_equal(cabe_ledger_open(&ledger, &config, NULL), CABE_OK);
    return ledger;
}

static struct cabe_ledger_view read_view(const struct cabe_ledger *ledger)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(ledger, &view);
    return view;
}

static void reserve(struct cabe_ledger *ledger, int device, enum cabe_purpose purpose, uint64_t bytes,
                    const char *place)
{
    assert_int_equal(cabe_ledger_reserve(ledger, device, purpose, bytes, place, NULL), CABE_OK);
}

static void accounts_and_marks(void **state)
{
    struct cabe_ledger *ledger = open_ledger(100, NULL);
    struct cabe_ledger_view view;

    (void)state;
    reserve(ledger, CABE_HOST, CABE_PURPOSE_WEIGHTS, 60, "m");
    reserve(ledger, CABE_HOST, CABE_PURPOSE_KV, 30, "m");
    cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_KV, 10, "m");
    reserve(ledger, 1, CABE_PURPOSE_WEIGHTS, 1u << 30, "g");
    view = read_view(ledger);
    assert_int_equal(view.n_devices, 2);
    assert_int_equal(view.device[0].budget_bytes, 100);
    assert_int_equal(view.device[0].used_bytes, 80);
    assert_int_equal(view.device[0].high_bytes, 90);
    assert_int_equal(view.device[0].purpose_bytes[CABE_PURPOSE_KV], 20);
    assert_int_equal(view.device[0].purpose_high_bytes[CABE_PURPOSE_KV], 30);
    assert_int_equal(view.device[1].used_bytes, 1u << 30);
    assert_int_equal(cabe_ledger_free_bytes(ledger, 0), 20);
    assert_int_equal(cabe_ledger_free_bytes(ledger, 2), 0);
    cabe_ledger_mark(ledger);
    view = read_view(ledger);
    assert_int_equal(view.device[0].high_bytes, 80);
    assert_int_equal(view.device[0].purpose_high_bytes[CABE_PURPOSE_KV], 20);
    cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_WEIGHTS, 60, "m");
    cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_KV, 20, "m");
    cabe_ledger_release(ledger, 1, CABE_PURPOSE_WEIGHTS, 1u << 30, "g");
    assert_int_equal(read_view(ledger).device[0].used_bytes, 0);
    cabe_ledger_close(ledger);
    cabe_ledger_close(NULL);
}

static void refusals_say_what_is_missing(void **state)
{
    struct cabe_ledger *ledger = open_ledger(1000, NULL);
    struct cabe_error err;

    (void)state;
    reserve(ledger, CABE_HOST, CABE_PURPOSE_WEIGHTS, 700, "all-minilm-l6-v2");
    reserve(ledger, CABE_HOST, CABE_PURPOSE_CACHES, 200, "tokenizer");
    assert_int_equal(cabe_ledger_reserve(ledger, 0, CABE_PURPOSE_INDEX, 101, "story.idx", &err),
                     CABE_ERR_BUDGET);
    assert_int_equal(err.missing_bytes, 1);
    assert_string_equal(err.text,
                        "story.idx: index asks for 101 bytes of host memory; the budget is 1000, in use are "
                        "900: weights 700, caches 200; 1 bytes are missing");
    assert_int_equal(cabe_ledger_reserve(ledger, 0, CABE_PURPOSE_INDEX, UINT64_MAX, "x", &err),
                     CABE_ERR_BUDGET);
    assert_true(err.missing_bytes == UINT64_MAX - 100);
    assert_int_equal(cabe_ledger_reserve(ledger, 0, CABE_PURPOSE_INDEX, 101, "x", NULL), CABE_ERR_BUDGET);
    assert_int_equal(read_view(ledger).n_refused, 3);
    assert_int_equal(read_view(ledger).device[0].used_bytes, 900);
    reserve(ledger, CABE_HOST, CABE_PURPOSE_INDEX, 100, "x");
    reserve(ledger, CABE_HOST, CABE_PURPOSE_INDEX, 0, "x");

    /* Not even an unlimited device counts past 2^64. */
    reserve(ledger, 1, CABE_PURPOSE_KV, UINT64_MAX - 5, "y");
    assert_int_equal(cabe_ledger_reserve(ledger, 1, CABE_PURPOSE_KV, 6, "y", &err), CABE_ERR_BUDGET);

    assert_int_equal(cabe_ledger_reserve(ledger, 2, CABE_PURPOSE_KV, 1, "x", &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_ledger_reserve(ledger, -1, CABE_PURPOSE_KV, 1, "x", &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_ledger_reserve(ledger, 0, CABE_N_PURPOSES, 1, NULL, &err), CABE_ERR_ARGUMENT);
    cabe_ledger_close(ledger);
}

static void holders_by_place(void **state)
{
    struct cabe_ledger *ledger = open_ledger(CABE_UNLIMITED, NULL);
    struct cabe_ledger_holder top[4];
    char longest[80];

    (void)state;
    memset(longest, 'x', sizeof longest);
    memcpy(longest + 46, "\xC3\xA9", 3); /* the 47th byte begins a character of two */
    reserve(ledger, 0, CABE_PURPOSE_KV, 10, "a");
    reserve(ledger, 1, CABE_PURPOSE_KV, 20, "a");
    reserve(ledger, 0, CABE_PURPOSE_WEIGHTS, 30, "b");
    reserve(ledger, 0, CABE_PURPOSE_KV, 15, "a");
    reserve(ledger, 0, CABE_PURPOSE_KV, 5, longest);
    reserve(ledger, 0, CABE_PURPOSE_KV, 1, NULL);
    assert_int_equal(cabe_ledger_top(ledger, top, 4), 4);
    assert_string_equal(top[0].place, "b");
    assert_int_equal(top[1].bytes, 25);
    assert_int_equal(top[1].purpose, CABE_PURPOSE_KV);
    assert_int_equal(top[2].device, 1);
    assert_int_equal(strlen(top[3].place), 46);
    assert_int_equal(cabe_ledger_top(ledger, top, 1), 1);
    assert_string_equal(top[0].place, "b");
    assert_int_equal(cabe_ledger_top(ledger, top, 0), 0);
    cabe_ledger_release(ledger, 0, CABE_PURPOSE_WEIGHTS, 30, "b");
    assert_int_equal(cabe_ledger_top(ledger, top, 1), 1);
    assert_string_equal(top[0].place, "a");
    cabe_ledger_close(ledger);
}

/* More places than have names, in random order: the sums stay exact and everything can be given back. */
static void more_places_than_names(void **state)
{
    enum { N_PLACES = 2000, N_STEPS = 60000 };
    static uint64_t held[N_PLACES];
    static struct cabe_ledger_holder top[4096];
    struct cabe_ledger *ledger = open_ledger(CABE_UNLIMITED, NULL);
    uint64_t total = 0, listed = 0;
    size_t n;

    (void)state;
    srand(7);
    for (int step = 0; step < N_STEPS; step++) {
        int place = rand() % N_PLACES;
        uint64_t bytes = (uint64_t)(rand() % 100);
        char name[16];

        snprintf(name, sizeof name, "place-%d", place);
        if (rand() % 2 == 0) {
            reserve(ledger, place % 2, CABE_PURPOSE_KV, bytes, name);
            held[place] += bytes;
            total += bytes;
        } else {
            bytes = bytes < held[place] ? bytes : held[place];
            cabe_ledger_release(ledger, place % 2, CABE_PURPOSE_KV, bytes, name);
            held[place] -= bytes;
            total -= bytes;
        }
    }
    assert_true(read_view(ledger).device[0].used_bytes + read_view(ledger).device[1].used_bytes == total);
    n = cabe_ledger_top(ledger, top, 4096);
    assert_true(n > 500 && n <= 514);
    for (size_t i = 0; i < n; i++) {
        listed += top[i].bytes;
        assert_true(i == 0 || top[i].bytes <= top[i - 1].bytes);
    }
    assert_true(listed == total);
    for (int place = 0; place < N_PLACES; place++) {
        char name[16];

        snprintf(name, sizeof name, "place-%d", place);
        cabe_ledger_release(ledger, place % 2, CABE_PURPOSE_KV, held[place], name);
    }
    assert_int_equal(cabe_ledger_top(ledger, top, 10), 0);
    cabe_ledger_close(ledger);
}

#define BUDGET 3000 /* one thread alone would want more */
#define N_THREADS 4

struct worker {
    struct cabe_ledger *ledger;
    atomic_uint_fast64_t *granted; /* our own sum: raised after a grant, lowered before a release */
    unsigned seed;
    uint64_t n_granted, n_refused;
    int n_wrong;
};

static void *work(void *arg)
{
    struct worker *self = arg;
    uint64_t held[16] = {0};
    char name[16];

    for (int step = 0; step < 20000; step++) {
        int i = rand_r(&self->seed) % 16;
        uint64_t bytes = (uint64_t)(rand_r(&self->seed) % 1000) + 1;
        enum cabe_purpose purpose = (enum cabe_purpose)(i % CABE_N_PURPOSES);
        struct cabe_error err = {0};

        snprintf(name, sizeof name, "p%d", i);
        if (held[i] > 0) {
            atomic_fetch_sub(self->granted, held[i]);
            cabe_ledger_release(self->ledger, 0, purpose, held[i], name);
            held[i] = 0;
        } else if (cabe_ledger_reserve(self->ledger, 0, purpose, bytes, name, &err) == CABE_OK) {
            held[i] = bytes;
            self->n_wrong += atomic_fetch_add(self->granted, bytes) + bytes > BUDGET;
            self->n_granted++;
        } else {
            self->n_wrong += err.missing_bytes == 0 || err.missing_bytes > bytes;
            self->n_refused++;
        }
        if (step % 64 == 0) {
            struct cabe_ledger_view view = read_view(self->ledger);
            uint64_t sum = 0;

            for (int p = 0; p < CABE_N_PURPOSES; p++)
                sum += view.device[0].purpose_bytes[p];
            self->n_wrong +=
                sum != view.device[0].used_bytes || sum > BUDGET || view.device[0].high_bytes > BUDGET;
        }
    }
    for (int i = 0; i < 16; i++) {
        snprintf(name, sizeof name, "p%d", i);
        atomic_fetch_sub(self->granted, held[i]);
        cabe_ledger_release(self->ledger, 0, (enum cabe_purpose)(i % CABE_N_PURPOSES), held[i], name);
    }
    return NULL;
}

static void never_over_the_budget(void **state)
{
    struct cabe_ledger *ledger = open_ledger(BUDGET, NULL);
    atomic_uint_fast64_t granted = BUDGET / 8, in_share = 0;
    struct cabe_ledger *share;
    struct worker workers[N_THREADS];
    pthread_t threads[N_THREADS];
    uint64_t n_granted = 0, n_refused = 0;
    struct cabe_ledger_holder top[1];

    (void)state;
    assert_int_equal(cabe_ledger_open_share(&share, ledger, BUDGET / 8, "share", NULL), CABE_OK);
    for (int i = 0; i < N_THREADS; i++) {
        workers[i] = (struct worker){.ledger = i ? ledger : share, .granted = i ? &granted : &in_share, .seed = (unsigned)i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].n_wrong, 0);
        n_granted += workers[i].n_granted;
        n_refused += i ? workers[i].n_refused : 0; /* those of the share are its own */
    }
    assert_int_equal(read_view(share).n_refused, workers[0].n_refused);
    cabe_ledger_close(share);
    printf("granted %llu, refused %llu\n", (unsigned long long)n_granted, (unsigned long long)n_refused);
    assert_true(n_granted > 1000 && n_refused > 1000);
    assert_int_equal(read_view(ledger).n_refused, n_refused);
    assert_int_equal(read_view(ledger).device[0].used_bytes, 0);
    assert_int_equal(cabe_ledger_top(ledger, top, 1), 0);
    cabe_ledger_close(ledger);
}

static char folder[32];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/cabe-ledger-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    char command[80];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static uint64_t others(const struct cabe_ledger *ledger)
{
    return read_view(ledger).device[0].others_bytes;
}

struct child {
    pid_t pid;
    int go; /* a byte written here makes the child close its ledger and end */
};

/* A child that holds `bytes` until it is killed or told to go. */
static struct child hold_in_child(uint64_t bytes)
{
    int ready[2], go[2];
    struct child child;
    char byte = 0;

    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(go), 0);
    child.pid = fork();
    assert_true(child.pid >= 0);
    if (child.pid == 0) {
        struct cabe_ledger *ledger = open_ledger(CABE_UNLIMITED, folder);

        if (cabe_ledger_reserve(ledger, 0, CABE_PURPOSE_WEIGHTS, bytes, "child", NULL) != CABE_OK ||
            write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1)
            _exit(1);
        cabe_ledger_close(ledger);
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]), close(ready[1]), close(go[0]);
    child.go = go[1];
    return child;
}

static void shares_are_taken_at_once(void **state)
{
    struct cabe_ledger *ledger = open_ledger(1000, NULL), *share, *other;
    struct cabe_ledger_holder top[4];
    struct cabe_ledger_view view;
    struct cabe_error err;
    uint64_t now, high;

    (void)state;
    reserve(ledger, 0, CABE_PURPOSE_WEIGHTS, 300, "m");
    assert_int_equal(cabe_ledger_open_share(&share, ledger, 701, "analysis", &err), CABE_ERR_BUDGET);
    assert_null(share);
    assert_int_equal(err.missing_bytes, 1);
    assert_int_equal(cabe_ledger_open_share(&share, ledger, 400, "analysis", &err), CABE_OK);
    view = read_view(ledger);
    assert_int_equal(view.device[0].used_bytes, 700);
    assert_int_equal(view.device[0].purpose_bytes[CABE_PURPOSE_PROMISED], 400);

    /* What it takes stands under its own name, and the sum stays. */
    reserve(share, 0, CABE_PURPOSE_INDEX, 250, "rows");
    view = read_view(ledger);
    assert_int_equal(view.device[0].used_bytes, 700);
    assert_int_equal(view.device[0].high_bytes, 700);
    assert_int_equal(view.device[0].purpose_bytes[CABE_PURPOSE_PROMISED], 150);
    assert_int_equal(view.device[0].purpose_bytes[CABE_PURPOSE_INDEX], 250);
    assert_int_equal(cabe_ledger_top(ledger, top, 4), 3);
    assert_string_equal(top[1].place, "rows");
    assert_string_equal(top[2].place, "analysis");
    assert_int_equal(read_view(share).device[0].used_bytes, 250);
    assert_int_equal(cabe_ledger_free_bytes(share, 0), 150);
    assert_int_equal(cabe_ledger_reserve(share, 0, CABE_PURPOSE_INDEX, 151, "rows", &err), CABE_ERR_BUDGET);
    assert_int_equal(cabe_ledger_reserve(share, 1, CABE_PURPOSE_INDEX, 1, "rows", &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_ledger_reserve(ledger, 0, CABE_PURPOSE_KV, 301, "kv", &err), CABE_ERR_BUDGET);

    /* Beside it: what others hold, not what is only promised to them. */
    assert_int_equal(cabe_ledger_open_share(&other, ledger, 100, "another", &err), CABE_OK);
    cabe_ledger_beside(share, &now, &high);
    assert_true(now == 300 && high == 300);
    reserve(other, 0, CABE_PURPOSE_INDEX, 60, "rows");
    reserve(ledger, 0, CABE_PURPOSE_KV, 50, "kv");
    cabe_ledger_release(ledger, 0, CABE_PURPOSE_KV, 50, "kv");
    cabe_ledger_beside(share, &now, &high);
    assert_true(now == 360 && high == 410);
    cabe_ledger_beside(share, &now, &high);
    assert_int_equal(high, 360);
    cabe_ledger_beside(other, &now, &high);
    assert_int_equal(now, 550);

    cabe_ledger_shrink_share(share, 100);
    assert_int_equal(read_view(ledger).device[0].used_bytes, 700);
    cabe_ledger_shrink_share(share, 100); /* 50 were not taken */
    assert_int_equal(read_view(ledger).device[0].used_bytes, 650);
    cabe_ledger_release(share, 0, CABE_PURPOSE_INDEX, 250, "rows");
    assert_int_equal(read_view(ledger).device[0].used_bytes, 650);
    cabe_ledger_release(other, 0, CABE_PURPOSE_INDEX, 60, "rows");
    cabe_ledger_close(share);
    assert_int_equal(read_view(ledger).device[0].used_bytes, 400);
    cabe_ledger_close(other);
    cabe_ledger_release(ledger, 0, CABE_PURPOSE_WEIGHTS, 300, "m");
    assert_int_equal(read_view(ledger).device[0].used_bytes, 0);
    assert_int_equal(cabe_ledger_top(ledger, top, 4), 0);
    cabe_memory_fail_at(1);
    assert_int_equal(cabe_ledger_open_share(&share, ledger, 1, "analysis", &err), CABE_ERR_OOM);
    cabe_memory_fail_at(0);
    cabe_ledger_close(ledger);
}

static void other_processes_are_seen(void **state)
{
    struct cabe_ledger *ledger = open_ledger(1000, folder);
    struct child first, second, third;
    char byte = 0;

    (void)state;
    assert_int_equal(others(ledger), 0);
    first = hold_in_child(5 * MIB);
    assert_int_equal(others(ledger), 5 * MIB);
    second = hold_in_child(3 * MIB);
    third = hold_in_child(1000 * MIB); /* and touches none of it */
    assert_true(cabe_ledger_promised_bytes(folder) > 900 * MIB);
    assert_true(cabe_ledger_promised_bytes(folder) <= 1008 * MIB);
    kill(third.pid, SIGKILL);
    waitpid(third.pid, NULL, 0);
    close(third.go);
    assert_true(cabe_ledger_promised_bytes(folder) <= 8 * MIB);
    assert_int_equal(cabe_ledger_promised_bytes("/nonexistent"), 0);
    assert_int_equal(cabe_ledger_promised_bytes(NULL), 0);
    assert_int_equal(others(ledger), 8 * MIB);
    /* They are seen, not charged: the budget is this process's. */
    reserve(ledger, 0, CABE_PURPOSE_KV, 1000, "x");

    assert_int_equal(write(second.go, &byte, 1), 1);
    waitpid(second.pid, NULL, 0);
    assert_int_equal(others(ledger), 5 * MIB);
    kill(first.pid, SIGKILL);
    for (int i = 0; i < 1000 && others(ledger) != 0; i++) /* dead, and not yet waited for */
        usleep(1000);
    assert_int_equal(others(ledger), 0);
    waitpid(first.pid, NULL, 0);
    assert_int_equal(others(ledger), 0);
    close(first.go), close(second.go);
    cabe_ledger_close(ledger);
}

/* Far more processes than there are slots come and are killed: their slots are used again. */
static void slots_of_the_dead_are_taken(void **state)
{
    struct cabe_ledger *ledger = open_ledger(1000, folder);

    (void)state;
    for (int i = 0; i < 300; i++) {
        struct child child = hold_in_child(7);

        if (i % 50 == 49)
            assert_int_equal(others(ledger), 7);
        kill(child.pid, SIGKILL);
        waitpid(child.pid, NULL, 0);
        close(child.go);
    }
    assert_int_equal(others(ledger), 0);
    cabe_ledger_close(ledger);
}

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* Whatever lies at the registry's place, a ledger opens; where it can be put right, others are seen again. */
static void damaged_registries(void **state)
{
    static char noise[100000];
    char path[64];
    struct stat info;

    (void)state;
    snprintf(path, sizeof path, "%s/reservations-1", folder);
    for (int kind = 0; kind < 7; kind++) {
        struct cabe_ledger *ledger;
        struct child child;

        for (size_t i = 0; i < sizeof noise; i++)
            noise[i] = (char)rand();
        unlink(path);
        if (kind < 5)
            write_file(path, noise, (size_t[]){0, 1, 16, 20496, sizeof noise}[kind]);
        else if (kind == 5)
            assert_int_equal(symlink("/etc/passwd", path), 0);
        else
            assert_int_equal(mkfifo(path, 0600), 0);
        ledger = open_ledger(1000, folder);
        reserve(ledger, 0, CABE_PURPOSE_KV, 10, "x");
        child = hold_in_child(99);
        assert_int_equal(others(ledger), 99);
        kill(child.pid, SIGKILL);
        waitpid(child.pid, NULL, 0);
        close(child.go);
        cabe_ledger_close(ledger);
        assert_int_equal(lstat(path, &info), 0);
        assert_true(S_ISREG(info.st_mode));
    }
    /* A folder in its place cannot be put right: the ledger works and sees nobody. */
    unlink(path);
    mkdir(path, 0700);
    struct cabe_ledger *alone = open_ledger(1000, folder);
    reserve(alone, 0, CABE_PURPOSE_KV, 10, "x");
    assert_int_equal(others(alone), 0);
    cabe_ledger_close(alone);
    rmdir(path);
}

/* A sound header over noise: slots of processes that are not there count for nothing and are taken. */
static void noise_in_slots(void **state)
{
    char path[64];
    struct cabe_ledger *ledger = open_ledger(1000, folder);
    FILE *file;
    struct child child;

    (void)state;
    cabe_ledger_close(ledger);
    snprintf(path, sizeof path, "%s/reservations-1", folder);
    file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, 16, SEEK_SET);
    for (int i = 16; i < 16 + 128 * 160; i++)
        fputc(rand() | 1, file);
    fclose(file);
    ledger = open_ledger(1000, folder);
    assert_int_equal(others(ledger), 0);
    assert_int_equal(cabe_ledger_promised_bytes(folder), 0);
    child = hold_in_child(42);
    assert_int_equal(others(ledger), 42);
    kill(child.pid, SIGKILL);
    waitpid(child.pid, NULL, 0);
    close(child.go);
    cabe_ledger_close(ledger);
}

static void registry_lost_while_in_use(void **state)
{
    struct cabe_ledger *ledger = open_ledger(1000, folder);
    char path[64];

    (void)state;
    snprintf(path, sizeof path, "%s/reservations-1", folder);
    assert_int_equal(truncate(path, 0), 0);
    reserve(ledger, 0, CABE_PURPOSE_KV, 10, "x");
    assert_int_equal(others(ledger), 0);
    unlink(path);
    cabe_ledger_release(ledger, 0, CABE_PURPOSE_KV, 10, "x");
    assert_int_equal(read_view(ledger).device[0].used_bytes, 0);
    cabe_ledger_close(ledger);
}

static void useless_folders(void **state)
{
    static const char *const folders[] = {"/proc/nothing", "/dev/null", "/nonexistent/a/b", ""};

    (void)state;
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        struct cabe_ledger *ledger = open_ledger(1000, folders[i]);

        reserve(ledger, 0, CABE_PURPOSE_KV, 10, "x");
        assert_int_equal(others(ledger), 0);
        cabe_ledger_close(ledger);
    }
}

static void no_memory(void **state)
{
    struct cabe_ledger_config config = {.n_devices = 1, .budget_bytes = {1000}, .shared_dir = folder};
    struct cabe_ledger *ledger;
    struct cabe_error err;
    char path[64];

    (void)state;
    snprintf(path, sizeof path, "%s/reservations-1", folder);
    for (uint64_t n = 1; n <= 3; n++) { /* the ledger, the registry, the fresh file */
        unlink(path);
        cabe_memory_fail_at(n);
        assert_int_equal(cabe_ledger_open(&ledger, &config, &err), n == 1 ? CABE_ERR_OOM : CABE_OK);
        assert_true(n > 1 || !ledger);
        cabe_memory_fail_at(0);
        cabe_ledger_close(ledger);
    }
    config.n_devices = CABE_DEVICES_MAX + 1;
    assert_int_equal(cabe_ledger_open(&ledger, &config, &err), CABE_ERR_ARGUMENT);
    assert_null(ledger);
}

/* ---- what is touched ---- */

#define N_PAGES 64 /* fewer than would be one huge page */

/* `bytes` of KV on `device` that nobody has written to yet. */
static uint8_t *take_pages(struct cabe_ledger *ledger, int device, uint64_t bytes)
{
    void *pages;

    reserve(ledger, device, CABE_PURPOSE_KV, bytes, "kv");
    assert_int_equal(cabe_pages_map(&pages, bytes, 0, NULL), CABE_OK);
    if (bytes <= N_PAGES * cabe_pages_round(1)) /* neighbours of it could be made one huge page with it */
        (void)madvise(pages, bytes, MADV_NOHUGEPAGE);
    cabe_ledger_add_pages(ledger, device, CABE_PURPOSE_KV, pages, bytes);
    return pages;
}

static void give_pages(struct cabe_ledger *ledger, int device, uint8_t *pages, uint64_t bytes)
{
    cabe_ledger_remove_pages(ledger, pages);
    cabe_pages_unmap(pages, bytes);
    cabe_ledger_release(ledger, device, CABE_PURPOSE_KV, bytes, "kv");
}

static uint64_t touched_of(const struct cabe_ledger *ledger, int device, enum cabe_purpose purpose)
{
    struct cabe_ledger_touched touched;
    struct cabe_ledger_view view;

    cabe_ledger_read_touched(ledger, &view, &touched);
    for (int d = 0; d < view.n_devices; d++) {
        uint64_t sum = 0;

        for (int p = 0; p < CABE_N_PURPOSES; p++) {
            assert_true(touched.device[d].purpose_bytes[p] <= view.device[d].purpose_bytes[p]);
            sum += touched.device[d].purpose_bytes[p];
        }
        assert_int_equal(sum, touched.device[d].bytes);
    }
    return touched.device[device].purpose_bytes[purpose];
}

static int tells_pages(void)
{
    uint64_t bytes = 2 * cabe_pages_round(1);
    void *pages;
    int tells;

    assert_int_equal(cabe_pages_map(&pages, bytes, 0, NULL), CABE_OK);
    tells = cabe_pages_touched(pages, bytes) == 0;
    cabe_pages_unmap(pages, bytes);
    if (!tells)
        printf("skip: this system does not say which pages are there\n");
    return tells;
}

static void touched_is_what_was_written(void **state)
{
    const uint64_t page = cabe_pages_round(1), bytes = N_PAGES * page, many = 9 * MIB + page;
    struct cabe_ledger *ledger = open_ledger(CABE_UNLIMITED, NULL), *share;
    uint8_t *host, *device, *shared, *large;

    (void)state;
    if (!tells_pages()) {
        cabe_ledger_close(ledger);
        skip();
    }
    reserve(ledger, 0, CABE_PURPOSE_WEIGHTS, 1000, "m"); /* of nobody's pages: touched */
    reserve(ledger, 0, CABE_PURPOSE_KV, 500, "tables");
    host = take_pages(ledger, 0, bytes);
    device = take_pages(ledger, 1, bytes);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_WEIGHTS), 1000);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_KV), 500);
    assert_int_equal(touched_of(ledger, 1, CABE_PURPOSE_KV), 0);
    host[0] = host[5 * page] = host[bytes - 1] = 1;
    host[5 * page + 1] = 1;
    device[7] = 1;
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_KV), 500 + 3 * page);
    assert_int_equal(touched_of(ledger, 1, CABE_PURPOSE_KV), page);
    memset(host, 1, bytes);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_KV), 500 + bytes);
    give_pages(ledger, 1, device, bytes);
    assert_int_equal(touched_of(ledger, 1, CABE_PURPOSE_KV), 0);

    /* More than is asked for at once, huge pages and a tail. */
    large = take_pages(ledger, 1, many);
    assert_int_equal(touched_of(ledger, 1, CABE_PURPOSE_KV), 0);
    large[many - 1] = 1;
    assert_in_range(touched_of(ledger, 1, CABE_PURPOSE_KV), page, 2 * MIB);
    memset(large, 1, many);
    assert_int_equal(touched_of(ledger, 1, CABE_PURPOSE_KV), many);
    give_pages(ledger, 1, large, many);

    /* What is promised is nobody's yet; what a share takes is its parent's. */
    assert_int_equal(cabe_ledger_open_share(&share, ledger, 2 * bytes, "analysis", NULL), CABE_OK);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_PROMISED), 0);
    shared = take_pages(share, 0, bytes);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_KV), 500 + bytes);
    shared[0] = 1;
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_KV), 500 + bytes + page);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_PROMISED), 0);
    give_pages(share, 0, shared, bytes);
    cabe_ledger_close(share);

    /* Who names more than he holds hides nothing of others. */
    cabe_ledger_add_pages(ledger, 0, CABE_PURPOSE_INDEX, host, bytes);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_INDEX), 0);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_WEIGHTS), 1000);
    cabe_ledger_remove_pages(ledger, host);
    cabe_ledger_remove_pages(ledger, NULL);
    cabe_ledger_remove_pages(ledger, &page); /* never named */
    give_pages(ledger, 0, host, bytes);
    cabe_ledger_release(ledger, 0, CABE_PURPOSE_WEIGHTS, 1000, "m");
    cabe_ledger_release(ledger, 0, CABE_PURPOSE_KV, 500, "tables");
    cabe_ledger_close(ledger);
}

static void more_pages_than_places(void **state)
{
    enum { N = 1100 };
    const uint64_t page = cabe_pages_round(1);
    struct cabe_ledger *ledger = open_ledger(CABE_UNLIMITED, NULL);
    static uint8_t *pages[N];
    uint64_t touched;

    (void)state;
    if (!tells_pages()) {
        cabe_ledger_close(ledger);
        skip();
    }
    for (int i = 0; i < N; i++)
        pages[i] = take_pages(ledger, 0, page);
    touched = touched_of(ledger, 0, CABE_PURPOSE_KV); /* those there was no room for */
    assert_true(touched > 0 && touched < N * page);
    for (int i = 0; i < N; i++)
        give_pages(ledger, 0, pages[i], page);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_KV), 0);
    pages[0] = take_pages(ledger, 0, page);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_KV), 0);
    give_pages(ledger, 0, pages[0], page);
    cabe_ledger_close(ledger);
}

struct toucher {
    struct cabe_ledger *ledger;
    atomic_int *n_working;
};

static void *come_and_go(void *arg)
{
    struct toucher *self = arg;
    const uint64_t bytes = 8 * cabe_pages_round(1);

    for (int i = 0; i < 2000; i++) {
        uint8_t *pages;
        void *mapped;

        if (cabe_ledger_reserve(self->ledger, 0, CABE_PURPOSE_KV, bytes, "kv", NULL) != CABE_OK ||
            cabe_pages_map(&mapped, bytes, 0, NULL) != CABE_OK)
            abort();
        pages = mapped;
        cabe_ledger_add_pages(self->ledger, 0, CABE_PURPOSE_KV, pages, bytes);
        pages[(uint64_t)(i % 8) * cabe_pages_round(1)] = 1;
        give_pages(self->ledger, 0, pages, bytes);
    }
    atomic_fetch_sub(self->n_working, 1);
    return NULL;
}

/* Never more than is reserved, whoever comes and goes while it is read. */
static void touched_while_others_work(void **state)
{
    struct cabe_ledger *ledger = open_ledger(CABE_UNLIMITED, NULL);
    atomic_int n_working = N_THREADS;
    struct toucher toucher = {ledger, &n_working};
    pthread_t threads[N_THREADS];

    (void)state;
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &toucher), 0);
    while (atomic_load(&n_working) > 0)
        (void)touched_of(ledger, 0, CABE_PURPOSE_KV);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(touched_of(ledger, 0, CABE_PURPOSE_KV), 0);
    cabe_ledger_close(ledger);
}

static void how_long_it_takes(void **state)
{
    enum { N = 200000 };
    struct cabe_ledger *ledger = open_ledger(CABE_UNLIMITED, folder);
    uint64_t best_ns = UINT64_MAX;

    (void)state;
    for (int repeat = 0; repeat < 5; repeat++) {
        uint64_t start_ns = cabe_clock_ns();

        for (int i = 0; i < N; i++) {
            reserve(ledger, 0, CABE_PURPOSE_KV, 4096, "all-minilm-l6-v2");
            cabe_ledger_release(ledger, 0, CABE_PURPOSE_KV, 4096, "all-minilm-l6-v2");
        }
        if (cabe_clock_ns() - start_ns < best_ns)
            best_ns = cabe_clock_ns() - start_ns;
    }
    printf("reserve or release: %.0f ns\n", (double)best_ns / (2.0 * N));
    cabe_ledger_close(ledger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accounts_and_marks),
        cmocka_unit_test(refusals_say_what_is_missing),
        cmocka_unit_test(holders_by_place),
        cmocka_unit_test(more_places_than_names),
        cmocka_unit_test(shares_are_taken_at_once),
        cmocka_unit_test(never_over_the_budget),
        cmocka_unit_test(other_processes_are_seen),
        cmocka_unit_test(slots_of_the_dead_are_taken),
        cmocka_unit_test(damaged_registries),
        cmocka_unit_test(noise_in_slots),
        cmocka_unit_test(registry_lost_while_in_use),
        cmocka_unit_test(useless_folders),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(touched_is_what_was_written),
        cmocka_unit_test(more_pages_than_places),
        cmocka_unit_test(touched_while_others_work),
        cmocka_unit_test(how_long_it_takes),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
