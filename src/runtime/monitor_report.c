/* The monitor's report: a table for people and JSON for programs. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "runtime/monitor.h"

/* All phases in memory of the caller's; NULL without memory. */
static struct cabe_phase *all_phases(struct cabe_monitor *monitor, size_t *n)
{
    struct cabe_phase *phases = cabe_calloc(CABE_MONITOR_PHASES + CABE_MONITOR_OPEN, sizeof *phases);

    if (phases)
        *n = cabe_monitor_read(monitor, phases, CABE_MONITOR_PHASES + CABE_MONITOR_OPEN);
    return phases;
}

static double mib(uint64_t bytes)
{
    return (double)(bytes / 1024) / 1024;
}

/* Characters, not bytes, so that columns stand under each other. */
static int n_characters(const char *text)
{
    int n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static uint64_t device_peak(const struct cabe_phase *phase)
{
    uint64_t bytes = 0;

    for (int d = 1; d < phase->n_devices; d++)
        bytes = phase->device[d].peak_bytes > bytes ? phase->device[d].peak_bytes : bytes;
    return bytes;
}

#define ROW_BYTES 320

static size_t put_row(char *out, const struct cabe_phase *phase, int name_width, int has_devices)
{
    size_t n = 0;

    n += (size_t)snprintf(out + n, ROW_BYTES - n, "%s%*s %8.3f %9.1f %9.1f %+9.1f %9.1f%s", phase->name,
                          name_width - n_characters(phase->name), "", (double)phase->elapsed_ns / 1e9,
                          mib(phase->rss_begin_bytes), mib(phase->rss_end_bytes),
                          mib(phase->rss_end_bytes) - mib(phase->rss_begin_bytes), mib(phase->peak_bytes),
                          phase->is_sampled ? "~" : " ");
    if (phase->predicted_bytes)
        n += (size_t)snprintf(
            out + n, ROW_BYTES - n, " %9.1f %+6.1f%%", mib(phase->predicted_bytes),
            ((double)phase->predicted_bytes / (double)(phase->peak_bytes ? phase->peak_bytes : 1) - 1) * 100);
    else
        n += (size_t)snprintf(out + n, ROW_BYTES - n, " %9s %7s", "-", "-");
    if (has_devices)
        n += (size_t)snprintf(out + n, ROW_BYTES - n, " %9.1f", mib(device_peak(phase)));
    if (phase->is_open)
        n += (size_t)snprintf(out + n, ROW_BYTES - n, "  (running)");
    for (int w = 0; w < CABE_N_PHASE_WARNINGS; w++)
        if (phase->warnings & 1u << w)
            n += (size_t)snprintf(out + n, ROW_BYTES - n, "  !%s",
                                  cabe_phase_warning_name((enum cabe_phase_warning)w));
    return n + (size_t)snprintf(out + n, ROW_BYTES - n, "\n");
}

char *cabe_monitor_table(struct cabe_monitor *monitor)
{
    size_t n_phases = 0, n = 0;
    struct cabe_phase *phases = all_phases(monitor, &n_phases);
    char *table = phases ? cabe_malloc((n_phases + 4) * ROW_BYTES) : NULL;
    int name_width = 5, has_devices = 0;

    if (!table) {
        cabe_free(phases);
        return NULL;
    }
    for (size_t i = 0; i < n_phases; i++) {
        name_width = n_characters(phases[i].name) > name_width ? n_characters(phases[i].name) : name_width;
        has_devices |= phases[i].n_devices > 1;
    }
    n += (size_t)snprintf(table, ROW_BYTES, "%-*s %8s %9s %9s %9s %9s  %9s %7s%s\n", name_width, "phase",
                          "seconds", "before", "after", "change", "peak", "predicted", "margin",
                          has_devices ? "    device" : "");
    for (size_t i = 0; i < n_phases; i++)
        n += put_row(table + n, &phases[i], name_width, has_devices);
    snprintf(table + n, ROW_BYTES, "resident memory in MiB; highest of all phases %.1f\n",
             mib(cabe_monitor_peak_bytes(monitor)));
    cabe_free(phases);
    return table;
}

/*
 * Members are set one by one: unlike json_pack(), json_object_set_new() takes its value also when it fails,
 * and when the object itself is missing, so that nothing leaks without memory.
 */
static json_t *unless(int is_bad, json_t *value)
{
    if (!is_bad)
        return value;
    json_decref(value);
    return NULL;
}

static json_t *warnings_json(unsigned bits)
{
    json_t *list = json_array();
    int bad = 0;

    for (int w = 0; w < CABE_N_PHASE_WARNINGS; w++)
        if (bits & 1u << w)
            bad |=
                json_array_append_new(list, json_string(cabe_phase_warning_name((enum cabe_phase_warning)w)));
    return unless(bad, list);
}

static json_t *device_json(const struct cabe_phase *phase, int d)
{
    json_t *device = json_object();
    int bad = json_object_set_new(device, "device", json_integer(d));

    bad |= json_object_set_new(device, "begin_bytes", cabe_json_count(phase->device[d].begin_bytes));
    bad |= json_object_set_new(device, "end_bytes", cabe_json_count(phase->device[d].end_bytes));
    bad |= json_object_set_new(device, "peak_bytes", cabe_json_count(phase->device[d].peak_bytes));
    return unless(bad, device);
}

static json_t *devices_json(const struct cabe_phase *phase)
{
    json_t *list = json_array();
    int bad = 0;

    for (int d = 0; d < phase->n_devices; d++)
        bad |= json_array_append_new(list, device_json(phase, d));
    return unless(bad, list);
}

static json_t *purposes_json(const struct cabe_phase *phase)
{
    json_t *map = json_object();
    int bad = 0;

    for (int p = 0; phase->n_devices > 0 && p < CABE_N_PURPOSES; p++)
        if (phase->purpose_peak_bytes[p] > 0)
            bad |= json_object_set_new(map, cabe_purpose_name((enum cabe_purpose)p),
                                       cabe_json_count(phase->purpose_peak_bytes[p]));
    return unless(bad, map);
}

static json_t *phase_json(const struct cabe_phase *phase)
{
    json_int_t delta = (json_int_t)phase->rss_end_bytes - (json_int_t)phase->rss_begin_bytes;
    json_t *predicted = phase->predicted_bytes ? cabe_json_count(phase->predicted_bytes) : json_null();
    json_t *o = json_object();
    int bad = json_object_set_new(o, "name", json_string(phase->name));

    bad |= json_object_set_new(o, "seconds", json_real((double)phase->elapsed_ns / 1e9));
    bad |= json_object_set_new(o, "is_open", json_boolean(phase->is_open));
    bad |= json_object_set_new(o, "is_sampled", json_boolean(phase->is_sampled));
    bad |= json_object_set_new(o, "rss_begin_bytes", cabe_json_count(phase->rss_begin_bytes));
    bad |= json_object_set_new(o, "rss_end_bytes", cabe_json_count(phase->rss_end_bytes));
    bad |= json_object_set_new(o, "delta_bytes", json_integer(delta));
    bad |= json_object_set_new(o, "peak_bytes", cabe_json_count(phase->peak_bytes));
    bad |= json_object_set_new(o, "predicted_peak_bytes", predicted);
    bad |= json_object_set_new(o, "devices", devices_json(phase));
    bad |= json_object_set_new(o, "purposes", purposes_json(phase));
    bad |= json_object_set_new(o, "warnings", warnings_json(phase->warnings));
    return unless(bad, o);
}

json_t *cabe_monitor_json(struct cabe_monitor *monitor)
{
    size_t n_phases = 0;
    struct cabe_phase *phases = all_phases(monitor, &n_phases);
    json_t *list = json_array(), *report = json_object();
    uint64_t n_warnings, n_forgotten;
    int bad = !phases;

    for (size_t i = 0; i < n_phases; i++)
        bad |= json_array_append_new(list, phase_json(&phases[i]));
    cabe_free(phases);
    cabe_monitor_counts(monitor, &n_warnings, &n_forgotten);
    bad |= json_object_set_new(report, "phases", list);
    bad |= json_object_set_new(report, "peak_bytes", cabe_json_count(cabe_monitor_peak_bytes(monitor)));
    bad |= json_object_set_new(report, "n_warnings", cabe_json_count(n_warnings));
    bad |= json_object_set_new(report, "n_forgotten", cabe_json_count(n_forgotten));
    return unless(bad, report);
}
