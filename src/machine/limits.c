#include "machine/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "machine/probe.h"
#include "machine/sysfile.h"

#define LIMITS_VERSION 1
#define FILE_BYTES_MAX 16384

/* Operations a cycle and core of the usual two units of a level, and their int8 multiple. */
void cabe_limits_estimate(struct cabe_limits *limits, const struct cabe_cpu *cpu)
{
    const char *level = cabe_simd_level(cpu->simd);
    double hz = (cpu->mhz > 0 ? cpu->mhz : 2500) * 1e6;
    double f32 = 4, int8_times = 1;
    int n = cpu->n_usable > 1 ? cpu->n_usable : 1;

    memset(limits, 0, sizeof *limits);
    limits->origin = CABE_ORIGIN_ESTIMATED;
    limits->n_threads = n;
    if (strncmp(level, "avx512", 6) == 0) {
        f32 = 64;
        int8_times = strcmp(level, "avx512vnni") == 0 ? 4 : 1.3;
    } else if (strcmp(level, "avx2") == 0) {
        f32 = 32;
        int8_times = cpu->simd & CABE_SIMD_BIT(CABE_SIMD_AVXVNNI) ? 4 : 1.3;
    } else if (strcmp(level, "neon") == 0) {
        f32 = 16;
        int8_times = cpu->simd & CABE_SIMD_BIT(CABE_SIMD_DOTPROD) ? 4 : 1;
    }
    limits->one_ops_s[CABE_ARITH_F32] = hz * f32;
    limits->one_ops_s[CABE_ARITH_INT8] = hz * f32 * int8_times;
    if (cpu->simd & (CABE_SIMD_BIT(CABE_SIMD_AVX512FP16) | CABE_SIMD_BIT(CABE_SIMD_FP16)))
        limits->one_ops_s[CABE_ARITH_F16] = hz * f32 * 2;
    if (cpu->simd & (CABE_SIMD_BIT(CABE_SIMD_AVX512BF16) | CABE_SIMD_BIT(CABE_SIMD_BF16)))
        limits->one_ops_s[CABE_ARITH_BF16] = hz * f32;
    for (int i = 0; i < CABE_N_ARITH; i++)
        limits->all_ops_s[i] = limits->one_ops_s[i] * n;
    /* A core draws about 12 GB/s; together they meet what the memory gives, about 24 and 2 more a core. */
    limits->read_one_bytes_s = 12e9;
    limits->read_all_bytes_s = 12e9 * n < 20e9 + 2e9 * n ? 12e9 * n : 20e9 + 2e9 * n;
}

static double between(double one, double all, int n_all, int n_threads)
{
    if (n_threads <= 1)
        return one;
    if (n_threads >= n_all)
        return all;
    return one + (all - one) * (n_threads - 1) / (n_all - 1);
}

double cabe_machine_read_bytes_s(const struct cabe_machine *machine, int n_threads)
{
    const struct cabe_limits *limits = &machine->limits;
    double linear = limits->read_one_bytes_s * n_threads;

    if (n_threads <= 1)
        return limits->read_one_bytes_s;
    if (n_threads >= limits->n_threads)
        return limits->read_all_bytes_s;
    return linear < limits->read_all_bytes_s ? linear : limits->read_all_bytes_s;
}

double cabe_machine_ops_s(const struct cabe_machine *machine, enum cabe_arith arith, int n_threads)
{
    const struct cabe_limits *limits = &machine->limits;

    if ((unsigned)arith >= CABE_N_ARITH)
        return 0;
    return between(limits->one_ops_s[arith], limits->all_ops_s[arith], limits->n_threads, n_threads);
}

double cabe_machine_rate(const struct cabe_machine *machine, const char *name)
{
    for (int i = 0; i < machine->limits.n_rates; i++)
        if (strcmp(machine->limits.rate[i].name, name) == 0)
            return machine->limits.rate[i].per_s;
    return 0;
}

/* "limits/amd-epyc-2cpu-avx2.json" */
static void file_name(char *out, size_t n, const struct cabe_machine *machine)
{
    char slug[CABE_MACHINE_NAME_MAX];
    size_t used = 0;

    for (const char *at = machine->cpu.model; *at && used < sizeof slug - 1; at++) {
        char c = *at;

        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
            slug[used++] = c;
        else if (used > 0 && slug[used - 1] != '-')
            slug[used++] = '-';
    }
    while (used > 0 && slug[used - 1] == '-')
        used--;
    slug[used] = '\0';
    snprintf(out, n, "limits/%s-%dcpu-%s.json", used ? slug : "unknown", machine->cpu.n_usable,
             cabe_simd_level(machine->cpu.simd));
}

static int arith_of(const char *name)
{
    for (int i = 0; i < CABE_N_ARITH; i++)
        if (strcmp(name, cabe_arith_name((enum cabe_arith)i)) == 0)
            return i;
    return -1;
}

/* A rate that arithmetic with it stays sane: 0 where it is not one. */
static double rate(const json_t *object, const char *key)
{
    double value = json_number_value(json_object_get(object, key));

    return value >= 0 && value < 1e18 ? value : 0;
}

static int take_peaks(struct cabe_limits *limits, const json_t *list)
{
    size_t i;
    json_t *item;

    json_array_foreach(list, i, item)
    {
        const char *level = json_string_value(json_object_get(item, "level"));
        const char *name = json_string_value(json_object_get(item, "arith"));
        int arith = name ? arith_of(name) : -1;
        struct cabe_peak *peak;

        if (!level || arith < 0 || limits->n_peaks == CABE_PEAKS_MAX)
            return 0;
        peak = &limits->peak[limits->n_peaks++];
        snprintf(peak->level, sizeof peak->level, "%.15s", level);
        peak->arith = (enum cabe_arith)arith;
        peak->one_ops_s = rate(item, "one_ops_s");
        peak->all_ops_s = rate(item, "all_ops_s");
        if (peak->all_ops_s > limits->all_ops_s[arith]) {
            limits->one_ops_s[arith] = peak->one_ops_s;
            limits->all_ops_s[arith] = peak->all_ops_s;
        }
    }
    return 1;
}

/* A file of before there were rates has none. */
static void take_rates(struct cabe_limits *limits, json_t *object)
{
    const char *name;
    json_t *value;

    json_object_foreach(object, name, value) {
        struct cabe_work_rate *taken = &limits->rate[limits->n_rates];

        if (limits->n_rates == CABE_RATES_MAX || strlen(name) >= sizeof taken->name || !(rate(object, name) > 0))
            continue;
        snprintf(taken->name, sizeof taken->name, "%s", name);
        taken->per_s = rate(object, name);
        limits->n_rates++;
    }
}

static int take_limits(struct cabe_limits *limits, const json_t *document, const struct cabe_machine *machine)
{
    const char *model = json_string_value(json_object_get(document, "cpu"));
    const char *level = json_string_value(json_object_get(document, "level"));
    const char *when = json_string_value(json_object_get(document, "measured_at"));

    memset(limits, 0, sizeof *limits);
    if (json_integer_value(json_object_get(document, "version")) != LIMITS_VERSION || !model || !level ||
        strcmp(model, machine->cpu.model) != 0 || strcmp(level, cabe_simd_level(machine->cpu.simd)) != 0 ||
        json_integer_value(json_object_get(document, "threads")) != machine->cpu.n_usable)
        return 0;
    limits->origin = CABE_ORIGIN_MEASURED;
    limits->n_threads = machine->cpu.n_usable;
    limits->read_one_bytes_s = rate(document, "read_one_bytes_s");
    limits->read_all_bytes_s = rate(document, "read_all_bytes_s");
    snprintf(limits->measured_at, sizeof limits->measured_at, "%.31s", when ? when : "");
    take_rates(limits, json_object_get(document, "rates"));
    return take_peaks(limits, json_object_get(document, "peaks")) && limits->read_one_bytes_s > 0 &&
           limits->read_all_bytes_s > 0 && limits->one_ops_s[CABE_ARITH_F32] > 0 &&
           limits->all_ops_s[CABE_ARITH_INT8] > 0;
}

int cabe_limits_load(struct cabe_machine *machine, const char *path)
{
    char folder[CABE_HOME_PATH_MAX], name[256], full[SYSFILE_PATH_MAX], text[FILE_BYTES_MAX];
    struct cabe_limits limits;
    json_t *document;
    long n;
    int fits;

    if (!path) {
        file_name(name, sizeof name, machine);
        if (cabe_home_path(folder, CABE_HOME_DATA, NULL) != CABE_OK ||
            snprintf(full, sizeof full, "%s/%s", folder, name) >= (int)sizeof full)
            return 0;
        path = full;
    }
    n = cabe_sysfile_text(NULL, path, text, sizeof text);
    if (n <= 0)
        return 0;
    document = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
    fits = document && take_limits(&limits, document, machine);
    json_decref(document);
    if (fits)
        machine->limits = limits;
    return fits;
}

static json_t *to_json(const struct cabe_machine *machine)
{
    const struct cabe_limits *limits = &machine->limits;
    json_t *peaks = json_array(), *rates = json_object();
    int failed = !peaks || !rates;

    for (int i = 0; i < limits->n_rates; i++)
        failed |= json_object_set_new(rates, limits->rate[i].name, json_real(limits->rate[i].per_s));

    for (int i = 0; i < limits->n_peaks; i++)
        failed |= json_array_append_new(peaks, json_pack("{s:s,s:s,s:f,s:f}", "level", limits->peak[i].level,
                                                         "arith", cabe_arith_name(limits->peak[i].arith),
                                                         "one_ops_s", limits->peak[i].one_ops_s, "all_ops_s",
                                                         limits->peak[i].all_ops_s));
    if (failed) {
        json_decref(peaks);
        json_decref(rates);
        return NULL;
    }
    return json_pack("{s:i,s:s,s:s,s:i,s:s,s:f,s:f,s:o,s:o}", "version", LIMITS_VERSION, "cpu",
                     machine->cpu.model, "level", cabe_simd_level(machine->cpu.simd), "threads",
                     limits->n_threads, "measured_at", limits->measured_at, "read_one_bytes_s",
                     limits->read_one_bytes_s, "read_all_bytes_s", limits->read_all_bytes_s, "peaks", peaks, "rates", rates);
}

static enum cabe_status write_file(const char *path, const char *text, struct cabe_error *err)
{
    struct cabe_outfile *file;
    enum cabe_status status = cabe_outfile_open(&file, path, err);

    if (status != CABE_OK)
        return status;
    status = cabe_outfile_write(file, text, strlen(text), err);
    if (status == CABE_OK)
        status = cabe_outfile_commit(file, err);
    cabe_outfile_close(file);
    return status;
}

enum cabe_status cabe_limits_save(const struct cabe_machine *machine, const char *path,
                                  char used[CABE_HOME_PATH_MAX], struct cabe_error *err)
{
    char full[CABE_HOME_PATH_MAX], name[256];
    enum cabe_status status;
    json_t *document;
    char *text;

    if (!path) {
        file_name(name, sizeof name, machine);
        status = cabe_home_file(full, CABE_HOME_DATA, name, err);
        if (status != CABE_OK)
            return status;
        path = full;
    }
    if (used)
        snprintf(used, CABE_HOME_PATH_MAX, "%s", path);
    document = to_json(machine);
    text = document ? json_dumps(document, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(document);
    if (!text)
        return cabe_fail(err, CABE_ERR_OOM, "%s: no memory for the measured limits", path);
    status = write_file(path, text, err);
    cabe_free(text);
    return status;
}
