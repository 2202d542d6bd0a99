/* Steps of products. */
#include "device/exec_impl.h"

struct products { /* that a step does at once, their tiles numbered through */
    struct cabe_matmul mm[CABE_STEP_MATMULS];
    struct cabe_matmul_plan plan[CABE_STEP_MATMULS];
    int64_t end[CABE_STEP_MATMULS]; /* tiles up to and with this one */
    int n;
};

static void describe_products(const struct cabe_exec *exec, const struct cabe_step *step, struct products *p)
{
    int64_t tiles = 0;

    p->n = step->n_nodes;
    for (int i = 0; i < p->n; i++) {
        describe_matmul(exec, &exec->program->nodes[step->node + i], &p->mm[i]);
        cabe_matmul_cut(exec->kernels, &p->mm[i], &p->plan[i]);
        p->end[i] = tiles += p->plan[i].n_row_blocks * p->plan[i].n_groups;
    }
}

static void run_tiles(const struct cabe_exec *exec, int member, const struct products *p, int64_t begin, int64_t end)
{
    const uint8_t *shared = exec->program->block->host + exec->program->placing.shared;
    int64_t first = 0;

    for (int i = 0; i < p->n; first = p->end[i++])
        if (begin < p->end[i] && end > first)
            cabe_matmul_run_cut(exec->kernels, &p->mm[i], &p->plan[i], shared, member_scratch(exec, member),
                                (begin > first ? begin : first) - first, (end < p->end[i] ? end : p->end[i]) - first);
}

/*
 * Few rows: every member reads a run of weights of its own, which memory likes, and then takes from the others what
 * they have not begun.
 */
static void run_own(const struct cabe_exec *exec, int member, const struct products *p)
{
    const int64_t tiles = p->end[p->n - 1], n = exec->n_members;

    for (int64_t i = 0; i < n; i++) {
        int64_t owner = (member + i) % n, first = tiles * owner / n, begin, end;

        while (exec_take(&exec->taken[owner], tiles * (owner + 1) / n - first, &begin, &end))
            run_tiles(exec, member, p, first + begin, first + end);
    }
}

void cabe_exec_matmul(const struct cabe_exec *exec, struct cabe_team *team, int member, const struct cabe_step *step)
{
    int64_t tiles, chunk, begin, end;
    struct products p;

    describe_products(exec, step, &p);
    if (p.mm[0].t <= CABE_MATMUL_OWN) {
        run_own(exec, member, &p);
        return;
    }
    tiles = p.end[p.n - 1];
    chunk = 1 + tiles / ((int64_t)CHUNKS_A_MEMBER * exec->n_members);
    while (cabe_team_next(team, tiles, chunk, &begin, &end))
        run_tiles(exec, member, &p, begin, end);
}
