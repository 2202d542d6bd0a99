#include "runtime/pace.h"

#include <math.h>

static double or_default(double value, double standard)
{
    return value > 0 ? value : standard;
}

void cabe_pace_init(struct cabe_pace *pace, const struct cabe_pace_config *config)
{
    static const struct cabe_pace_config none;
    const struct cabe_pace_config *c = config ? config : &none;

    *pace = (struct cabe_pace){.over_s = NAN, .under_s = NAN, .since_s = NAN};
    pace->config = (struct cabe_pace_config){
        .base_s = or_default(c->base_s, 0.1),
        .max_s = or_default(c->max_s, 5),
        .cpu_high = or_default(c->cpu_high, 80),
        .cpu_low = or_default(c->cpu_low, 70),
        .memory_high = or_default(c->memory_high, 85),
        .memory_low = or_default(c->memory_low, 80),
        .enter_s = or_default(c->enter_s, 2),
        .leave_s = or_default(c->leave_s, 15),
        .step_s = or_default(c->step_s, 1),
        .calm_step_s = or_default(c->calm_step_s, 0.25),
    };
}

static void change(struct cabe_pace *p, double now_s, int pressed)
{
    p->pressed = pressed;
    p->since_s = now_s;
    p->step_at_s = now_s;
    p->n_changes++;
}

/* One step of the delay: doubled while it is too much, a tenth less otherwise. */
static void step(struct cabe_pace *p, int over)
{
    const struct cabe_pace_config *c = &p->config;

    if (p->pressed && over) {
        p->delay_s = p->delay_s > 0 ? p->delay_s * 2 : c->base_s;
        if (p->delay_s > c->max_s)
            p->delay_s = c->max_s;
        return;
    }
    p->delay_s *= 0.9;
    if (p->delay_s < c->base_s)
        p->delay_s = p->pressed ? c->base_s : 0; /* pressed: there is always some */
}

double cabe_pace_update(struct cabe_pace *p, double now_s, double cpu_percent, double memory_percent)
{
    const struct cabe_pace_config *c = &p->config;
    int over = cpu_percent > c->cpu_high || memory_percent > c->memory_high;
    int under = cpu_percent < c->cpu_low && memory_percent < c->memory_low;

    if (isnan(p->since_s)) {
        p->since_s = now_s;
        p->step_at_s = now_s;
    }
    p->over_s = !over ? NAN : isnan(p->over_s) ? now_s : p->over_s;
    p->under_s = !under ? NAN : isnan(p->under_s) ? now_s : p->under_s;
    if (!p->pressed && over && now_s - p->over_s >= c->enter_s)
        change(p, now_s, 1);
    else if (p->pressed && under && now_s - p->under_s >= c->leave_s)
        change(p, now_s, 0);
    if (now_s - p->step_at_s > 64 * c->step_s) /* nobody has asked for long */
        p->step_at_s = now_s - 64 * c->step_s;
    while (now_s >= p->step_at_s) {
        step(p, over);
        p->step_at_s += p->pressed && over ? c->step_s : c->calm_step_s;
    }
    return p->delay_s;
}

double cabe_pace_delay(const struct cabe_pace *p, enum cabe_class class_)
{
    static const double times[CABE_N_CLASSES] = {
        [CABE_CLASS_CRITICAL] = 0, [CABE_CLASS_HIGH] = 0.25, [CABE_CLASS_NORMAL] = 1, [CABE_CLASS_LOW] = 2};

    return p->delay_s * times[class_];
}

int cabe_pace_sheds(const struct cabe_pace *p, enum cabe_class class_)
{
    return class_ == CABE_CLASS_LOW && p->delay_s >= p->config.max_s;
}
