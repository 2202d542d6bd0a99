/* What suits a machine: the rules of the tiers, with the numbers that led to each value. */
#include <stdio.h>
#include <string.h>

#include "machine/probe.h"

static double gb(uint64_t bytes)
{
    return (double)bytes / (double)CABE_GB;
}

static unsigned long long mb(uint64_t bytes)
{
    return (unsigned long long)(bytes / CABE_MB);
}

/* Memory that work on this GPU can have: a unified one shares the host's. */
static uint64_t gpu_free(const struct cabe_machine *machine, int index)
{
    const struct cabe_gpu *gpu = &machine->gpu[index];

    if (gpu->memory_known)
        return gpu->free_bytes;
    return gpu->unified ? machine->memory.available_bytes : 0;
}

int cabe_machine_best_gpu(const struct cabe_machine *machine)
{
    int best = -1;

    for (int i = 0; i < machine->n_gpus && i < CABE_MACHINE_GPUS_MAX; i++) {
        const struct cabe_gpu *gpu = &machine->gpu[i], *than = best < 0 ? NULL : &machine->gpu[best];

        if (!gpu->usable)
            continue;
        /* One that is not low comes before one that is, whatever is free at the moment. */
        if (!than || (than->low_vram && !gpu->low_vram) ||
            (than->low_vram == gpu->low_vram && gpu_free(machine, i) > gpu_free(machine, best)))
            best = i;
    }
    return best;
}

static void gpu_words(const struct cabe_machine *machine, int index, char *out, size_t n)
{
    const struct cabe_gpu *gpu = index < 0 ? NULL : &machine->gpu[index];

    if (!gpu)
        snprintf(out, n, machine->n_gpus ? "no GPU that cabe can use" : "no GPU");
    else if (gpu->memory_known)
        snprintf(out, n, "%.60s with %.1f GB (%.1f GB free)", gpu->name, gb(gpu->total_bytes),
                 gb(gpu->free_bytes));
    else
        snprintf(out, n, "%.60s with %s", gpu->name, gpu->unified ? "unified memory" : "unknown memory");
}

enum cabe_tier cabe_machine_tier(const struct cabe_machine *machine, char reason[CABE_REASON_MAX])
{
    int cores = machine->cpu.n_usable;
    uint64_t limit = machine->memory.limit_bytes;
    int gpu = cabe_machine_best_gpu(machine);
    int good_gpu = gpu >= 0 && !machine->gpu[gpu].low_vram;
    char words[128], ignored[CABE_REASON_MAX];
    enum cabe_tier tier = CABE_TIER_LOW;

    if (!reason)
        reason = ignored;
    gpu_words(machine, gpu, words, sizeof words);
    if (cores >= 8 && limit >= 16384 * CABE_MB && good_gpu) {
        tier = CABE_TIER_HIGH;
        snprintf(reason, CABE_REASON_MAX, "%d cores (8 wanted), %llu MB (16384 wanted), %s", cores, mb(limit),
                 words);
    } else if (cores >= 4 && limit >= 8192 * CABE_MB) {
        tier = CABE_TIER_MEDIUM;
        snprintf(reason, CABE_REASON_MAX, "%d cores (4 wanted), %llu MB (8192 wanted)%s%s%s", cores,
                 mb(limit), cores < 8 ? ", fewer than the 8 cores of high" : "",
                 limit < 16384 * CABE_MB ? ", below the 16384 MB of high" : "",
                 good_gpu ? "" : ", no GPU with 6 GB");
    } else {
        snprintf(reason, CABE_REASON_MAX, "%d core%s and %llu MB; medium wants 4 cores and 8192 MB", cores,
                 cores == 1 ? "" : "s", mb(limit));
    }
    return tier;
}

int cabe_machine_batch(int wanted, uint64_t vram_bytes)
{
    if (vram_bytes < 4 * CABE_GB)
        return wanted / 8 > 4 ? wanted / 8 : 4;
    if (vram_bytes < 6 * CABE_GB)
        return wanted / 4 > 8 ? wanted / 4 : 8;
    if (vram_bytes < 8 * CABE_GB)
        return wanted / 2 > 16 ? wanted / 2 : 16;
    return wanted;
}

int cabe_machine_threads(const struct cabe_machine *machine)
{
    return machine->cpu.n_usable > 1 ? machine->cpu.n_usable : 1;
}

uint64_t cabe_machine_budget(const struct cabe_machine *machine, char reason[CABE_REASON_MAX])
{
    uint64_t limit = machine->memory.limit_bytes;
    uint64_t available = machine->memory.available_bytes < limit ? machine->memory.available_bytes : limit;
    unsigned percent = limit < 8192 * CABE_MB ? 20 : 15; /* a system's needs do not shrink with its memory */
    uint64_t reserve = limit / 100 * percent;
    uint64_t budget = available > reserve ? available - reserve : 0;

    /* Where others already use most of it the reserve would take the rest: then half of what is left. */
    if (budget < available / 2)
        budget = available / 2;
    if (reason)
        snprintf(reason, CABE_REASON_MAX, "%llu MB available of %llu MB, %llu MB (%s) left to the system",
                 mb(available), mb(limit), mb(available - budget),
                 available - budget == reserve ? (percent == 20 ? "20 % of all" : "15 % of all")
                                               : "half of it");
    return budget;
}

#define REASON(advice, ...) snprintf(out->reason[CABE_ADVICE_##advice], CABE_REASON_MAX, __VA_ARGS__)

static void advise_cpu(struct cabe_recommendation *out, const struct cabe_machine *machine)
{
    const struct cabe_cpu *cpu = &machine->cpu;
    int by_cores = cpu->n_usable > 1 ? cpu->n_usable - 1 : 1;
    uint64_t parts = machine->memory.available_bytes / (2048 * CABE_MB);
    int by_memory = parts > 8 ? 8 : parts < 1 ? 1 : (int)parts;
    char quota[48] = "";

    out->workers = by_cores < by_memory ? by_cores : by_memory;
    if (out->workers > 8)
        out->workers = 8;
    REASON(WORKERS,
           "the smallest of %d (cores less one), %llu (%llu MB available / 2048 MB) and 8, at least 1",
           cpu->n_usable - 1, (unsigned long long)parts, mb(machine->memory.available_bytes));
    out->threads = cabe_machine_threads(machine);
    if (cpu->quota_cpus > 0)
        snprintf(quota, sizeof quota, ", quota of %.2f CPUs", cpu->quota_cpus);
    REASON(THREADS, "%d usable physical core%s of %d%s%s", cpu->n_usable_physical,
           cpu->n_usable_physical == 1 ? "" : "s", cpu->n_physical, quota,
           cpu->cores_assumed ? " (physical cores not known, half of the logical ones taken)" : "");
}

static void advise_memory(struct cabe_recommendation *out, const struct cabe_machine *machine)
{
    uint64_t available = machine->memory.available_bytes;
    const char *rule = "8192 MB or more";

    out->document_chunk_chars = 100000;
    if (available < 4096 * CABE_MB) {
        out->document_chunk_chars = 30000;
        rule = "below 4096 MB";
    } else if (available < 8192 * CABE_MB) {
        out->document_chunk_chars = 50000;
        rule = "4096 to 8192 MB";
    }
    REASON(CHUNK_CHARS, "%llu MB available: %s", mb(available), rule);
    out->semantic_redundancy = machine->memory.limit_bytes >= 8192 * CABE_MB;
    REASON(REDUNDANCY, "%llu MB of memory, on from 8192 MB", mb(machine->memory.limit_bytes));
    out->budget_bytes = cabe_machine_budget(machine, out->reason[CABE_ADVICE_BUDGET]);
}

static void advise_batches(struct cabe_recommendation *out, const struct cabe_machine *machine, int gpu)
{
    char words[128];

    gpu_words(machine, gpu, words, sizeof words);
    out->embedding_batch = gpu < 0 ? 16 : machine->gpu[gpu].low_vram ? 32 : 64;
    REASON(EMBEDDING_BATCH, "%s: 64 with 6 GB or more, 32 with less or unknown, 16 without", words);
    out->gpu_batch = 0;
    if (gpu >= 0) {
        uint64_t vram = gpu_free(machine, gpu);

        out->gpu_batch = cabe_machine_batch(out->embedding_batch, vram);
        REASON(GPU_BATCH,
               "%.1f GB free on the GPU: an eighth below 4 GB (at least 4), a quarter below 6 (8), half "
               "below 8 (16)",
               gb(vram));
    } else {
        REASON(GPU_BATCH, "%s", words);
    }
    out->nlp_batch = 100;
    REASON(NLP_BATCH, "the same on every machine");
    out->heavy_tasks = 1;
    REASON(HEAVY_TASKS, "one at a time, so that their peaks do not add up");
}

static void share_gpu(struct cabe_recommendation *out, const struct cabe_machine *machine, int gpu,
                      uint32_t families)
{
    /* Who has a small GPU to itself; embeddings are fast enough on a CPU. */
    static const enum cabe_family turns[] = {CABE_FAMILY_LLM, CABE_FAMILY_ENTITIES, CABE_FAMILY_IMAGES,
                                             CABE_FAMILY_VISION, CABE_FAMILY_COREFERENCE};
    char words[128];
    int first = -1;

    gpu_words(machine, gpu, words, sizeof words);
    for (int i = 0; i < CABE_N_FAMILIES; i++)
        out->family_device[i] = families & CABE_FAMILY_BIT(i) ? 0 : -1;
    if (gpu < 0) {
        REASON(FAMILIES, "%s: everything on the CPU", words);
        return;
    }
    if (!machine->gpu[gpu].low_vram) {
        for (int i = 0; i < CABE_N_FAMILIES; i++)
            if (families & CABE_FAMILY_BIT(i))
                out->family_device[i] = gpu + 1;
        REASON(FAMILIES, "%s: enough for everything", words);
        return;
    }
    for (size_t i = 0; first < 0 && i < sizeof turns / sizeof turns[0]; i++)
        if (families & CABE_FAMILY_BIT(turns[i]))
            first = (int)turns[i];
    if (first >= 0)
        out->family_device[first] = gpu + 1;
    REASON(FAMILIES, "%s, below 6 GB or unknown: %s has the GPU, the rest runs on the CPU", words,
           first < 0 ? "nothing" : cabe_family_name((enum cabe_family)first));
}

void cabe_machine_recommend(struct cabe_recommendation *out, const struct cabe_machine *machine,
                            uint32_t families)
{
    int gpu = cabe_machine_best_gpu(machine);

    memset(out, 0, sizeof *out);
    out->tier = cabe_machine_tier(machine, out->reason[CABE_ADVICE_TIER]);
    advise_cpu(out, machine);
    advise_memory(out, machine);
    advise_batches(out, machine, gpu);
    share_gpu(out, machine, gpu, families ? families : CABE_FAMILIES_ALL);
}
