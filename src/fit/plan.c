#include "fit/plan.h"

#include <inttypes.h>
#include <string.h>

#include "fit/seconds.h"
#include "tensor/pages.h"

static const char *const knob_names[] = {
#define X(symbol, name) name,
    CABE_KNOB_MAP(X)
#undef X
};

const char *cabe_knob_name(enum cabe_knob knob)
{
    return (unsigned)knob < CABE_N_KNOBS ? knob_names[knob] : "preferred";
}

const char *cabe_knob_text(enum cabe_knob knob, int64_t value, char out[CABE_KNOB_TEXT_MAX])
{
    switch (knob) {
    case CABE_KNOB_ROWS:
    case CABE_KNOB_DTYPE:
        snprintf(out, CABE_KNOB_TEXT_MAX, "%s", cabe_dtype_name((enum cabe_dtype)value));
        break;
    case CABE_KNOB_KV:
        snprintf(out, CABE_KNOB_TEXT_MAX, "%s", cabe_kv_format_name((enum cabe_kv_format)value));
        break;
    case CABE_KNOB_PRECISION:
        snprintf(out, CABE_KNOB_TEXT_MAX, "%s", value == CABE_PRECISION_HIGH ? "high" : "int8");
        break;
    case CABE_KNOB_STREAM:
        if (value == 0)
            snprintf(out, CABE_KNOB_TEXT_MAX, "no");
        else
            snprintf(out, CABE_KNOB_TEXT_MAX, "%" PRId64 " segments", value);
        break;
    default:
        snprintf(out, CABE_KNOB_TEXT_MAX, "%" PRId64, value);
    }
    return out;
}

/* Whether a task with these knobs looks at this one. */
static int knob_matters(const struct cabe_knobs *knobs, enum cabe_knob knob)
{
    switch (knob) {
    case CABE_KNOB_CONTEXT:
    case CABE_KNOB_SEQUENCES:
    case CABE_KNOB_KV:
        return knobs->value[CABE_KNOB_CONTEXT] > 0;
    case CABE_KNOB_CHUNK:
    case CABE_KNOB_ROWS:
        return knobs->value[CABE_KNOB_CHUNK] > 0;
    default:
        return 1;
    }
}

static uint64_t add_sat(uint64_t a, uint64_t b)
{
    uint64_t sum;

    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

void cabe_fit_add(struct cabe_fit_bytes *sum, const struct cabe_fit_bytes *more)
{
    for (int d = 0; d < CABE_DEVICES_MAX; d++)
        for (int p = 0; p < CABE_N_PURPOSES; p++)
            sum->bytes[d][p] = add_sat(sum->bytes[d][p], more->bytes[d][p]);
}

uint64_t cabe_fit_total(const struct cabe_fit_bytes *sum, int device)
{
    uint64_t total = 0;

    for (int p = 0; p < CABE_N_PURPOSES; p++)
        total = add_sat(total, sum->bytes[device][p]);
    return total;
}

/* ---- one set of knobs: the phases and their bytes ---- */

struct pass { /* what measuring a task under one set of knobs needs */
    const struct cabe_fit_task *task;
    const struct cabe_machine *machine;
    int n_threads;
    struct cabe_plan *plan;
    struct cabe_fit_bytes kept;
    struct cabe_fit_bytes resident[CABE_FIT_COMPONENTS_MAX];
    uint32_t loaded; /* bit i: component i is resident */
    struct cabe_error *err;
};

static struct cabe_plan_phase *add_phase(struct pass *pass, const char *name, const char *suffix)
{
    struct cabe_plan_phase *phase = &pass->plan->phase[pass->plan->n_phases++];

    memset(phase, 0, sizeof *phase);
    snprintf(phase->name, sizeof phase->name, "%s%s", name, suffix);
    phase->bytes = pass->task->always;
    cabe_fit_add(&phase->bytes, &pass->kept);
    for (int i = 0; i < pass->task->n_components; i++)
        if (pass->loaded >> i & 1)
            cabe_fit_add(&phase->bytes, &pass->resident[i]);
    return phase;
}

static enum cabe_status load_phase(struct pass *pass, int index)
{
    const struct cabe_fit_component *component = &pass->task->component[index];
    struct cabe_fit_bytes loading = {0};
    struct cabe_plan_phase *phase;
    enum cabe_status status;

    memset(&pass->resident[index], 0, sizeof pass->resident[index]);
    status = component->measure(component->self, &pass->plan->knobs, &pass->resident[index], &loading, pass->err);
    if (status != CABE_OK)
        return cabe_fail_in(pass->err, status, "%s", component->name);
    pass->loaded |= UINT32_C(1) << index;
    phase = add_phase(pass, component->name, "_load");
    cabe_fit_add(&phase->bytes, &loading);
    return CABE_OK;
}

static enum cabe_status stage_phase(struct pass *pass, int index)
{
    const struct cabe_fit_stage *stage = &pass->task->stage[index];
    struct cabe_fit_bytes working = {0}, kept = {0};
    struct cabe_graph_work work;
    struct cabe_plan_phase *phase;
    enum cabe_status status;

    memset(&work, 0, sizeof work);
    for (int i = 0; i < pass->task->n_components; i++)
        if ((stage->components >> i & 1) && !(pass->loaded >> i & 1)) {
            status = load_phase(pass, i);
            if (status != CABE_OK)
                return status;
        }
    status = stage->measure(stage->self, &pass->plan->knobs, &working, &kept, &work, pass->err);
    if (status != CABE_OK)
        return cabe_fail_in(pass->err, status, "%s", stage->name);
    cabe_fit_add(&pass->kept, &kept);
    phase = add_phase(pass, stage->name, "");
    cabe_fit_add(&phase->bytes, &working);
    phase->seconds = pass->machine ? cabe_fit_seconds(pass->machine, pass->n_threads, &work) : 0;
    for (int i = 0; i < pass->task->n_components; i++) { /* after their last stage components go */
        int later = 0;

        for (int s = index + 1; s < pass->task->n_stages; s++)
            later |= (int)(pass->task->stage[s].components >> i & 1);
        if (!later)
            pass->loaded &= ~(UINT32_C(1) << i);
    }
    return CABE_OK;
}

/* Fills phases and peaks for the knobs in the plan. */
static enum cabe_status measure(struct cabe_plan *plan, const struct cabe_fit_task *task,
                                const struct cabe_machine *machine, int n_threads, struct cabe_error *err)
{
    struct pass pass = {.task = task, .machine = machine, .n_threads = n_threads, .plan = plan, .err = err};

    plan->n_phases = 0;
    for (int s = 0; s < task->n_stages; s++) {
        enum cabe_status status = stage_phase(&pass, s);

        if (status != CABE_OK)
            return status;
    }
    plan->fits = 1;
    plan->missing_bytes = 0;
    for (int d = 0; d < plan->n_devices; d++) {
        plan->peak_bytes[d] = 0;
        for (int i = 0; i < plan->n_phases; i++) {
            uint64_t total = cabe_fit_total(&plan->phase[i].bytes, d);

            plan->peak_bytes[d] = total > plan->peak_bytes[d] ? total : plan->peak_bytes[d];
        }
        if (plan->peak_bytes[d] > plan->budget_bytes[d]) {
            uint64_t missing = plan->peak_bytes[d] - plan->budget_bytes[d];

            plan->fits = 0;
            if (missing > plan->missing_bytes) {
                plan->missing_bytes = missing;
                plan->worst_device = d;
            }
        }
    }
    return CABE_OK;
}

/* ---- the ladder ---- */

static void note_rung(struct cabe_plan *plan, enum cabe_knob knob, int64_t from, int64_t to, const char *why)
{
    struct cabe_plan_rung *rung = &plan->rung[plan->n_rungs++];

    rung->knob = knob;
    rung->from = from;
    rung->to = to;
    memcpy(rung->peak_bytes, plan->peak_bytes, sizeof rung->peak_bytes);
    rung->verdict = plan->fits ? CABE_RUNG_FITS : CABE_RUNG_TOO_BIG;
    rung->why = why;
}

static void say_smallest_change(struct cabe_plan *plan, const struct cabe_fit_task *task,
                                const struct cabe_machine *machine, int n_threads)
{
    uint64_t need = plan->peak_bytes[plan->worst_device];
    struct cabe_plan freed = *plan;
    struct cabe_error ignored;

    plan->smallest_budget_bytes = need;
    snprintf(plan->smallest_change, sizeof plan->smallest_change, "--memory %" PRIu64 "K (%.1f MiB more)",
             (need + 1023) / 1024, (double)plan->missing_bytes / 1048576.0);
    if (!task->pinned)
        return;
    /* Would it fit with what the person fixed given free? One knob at a time, its last rung. */
    for (int i = task->n_steps - 1; i >= 0; i--) {
        const struct cabe_fit_step *step = &task->step[i];
        char text[CABE_KNOB_TEXT_MAX];

        if (!(task->pinned >> step->knob & 1))
            continue;
        freed.knobs = plan->knobs;
        freed.knobs.value[step->knob] = step->value;
        if (measure(&freed, task, machine, n_threads, &ignored) != CABE_OK || !freed.fits)
            continue;
        snprintf(plan->smallest_change, sizeof plan->smallest_change, "%s %s instead of the %s asked for",
                 cabe_knob_name(step->knob), cabe_knob_text(step->knob, step->value, text),
                 cabe_knob_name(step->knob));
        return;
    }
}

/*
 * The last rung often frees more than was missing. What was given up before it is taken back, the last first, as far
 * as there is room: the plan is then no worse than the budget makes it.
 */
static enum cabe_status take_back(struct cabe_plan *plan, const struct cabe_fit_task *task, uint32_t knobs,
                                  const struct cabe_machine *machine, int n_threads, struct cabe_error *err)
{
    for (int i = plan->n_rungs - 2; i > 0; i--) {
        struct cabe_plan_rung turned = plan->rung[i];
        int64_t now = plan->knobs.value[turned.knob];
        enum cabe_status status;

        if (turned.verdict != CABE_RUNG_TOO_BIG || now != turned.to || !(knobs >> turned.knob & 1))
            continue;
        plan->knobs.value[turned.knob] = turned.from;
        status = measure(plan, task, machine, n_threads, err);
        if (status != CABE_OK)
            return status;
        note_rung(plan, turned.knob, now, turned.from, "taken back, as far as there is room");
        if (!plan->fits)
            plan->knobs.value[turned.knob] = now;
    }
    return plan->fits ? CABE_OK : measure(plan, task, machine, n_threads, err);
}

/* The least value of the knob that fits, above `low`, which does not; that of the plan does. */
static enum cabe_status search(struct cabe_plan *plan, const struct cabe_fit_task *task, enum cabe_knob knob, int64_t low,
                               const struct cabe_machine *machine, int n_threads, struct cabe_error *err)
{
    int64_t given = plan->knobs.value[knob], high = given;
    enum cabe_status status = CABE_OK;

    while (high - low > 1 && status == CABE_OK) {
        plan->knobs.value[knob] = low + (high - low) / 2;
        status = measure(plan, task, machine, n_threads, err);
        *(plan->fits ? &high : &low) = plan->knobs.value[knob];
    }
    plan->knobs.value[knob] = high;
    if (status == CABE_OK)
        status = measure(plan, task, machine, n_threads, err);
    if (status == CABE_OK && high != given)
        note_rung(plan, knob, given, high, "as few as the room wants");
    return status;
}

/* What the rung that fits, the last, makes room for. */
static enum cabe_status use_room(struct cabe_plan *plan, const struct cabe_fit_task *task,
                                 const struct cabe_machine *machine, int n_threads, struct cabe_error *err)
{
    struct cabe_plan_rung last = plan->rung[plan->n_rungs - 1];
    uint32_t all = (UINT32_C(1) << CABE_N_KNOBS) - 1, dear = 0;
    enum cabe_status status = CABE_OK;

    if (plan->n_rungs > 1 && (task->searched >> last.knob & 1)) {
        dear = task->dear;
        status = take_back(plan, task, dear, machine, n_threads, err);
        if (status == CABE_OK)
            status = search(plan, task, last.knob, last.from, machine, n_threads, err);
    }
    return status == CABE_OK ? take_back(plan, task, all & ~dear, machine, n_threads, err) : status;
}

enum cabe_status cabe_plan_make(struct cabe_plan *plan, const struct cabe_fit_task *task,
                                const uint64_t *budget_bytes, int n_devices, const struct cabe_machine *machine,
                                int n_threads, struct cabe_error *err)
{
    enum cabe_status status;

    memset(plan, 0, sizeof *plan);
    plan->task = task->name;
    plan->n_devices = n_devices;
    plan->n_segments = task->n_segments;
    plan->knobs = task->preferred;
    for (int d = 0; d < n_devices; d++)
        plan->budget_bytes[d] = budget_bytes[d];
    status = measure(plan, task, machine, n_threads, err);
    if (status != CABE_OK)
        return status;
    note_rung(plan, CABE_N_KNOBS, 0, 0, "what is preferred where memory allows");
    for (int i = 0; i < task->n_steps && !plan->fits; i++) {
        const struct cabe_fit_step *step = &task->step[i];
        int64_t from = plan->knobs.value[step->knob];
        uint64_t before = plan->peak_bytes[plan->worst_device];

        if (from == step->value)
            continue;
        if (task->pinned >> step->knob & 1) {
            note_rung(plan, step->knob, from, step->value, step->why);
            plan->rung[plan->n_rungs - 1].verdict = CABE_RUNG_PINNED;
            continue;
        }
        plan->knobs.value[step->knob] = step->value;
        status = measure(plan, task, machine, n_threads, err);
        if (status != CABE_OK)
            return status;
        note_rung(plan, step->knob, from, step->value, step->why);
        if (!plan->fits && plan->peak_bytes[plan->worst_device] >= before) {
            /* Turned back: it would cost something and give nothing. */
            plan->rung[plan->n_rungs - 1].verdict = CABE_RUNG_NO_GAIN;
            plan->knobs.value[step->knob] = from;
            status = measure(plan, task, machine, n_threads, err);
            if (status != CABE_OK)
                return status;
        }
    }
    if (plan->fits)
        return use_room(plan, task, machine, n_threads, err);
    say_smallest_change(plan, task, machine, n_threads);
    return CABE_OK;
}

enum cabe_status cabe_plan_refuse(const struct cabe_plan *plan, struct cabe_error *err)
{
    int d = plan->worst_device;
    enum cabe_status status;

    if (plan->fits)
        return CABE_OK;
    status = cabe_fail(err, CABE_ERR_BUDGET,
                       "%s does not fit: needs %" PRIu64 " bytes, the budget is %" PRIu64 ", %" PRIu64
                       " are missing; smallest change: %s",
                       plan->task, plan->peak_bytes[d], plan->budget_bytes[d], plan->missing_bytes,
                       plan->smallest_change);
    if (err)
        err->missing_bytes = plan->missing_bytes;
    return status;
}

const struct cabe_plan_phase *cabe_plan_phase_find(const struct cabe_plan *plan, const char *name)
{
    for (int i = 0; i < plan->n_phases; i++)
        if (strcmp(plan->phase[i].name, name) == 0)
            return &plan->phase[i];
    return NULL;
}

uint64_t cabe_plan_phase_bytes(const struct cabe_plan *plan, const char *name)
{
    const struct cabe_plan_phase *phase = cabe_plan_phase_find(plan, name);
    uint64_t sum = 0;

    for (int d = 0; phase && d < plan->n_devices; d++)
        sum = add_sat(sum, cabe_fit_total(&phase->bytes, d));
    return sum;
}

/* ---- words ---- */

static const char *verdict_name(int verdict)
{
    static const char *const names[] = {"fits", "too big", "fixed by the person", "no gain, turned back"};

    return names[verdict];
}

static json_t *purposes_json(const struct cabe_fit_bytes *bytes, int device)
{
    json_t *purposes = json_object();

    for (int p = 0; p < CABE_N_PURPOSES; p++)
        if (bytes->bytes[device][p])
            json_object_set_new(purposes, cabe_purpose_name((enum cabe_purpose)p),
                                json_integer((json_int_t)bytes->bytes[device][p]));
    return purposes;
}

static json_t *phase_json(const struct cabe_plan *plan, const struct cabe_plan_phase *phase)
{
    json_t *devices = json_array(), *json;

    for (int d = 0; d < plan->n_devices; d++)
        json_array_append_new(devices,
                              json_pack("{s:i,s:I,s:o}", "device", d, "peak_bytes",
                                        (json_int_t)cabe_fit_total(&phase->bytes, d), "by_purpose",
                                        purposes_json(&phase->bytes, d)));
    json = json_pack("{s:s,s:I,s:o}", "name", phase->name, "peak_bytes",
                     (json_int_t)cabe_fit_total(&phase->bytes, CABE_HOST), "devices", devices);
    json_object_set_new(json, "seconds", phase->seconds > 0 ? json_real(phase->seconds) : json_null());
    return json;
}

static json_t *knob_json(enum cabe_knob knob, int64_t value)
{
    char text[CABE_KNOB_TEXT_MAX];

    if (knob == CABE_KNOB_BATCH || knob == CABE_KNOB_CHUNK || knob == CABE_KNOB_CONTEXT || knob == CABE_KNOB_SEQUENCES)
        return json_integer((json_int_t)value);
    if (knob == CABE_KNOB_STREAM)
        return json_boolean(value);
    return json_string(cabe_knob_text(knob, value, text));
}

static json_t *rung_json(const struct cabe_plan *plan, const struct cabe_plan_rung *rung)
{
    json_t *json = json_pack("{s:s,s:s,s:I,s:s}", "knob", cabe_knob_name(rung->knob), "verdict",
                             verdict_name((int)rung->verdict), "peak_bytes", (json_int_t)rung->peak_bytes[plan->worst_device],
                             "why", rung->why);

    if (rung->knob < CABE_N_KNOBS) {
        json_object_set_new(json, "from", knob_json(rung->knob, rung->from));
        json_object_set_new(json, "to", knob_json(rung->knob, rung->to));
    }
    return json;
}

json_t *cabe_knobs_json(const struct cabe_knobs *knobs)
{
    json_t *json = json_object();

    for (int k = 0; k < CABE_N_KNOBS; k++)
        if (knob_matters(knobs, (enum cabe_knob)k))
            json_object_set_new(json, knob_names[k], knob_json((enum cabe_knob)k, knobs->value[k]));
    return json;
}

json_t *cabe_plan_json(const struct cabe_plan *plan)
{
    json_t *knobs = cabe_knobs_json(&plan->knobs), *phases = json_array(), *rungs = json_array(), *json;
    double seconds = 0;

    if (plan->n_segments > 0)
        json_object_set_new(knobs, "streamed_segments", json_integer((json_int_t)plan->knobs.value[CABE_KNOB_STREAM]));
    for (int i = 0; i < plan->n_phases; i++) {
        json_array_append_new(phases, phase_json(plan, &plan->phase[i]));
        seconds += plan->phase[i].seconds;
    }
    for (int i = 0; i < plan->n_rungs; i++)
        json_array_append_new(rungs, rung_json(plan, &plan->rung[i]));
    json = json_pack("{s:s,s:b,s:I,s:I,s:o,s:o,s:o}", "task", plan->task, "fits", plan->fits, "budget_bytes",
                     (json_int_t)plan->budget_bytes[CABE_HOST], "peak_bytes", (json_int_t)plan->peak_bytes[CABE_HOST],
                     "settings", knobs, "phases", phases, "ladder", rungs);
    json_object_set_new(json, "seconds", seconds > 0 ? json_real(seconds) : json_null());
    if (!plan->fits) {
        json_object_set_new(json, "missing_bytes", json_integer((json_int_t)plan->missing_bytes));
        json_object_set_new(json, "smallest_change", json_string(plan->smallest_change));
        json_object_set_new(json, "smallest_budget_bytes", json_integer((json_int_t)plan->smallest_budget_bytes));
    }
    return json;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / 1048576.0;
}

void cabe_plan_print(const struct cabe_plan *plan, FILE *to)
{
    char from[CABE_KNOB_TEXT_MAX], text[CABE_KNOB_TEXT_MAX];

    fprintf(to, "%s: %s; peak %.1f MiB of a budget of %.1f MiB\n", plan->task, plan->fits ? "fits" : "does not fit",
            mib(plan->peak_bytes[CABE_HOST]), mib(plan->budget_bytes[CABE_HOST]));
    for (int k = 0; k < CABE_N_KNOBS; k++)
        if (knob_matters(&plan->knobs, (enum cabe_knob)k))
            fprintf(to, "%s%s %s", k ? ", " : "  ", knob_names[k],
                    cabe_knob_text((enum cabe_knob)k, plan->knobs.value[k], text));
    if (plan->knobs.value[CABE_KNOB_STREAM])
        fprintf(to, "\n  %" PRId64 " of %" PRId64 " segments stay in memory, the others are read from disk before each use",
                plan->n_segments - plan->knobs.value[CABE_KNOB_STREAM], plan->n_segments);
    fprintf(to, "\n\n  %-24s %10s %8s  %s\n", "phase", "peak MiB", "seconds", "of which (MiB)");
    for (int i = 0; i < plan->n_phases; i++) {
        const struct cabe_plan_phase *phase = &plan->phase[i];

        fprintf(to, "  %-24s %10.1f ", phase->name, mib(cabe_fit_total(&phase->bytes, CABE_HOST)));
        if (phase->seconds > 0)
            fprintf(to, "%8.2f ", phase->seconds);
        else
            fprintf(to, "%8s ", "");
        for (int p = 0; p < CABE_N_PURPOSES; p++)
            if (phase->bytes.bytes[CABE_HOST][p])
                fprintf(to, " %s %.1f", cabe_purpose_name((enum cabe_purpose)p), mib(phase->bytes.bytes[CABE_HOST][p]));
        fputc('\n', to);
    }
    if (plan->n_rungs > 1 || !plan->fits)
        fprintf(to, "\n  %-34s %10s  %s\n", "ladder", "peak MiB", "verdict");
    for (int i = 0; i < plan->n_rungs && (plan->n_rungs > 1 || !plan->fits); i++) {
        const struct cabe_plan_rung *rung = &plan->rung[i];
        char change[64] = "preferred";

        if (rung->knob < CABE_N_KNOBS)
            snprintf(change, sizeof change, "%s %s -> %s", cabe_knob_name(rung->knob),
                     cabe_knob_text(rung->knob, rung->from, from), cabe_knob_text(rung->knob, rung->to, text));
        fprintf(to, "  %-34s %10.1f  %s (%s)\n", change, mib(rung->peak_bytes[plan->worst_device]),
                verdict_name((int)rung->verdict), rung->why);
    }
    if (!plan->fits)
        fprintf(to, "\n  missing: %.1f MiB; smallest change: %s\n", mib(plan->missing_bytes), plan->smallest_change);
}
