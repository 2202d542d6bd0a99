/* A machine from words; the grammar stands in cabe/machine.h. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/probe.h"

#define TOKENS_MAX 32
#define WORD_MAX 48
#define BYTES_MAX ((double)(UINT64_C(1) << 60))

struct token {
    int is_number;
    double value;
    char word[WORD_MAX];     /* in lower case; the digits of a number */
    const char *begin, *end; /* in the text */
};

struct part {
    const char *begin;
    int length;
    struct token token[TOKENS_MAX];
    int n_tokens;
};

/* What has been named so far. */
struct draft {
    struct cabe_machine *out;
    struct cabe_error *err;
    int cores, threads;
    int has_free, no_gpu;
    double ops_s[CABE_N_ARITH], read_bytes_s;
};

static enum cabe_status refuse(const struct draft *draft, const struct part *part, const char *wanted)
{
    return cabe_fail(draft->err, CABE_ERR_ARGUMENT, "machine description: \"%.*s\": %s",
                     part->length < 80 ? part->length : 80, part->begin, wanted);
}

static enum cabe_status twice(const struct draft *draft, const struct part *part, const char *what)
{
    char text[64];

    snprintf(text, sizeof text, "%s given twice", what);
    return refuse(draft, part, text);
}

static int is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Cuts a part into numbers and words: "16GB" is two, "8-core" is two, "RTX" and "3060" are two. */
static int cut(struct part *part)
{
    const char *at = part->begin, *stop = part->begin + part->length;

    part->n_tokens = 0;
    while (at < stop) {
        struct token *token = &part->token[part->n_tokens];
        size_t n = 0;

        if (is_blank(*at) || *at == ':' || *at == '=' || (*at == '-' && part->n_tokens > 0)) {
            at++;
            continue;
        }
        if (part->n_tokens == TOKENS_MAX)
            return 0;
        token->begin = at;
        token->is_number = isdigit((unsigned char)*at) != 0;
        while (at < stop && !is_blank(*at) && *at != ':' && *at != '=' && n < WORD_MAX - 1 &&
               (!token->is_number || isdigit((unsigned char)*at) || *at == '.'))
            token->word[n++] = (char)tolower((unsigned char)*at++);
        if (n == WORD_MAX - 1)
            return 0;
        token->word[n] = '\0';
        token->end = at;
        token->value = token->is_number ? strtod(token->word, NULL) : 0;
        part->n_tokens++;
    }
    return 1;
}

static int one_of(const char *word, const char *list)
{
    size_t n = strlen(word);

    for (const char *at = list; n > 0 && (at = strstr(at, word)); at += n)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
            return 1;
    return 0;
}

static const char *word_at(const struct part *part, int i)
{
    return i >= 0 && i < part->n_tokens && !part->token[i].is_number ? part->token[i].word : "";
}

/* Index of the first word that is in `list`; -1: none. */
static int find(const struct part *part, const char *list)
{
    for (int i = 0; i < part->n_tokens; i++)
        if (one_of(word_at(part, i), list))
            return i;
    return -1;
}

static double byte_unit(const char *word)
{
    if (one_of(word, "kb kib k"))
        return 1024.0;
    if (one_of(word, "mb mib m"))
        return 1024.0 * 1024;
    if (one_of(word, "gb gib g gigabytes"))
        return 1024.0 * 1024 * 1024;
    if (one_of(word, "tb tib t"))
        return 1024.0 * 1024 * 1024 * 1024;
    return 0;
}

/* A number of bytes at tokens i and i + 1; 0: none. */
static uint64_t bytes_at(const struct part *part, int i)
{
    double unit =
        i >= 0 && i < part->n_tokens && part->token[i].is_number ? byte_unit(word_at(part, i + 1)) : 0;
    double bytes = unit > 0 ? part->token[i].value * unit : 0;

    return bytes >= 1 && bytes <= BYTES_MAX ? (uint64_t)bytes : 0;
}

#define FREE_WORDS "free available"

/*
 * "16 GB ram", "free 4 GB", "6 GB free 4 GB", "16 GB 4 GB free". `taken[i]` is set for the tokens understood.
 * Returns how many numbers of bytes there are; the other tokens are the caller's.
 */
static int scan_bytes(const struct part *part, uint64_t *total, uint64_t *free_bytes, int taken[TOKENS_MAX])
{
    int n = 0;

    for (int i = 0; i < part->n_tokens; i++) {
        uint64_t bytes = bytes_at(part, i);
        int before, after;

        if (!bytes)
            continue;
        before = i > 0 && !taken[i - 1] && one_of(word_at(part, i - 1), FREE_WORDS);
        after = !before && one_of(word_at(part, i + 2), FREE_WORDS) && !bytes_at(part, i + 3);
        taken[i] = taken[i + 1] = 1;
        if (before)
            taken[i - 1] = 1;
        if (after)
            taken[i + 2] = 1;
        if (before || after)
            *free_bytes = bytes;
        else
            *total = bytes;
        n++;
        i++;
    }
    return n;
}

static void copy_name(char *out, size_t n, const char *begin, const char *end)
{
    snprintf(out, n, "%.*s", (int)(end - begin), begin);
    cabe_tidy_name(out);
}

/* Words around the memory and the name that carry no meaning of their own. */
#define GPU_NOISE "gpu gpus vram with of and x memory nvidia-gpu"

static enum cabe_status take_gpu(struct draft *draft, const struct part *part)
{
    struct cabe_machine *out = draft->out;
    struct cabe_gpu gpu = {.vendor = "described", .usable = 1};
    int taken[TOKENS_MAX + 4] = {0}, copies = 1, first = -1, last = -1, at;
    double version;

    if (find(part, "no without") >= 0 || (part->token[0].is_number && part->token[0].value == 0)) {
        draft->no_gpu = 1;
        return out->n_gpus ? refuse(draft, part, "a GPU was named before") : CABE_OK;
    }
    if (draft->no_gpu)
        return refuse(draft, part, "\"no gpu\" was said before");
    if (part->token[0].is_number && one_of(word_at(part, 1), "x gpu gpus")) {
        if (part->token[0].value < 1 || part->token[0].value > CABE_MACHINE_GPUS_MAX)
            return refuse(draft, part, "1 to 16 GPUs are possible");
        copies = (int)part->token[0].value;
        taken[0] = taken[1] = 1;
    }
    if (scan_bytes(part, &gpu.total_bytes, &gpu.free_bytes, taken) > 2)
        return refuse(draft, part, "one size, and one after \"free\", are possible for a GPU");
    at = find(part, "unified shared");
    if (at >= 0)
        gpu.unified = taken[at] = 1;
    at = find(part, "cc compute sm");
    if (at >= 0 && at + 1 < part->n_tokens && part->token[at + 1].is_number) {
        version = part->token[at + 1].value;
        if (version < 1 || version >= 100)
            return refuse(draft, part, "a compute capability is a number like 8.6");
        gpu.compute_major = (int)version;
        gpu.compute_minor = (int)((version - gpu.compute_major) * 10 + 0.5);
        taken[at] = taken[at + 1] = 1;
    }
    for (int i = 0; i < part->n_tokens; i++) {
        if (taken[i] || one_of(word_at(part, i), GPU_NOISE))
            continue;
        first = first < 0 ? i : first;
        last = i;
    }
    if (first >= 0)
        copy_name(gpu.name, sizeof gpu.name, part->token[first].begin, part->token[last].end);
    else
        snprintf(gpu.name, sizeof gpu.name, "GPU");
    gpu.memory_known = gpu.total_bytes > 0;
    if (gpu.free_bytes > gpu.total_bytes)
        return refuse(draft, part, "more memory free than there is");
    if (gpu.free_bytes == 0)
        gpu.free_bytes = gpu.total_bytes;
    cabe_gpu_settle(&gpu);
    if (out->n_gpus + copies > CABE_MACHINE_GPUS_MAX)
        return refuse(draft, part, "more than 16 GPUs");
    while (copies-- > 0)
        out->gpu[out->n_gpus++] = gpu;
    return CABE_OK;
}

static enum cabe_status take_memory(struct draft *draft, const struct part *part)
{
    struct cabe_memory *memory = &draft->out->memory;
    uint64_t total = 0, available = 0;
    int taken[TOKENS_MAX + 4] = {0};

    scan_bytes(part, &total, &available, taken);
    for (int i = 0; i < part->n_tokens; i++)
        if (!taken[i] && !one_of(word_at(part, i), "ram memory mem of with dram ddr4 ddr5 lpddr5 system"))
            return refuse(draft, part, "wanted memory like \"16 GB\", \"16 GB ram\" or \"free 4 GB\"");
    if (total && memory->total_bytes)
        return twice(draft, part, "memory");
    if (available && draft->has_free)
        return twice(draft, part, "free memory");
    if (total)
        memory->total_bytes = total;
    if (available) {
        memory->available_bytes = available;
        draft->has_free = 1;
    }
    return CABE_OK;
}

static enum cabe_status take_cores(struct draft *draft, const struct part *part)
{
    static const char words[] = "cores core threads thread logical physical cpus cpu vcpus vcpu";
    double value = part->token[0].value;
    int logical = find(part, "threads thread logical cpus cpu vcpus vcpu") >= 0;
    int *into = logical && find(part, "physical") < 0 ? &draft->threads : &draft->cores;

    for (int i = 1; i < part->n_tokens; i++)
        if (!one_of(word_at(part, i), words))
            return refuse(draft, part,
                          "one thing a part; separate them with commas, like \"8 cores, 16 GB\"");
    if (value < 1 || value > 4096 || value != (double)(int)value)
        return refuse(draft, part, "cores and threads are whole numbers from 1 to 4096");
    if (*into)
        return twice(draft, part, into == &draft->cores ? "cores" : "threads");
    *into = (int)value;
    return CABE_OK;
}

static enum cabe_status take_cache(struct draft *draft, const struct part *part)
{
    struct cabe_cpu *cpu = &draft->out->cpu;
    const char *name = word_at(part, 0);
    uint64_t bytes = bytes_at(part, 1);

    if (!bytes || part->n_tokens > 4)
        return refuse(draft, part, "wanted a cache like \"l2 1 MB\"");
    if (strcmp(name, "l3") == 0) {
        cpu->l3_bytes = bytes;
        cpu->n_l3 = 1;
    } else if (strcmp(name, "l2") == 0) {
        cpu->l2_bytes = bytes;
    } else {
        cpu->l1d_bytes = bytes;
    }
    return CABE_OK;
}

/* "30 GB/s", "150 GFLOP/s [f32]", "1.4 TOP/s int8", "3.2 GHz"; 0: not one of these. */
static int take_rate(struct draft *draft, const struct part *part)
{
    const char *unit = word_at(part, 1);
    double value = part->token[0].value;
    int arith = one_of(unit, "gop/s gops top/s tops") ? CABE_ARITH_INT8 : CABE_ARITH_F32;

    for (int a = 0; a < CABE_N_ARITH; a++)
        if (strcmp(word_at(part, 2), cabe_arith_name((enum cabe_arith)a)) == 0)
            arith = a;
    if (one_of(unit, "gb/s gib/s gbps gbytes/s"))
        draft->read_bytes_s = value * 1e9;
    else if (one_of(unit, "tb/s tib/s"))
        draft->read_bytes_s = value * 1e12;
    else if (one_of(unit, "gflop/s gflops gop/s gops"))
        draft->ops_s[arith] = value * 1e9;
    else if (one_of(unit, "tflop/s tflops top/s tops"))
        draft->ops_s[arith] = value * 1e12;
    else if (one_of(unit, "ghz"))
        draft->out->cpu.mhz = value * 1000;
    else if (one_of(unit, "mhz"))
        draft->out->cpu.mhz = value;
    else
        return 0;
    return 1;
}

static enum cabe_status take_number(struct draft *draft, const struct part *part)
{
    double value = part->token[0].value;

    if (part->n_tokens < 2)
        return refuse(draft, part, "wanted a unit after the number, like \"8 cores\" or \"16 GB\"");
    if (find(part, "cores core threads thread logical physical cpus cpu vcpus vcpu") >= 0 &&
        !bytes_at(part, 0))
        return take_cores(draft, part);
    if (take_rate(draft, part))
        return value > 0 && value < 1e6 && part->n_tokens <= 3
                   ? CABE_OK
                   : refuse(draft, part, "wanted one rate above 0 and below 1000000, like \"30 GB/s\"");
    if (bytes_at(part, 0))
        return take_memory(draft, part);
    return refuse(draft, part, "wanted cores, threads, GB, GB/s, GFLOP/s or GHz after the number");
}

static enum cabe_status take_quota(struct draft *draft, const struct part *part)
{
    int at = part->token[0].is_number ? 0 : 1;

    if (part->n_tokens < 2 || !part->token[at].is_number || part->token[at].value <= 0 ||
        part->token[at].value > 4096)
        return refuse(draft, part, "wanted a quota of CPUs like \"quota 1.5\"");
    draft->out->cpu.quota_cpus = part->token[at].value;
    return CABE_OK;
}

static enum cabe_status take_part(struct draft *draft, const struct part *part)
{
    const char *word = word_at(part, 0);
    uint32_t simd = 0;

    if (find(part, "gpu gpus vram") >= 0 || (find(part, "cpu") >= 0 && find(part, "only") >= 0)) {
        if (find(part, "only") >= 0)
            return draft->no_gpu = 1, CABE_OK;
        return take_gpu(draft, part);
    }
    if (find(part, "quota") >= 0)
        return take_quota(draft, part);
    if (part->token[0].is_number)
        return take_number(draft, part);
    if (one_of(word, FREE_WORDS " ram memory"))
        return take_memory(draft, part);
    if (one_of(word, "l1 l1d l2 l3"))
        return take_cache(draft, part);
    for (int i = 0; i < part->n_tokens; i++) {
        uint32_t bits = cabe_simd_parse(word_at(part, i), strlen(word_at(part, i)));

        if (!bits && strcmp(word_at(part, i), "scalar") != 0)
            return refuse(draft, part,
                          "wanted cores, threads, memory, gpu, a SIMD level, a cache, a quota or a rate, "
                          "like \"8 cores, 16 GB, gpu 6 GB\"");
        simd |= bits;
    }
    draft->out->cpu.simd |= simd;
    return CABE_OK;
}

static enum cabe_status settle(struct draft *draft, const char *text)
{
    struct cabe_machine *out = draft->out;
    struct cabe_cpu *cpu = &out->cpu;
    struct cabe_memory *memory = &out->memory;

    if (draft->cores && draft->threads && draft->threads < draft->cores)
        return cabe_fail(draft->err, CABE_ERR_ARGUMENT,
                         "machine description: %d threads are fewer than %d cores", draft->threads,
                         draft->cores);
    cpu->cores_assumed = !draft->cores;
    cpu->n_logical = draft->threads ? draft->threads : draft->cores ? draft->cores : 1;
    cpu->n_physical = draft->cores ? draft->cores : cpu->n_logical / 2;
    cpu->n_usable_logical = cpu->n_logical;
    cpu->n_usable_physical = cpu->n_physical;
    cabe_cpu_settle(cpu);
    cpu->load_1m = -1;
    snprintf(cpu->vendor, sizeof cpu->vendor, "described");
    copy_name(cpu->model, sizeof cpu->model, text, text + strlen(text));

    memory->total_assumed = !memory->total_bytes;
    if (!memory->total_bytes)
        memory->total_bytes = CABE_ASSUMED_MEMORY_BYTES;
    if (!draft->has_free)
        memory->available_bytes = memory->total_bytes;
    if (memory->available_bytes > memory->total_bytes)
        return cabe_fail(draft->err, CABE_ERR_ARGUMENT,
                         "machine description: %llu MB free are more than the %llu MB of memory",
                         (unsigned long long)(memory->available_bytes / CABE_MB),
                         (unsigned long long)(memory->total_bytes / CABE_MB));
    memory->host_available_bytes = memory->available_bytes;
    memory->limit_bytes = memory->total_bytes;
    memory->percent_used = 100 - 100 * (double)memory->available_bytes / (double)memory->limit_bytes;
    memory->psi_some_avg10 = memory->psi_full_avg10 = -1;
    return CABE_OK;
}

static void settle_limits(const struct draft *draft)
{
    struct cabe_limits *limits = &draft->out->limits;

    cabe_limits_estimate(limits, &draft->out->cpu);
    if (draft->read_bytes_s > 0) {
        limits->origin = CABE_ORIGIN_DESCRIBED;
        limits->read_all_bytes_s = draft->read_bytes_s;
        if (limits->read_one_bytes_s > draft->read_bytes_s)
            limits->read_one_bytes_s = draft->read_bytes_s;
    }
    for (int i = 0; i < CABE_N_ARITH; i++) {
        if (draft->ops_s[i] <= 0)
            continue;
        limits->origin = CABE_ORIGIN_DESCRIBED;
        limits->all_ops_s[i] = draft->ops_s[i];
        limits->one_ops_s[i] = draft->ops_s[i] / limits->n_threads;
    }
}

enum cabe_status cabe_machine_describe(struct cabe_machine *out, const char *text, struct cabe_error *err)
{
    struct draft draft = {.out = out, .err = err};
    enum cabe_status status;
    int n_parts = 0, said_simd = 0;

    memset(out, 0, sizeof *out);
    out->origin = CABE_ORIGIN_DESCRIBED;
    if (strlen(text) > 2000)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "machine description: longer than 2000 bytes");
    for (const char *at = text; *at; at += *at ? 1 : 0) {
        struct part part;

        at += strspn(at, " \t");
        part.begin = at;
        part.length = (int)strcspn(at, ",;+\n");
        at += part.length;
        if (!cut(&part))
            return refuse(&draft, &part, "too many or too long words");
        if (part.n_tokens == 0)
            continue;
        n_parts++;
        said_simd |= strcmp(word_at(&part, 0), "scalar") == 0;
        status = take_part(&draft, &part);
        if (status != CABE_OK)
            return status;
    }
    if (n_parts == 0)
        return cabe_fail(err, CABE_ERR_ARGUMENT,
                         "machine description is empty; wanted something like \"8 cores, 16 GB, gpu 6 GB\"");
    if (!out->cpu.simd && !said_simd)
        out->cpu.simd = cabe_simd_parse("avx2", 4); /* what nearly every x86-64 in use has */
    status = settle(&draft, text);
    if (status == CABE_OK)
        settle_limits(&draft);
    return status;
}
