/*
 * The machine cabe plans for: what is here, or what a person described.
 *
 * struct cabe_machine is a plain value without pointers: it can be copied, kept, or made by hand. Bytes are
 * counts; "GB" in texts is 1024^3. Memory and CPU limits of containers count as the machine. A source that is
 * missing falls back (physical cores = logical / 2, memory 4096 MB) and sets the assumed flag beside it;
 * probing does not fail.
 *
 * Thread: every function from any thread, on its own struct.
 */
#ifndef CABE_MACHINE_H
#define CABE_MACHINE_H

#include <stdint.h>

#include "cabe/status.h"

#define CABE_MACHINE_GPUS_MAX 16
#define CABE_MACHINE_NAME_MAX 96
#define CABE_MACHINE_PATH_MAX 256
#define CABE_REASON_MAX 240

/* symbol, name: in the order in which names are listed */
#define CABE_SIMD_MAP(X)                                                                                     \
    X(SSE42, "sse4.2")                                                                                       \
    X(AVX, "avx")                                                                                            \
    X(F16C, "f16c")                                                                                          \
    X(FMA, "fma")                                                                                            \
    X(AVX2, "avx2")                                                                                          \
    X(AVXVNNI, "avxvnni")                                                                                    \
    X(AVX512, "avx512") /* F, BW, DQ and VL together */                                                      \
    X(AVX512VNNI, "avx512vnni")                                                                              \
    X(AVX512BF16, "avx512bf16")                                                                              \
    X(AVX512FP16, "avx512fp16")                                                                              \
    X(AMX_INT8, "amx-int8")                                                                                  \
    X(AMX_BF16, "amx-bf16")                                                                                  \
    X(NEON, "neon")                                                                                          \
    X(FP16, "fp16") /* aarch64 half-precision arithmetic */                                                  \
    X(DOTPROD, "dotprod")                                                                                    \
    X(I8MM, "i8mm")                                                                                          \
    X(BF16, "bf16")                                                                                          \
    X(SVE, "sve")                                                                                            \
    X(SVE2, "sve2")

enum cabe_simd {
#define X(symbol, name) CABE_SIMD_##symbol,
    CABE_SIMD_MAP(X)
#undef X
    CABE_N_SIMD
};
#define CABE_SIMD_BIT(simd) (UINT32_C(1) << (simd))

/* Kinds of arithmetic whose peaks are kept. A multiply-add counts two operations. */
#define CABE_ARITH_MAP(X)                                                                                    \
    X(F32, "f32")                                                                                            \
    X(F16, "f16")                                                                                            \
    X(BF16, "bf16")                                                                                          \
    X(INT8, "int8")

enum cabe_arith {
#define X(symbol, name) CABE_ARITH_##symbol,
    CABE_ARITH_MAP(X)
#undef X
    CABE_N_ARITH
};

/* Where a figure comes from. */
enum cabe_origin { CABE_ORIGIN_ESTIMATED, CABE_ORIGIN_DESCRIBED, CABE_ORIGIN_PROBED, CABE_ORIGIN_MEASURED };

/* One measured way to compute, "avx2" f32 for instance. */
struct cabe_peak {
    char level[16];
    enum cabe_arith arith;
    double one_ops_s; /* one thread */
    double all_ops_s; /* cabe_limits.n_threads threads */
};
#define CABE_PEAKS_MAX 16

/* What cabe's own code does here a second, by name: see task/rates.h. All threads. */
struct cabe_work_rate {
    char name[28];
    double per_s;
};
#define CABE_RATES_MAX 128

struct cabe_limits {
    enum cabe_origin origin; /* ESTIMATED, DESCRIBED or MEASURED */
    int n_threads;           /* what "all" means here */
    double read_one_bytes_s; /* memory read */
    double read_all_bytes_s;
    double one_ops_s[CABE_N_ARITH]; /* the best level's; 0 where the CPU has no such arithmetic */
    double all_ops_s[CABE_N_ARITH];
    int n_peaks; /* each level's; 0 unless MEASURED */
    struct cabe_peak peak[CABE_PEAKS_MAX];
    int n_rates; /* 0: not measured */
    struct cabe_work_rate rate[CABE_RATES_MAX];
    char measured_at[32]; /* RFC 3339; empty unless MEASURED */
};

struct cabe_cpu {
    char vendor[32];
    char model[CABE_MACHINE_NAME_MAX];
    int n_logical; /* online on the host, at least 1 */
    int n_physical;
    int n_usable_logical;  /* affinity and cpuset of this process, at least 1 */
    int n_usable_physical; /* different cores among them */
    int n_usable;          /* what counts as cores: n_usable_physical, bounded by the quota; at least 1 */
    double quota_cpus;     /* CPU time a second that the container may use; 0: no quota */
    int cores_assumed;     /* physical cores are a guess (logical / 2) */
    uint32_t simd;         /* CABE_SIMD_BIT()s */
    double mhz;            /* highest known; 0: not known */
    uint64_t l1d_bytes, l2_bytes, l3_bytes; /* of the first CPU, as one core sees them; 0: not known */
    int n_l3;                               /* L3 caches on the host; 0: not known */
    double load_1m;                         /* runnable tasks, mean of a minute; -1: not known */
};

struct cabe_memory {
    uint64_t total_bytes;          /* of the host */
    uint64_t host_available_bytes; /* MemAvailable */
    uint64_t limit_bytes;          /* the smallest of the nested cgroup limits and total_bytes */
    uint64_t available_bytes;      /* within every limit, reclaimable page cache credited; <= limit_bytes */
    uint64_t reclaimable_bytes;    /* page cache that was credited at the binding limit */
    uint64_t swap_free_bytes;
    double percent_used;                      /* of limit_bytes */
    int total_assumed;                        /* no source: 4096 MB taken */
    char limited_by[CABE_MACHINE_PATH_MAX];   /* the cgroup file that set limit_bytes; empty: the host */
    char available_by[CABE_MACHINE_PATH_MAX]; /* the file that set available_bytes */
    double psi_some_avg10; /* percent of time some / all tasks stalled for memory; -1: not known */
    double psi_full_avg10;
};

struct cabe_gpu {
    char name[CABE_MACHINE_NAME_MAX];
    char vendor[16];                  /* "nvidia", "amd", "apple", "intel", "described" */
    uint64_t total_bytes;             /* 0: not known */
    uint64_t free_bytes;              /* what others use is not in it; 0 with a known total: full */
    int memory_known;                 /* total_bytes and free_bytes are real readings */
    int compute_major, compute_minor; /* CUDA compute capability; 0.0: none or not known */
    int unified;                      /* shares the host's memory */
    int low_vram; /* under 6 GB or not known; unified memory is not low for being unknown */
    int usable;   /* a kind that cabe can compute on; others are only reported */
};

struct cabe_machine {
    enum cabe_origin origin; /* PROBED or DESCRIBED */
    struct cabe_cpu cpu;
    struct cabe_memory memory;
    int n_gpus;
    struct cabe_gpu gpu[CABE_MACHINE_GPUS_MAX];
    struct cabe_limits limits;
};

struct cabe_probe_config {
    const char *root;   /* prefix of /proc and /sys, for fixtures; NULL: this machine */
    const char *nvml;   /* library to open; NULL: libnvidia-ml.so.1 (none with a root); "": none */
    const char *limits; /* file of measured limits; NULL: the one of this CPU in CABE_HOME (none with a root);
                           "": none */
};

/* `config` may be NULL. Always CABE_OK: what cannot be read is assumed or left unknown. Opens no GPU context.
 */
CABE_API CABE_CHECKED enum cabe_status
cabe_machine_probe(struct cabe_machine *out, const struct cabe_probe_config *config, struct cabe_error *err);

/* Only what changes by itself: load, available memory, pressure, free GPU memory stays as probed. For long
 * work. */
CABE_API void cabe_machine_refresh(struct cabe_machine *machine, const struct cabe_probe_config *config);

/*
 * A machine from words: "8 cores, 16 GB, gpu 6 GB". Parts are separated by commas or semicolons, in any
 * order:
 *
 *     8 cores | 8 physical cores | 16 threads | quota 1.5    physical cores; logical CPUs; CPU time
 *     16 GB [ram|memory] | free 4 GB                         memory (MB, GB, TB; MiB... mean the same);
 * available gpu [NAME] 6 GB [free 4 GB] [unified] [cc 8.6]         one per GPU; "2 x gpu 8 GB"; "no gpu" avx2
 * | avx512 | avx512vnni | neon | scalar | any name of CABE_SIMD_MAP; a level includes the ones below 30 GB/s
 * | 150 GFLOP/s | 400 GOP/s int8 | 3.2 GHz | l2 1 MB | l3 32 MB
 *
 * Cores and memory not named take the fallbacks of a probe. CABE_ERR_ARGUMENT names the part and what was
 * wanted.
 */
CABE_API CABE_CHECKED enum cabe_status cabe_machine_describe(struct cabe_machine *out, const char *text,
                                                             struct cabe_error *err);

enum cabe_tier { CABE_TIER_LOW, CABE_TIER_MEDIUM, CABE_TIER_HIGH };
CABE_API const char *cabe_tier_name(enum cabe_tier tier); /* "low", "medium", "high" */

/* HIGH: >= 8 cores, >= 16384 MB, a usable GPU that is not low on memory. MEDIUM: >= 4 and >= 8192 MB. Else
 * LOW. */
CABE_API enum cabe_tier cabe_machine_tier(const struct cabe_machine *machine, char reason[CABE_REASON_MAX]);

/* Families of work that a GPU is shared out to. */
#define CABE_FAMILY_MAP(X)                                                                                   \
    X(LLM, "llm")                                                                                            \
    X(ENTITIES, "entities")                                                                                  \
    X(EMBEDDINGS, "embeddings")                                                                              \
    X(COREFERENCE, "coreference")                                                                            \
    X(VISION, "vision")                                                                                      \
    X(IMAGES, "images")

enum cabe_family {
#define X(symbol, name) CABE_FAMILY_##symbol,
    CABE_FAMILY_MAP(X)
#undef X
    CABE_N_FAMILIES
};
#define CABE_FAMILY_BIT(family) (UINT32_C(1) << (family))
#define CABE_FAMILIES_ALL ((UINT32_C(1) << CABE_N_FAMILIES) - 1)
CABE_API const char *cabe_family_name(enum cabe_family family);

/* The values of a recommendation that have a reason: symbol, name in JSON */
#define CABE_ADVICE_MAP(X)                                                                                   \
    X(TIER, "tier")                                                                                          \
    X(WORKERS, "workers")                                                                                    \
    X(THREADS, "threads")                                                                                    \
    X(BUDGET, "budget_bytes")                                                                                \
    X(EMBEDDING_BATCH, "embedding_batch")                                                                    \
    X(GPU_BATCH, "gpu_batch")                                                                                \
    X(NLP_BATCH, "nlp_batch")                                                                                \
    X(HEAVY_TASKS, "heavy_tasks")                                                                            \
    X(CHUNK_CHARS, "document_chunk_chars")                                                                   \
    X(REDUNDANCY, "semantic_redundancy")                                                                     \
    X(FAMILIES, "families")

enum cabe_advice {
#define X(symbol, name) CABE_ADVICE_##symbol,
    CABE_ADVICE_MAP(X)
#undef X
    CABE_N_ADVICE
};
CABE_API const char *cabe_advice_name(enum cabe_advice advice);

struct cabe_recommendation {
    enum cabe_tier tier;
    int workers;           /* min(cores - 1, available / 2048 MB, 8), at least 1 */
    int threads;           /* cabe_machine_threads() */
    uint64_t budget_bytes; /* cabe_machine_budget() */
    int embedding_batch;   /* 64 with a good GPU, 32 with a low one, 16 on CPU */
    int gpu_batch;         /* embedding_batch cut for the GPU's memory; 0: no GPU */
    int nlp_batch;
    int heavy_tasks; /* at once */
    int document_chunk_chars;
    int semantic_redundancy;            /* on or off */
    int family_device[CABE_N_FAMILIES]; /* 0: CPU; n: machine->gpu[n - 1]; -1: not asked for */
    char reason[CABE_N_ADVICE][CABE_REASON_MAX];
};

/* `families`: CABE_FAMILY_BIT()s of the work there will be; 0 means all. */
CABE_API void cabe_machine_recommend(struct cabe_recommendation *out, const struct cabe_machine *machine,
                                     uint32_t families);

/* A batch that suits a device's memory: < 4 GB max(4, d/8); < 6 GB max(8, d/4); < 8 GB max(16, d/2); else d.
 */
CABE_API int cabe_machine_batch(int wanted, uint64_t vram_bytes);

/* The byte budget taken when nobody gives one: what is available less 15 to 20 % of the limit for the system.
 */
CABE_API uint64_t cabe_machine_budget(const struct cabe_machine *machine, char reason[CABE_REASON_MAX]);

/* Threads taken when nobody gives a number: usable physical cores, at least 1. */
CABE_API int cabe_machine_threads(const struct cabe_machine *machine);

/* Index in machine->gpu of the usable GPU with most free memory; -1: none. */
CABE_API int cabe_machine_best_gpu(const struct cabe_machine *machine);

/* Limits for `n_threads`: between "one" and "all", bandwidth by saturation and arithmetic in proportion. */
CABE_API double cabe_machine_read_bytes_s(const struct cabe_machine *machine, int n_threads);
CABE_API double cabe_machine_ops_s(const struct cabe_machine *machine, enum cabe_arith arith, int n_threads);

/* The rate of that name, of all threads; 0: not known. */
CABE_API double cabe_machine_rate(const struct cabe_machine *machine, const char *name);

CABE_API const char *cabe_simd_name(enum cabe_simd simd);
CABE_API const char *cabe_arith_name(enum cabe_arith arith);
CABE_API const char *cabe_origin_name(enum cabe_origin origin);
/* The best kernel level the SIMD bits allow: "scalar", "avx2", "avx512", "avx512vnni", "neon". */
CABE_API const char *cabe_simd_level(uint32_t simd);

#endif
