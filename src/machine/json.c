#include "machine/json.h"

#include <stdio.h>

/* A document under construction: one refused part, and it is none. */
struct draft {
    json_t *root;
    int failed;
};

static struct draft object(void)
{
    return (struct draft){json_object(), 0};
}

/* Takes `value`; NULL is a part that could not be made. */
static void set(struct draft *draft, const char *key, json_t *value)
{
    draft->failed |= json_object_set_new(draft->root, key, value) != 0;
}

static void append(struct draft *draft, json_t *value)
{
    draft->failed |= json_array_append_new(draft->root, value) != 0;
}

static json_t *finish(struct draft *draft)
{
    if (!draft->failed)
        return draft->root;
    json_decref(draft->root);
    return NULL;
}

static json_t *bytes(uint64_t value)
{
    return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

static json_t *text_or_null(const char *text)
{
    return text[0] ? json_string(text) : json_null();
}

/* Negative: not known. */
static json_t *real_or_null(double value)
{
    return value >= 0 ? json_real(value) : json_null();
}

static json_t *simd_json(uint32_t simd)
{
    struct draft list = {json_array(), 0};

    for (int i = 0; i < CABE_N_SIMD; i++)
        if (simd & CABE_SIMD_BIT(i))
            append(&list, json_string(cabe_simd_name((enum cabe_simd)i)));
    return finish(&list);
}

static json_t *cpu_json(const struct cabe_cpu *cpu)
{
    struct draft out = object();

    set(&out, "vendor", json_string(cpu->vendor));
    set(&out, "model", json_string(cpu->model));
    set(&out, "logical", json_integer(cpu->n_logical));
    set(&out, "physical", json_integer(cpu->n_physical));
    set(&out, "physical_assumed", json_boolean(cpu->cores_assumed));
    set(&out, "usable_logical", json_integer(cpu->n_usable_logical));
    set(&out, "usable_physical", json_integer(cpu->n_usable_physical));
    set(&out, "usable", json_integer(cpu->n_usable));
    set(&out, "quota_cpus", real_or_null(cpu->quota_cpus > 0 ? cpu->quota_cpus : -1));
    set(&out, "level", json_string(cabe_simd_level(cpu->simd)));
    set(&out, "simd", simd_json(cpu->simd));
    set(&out, "mhz", real_or_null(cpu->mhz > 0 ? cpu->mhz : -1));
    set(&out, "l1d_bytes", cpu->l1d_bytes ? bytes(cpu->l1d_bytes) : json_null());
    set(&out, "l2_bytes", cpu->l2_bytes ? bytes(cpu->l2_bytes) : json_null());
    set(&out, "l3_bytes", cpu->l3_bytes ? bytes(cpu->l3_bytes) : json_null());
    set(&out, "load_1m", real_or_null(cpu->load_1m));
    return finish(&out);
}

static json_t *memory_json(const struct cabe_memory *memory)
{
    struct draft out = object();

    set(&out, "total_bytes", bytes(memory->total_bytes));
    set(&out, "total_assumed", json_boolean(memory->total_assumed));
    set(&out, "host_available_bytes", bytes(memory->host_available_bytes));
    set(&out, "limit_bytes", bytes(memory->limit_bytes));
    set(&out, "limited_by", text_or_null(memory->limited_by));
    set(&out, "available_bytes", bytes(memory->available_bytes));
    set(&out, "available_by", text_or_null(memory->available_by));
    set(&out, "reclaimable_bytes", bytes(memory->reclaimable_bytes));
    set(&out, "swap_free_bytes", bytes(memory->swap_free_bytes));
    set(&out, "percent_used", json_real(memory->percent_used));
    set(&out, "psi_some_avg10", real_or_null(memory->psi_some_avg10));
    set(&out, "psi_full_avg10", real_or_null(memory->psi_full_avg10));
    return finish(&out);
}

static json_t *gpu_json(const struct cabe_gpu *gpu)
{
    struct draft out = object();
    char capability[32] = "";

    if (gpu->compute_major > 0)
        snprintf(capability, sizeof capability, "%d.%d", gpu->compute_major, gpu->compute_minor);
    set(&out, "name", json_string(gpu->name));
    set(&out, "vendor", json_string(gpu->vendor));
    set(&out, "total_bytes", gpu->memory_known ? bytes(gpu->total_bytes) : json_null());
    set(&out, "free_bytes", gpu->memory_known ? bytes(gpu->free_bytes) : json_null());
    set(&out, "compute_capability", text_or_null(capability));
    set(&out, "unified", json_boolean(gpu->unified));
    set(&out, "low_vram", json_boolean(gpu->low_vram));
    set(&out, "usable", json_boolean(gpu->usable));
    return finish(&out);
}

static void set_ops(struct draft *out, double one, double all)
{
    set(out, "one_ops_s", json_real(one));
    set(out, "all_ops_s", json_real(all));
}

static json_t *arithmetic_json(const struct cabe_limits *limits)
{
    struct draft out = object();

    for (int i = 0; i < CABE_N_ARITH; i++) {
        const char *name = cabe_arith_name((enum cabe_arith)i);
        struct draft ops;

        if (!(limits->all_ops_s[i] > 0)) {
            set(&out, name, json_null());
            continue;
        }
        ops = object();
        set_ops(&ops, limits->one_ops_s[i], limits->all_ops_s[i]);
        set(&out, name, finish(&ops));
    }
    return finish(&out);
}

static json_t *peaks_json(const struct cabe_limits *limits)
{
    struct draft list = {json_array(), 0};

    for (int i = 0; i < limits->n_peaks; i++) {
        struct draft peak = object();

        set(&peak, "level", json_string(limits->peak[i].level));
        set(&peak, "arith", json_string(cabe_arith_name(limits->peak[i].arith)));
        set_ops(&peak, limits->peak[i].one_ops_s, limits->peak[i].all_ops_s);
        append(&list, finish(&peak));
    }
    return finish(&list);
}

static json_t *rates_json(const struct cabe_limits *limits)
{
    struct draft out = object();

    for (int i = 0; i < limits->n_rates; i++)
        set(&out, limits->rate[i].name, json_real(limits->rate[i].per_s));
    return finish(&out);
}

static json_t *limits_json(const struct cabe_limits *limits)
{
    struct draft out = object();

    set(&out, "source", json_string(cabe_origin_name(limits->origin)));
    set(&out, "threads", json_integer(limits->n_threads));
    set(&out, "read_one_bytes_s", json_real(limits->read_one_bytes_s));
    set(&out, "read_all_bytes_s", json_real(limits->read_all_bytes_s));
    set(&out, "arithmetic", arithmetic_json(limits));
    set(&out, "peaks", peaks_json(limits));
    set(&out, "rates", rates_json(limits));
    set(&out, "measured_at", text_or_null(limits->measured_at));
    return finish(&out);
}

json_t *cabe_machine_json(const struct cabe_machine *machine)
{
    struct draft out = object(), gpus = {json_array(), 0};

    for (int i = 0; i < machine->n_gpus; i++)
        append(&gpus, gpu_json(&machine->gpu[i]));
    set(&out, "tier", json_string(cabe_tier_name(cabe_machine_tier(machine, NULL))));
    set(&out, "origin", json_string(cabe_origin_name(machine->origin)));
    set(&out, "cpu", cpu_json(&machine->cpu));
    set(&out, "memory", memory_json(&machine->memory));
    set(&out, "gpus", finish(&gpus));
    set(&out, "limits", limits_json(&machine->limits));
    return finish(&out);
}

static json_t *families_json(const struct cabe_recommendation *advice)
{
    struct draft out = object();

    for (int i = 0; i < CABE_N_FAMILIES; i++) {
        char device[16] = "cpu";

        if (advice->family_device[i] < 0)
            continue;
        if (advice->family_device[i] > 0)
            snprintf(device, sizeof device, "gpu%d", advice->family_device[i] - 1);
        set(&out, cabe_family_name((enum cabe_family)i), json_string(device));
    }
    return finish(&out);
}

json_t *cabe_recommendation_json(const struct cabe_recommendation *advice)
{
    struct draft out = object(), reasons = object();

    for (int i = 0; i < CABE_N_ADVICE; i++)
        set(&reasons, cabe_advice_name((enum cabe_advice)i), json_string(advice->reason[i]));
    set(&out, "tier", json_string(cabe_tier_name(advice->tier)));
    set(&out, "workers", json_integer(advice->workers));
    set(&out, "threads", json_integer(advice->threads));
    set(&out, "budget_bytes", bytes(advice->budget_bytes));
    set(&out, "embedding_batch", json_integer(advice->embedding_batch));
    set(&out, "gpu_batch", advice->gpu_batch > 0 ? json_integer(advice->gpu_batch) : json_null());
    set(&out, "nlp_batch", json_integer(advice->nlp_batch));
    set(&out, "heavy_tasks", json_integer(advice->heavy_tasks));
    set(&out, "document_chunk_chars", json_integer(advice->document_chunk_chars));
    set(&out, "semantic_redundancy", json_boolean(advice->semantic_redundancy));
    set(&out, "families", families_json(advice));
    set(&out, "reasons", finish(&reasons));
    return finish(&out);
}
