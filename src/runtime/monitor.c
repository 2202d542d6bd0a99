#include "runtime/monitor.h"

#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/utf8.h"

#define SAMPLE_MS 5
#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

/* The process has one high-water mark, and a ledger one set, for all monitors: who starts them anew tells all the others. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all that is below, of every monitor */
static struct cabe_monitor *monitors;                    /* those that are open */

struct cabe_monitor {
    struct cabe_monitor_config config; /* defaults filled in */
    uint64_t opened_ns;
    struct cabe_monitor *next;
    struct cabe_phase open[CABE_MONITOR_OPEN];
    int grew[CABE_MONITOR_OPEN]; /* the process's mark rose during the phase: then its peak is exact */
    struct cabe_phase done[CABE_MONITOR_PHASES];
    uint64_t n_done; /* ever: the newest is at (n_done - 1) % CABE_MONITOR_PHASES */
    uint64_t n_warnings;
    uint64_t peak_bytes;
    uint64_t mark_bytes; /* the high-water mark when last looked at */
    int can_reset;

    pthread_t sampler;
    pthread_cond_t sampler_wake;
    int has_sampler, n_open, is_closing;
};

static uint64_t max_of(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* `n` percent of `bytes`, without overflow. */
static uint64_t percent_of(uint64_t bytes, unsigned n)
{
    return bytes / 100 * n + bytes % 100 * n / 100;
}

static uint64_t system_available(void *self)
{
    char text[512];
    const char *at;
    ssize_t n;
    int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);

    (void)self;
    if (fd < 0)
        return 0;
    n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    at = strstr(text, "MemAvailable:");
    return at ? strtoull(at + strlen("MemAvailable:"), NULL, 10) * 1024 : 0;
}

static void fill_defaults(struct cabe_monitor_config *config)
{
    if (!config->available)
        config->available = system_available;
    if (config->limit_bytes == 0)
        config->limit_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (config->warn_rss_bytes == 0)
        config->warn_rss_bytes = 2 * GIB;
    if (config->warn_delta_bytes == 0)
        config->warn_delta_bytes = 500 * MIB;
    if (config->warn_peak_percent == 0)
        config->warn_peak_percent = 80;
    if (config->warn_device_percent == 0)
        config->warn_device_percent = 85;
}

/* Under the lock: no open phase has seen less than `bytes`. */
static void raise_peaks(struct cabe_monitor *monitor, uint64_t bytes, int is_exact)
{
    monitor->peak_bytes = max_of(monitor->peak_bytes, bytes);
    for (int i = 0; i < CABE_MONITOR_OPEN; i++) {
        struct cabe_phase *phase = &monitor->open[i];

        if (!phase->is_open)
            continue;
        phase->peak_bytes =
            max_of(phase->peak_bytes, bytes); /* a sample may be above the mark: both are rounded */
        monitor->grew[i] |= is_exact;
    }
}

static void raise_device_peaks(struct cabe_monitor *monitor, const struct cabe_ledger_view *view)
{
    for (int i = 0; i < CABE_MONITOR_OPEN; i++) {
        struct cabe_phase *phase = &monitor->open[i];

        if (!phase->is_open)
            continue;
        for (int d = 0; d < view->n_devices; d++)
            phase->device[d].peak_bytes = max_of(phase->device[d].peak_bytes, view->device[d].high_bytes);
        for (int p = 0; p < CABE_N_PURPOSES; p++)
            phase->purpose_peak_bytes[p] =
                max_of(phase->purpose_peak_bytes[p], view->device[CABE_HOST].purpose_high_bytes[p]);
    }
}

/* Under the lock: every open phase of every monitor sees the process's mark as it is. */
static void settle_all(struct cabe_rss *rss)
{
    cabe_rss_read(rss);
    for (struct cabe_monitor *m = monitors; m; m = m->next) {
        int is_exact = m->can_reset || rss->high_bytes > m->mark_bytes;

        raise_peaks(m, is_exact ? rss->high_bytes : rss->rss_bytes, is_exact);
        m->mark_bytes = rss->high_bytes;
    }
}

/*
 * Under the lock, where one phase begins or ends: gives every open phase the marks as they are, and starts
 * new ones. So a phase that begins later does not lose what an earlier one has seen, and does not inherit it.
 */
static void settle(struct cabe_monitor *monitor, struct cabe_rss *rss, struct cabe_ledger_view *view)
{
    settle_all(rss);
    if (monitor->can_reset)
        cabe_rss_reset_high();
    view->n_devices = 0;
    if (!monitor->config.ledger)
        return;
    cabe_ledger_read_and_mark(monitor->config.ledger, view);
    for (struct cabe_monitor *m = monitors; m; m = m->next)
        if (m->config.ledger == monitor->config.ledger)
            raise_device_peaks(m, view);
}

enum cabe_status cabe_monitor_open(struct cabe_monitor **out, const struct cabe_monitor_config *config,
                                   struct cabe_error *err)
{
    struct cabe_monitor *monitor = cabe_calloc(1, sizeof *monitor);
    struct cabe_rss rss;

    *out = NULL;
    if (!monitor)
        return cabe_fail(err, CABE_ERR_OOM, "phase monitor: %zu bytes", sizeof *monitor);
    monitor->config = *config;
    fill_defaults(&monitor->config);
    monitor->opened_ns = cabe_clock_ns();
    pthread_cond_init(&monitor->sampler_wake, NULL);
    pthread_mutex_lock(&lock);
    settle_all(&rss);
    monitor->peak_bytes = monitor->mark_bytes = rss.high_bytes;
    monitor->can_reset = !config->must_sample && cabe_rss_reset_high() == 0;
    monitor->next = monitors;
    monitors = monitor;
    pthread_mutex_unlock(&lock);
    *out = monitor;
    return CABE_OK;
}

void cabe_monitor_close(struct cabe_monitor *monitor)
{
    struct cabe_monitor **at = &monitors;

    if (!monitor)
        return;
    pthread_mutex_lock(&lock);
    while (*at != monitor)
        at = &(*at)->next;
    *at = monitor->next;
    monitor->is_closing = 1;
    pthread_cond_signal(&monitor->sampler_wake);
    pthread_mutex_unlock(&lock);
    if (monitor->has_sampler)
        pthread_join(monitor->sampler, NULL);
    pthread_cond_destroy(&monitor->sampler_wake);
    cabe_free(monitor);
}

static void *sample(void *arg)
{
    struct cabe_monitor *monitor = arg;

    pthread_mutex_lock(&lock);
    while (!monitor->is_closing) {
        struct timespec until;
        struct cabe_rss rss;

        if (monitor->n_open == 0) {
            pthread_cond_wait(&monitor->sampler_wake, &lock);
            continue;
        }
        if (cabe_rss_read(&rss) == 0)
            raise_peaks(monitor, rss.rss_bytes, 0);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += SAMPLE_MS * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&monitor->sampler_wake, &lock, &until);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* Under the lock. Without a thread the phases have what begin and end saw. */
static void need_sampler(struct cabe_monitor *monitor)
{
    sigset_t all, before;

    if (!monitor->has_sampler) {
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        monitor->has_sampler = pthread_create(&monitor->sampler, NULL, sample, monitor) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_cond_signal(&monitor->sampler_wake);
}

static double gib(uint64_t bytes)
{
    return (double)(bytes / 1024) / (double)(GIB / 1024);
}

static void name_event(char *out, size_t room, const char *prefix, const char *name)
{
    size_t n = (size_t)snprintf(out, room, "%s%s", prefix, name);

    for (size_t i = 0; i < n && i < room - 1; i++)
        if (!isalnum((unsigned char)out[i]) || (unsigned char)out[i] >= 0x80)
            out[i] = '_';
}

static void log_begin(struct cabe_monitor *monitor, const struct cabe_phase *phase)
{
    const struct cabe_monitor_config *config = &monitor->config;
    char event[96];

    if (!cabe_log_wants(config->log, CABE_LOG_INFO))
        return;
    name_event(event, sizeof event, "memory_usage_before_", phase->name);
    cabe_log(config->log, CABE_LOG_INFO, event, "{s:f,s:f}", "rss_gb", gib(phase->rss_begin_bytes),
             "available_gb", gib(config->available(config->self)));
}

/* Cut to its room; what is no character or a control one becomes '?': tables go to terminals. */
static void copy_name(char out[CABE_MONITOR_NAME_BYTES], const char *name)
{
    size_t n = cabe_utf8_cut(name, CABE_MONITOR_NAME_BYTES - 1);

    for (size_t i = 0; i < n;) {
        size_t length = cabe_utf8_length(name + i, n - i);
        int is_bad = length == 0 || iscntrl((unsigned char)name[i]);

        memcpy(out + i, is_bad ? "?" : name + i, is_bad ? 1 : length);
        i += is_bad ? 1 : length;
    }
    out[n] = '\0';
}

void cabe_monitor_begin(struct cabe_monitor *monitor, const char *name, uint64_t predicted_bytes, int *phase)
{
    struct cabe_phase begun = {.is_open = 1, .predicted_bytes = predicted_bytes};
    struct cabe_ledger_view view;
    struct cabe_rss rss;
    int number;

    *phase = -1;
    if (!monitor)
        return;
    copy_name(begun.name, name);
    pthread_mutex_lock(&lock);
    for (number = 0; number < CABE_MONITOR_OPEN && monitor->open[number].is_open;)
        number++;
    if (number == CABE_MONITOR_OPEN) {
        pthread_mutex_unlock(&lock);
        return;
    }
    settle(monitor, &rss, &view);
    begun.begin_ns = cabe_clock_ns() - monitor->opened_ns;
    begun.rss_begin_bytes = begun.rss_end_bytes = begun.peak_bytes = rss.rss_bytes;
    begun.n_devices = view.n_devices;
    for (int d = 0; d < view.n_devices; d++)
        begun.device[d].begin_bytes = begun.device[d].end_bytes = begun.device[d].peak_bytes =
            view.device[d].used_bytes;
    if (view.n_devices > 0)
        memcpy(begun.purpose_peak_bytes, view.device[CABE_HOST].purpose_bytes,
               sizeof begun.purpose_peak_bytes);
    monitor->open[number] = begun;
    monitor->grew[number] = 0;
    monitor->n_open++;
    if (!monitor->can_reset)
        need_sampler(monitor);
    pthread_mutex_unlock(&lock);
    *phase = number;
    log_begin(monitor, &begun);
}

struct warning {
    uint64_t found_bytes, limit_bytes;
};

/* Which thresholds the phase passed, and by what. */
static unsigned judge(const struct cabe_monitor *monitor, const struct cabe_phase *phase,
                      const struct cabe_ledger_view *view, struct warning warnings[CABE_N_PHASE_WARNINGS])
{
    const struct cabe_monitor_config *config = &monitor->config;
    uint64_t grown =
        phase->rss_end_bytes > phase->rss_begin_bytes ? phase->rss_end_bytes - phase->rss_begin_bytes : 0;
    unsigned bits = 0;

    warnings[CABE_PHASE_WARNING_RSS] = (struct warning){phase->rss_end_bytes, config->warn_rss_bytes};
    warnings[CABE_PHASE_WARNING_PEAK] =
        (struct warning){phase->peak_bytes, percent_of(config->limit_bytes, config->warn_peak_percent)};
    warnings[CABE_PHASE_WARNING_DELTA] = (struct warning){grown, config->warn_delta_bytes};
    warnings[CABE_PHASE_WARNING_PREDICTED] =
        (struct warning){phase->peak_bytes, phase->predicted_bytes ? phase->predicted_bytes : UINT64_MAX};
    warnings[CABE_PHASE_WARNING_DEVICE] = (struct warning){0, UINT64_MAX};
    for (int d = 1; d < phase->n_devices; d++) {
        uint64_t limit = percent_of(view->device[d].budget_bytes, config->warn_device_percent);

        if (view->device[d].budget_bytes != CABE_UNLIMITED && phase->device[d].peak_bytes > limit)
            warnings[CABE_PHASE_WARNING_DEVICE] = (struct warning){phase->device[d].peak_bytes, limit};
    }
    for (int w = 0; w < CABE_N_PHASE_WARNINGS; w++)
        if (warnings[w].found_bytes > warnings[w].limit_bytes)
            bits |= 1u << w;
    return bits;
}

const char *cabe_phase_warning_name(enum cabe_phase_warning warning)
{
    static const char *const names[] = {
#define X(symbol, name, meaning) name,
        CABE_PHASE_WARNING_MAP(X)
#undef X
    };

    return (size_t)warning < CABE_N_PHASE_WARNINGS ? names[warning] : "unknown";
}

static const char *warning_meaning(int warning)
{
    static const char *const meanings[] = {
#define X(symbol, name, meaning) meaning,
        CABE_PHASE_WARNING_MAP(X)
#undef X
    };

    return meanings[warning];
}

static void log_end(struct cabe_monitor *monitor, const struct cabe_phase *phase,
                    const struct warning warnings[CABE_N_PHASE_WARNINGS])
{
    const struct cabe_monitor_config *config = &monitor->config;
    double delta_gb = phase->rss_end_bytes >= phase->rss_begin_bytes
                          ? gib(phase->rss_end_bytes - phase->rss_begin_bytes)
                          : -gib(phase->rss_begin_bytes - phase->rss_end_bytes);
    char event[96];

    if (cabe_log_wants(config->log, CABE_LOG_INFO)) {
        name_event(event, sizeof event, "memory_usage_after_", phase->name);
        cabe_log(config->log, CABE_LOG_INFO, event, "{s:f,s:f,s:f,s:f,s:f}", "rss_gb",
                 gib(phase->rss_end_bytes), "available_gb", gib(config->available(config->self)), "peak_gb",
                 gib(phase->peak_bytes), "delta_gb", delta_gb, "seconds", (double)phase->elapsed_ns / 1e9);
    }
    for (int w = 0; w < CABE_N_PHASE_WARNINGS; w++)
        if (phase->warnings & 1u << w)
            cabe_log(config->log, CABE_LOG_WARN, "memory_warning", "{s:o,s:s,s:s,s:I,s:I}", "phase",
                     cabe_json_text(phase->name, strlen(phase->name)), "reason",
                     cabe_phase_warning_name((enum cabe_phase_warning)w), "meaning", warning_meaning(w),
                     "bytes", (json_int_t)warnings[w].found_bytes, "limit_bytes",
                     (json_int_t)warnings[w].limit_bytes);
}

void cabe_monitor_end(struct cabe_monitor *monitor, int number)
{
    struct warning warnings[CABE_N_PHASE_WARNINGS];
    struct cabe_ledger_view view;
    struct cabe_phase *phase, ended;
    struct cabe_rss rss;

    if (!monitor || number < 0 || number >= CABE_MONITOR_OPEN)
        return;
    pthread_mutex_lock(&lock);
    phase = &monitor->open[number];
    if (!phase->is_open) {
        pthread_mutex_unlock(&lock);
        return;
    }
    settle(monitor, &rss, &view);
    phase->elapsed_ns = cabe_clock_ns() - monitor->opened_ns - phase->begin_ns;
    phase->rss_end_bytes = rss.rss_bytes;
    for (int d = 0; d < phase->n_devices; d++)
        phase->device[d].end_bytes = view.device[d].used_bytes;
    phase->is_sampled = !monitor->can_reset && !monitor->grew[number];
    phase->warnings = judge(monitor, phase, &view, warnings);
    phase->is_open = 0;
    ended = *phase;
    monitor->n_open--;
    monitor->n_warnings += (unsigned)__builtin_popcount(ended.warnings);
    monitor->done[monitor->n_done++ % CABE_MONITOR_PHASES] = ended;
    pthread_mutex_unlock(&lock);
    log_end(monitor, &ended, warnings);
}

/*
 * Seconds since the process began, by the kernel's count of clock ticks; since the monitor's opening without
 * /proc.
 */
static double process_age_s(const struct cabe_monitor *monitor)
{
    double age_s = (double)(cabe_clock_ns() - monitor->opened_ns) / 1e9;
    struct timespec now;
    unsigned long long ticks;
    char text[1024];
    const char *at;
    ssize_t n;
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return age_s;
    n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at || (ticks = strtoull(at, NULL, 10)) == 0 || clock_gettime(CLOCK_BOOTTIME, &now) != 0)
        return age_s;
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9 - (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

void cabe_monitor_ready(struct cabe_monitor *monitor)
{
    if (monitor)
        cabe_log(monitor->config.log, CABE_LOG_INFO, "ready", "{s:f}", "seconds", process_age_s(monitor));
}

size_t cabe_monitor_read(struct cabe_monitor *monitor, struct cabe_phase *out, size_t n_max)
{
    uint64_t first;
    size_t n = 0;

    pthread_mutex_lock(&lock);
    first = monitor->n_done > CABE_MONITOR_PHASES ? monitor->n_done - CABE_MONITOR_PHASES : 0;
    for (uint64_t i = first; i < monitor->n_done && n < n_max; i++)
        out[n++] = monitor->done[i % CABE_MONITOR_PHASES];
    for (int i = 0; i < CABE_MONITOR_OPEN && n < n_max; i++) {
        if (!monitor->open[i].is_open)
            continue;
        out[n] = monitor->open[i];
        out[n].elapsed_ns = cabe_clock_ns() - monitor->opened_ns - out[n].begin_ns;
        n++;
    }
    pthread_mutex_unlock(&lock);
    return n;
}

void cabe_monitor_counts(struct cabe_monitor *monitor, uint64_t *n_warnings, uint64_t *n_forgotten)
{
    pthread_mutex_lock(&lock);
    *n_warnings = monitor->n_warnings;
    *n_forgotten = monitor->n_done > CABE_MONITOR_PHASES ? monitor->n_done - CABE_MONITOR_PHASES : 0;
    pthread_mutex_unlock(&lock);
}

uint64_t cabe_monitor_peak_bytes(struct cabe_monitor *monitor)
{
    uint64_t bytes;

    pthread_mutex_lock(&lock);
    bytes = monitor->peak_bytes;
    pthread_mutex_unlock(&lock);
    return bytes;
}
