#include <string.h>

#include "machine/limits.h"
#include "machine/probe.h"

static const char *nvml_of(const struct cabe_probe_config *config)
{
    if (config && config->nvml)
        return config->nvml;
    return config && config->root ? "" : "libnvidia-ml.so.1";
}

enum cabe_status cabe_machine_probe(struct cabe_machine *out, const struct cabe_probe_config *config,
                                    struct cabe_error *err)
{
    const char *root = config ? config->root : NULL;
    const char *limits = config ? config->limits : NULL;

    (void)err;
    memset(out, 0, sizeof *out);
    out->origin = CABE_ORIGIN_PROBED;
    cabe_probe_cpu(&out->cpu, root);
    cabe_probe_memory(&out->memory, root);
    cabe_probe_gpus(out, root, nvml_of(config));
    cabe_limits_estimate(&out->limits, &out->cpu);
    if (limits ? limits[0] != '\0' : !root)
        cabe_limits_load(out, limits);
    return CABE_OK;
}

void cabe_machine_refresh(struct cabe_machine *machine, const struct cabe_probe_config *config)
{
    const char *root = config ? config->root : NULL;

    if (machine->origin != CABE_ORIGIN_PROBED)
        return;
    cabe_probe_load(&machine->cpu, root);
    cabe_probe_memory(&machine->memory, root);
}
