#include "base/threads.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/turns.h"

/*
 * How long a wait spins before it sleeps. To sleep and be woken costs 50 us and more under a hypervisor, longer than
 * nearly all waits of a step of decoding, so a wait spins that long. Where the awaited member cannot run because this
 * one spins on its CPU, or where nothing comes for long, every wait spins in vain: after MISSES in a row they are short,
 * until one of them succeeds or TRUCE of them have passed. With more members than CPUs nobody spins at all.
 */
#define SPIN_NS 100000u
#define SPIN_NS_SHORT 2000u
#define MISSES 4
#define TRUCE 512

#define LINE 64

/* A word that changes when waiting is over; waiters spin on it, then sleep on it. */
struct gate {
    _Alignas(LINE) atomic_uint word;
    /* Raised before the sleep and read after the word changes, both seq_cst: one of the two sees the other.
     */
    atomic_uint n_asleep;
};

struct member {
    _Alignas(LINE) struct cabe_team *team;
    pthread_t thread;
    int number;
    unsigned start_misses, barrier_misses; /* the member's own: waits that spun in vain, since one did not */
};

struct cabe_team {
    int n_members;
    int n_started; /* members with a thread; the caller has none */
    int spins;
    atomic_int gives_way, nice; /* the first says that the second counts */

    void (*body)(struct cabe_team *team, int member, void *arg); /* NULL: the members end */
    void *arg;
    struct cabe_turn_order turns;

    struct gate start; /* opens once per region */
    struct gate phase; /* opens once per barrier */
    _Alignas(LINE) atomic_int n_arrived;
    _Alignas(LINE) atomic_int_fast64_t cursor; /* of the present loop of cabe_team_next */
    struct member member[];
};

static _Thread_local enum cabe_class own_class = CABE_CLASS_NORMAL;

enum cabe_class cabe_thread_class(enum cabe_class class_)
{
    enum cabe_class before = own_class;

    own_class = class_;
    return before;
}

static _Thread_local uint64_t own_wait_ns;
static _Thread_local int gives_way;

uint64_t cabe_thread_waited_ns(void)
{
    return own_wait_ns;
}

/* struct sched_attr as the kernel has it; the C library's headers may have it or not. */
struct slice_attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns; /* under SCHED_OTHER and SCHED_BATCH the first is the slice */
};

void cabe_thread_slice(uint64_t ns)
{
    struct slice_attributes attributes = {0};

    if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0 ||
        (attributes.policy != SCHED_OTHER && attributes.policy != SCHED_BATCH) || attributes.runtime_ns == ns)
        return;
    attributes.size = sizeof attributes;
    attributes.runtime_ns = ns;
    (void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static unsigned gate_read(const struct gate *gate)
{
    return atomic_load_explicit(&gate->word, memory_order_acquire);
}

static void gate_open(struct gate *gate)
{
    atomic_fetch_add_explicit(&gate->word, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&gate->n_asleep, memory_order_seq_cst) > 0)
        syscall(SYS_futex, &gate->word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static int gate_spin(const struct gate *gate, unsigned old, uint64_t spin_ns)
{
    uint64_t end_ns = cabe_clock_ns() + spin_ns;

    do {
        for (int i = 0; i < 32; i++) {
            if (gate_read(gate) != old)
                return 1;
            relax();
        }
    } while (cabe_clock_ns() < end_ns);
    return 0;
}

/* Returns when the word is no longer `old`; what was written before gate_open() is then visible. */
static void gate_wait(const struct cabe_team *team, struct gate *gate, unsigned old, unsigned *misses)
{
    if (team->spins) {
        if (gate_spin(gate, old, *misses < MISSES ? SPIN_NS : SPIN_NS_SHORT)) {
            *misses = 0;
            return;
        }
        *misses = *misses < MISSES + TRUCE ? *misses + 1 : 0;
    }
    atomic_fetch_add_explicit(&gate->n_asleep, 1, memory_order_seq_cst);
    while (gate_read(gate) == old)
        syscall(SYS_futex, &gate->word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub_explicit(&gate->n_asleep, 1, memory_order_relaxed);
}

void cabe_team_barrier_then(struct cabe_team *team, int member, void (*then)(void *arg), void *arg)
{
    unsigned phase = gate_read(&team->phase);

    /*
     * acq_rel: the last to arrive has seen what all the others wrote, and passes it on when it opens the
     * gate.
     */
    if (atomic_fetch_add_explicit(&team->n_arrived, 1, memory_order_acq_rel) < team->n_members - 1) {
        gate_wait(team, &team->phase, phase, &team->member[member].barrier_misses);
        return;
    }
    if (then)
        then(arg);
    atomic_store_explicit(&team->n_arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&team->cursor, 0, memory_order_relaxed);
    gate_open(&team->phase);
}

void cabe_team_barrier(struct cabe_team *team, int member)
{
    cabe_team_barrier_then(team, member, NULL, NULL);
}

int cabe_team_next(struct cabe_team *team, int64_t n, int64_t chunk, int64_t *begin, int64_t *end)
{
    int_fast64_t at = atomic_load_explicit(&team->cursor, memory_order_relaxed);
    int64_t next;

    assert(chunk > 0);
    /* Relaxed: chunks carry no data; barriers order what is written in them. The cursor never passes n. */
    do {
        if (at >= n)
            return 0;
        next = n - at > chunk ? at + chunk : n;
    } while (!atomic_compare_exchange_weak_explicit(&team->cursor, &at, next, memory_order_relaxed,
                                                    memory_order_relaxed));
    *begin = at;
    *end = next;
    return 1;
}

/* Of the calling thread, which is about to compute. */
static void give_way(const struct cabe_team *team)
{
    int nice;

    if (gives_way || !atomic_load_explicit(&team->gives_way, memory_order_acquire))
        return;
    gives_way = 1;
    cabe_thread_slice(CABE_SLICE_COMPUTE_NS);
    nice = atomic_load_explicit(&team->nice, memory_order_relaxed);
    if (getpriority(PRIO_PROCESS, 0) < nice) /* 0: on Linux, of this thread */
        (void)setpriority(PRIO_PROCESS, 0, nice);
}

void cabe_team_give_way(struct cabe_team *team)
{
    atomic_store_explicit(&team->nice, getpriority(PRIO_PROCESS, 0) + CABE_TEAM_NICE, memory_order_relaxed);
    atomic_store_explicit(&team->gives_way, 1, memory_order_release);
}

static void *member_main(void *arg)
{
    struct member *self = arg;
    struct cabe_team *team = self->team;
    unsigned seen = 0;

    for (;;) {
        gate_wait(team, &team->start, seen, &self->start_misses);
        seen++;
        if (!team->body)
            return NULL;
        give_way(team);
        team->body(team, self->number, team->arg);
        cabe_team_barrier(team, self->number);
    }
}

void cabe_team_run(struct cabe_team *team, void (*body)(struct cabe_team *team, int member, void *arg),
                   void *arg)
{
    give_way(team);
    own_wait_ns += cabe_turns_take(&team->turns, own_class);
    team->body = body;
    team->arg = arg;
    if (team->n_members > 1)
        gate_open(&team->start);
    body(team, 0, arg);
    cabe_team_barrier(team, 0);
    cabe_turns_give(&team->turns);
}

void cabe_team_turns(struct cabe_team *team, struct cabe_turns counts[CABE_N_CLASSES])
{
    pthread_mutex_lock(&team->turns.lock);
    for (int c = 0; c < CABE_N_CLASSES; c++)
        counts[c] = team->turns.by_class[c].counts;
    pthread_mutex_unlock(&team->turns.lock);
}

/* Members leave signals to the program's own threads, except those that the member itself causes. */
static void block_signals(sigset_t *before)
{
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGPROF};
    sigset_t set;

    sigfillset(&set);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        sigdelset(&set, own[i]);
    pthread_sigmask(SIG_BLOCK, &set, before);
}

static enum cabe_status start_members(struct cabe_team *team, struct cabe_error *err)
{
    pthread_attr_t attributes;
    sigset_t before;
    int error = pthread_attr_init(&attributes);
    int number;

    if (error)
        return cabe_fail_errno(err, error, "attributes of the team's threads");
    pthread_attr_setstacksize(&attributes, CABE_TEAM_STACK_BYTES);
    block_signals(&before);
    for (number = 1; number < team->n_members && !error; number++) {
        struct member *member = &team->member[number];
        char name[16];

        error = pthread_create(&member->thread, &attributes, member_main, member);
        if (error)
            break;
        team->n_started++;
        snprintf(name, sizeof name, "cabe-%d", number);
        pthread_setname_np(member->thread, name);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error) /* EAGAIN: a limit on threads or memory; both are the system's refusal */
        return cabe_fail(err, CABE_ERR_OOM, "the system refused thread %d of %d (%u bytes of stack each)",
                         number, team->n_members - 1, CABE_TEAM_STACK_BYTES);
    return CABE_OK;
}

enum cabe_status cabe_team_open(struct cabe_team **out, int n_members, struct cabe_error *err)
{
    struct cabe_team *team;
    enum cabe_status status;
    size_t bytes;
    cpu_set_t cpus;

    *out = NULL;
    if (n_members < 1 || n_members > CABE_TEAM_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "threads: %d, wanted 1 to %d", n_members, CABE_TEAM_MAX);
    bytes = sizeof *team + (size_t)n_members * sizeof team->member[0];
    team = cabe_aligned_alloc(LINE, bytes);
    if (!team)
        return cabe_fail(err, CABE_ERR_OOM, "thread team: %zu bytes", bytes);
    *team = (struct cabe_team){.n_members = n_members};
    cabe_turns_open(&team->turns);
    /* A machine with more CPUs than the set holds makes the call fail: then there is no shortage of them. */
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0 || CPU_COUNT(&cpus) >= n_members)
        team->spins = 1;
    for (int i = 0; i < n_members; i++)
        team->member[i] = (struct member){.team = team, .number = i};
    status = start_members(team, err);
    if (status != CABE_OK) {
        cabe_team_close(team);
        return status;
    }
    *out = team;
    return CABE_OK;
}

void cabe_team_close(struct cabe_team *team)
{
    if (!team)
        return;
    team->body = NULL;
    gate_open(&team->start);
    for (int i = 1; i <= team->n_started; i++)
        pthread_join(team->member[i].thread, NULL);
    cabe_turns_close(&team->turns);
    cabe_free(team);
}

int cabe_team_size(const struct cabe_team *team)
{
    return team->n_members;
}
