#include "machine/json.h"

#include <stdio.h>

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

static json_t *cpu_json(const struct cabe_cpu *cpu)
{
    json_t *simd = json_array();

    for (int i = 0; i < CABE_N_SIMD; i++)
        if (cpu->simd & CABE_SIMD_BIT(i))
            json_array_append_new(simd, json_string(cabe_simd_name((enum cabe_simd)i)));
    return json_pack("{s:s,s:s,s:i,s:i,s:b,s:i,s:i,s:i,s:o,s:s,s:o,s:o,s:o,s:o,s:o,s:o}", "vendor", cpu->vendor,
                     "model", cpu->model, "logical", cpu->n_logical, "physical", cpu->n_physical, "physical_assumed",
                     cpu->cores_assumed, "usable_logical", cpu->n_usable_logical, "usable_physical",
                     cpu->n_usable_physical, "usable", cpu->n_usable, "quota_cpus",
                     cpu->quota_cpus > 0 ? json_real(cpu->quota_cpus) : json_null(), "level",
                     cabe_simd_level(cpu->simd), "simd", simd, "mhz", real_or_null(cpu->mhz > 0 ? cpu->mhz : -1),
                     "l1d_bytes", bytes(cpu->l1d_bytes), "l2_bytes", bytes(cpu->l2_bytes), "l3_bytes",
                     bytes(cpu->l3_bytes), "load_1m", real_or_null(cpu->load_1m));
}

static json_t *memory_json(const struct cabe_memory *memory)
{
    return json_pack("{s:o,s:b,s:o,s:o,s:o,s:o,s:s,s:o,s:o,s:f,s:o,s:o}", "total_bytes", bytes(memory->total_bytes),
                     "total_assumed", memory->total_assumed, "host_available_bytes",
                     bytes(memory->host_available_bytes), "limit_bytes", bytes(memory->limit_bytes), "limited_by",
                     text_or_null(memory->limited_by), "available_bytes", bytes(memory->available_bytes),
                     "available_by", memory->available_by, "reclaimable_bytes", bytes(memory->reclaimable_bytes),
                     "swap_free_bytes", bytes(memory->swap_free_bytes), "percent_used", memory->percent_used,
                     "psi_some_avg10", real_or_null(memory->psi_some_avg10), "psi_full_avg10",
                     real_or_null(memory->psi_full_avg10));
}

static json_t *gpu_json(const struct cabe_gpu *gpu)
{
    char capability[32] = "";

    if (gpu->compute_major > 0)
        snprintf(capability, sizeof capability, "%d.%d", gpu->compute_major, gpu->compute_minor);
    return json_pack("{s:s,s:s,s:o,s:o,s:o,s:b,s:b,s:b}", "name", gpu->name, "vendor", gpu->vendor, "total_bytes",
                     gpu->memory_known ? bytes(gpu->total_bytes) : json_null(), "free_bytes",
                     gpu->memory_known ? bytes(gpu->free_bytes) : json_null(), "compute_capability",
                     text_or_null(capability), "unified", gpu->unified, "low_vram", gpu->low_vram, "usable",
                     gpu->usable);
}

static json_t *limits_json(const struct cabe_limits *limits)
{
    json_t *ops = json_object(), *peaks = json_array();

    for (int i = 0; i < CABE_N_ARITH; i++)
        json_object_set_new(ops, cabe_arith_name((enum cabe_arith)i),
                            limits->all_ops_s[i] > 0 ? json_pack("{s:f,s:f}", "one_ops_s", limits->one_ops_s[i],
                                                                 "all_ops_s", limits->all_ops_s[i])
                                                     : json_null());
    for (int i = 0; i < limits->n_peaks; i++)
        json_array_append_new(peaks, json_pack("{s:s,s:s,s:f,s:f}", "level", limits->peak[i].level, "arith",
                                               cabe_arith_name(limits->peak[i].arith), "one_ops_s",
                                               limits->peak[i].one_ops_s, "all_ops_s", limits->peak[i].all_ops_s));
    return json_pack("{s:s,s:i,s:f,s:f,s:o,s:o,s:o}", "source", cabe_origin_name(limits->origin), "threads",
                     limits->n_threads, "read_one_bytes_s", limits->read_one_bytes_s, "read_all_bytes_s",
                     limits->read_all_bytes_s, "arithmetic", ops, "peaks", peaks, "measured_at",
                     text_or_null(limits->measured_at));
}

json_t *cabe_machine_json(const struct cabe_machine *machine)
{
    json_t *gpus = json_array();

    for (int i = 0; i < machine->n_gpus; i++)
        json_array_append_new(gpus, gpu_json(&machine->gpu[i]));
    return json_pack("{s:s,s:s,s:o,s:o,s:o,s:o}", "tier", cabe_tier_name(cabe_machine_tier(machine, NULL)), "origin",
                     cabe_origin_name(machine->origin), "cpu", cpu_json(&machine->cpu), "memory",
                     memory_json(&machine->memory), "gpus", gpus, "limits", limits_json(&machine->limits));
}

json_t *cabe_recommendation_json(const struct cabe_recommendation *advice)
{
    json_t *families = json_object(), *reasons = json_object();

    for (int i = 0; i < CABE_N_FAMILIES; i++) {
        char device[16] = "cpu";

        if (advice->family_device[i] < 0)
            continue;
        if (advice->family_device[i] > 0)
            snprintf(device, sizeof device, "gpu%d", advice->family_device[i] - 1);
        json_object_set_new(families, cabe_family_name((enum cabe_family)i), json_string(device));
    }
    for (int i = 0; i < CABE_N_ADVICE; i++)
        json_object_set_new(reasons, cabe_advice_name((enum cabe_advice)i), json_string(advice->reason[i]));
    return json_pack("{s:s,s:i,s:i,s:o,s:i,s:o,s:i,s:i,s:i,s:b,s:o,s:o}", "tier", cabe_tier_name(advice->tier),
                     "workers", advice->workers, "threads", advice->threads, "budget_bytes",
                     bytes(advice->budget_bytes), "embedding_batch", advice->embedding_batch, "gpu_batch",
                     advice->gpu_batch > 0 ? json_integer(advice->gpu_batch) : json_null(), "nlp_batch",
                     advice->nlp_batch, "heavy_tasks", advice->heavy_tasks, "document_chunk_chars",
                     advice->document_chunk_chars, "semantic_redundancy", advice->semantic_redundancy, "families",
                     families, "reasons", reasons);
}
