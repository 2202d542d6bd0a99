/*
 * Machines from outside bytes: a description as a person types it, and a kept file of measured limits, by the
 * first byte. Whatever is accepted must make a machine that the planner can count on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "not so: %s\n", what);
        abort();
    }
}

static void check(const struct cabe_machine *machine)
{
    struct cabe_recommendation advice;
    const struct cabe_memory *memory = &machine->memory;

    expect(machine->cpu.n_usable >= 1 && machine->cpu.n_usable <= machine->cpu.n_logical + 1, "cores");
    expect(memory->limit_bytes > 0 && memory->available_bytes <= memory->limit_bytes, "memory");
    expect(machine->n_gpus >= 0 && machine->n_gpus <= CABE_MACHINE_GPUS_MAX, "GPUs");
    for (int i = 0; i < machine->n_gpus; i++)
        expect(machine->gpu[i].free_bytes <= machine->gpu[i].total_bytes, "GPU memory");
    expect(cabe_machine_ops_s(machine, CABE_ARITH_F32, 2) > 0, "arithmetic");
    expect(cabe_machine_read_bytes_s(machine, 2) > 0, "bandwidth");
    cabe_machine_recommend(&advice, machine, 0);
    expect(advice.workers >= 1 && advice.threads >= 1 && advice.budget_bytes <= memory->available_bytes,
           "advice");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cabe_machine machine;
    char text[4096], path[] = "/tmp/cabe_limits_fuzz_XXXXXX";
    int fd;

    if (size < 1 || size > sizeof text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    if (data[0] != '{') {
        if (cabe_machine_describe(&machine, text, NULL) == CABE_OK)
            check(&machine);
        return 0;
    }
    fd = mkstemp(path);
    if (fd < 0)
        return 0;
    expect(write(fd, data, size) == (ssize_t)size, "the temporary file");
    close(fd);
    expect(cabe_machine_describe(&machine, "2 cores", NULL) == CABE_OK, "a machine");
    cabe_limits_load(&machine, path);
    check(&machine);
    unlink(path);
    return 0;
}
