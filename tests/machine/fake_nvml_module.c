/*
 * A driver's library that is not one, for the tests. FAKE_NVML says what it plays: "two" (the default),
 * "unified", "no_init", "many", "strange".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN __attribute__((visibility("default")))

struct fake_memory {
    unsigned long long total, free, used;
};

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetCount_v2(unsigned *n);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
int nvmlDeviceGetName(void *device, char *out, unsigned n);
int nvmlDeviceGetMemoryInfo(void *device, struct fake_memory *out);
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor);
int nvmlDeviceGetUUID(void *device, char *out, unsigned n);

static int handles[64];

static int plays(const char *part)
{
    const char *wanted = getenv("FAKE_NVML");

    return strcmp(wanted ? wanted : "two", part) == 0;
}

static unsigned number(void *device)
{
    return (unsigned)((int *)device - handles);
}

OPEN int nvmlInit_v2(void)
{
    return plays("no_init") ? 9 : 0;
}

OPEN int nvmlShutdown(void)
{
    return 0;
}

OPEN int nvmlDeviceGetCount_v2(unsigned *n)
{
    *n = plays("many") ? 40 : plays("unified") ? 1 : 3;
    return 0;
}

OPEN int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    *device = &handles[index];
    return plays("strange") && index == 1 ? 15 : 0;
}

OPEN int nvmlDeviceGetName(void *device, char *out, unsigned n)
{
    static const char *const names[] = {"Fake A", "Fake B", "Fake C"};

    if (plays("strange"))
        memset(out, 0xff, n); /* no text and no end */
    else
        snprintf(out, n, "%s", names[number(device) % 3]);
    return 0;
}

OPEN int nvmlDeviceGetMemoryInfo(void *device, struct fake_memory *out)
{
    static const unsigned long long gb = 1ull << 30;

    if (plays("unified"))
        return 3;
    if (plays("strange")) {
        out->total = number(device) ? 0 : 8 * gb;
        out->free = 99 * gb;
        return 0;
    }
    switch (number(device) % 3) {
    case 0:
        *out = (struct fake_memory){4 * gb, 3 * gb, gb};
        return 0;
    case 1:
        return 15; /* lost */
    default:
        *out = (struct fake_memory){24 * gb, 20 * gb, 4 * gb};
        return 0;
    }
}

OPEN int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor)
{
    (void)device;
    *major = 8;
    *minor = 6;
    return 0;
}

OPEN int nvmlDeviceGetUUID(void *device, char *out, unsigned n)
{
    snprintf(out, n, "GPU-%08x-1111", number(device) + 10);
    return 0;
}
