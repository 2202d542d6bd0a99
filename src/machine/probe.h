/* The parts of a probe. Each fills its part of the machine from what is below `root`, and assumes what is
 * missing. */
#ifndef CABE_MACHINE_PROBE_H
#define CABE_MACHINE_PROBE_H

#include <stddef.h>

#include "cabe/machine.h"

#define CABE_MB (UINT64_C(1) << 20)
#define CABE_GB (UINT64_C(1) << 30)
#define CABE_LOW_VRAM_BYTES (6 * CABE_GB)
#define CABE_ASSUMED_MEMORY_BYTES (4096 * CABE_MB)

void cabe_probe_cpu(struct cabe_cpu *cpu, const char *root);
void cabe_probe_load(struct cabe_cpu *cpu, const char *root);
void cabe_probe_memory(struct cabe_memory *memory, const char *root);

/* `library` as in struct cabe_probe_config; "" looks at /sys alone. */
void cabe_probe_gpus(struct cabe_machine *machine, const char *root, const char *library);

/* Sets n_usable and n_usable_physical from the other counts. */
void cabe_cpu_settle(struct cabe_cpu *cpu);
/* Sets low_vram. */
void cabe_gpu_settle(struct cabe_gpu *gpu);

/* Names come from outside: what is not printable ASCII becomes '?', blanks at the ends go. */
void cabe_tidy_name(char *name);

/* "avx2" and the like to a bit and all that it includes; 0: no such name. */
uint32_t cabe_simd_parse(const char *name, size_t n);

/* A guess from cores, clock and SIMD width. */
void cabe_limits_estimate(struct cabe_limits *limits, const struct cabe_cpu *cpu);

#endif
