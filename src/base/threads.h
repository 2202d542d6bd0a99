/*
 * The thread team: one parallel region per graph run, barriers inside it, no wake-up per operation.
 *
 * Members wait at a barrier by spinning for a short, bounded time and then sleeping, so that two processes on
 * two cores do not destroy each other. The caller of run() is member 0.
 *
 * Threads that want the team at the same time take turns, a region each: by the classes of the threads, the time that a
 * class has used of the team against its weight; first in, first out within a class. A class that comes back at once
 * after its region (an engine between two steps) is waited for, CABE_TURN_PAUSE_NS at most, before one goes that has had
 * more than its share. Who has waited for CABE_TURN_AGE_NS goes next, whatever its class. So a region waits for the one
 * that runs, and at most that long, and for those that are as old as itself.
 *
 * Thread: run() and stats from any, but not inside a region; open and close by its owner. Results must not depend on
 * n_members.
 */
#ifndef CABE_BASE_THREADS_H
#define CABE_BASE_THREADS_H

#include <stdint.h>

#include "base/class.h"
#include "cabe/status.h"

struct cabe_team;

#define CABE_TEAM_MAX 256
#define CABE_TEAM_STACK_BYTES (256u * 1024u) /* of each member but the caller */

/* 1 <= n_members <= CABE_TEAM_MAX. */
CABE_CHECKED enum cabe_status cabe_team_open(struct cabe_team **out, int n_members, struct cabe_error *err);
void cabe_team_close(struct cabe_team *team); /* NULL is fine */
int cabe_team_size(const struct cabe_team *team);

/* Of what the calling thread does from here on; NORMAL at first. Returns what it was before. */
enum cabe_class cabe_thread_class(enum cabe_class class_);

/*
 * Asks the system for turns of the CPU of about so many ns for the calling thread and those that it makes. Whoever asks
 * for shorter turns goes at once when it wakes and has had no more than its share; its share is not changed by it. Where
 * the system has no such thing (Linux before 6.12) or forbids it, nothing changes.
 */
void cabe_thread_slice(uint64_t ns);
#define CABE_SLICE_ANSWER_NS UINT64_C(100000)
#define CABE_SLICE_COMPUTE_NS UINT64_C(20000000)
/*
 * The process answers while it computes: from their next region on the members, and who runs one, leave the CPU as soon as
 * another thread wakes, by long turns and a little less weight; that one has just run itself, and would else wait for the
 * system's next tick. Weight counts within a session or control group: what other programs there compute has precedence.
 */
void cabe_team_give_way(struct cabe_team *team);
#define CABE_TEAM_NICE 5

#define CABE_TURN_AGE_NS UINT64_C(2000000000)
#define CABE_TURN_PAUSE_NS UINT64_C(1000000)
/* How long the calling thread has waited for its turns since it began, on all teams. */
uint64_t cabe_thread_waited_ns(void);

struct cabe_turns { /* of one class on one team, since it was opened */
    uint64_t n_turns, n_waits; /* regions; of them, those that waited for another thread's */
    uint64_t used_ns, wait_ns, wait_max_ns;
    int n_waiting; /* now */
};
void cabe_team_turns(struct cabe_team *team, struct cabe_turns turns[CABE_N_CLASSES]);

/*
 * Waits for its turn, calls `body(team, member, arg)` once on every member, 0 <= member < size, and returns when all
 * have returned.
 */
void cabe_team_run(struct cabe_team *team, void (*body)(struct cabe_team *team, int member, void *arg),
                   void *arg);

/* Inside a region: returns when every member has arrived; what they wrote before is then visible to all. */
void cabe_team_barrier(struct cabe_team *team, int member);
/*
 * The same, and the last to arrive calls `then(arg)` first: what is too little to be shared out, between what is. All
 * members pass the same `then` and `arg`.
 */
void cabe_team_barrier_then(struct cabe_team *team, int member, void (*then)(void *arg), void *arg);

/*
 * Inside a region: hands out chunks of 0..n-1 on first come, first served. Every member calls it with the
 * same `n` and `chunk` until it returns 0, then all must pass a barrier before the next loop.
 */
int cabe_team_next(struct cabe_team *team, int64_t n, int64_t chunk, int64_t *begin, int64_t *end);

#endif
