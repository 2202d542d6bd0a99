#include <stdio.h>
#include <string.h>

#include "cabe/machine.h"
#include "cli.h"
#include "machine/json.h"
#include "machine/limits.h"
#include "task/rates.h"

struct options {
    int json, measure;
    const char *describe;
};

static int parse(struct options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            options->json = 1;
        } else if (strcmp(argv[i], "--measure") == 0) {
            options->measure = 1;
        } else if (strncmp(argv[i], "--describe=", 11) == 0) {
            options->describe = argv[i] + 11;
        } else if (strcmp(argv[i], "--describe") == 0) {
            if (++i == argc)
                return cli_usage(&cabe_cmd_machine,
                                 "--describe wants a text like \"8 cores, 16 GB, gpu 6 GB\"");
            options->describe = argv[i];
        } else {
            return cli_usage(&cabe_cmd_machine, "unknown argument '%s'", argv[i]);
        }
    }
    if (options->describe && options->measure)
        return cli_usage(&cabe_cmd_machine,
                         "--measure is for the machine that is here, --describe for another");
    return 0;
}

static enum cabe_status measure(struct cabe_machine *machine, const struct options *options,
                                struct cabe_error *err)
{
    struct cabe_progress progress = cli_progress();
    struct cabe_measure_config config = {.cancel = &cli_cancel, .progress = &progress};
    char path[CABE_HOME_PATH_MAX];
    double load = machine->cpu.load_1m; /* before this adds to it */
    enum cabe_status status;

    status = cabe_limits_measure(machine, &config, err);
    if (status == CABE_OK) {
        struct cabe_rates_config rates = {.cancel = &cli_cancel, .progress = &progress};

        rates.folder = cabe_home_dir(path, CABE_HOME_CACHE, NULL) == CABE_OK ? path : NULL;
        status = cabe_rates_measure(machine, &rates, err);
    }
    cli_progress_end();
    if (status == CABE_OK)
        status = cabe_limits_save(machine, NULL, path, err);
    if (status == CABE_OK && !options->json)
        fprintf(stderr, "measured and kept in %s\n", path);
    if (status == CABE_OK && load > machine->cpu.n_usable)
        fprintf(stderr, "cabe: other work was running (load %.1f on %d cores): measure again when it has ended\n",
                load, machine->cpu.n_usable);
    return status;
}

static const char *size(uint64_t bytes, char out[CLI_BYTES_MAX])
{
    return bytes ? cli_format_bytes(bytes, out) : "?";
}

static void print_cpu(const struct cabe_cpu *cpu)
{
    char l1[CLI_BYTES_MAX], l2[CLI_BYTES_MAX], l3[CLI_BYTES_MAX];

    printf("  %-14s %s\n", "cpu", cpu->model);
    printf("  %-14s %d physical%s, %d logical; usable %d", "cores", cpu->n_physical,
           cpu->cores_assumed ? " (assumed)" : "", cpu->n_logical, cpu->n_usable);
    if (cpu->quota_cpus > 0)
        printf(" (quota of %.2f CPUs)", cpu->quota_cpus);
    printf("\n  %-14s %s (", "level", cabe_simd_level(cpu->simd));
    for (int i = 0, n = 0; i < CABE_N_SIMD; i++)
        if (cpu->simd & CABE_SIMD_BIT(i))
            printf("%s%s", n++ ? " " : "", cabe_simd_name((enum cabe_simd)i));
    printf(")\n");
    if (cpu->l1d_bytes || cpu->l2_bytes || cpu->l3_bytes)
        printf("  %-14s L1d %s, L2 %s, L3 %s\n", "caches", size(cpu->l1d_bytes, l1), size(cpu->l2_bytes, l2),
               size(cpu->l3_bytes, l3));
    if (cpu->load_1m >= 0)
        printf("  %-14s %.2f\n", "load", cpu->load_1m);
}

static void print_memory(const struct cabe_memory *memory)
{
    char a[CLI_BYTES_MAX], b[CLI_BYTES_MAX];

    printf("  %-14s %s%s, %s available, %.0f %% used\n", "memory", cli_format_bytes(memory->limit_bytes, a),
           memory->total_assumed ? " (assumed)" : "", cli_format_bytes(memory->available_bytes, b),
           memory->percent_used);
    if (memory->limited_by[0])
        printf("  %-14s by %s; the host has %s\n", "limited", memory->limited_by,
               cli_format_bytes(memory->total_bytes, a));
    if (memory->psi_some_avg10 >= 0)
        printf("  %-14s %.1f %% of the last 10 s some task waited for memory, %.1f %% all did\n", "pressure",
               memory->psi_some_avg10, memory->psi_full_avg10 < 0 ? 0 : memory->psi_full_avg10);
}

static void print_gpus(const struct cabe_machine *machine)
{
    char total[CLI_BYTES_MAX], available[CLI_BYTES_MAX];

    if (machine->n_gpus == 0)
        printf("  %-14s none\n", "gpu");
    for (int i = 0; i < machine->n_gpus; i++) {
        const struct cabe_gpu *gpu = &machine->gpu[i];

        printf("  gpu%-11d %s: ", i, gpu->name);
        if (gpu->memory_known)
            printf("%s, %s free", cli_format_bytes(gpu->total_bytes, total),
                   cli_format_bytes(gpu->free_bytes, available));
        else
            printf("memory %s", gpu->unified ? "unified with the host's" : "unknown");
        if (gpu->compute_major > 0)
            printf(", compute %d.%d", gpu->compute_major, gpu->compute_minor);
        printf("%s%s\n", gpu->low_vram ? ", low on memory" : "", gpu->usable ? "" : ", reported only");
    }
}

static void print_limits(const struct cabe_limits *limits)
{
    printf("  %-14s read %.1f GB/s (one thread %.1f)", "limits", limits->read_all_bytes_s * 1e-9,
           limits->read_one_bytes_s * 1e-9);
    for (int i = 0; i < CABE_N_ARITH; i++)
        if (limits->all_ops_s[i] > 0)
            printf(", %s %.0f GOP/s", cabe_arith_name((enum cabe_arith)i), limits->all_ops_s[i] * 1e-9);
    printf("; %s%s\n", cabe_origin_name(limits->origin),
           limits->origin == CABE_ORIGIN_ESTIMATED ? " ('cabe machine --measure' measures)" : "");
    for (int i = 0; i < limits->n_peaks; i++)
        printf("  %-14s %-10s %-5s %8.1f GOP/s, one thread %8.1f\n", i ? "" : "peaks", limits->peak[i].level,
               cabe_arith_name(limits->peak[i].arith), limits->peak[i].all_ops_s * 1e-9,
               limits->peak[i].one_ops_s * 1e-9);
}

static void print_advice(const struct cabe_recommendation *advice)
{
    char budget[CLI_BYTES_MAX], gpu_batch[16] = "none", on_gpu[96] = "";
    const struct {
        enum cabe_advice advice;
        const char *label;
        int value;
        const char *text; /* instead of the value */
    } rows[] = {
        {CABE_ADVICE_BUDGET, "budget", 0, cli_format_bytes(advice->budget_bytes, budget)},
        {CABE_ADVICE_THREADS, "threads", advice->threads, NULL},
        {CABE_ADVICE_WORKERS, "workers", advice->workers, NULL},
        {CABE_ADVICE_EMBEDDING_BATCH, "embedding batch", advice->embedding_batch, NULL},
        {CABE_ADVICE_GPU_BATCH, "batch on gpu", 0, gpu_batch},
        {CABE_ADVICE_NLP_BATCH, "nlp batch", advice->nlp_batch, NULL},
        {CABE_ADVICE_HEAVY_TASKS, "heavy tasks", advice->heavy_tasks, NULL},
        {CABE_ADVICE_CHUNK_CHARS, "document chunk", advice->document_chunk_chars, NULL},
        {CABE_ADVICE_REDUNDANCY, "redundancy", 0, advice->semantic_redundancy ? "on" : "off"},
        {CABE_ADVICE_FAMILIES, "on gpu", 0, on_gpu},
    };

    if (advice->gpu_batch > 0)
        snprintf(gpu_batch, sizeof gpu_batch, "%d", advice->gpu_batch);
    for (int i = 0, n_all = 0, n = 0; i < CABE_N_FAMILIES; i++) {
        size_t used = strlen(on_gpu);

        if (advice->family_device[i] > 0)
            snprintf(on_gpu + used, sizeof on_gpu - used, "%s%s", n++ ? " " : "",
                     cabe_family_name((enum cabe_family)i));
        if (++n_all == CABE_N_FAMILIES && n == n_all)
            snprintf(on_gpu, sizeof on_gpu, "all");
    }
    if (!on_gpu[0])
        snprintf(on_gpu, sizeof on_gpu, "nothing");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char value[32];

        snprintf(value, sizeof value, "%d", rows[i].value);
        printf("  %-16s %-10s %s\n", rows[i].label, rows[i].text ? rows[i].text : value,
               advice->reason[rows[i].advice]);
    }
}

static int print_json(const struct cabe_machine *machine, const struct cabe_recommendation *advice)
{
    json_t *document = cabe_machine_json(machine);

    if (document && json_object_set_new(document, "recommendation", cabe_recommendation_json(advice)) != 0) {
        json_decref(document);
        document = NULL;
    }
    return cli_print_json(document);
}

static int run(int argc, char **argv)
{
    struct options options = {0};
    struct cabe_machine machine;
    struct cabe_recommendation advice;
    struct cabe_error err;
    enum cabe_status status;
    int code = parse(&options, argc, argv);

    if (code != 0)
        return code;
    if (options.describe)
        status = cabe_machine_describe(&machine, options.describe, &err);
    else
        status = cabe_machine_probe(&machine, NULL, &err);
    if (status == CABE_OK && options.measure)
        status = measure(&machine, &options, &err);
    if (status != CABE_OK)
        return cli_error(options.json, &err);
    cabe_machine_recommend(&advice, &machine, CABE_FAMILIES_ALL);
    if (options.json)
        return print_json(&machine, &advice);

    printf("machine (%s)\n", cabe_origin_name(machine.origin));
    print_cpu(&machine.cpu);
    print_memory(&machine.memory);
    print_gpus(&machine);
    print_limits(&machine.limits);
    printf("\ntier %s: %s\n\nrecommended\n", cabe_tier_name(advice.tier), advice.reason[CABE_ADVICE_TIER]);
    print_advice(&advice);
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : cabe_status_exit_code(CABE_ERR_IO);
}

const struct cabe_command cabe_cmd_machine = {
    .name = "machine",
    .usage = "machine [--json] [--describe TEXT] [--measure]",
    .summary = "shows this machine, or one described, its tier and what suits it",
    .help = "  --json           one JSON document\n"
            "  --describe TEXT  decide for a machine that is not here: \"8 cores, 16 GB, gpu 6 GB\"\n"
            "  --measure        measure memory bandwidth and arithmetic peaks (about 10 s) and keep them\n",
    .run = run,
};
