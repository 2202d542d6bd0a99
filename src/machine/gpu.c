/*
 * GPUs through NVML, which tells names and memory without a context on the device (a context costs 100 to 300
 * MB of the memory that is being asked about), and through /sys for makes that are only reported.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/probe.h"
#include "machine/sysfile.h"

#define NVML_OK 0
#define NVML_NOT_SUPPORTED 3

struct nvml_memory { /* nvmlMemory_t */
    unsigned long long total, free, used;
};

typedef struct nvml_device *nvml_handle; /* opaque, the library's */

struct nvml {
    int (*init)(void);
    int (*shutdown)(void);
    int (*count)(unsigned *);
    int (*by_index)(unsigned, nvml_handle *);
    int (*name)(nvml_handle, char *, unsigned);
    int (*memory)(nvml_handle, struct nvml_memory *);
    int (*capability)(nvml_handle, int *, int *);
    int (*uuid)(nvml_handle, char *, unsigned);
};

static int load(struct nvml *nvml, void *library)
{
    static const struct {
        const char *name;
        size_t at;
        int wanted;
    } symbols[] = {
        {"nvmlInit_v2", offsetof(struct nvml, init), 1},
        {"nvmlShutdown", offsetof(struct nvml, shutdown), 1},
        {"nvmlDeviceGetCount_v2", offsetof(struct nvml, count), 1},
        {"nvmlDeviceGetHandleByIndex_v2", offsetof(struct nvml, by_index), 1},
        {"nvmlDeviceGetName", offsetof(struct nvml, name), 0},
        {"nvmlDeviceGetMemoryInfo", offsetof(struct nvml, memory), 0},
        {"nvmlDeviceGetCudaComputeCapability", offsetof(struct nvml, capability), 0},
        {"nvmlDeviceGetUUID", offsetof(struct nvml, uuid), 0},
    };

    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        void *found = dlsym(library, symbols[i].name);

        if (!found && symbols[i].wanted)
            return 0;
        memcpy((char *)nvml + symbols[i].at, &found,
               sizeof found); /* ISO C has no cast from object to function */
    }
    return 1;
}

/* Whether CUDA_VISIBLE_DEVICES, a list of indexes and UUID prefixes, lets programs see this one. */
static int visible(const char *list, unsigned index, const char *uuid)
{
    while (list && *list) {
        size_t n = strcspn(list, ",");
        char *end;
        unsigned long number = strtoul(list, &end, 10);

        if (end == list + n && n > 0 && *list >= '0' && *list <= '9' && number == index)
            return 1;
        if (n > 4 && strncmp(list, "GPU-", 4) == 0 && strncmp(uuid, list, n) == 0)
            return 1;
        list += n + (list[n] == ',');
    }
    return 0;
}

void cabe_gpu_settle(struct cabe_gpu *gpu)
{
    cabe_tidy_name(gpu->name);
    if (gpu->free_bytes > gpu->total_bytes)
        gpu->free_bytes = gpu->total_bytes;
    if (gpu->total_bytes == 0)
        gpu->memory_known = 0;
    gpu->low_vram = gpu->memory_known ? gpu->total_bytes < CABE_LOW_VRAM_BYTES : !gpu->unified;
}

static void read_device(struct cabe_gpu *gpu, const struct nvml *nvml, nvml_handle device)
{
    struct nvml_memory memory = {0};
    int answer;

    memset(gpu, 0, sizeof *gpu);
    snprintf(gpu->vendor, sizeof gpu->vendor, "nvidia");
    gpu->usable = 1;
    if (!nvml->name || nvml->name(device, gpu->name, sizeof gpu->name) != NVML_OK || !gpu->name[0])
        snprintf(gpu->name, sizeof gpu->name, "NVIDIA GPU");
    gpu->name[sizeof gpu->name - 1] = '\0';
    if (!nvml->capability || nvml->capability(device, &gpu->compute_major, &gpu->compute_minor) != NVML_OK)
        gpu->compute_major = gpu->compute_minor = 0;
    answer = nvml->memory ? nvml->memory(device, &memory) : NVML_NOT_SUPPORTED;
    if (answer == NVML_OK) {
        gpu->total_bytes = memory.total;
        gpu->free_bytes = memory.free;
        gpu->memory_known = 1;
    } else if (answer == NVML_NOT_SUPPORTED) {
        gpu->unified = 1; /* it has no memory of its own to tell of */
    }
    cabe_gpu_settle(gpu);
}

/* Returns 0 where NVML cannot be used at all. */
static int read_nvml(struct cabe_machine *machine, const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    struct nvml nvml;
    unsigned n = 0;
    int used = 0;

    if (!library)
        return 0;
    if (load(&nvml, library) && nvml.init() == NVML_OK) {
        used = nvml.count(&n) == NVML_OK;
        for (unsigned i = 0; used && i < n && machine->n_gpus < CABE_MACHINE_GPUS_MAX; i++) {
            nvml_handle device = NULL;
            char uuid[96] = "";

            if (nvml.by_index(i, &device) != NVML_OK)
                continue;
            if (list && nvml.uuid && nvml.uuid(device, uuid, sizeof uuid) != NVML_OK)
                uuid[0] = '\0';
            if (!list || visible(list, i, uuid))
                read_device(&machine->gpu[machine->n_gpus++], &nvml, device);
        }
        nvml.shutdown();
    }
    dlclose(library);
    return used;
}

static void add_reported(struct cabe_machine *machine, const char *vendor, const char *name)
{
    struct cabe_gpu *gpu = &machine->gpu[machine->n_gpus++];

    memset(gpu, 0, sizeof *gpu);
    snprintf(gpu->vendor, sizeof gpu->vendor, "%s", vendor);
    snprintf(gpu->name, sizeof gpu->name, "%.95s", name);
}

/* A card of /sys/class/drm: reported, with its memory where the driver tells it. */
static void read_card(struct cabe_machine *machine, const char *root, const char *folder, int has_nvml)
{
    char path[128], text[2048], name[CABE_MACHINE_NAME_MAX] = "";
    struct cabe_gpu *gpu;
    uint64_t used;

    snprintf(path, sizeof path, "%s/uevent", folder);
    cabe_sysfile_text(root, path, text, sizeof text);
    if (strstr(text, "apple,agx")) {
        add_reported(machine, "apple", "Apple GPU");
        machine->gpu[machine->n_gpus - 1].unified = 1;
        cabe_gpu_settle(&machine->gpu[machine->n_gpus - 1]);
        return;
    }
    snprintf(path, sizeof path, "%s/product_name", folder);
    cabe_sysfile_text(root, path, name, sizeof name);
    snprintf(path, sizeof path, "%s/vendor", folder);
    cabe_sysfile_text(root, path, text, sizeof text);
    if (strcmp(text, "0x1002") == 0)
        add_reported(machine, "amd", name[0] ? name : "AMD GPU");
    else if (strcmp(text, "0x8086") == 0)
        add_reported(machine, "intel", name[0] ? name : "Intel GPU");
    else if (strcmp(text, "0x10de") == 0 && !has_nvml)
        add_reported(machine, "nvidia", name[0] ? name : "NVIDIA GPU without its driver's library");
    else
        return;
    gpu = &machine->gpu[machine->n_gpus - 1];
    snprintf(path, sizeof path, "%s/mem_info_vram_total", folder);
    gpu->memory_known = cabe_sysfile_u64(root, path, &gpu->total_bytes);
    snprintf(path, sizeof path, "%s/mem_info_vram_used", folder);
    if (gpu->memory_known && cabe_sysfile_u64(root, path, &used))
        gpu->free_bytes = used < gpu->total_bytes ? gpu->total_bytes - used : 0;
    cabe_gpu_settle(gpu);
}

void cabe_probe_gpus(struct cabe_machine *machine, const char *root, const char *library)
{
    char folder[64];
    int has_nvml;

    machine->n_gpus = 0;
    has_nvml = library[0] && read_nvml(machine, library);
    if (!cabe_sysfile_is_dir(root, "/sys/class/drm"))
        return;
    for (int i = 0; i < 32 && machine->n_gpus < CABE_MACHINE_GPUS_MAX; i++) {
        snprintf(folder, sizeof folder, "/sys/class/drm/card%d/device", i);
        read_card(machine, root, folder, has_nvml);
    }
}
