#include "base/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/memory.h"

#define FILE_NAME "reservations-1"
#define MAGIC UINT64_C(0x31646c6562616331) /* changes with the layout, as the file's name does */
#define REGISTRY_SLOTS 128

struct who {
    uint64_t pid;
    uint64_t started;   /* clock ticks after the system began: a process id that is used again has another */
    uint64_t boot;      /* hash of the boot id: start times count from there */
    uint64_t namespace; /* of process ids: others' cannot be looked up */
};

/* All words are atomics: other processes read them at any time. Relaxed: each is a number of its own. */
struct slot {
    _Atomic uint64_t who[4]; /* as struct who; who[0] == 0: free */
    _Atomic uint64_t bytes[CABE_DEVICES_MAX];
};

struct layout {
    uint64_t magic;
    uint64_t size;
    struct slot slot[REGISTRY_SLOTS];
};

struct cabe_registry {
    struct layout *map;
    struct cabe_guard *guard;
    struct slot *mine;
    struct who me;
};

static uint64_t word(const _Atomic uint64_t *from)
{
    return atomic_load_explicit(from, memory_order_relaxed);
}

static void set_word(_Atomic uint64_t *to, uint64_t value)
{
    atomic_store_explicit(to, value, memory_order_relaxed);
}

/* What /proc says of a process, cut to `room`; 0: nothing. */
static int read_of(uint64_t pid, const char *name, char *text, size_t room)
{
    char path[48];
    ssize_t n;
    int fd;

    snprintf(path, sizeof path, "/proc/%llu/%s", (unsigned long long)pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    n = read(fd, text, room - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n > 0;
}

/* When `pid` started, in clock ticks; 0 when there is no such process, or only its remains. */
static uint64_t started(uint64_t pid)
{
    char text[1024];
    const char *at;

    if (!read_of(pid, "stat", text, sizeof text))
        return 0;
    at = strrchr(text, ')'); /* the name before it may hold anything */
    if (!at || at[1] != ' ' || at[2] == 'Z' || at[2] == 'X')
        return 0;
    for (int field = 2; field < 22; field++) { /* proc(5): the 22nd is starttime */
        at = strchr(at + 1, ' ');
        if (!at)
            return 0;
    }
    return strtoull(at, NULL, 10);
}

static uint64_t hash_of_file(const char *path)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    char text[64];
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return 0;
    n = read(fd, text, sizeof text);
    close(fd);
    for (ssize_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)text[i]) * UINT64_C(1099511628211);
    return hash;
}

static struct who myself(void)
{
    struct who me = {.pid = (uint64_t)getpid(), .boot = hash_of_file("/proc/sys/kernel/random/boot_id")};
    struct stat info;

    me.started = started(me.pid);
    if (stat("/proc/self/ns/pid", &info) == 0)
        me.namespace = info.st_ino;
    return me;
}

enum life { FREE, ALIVE, UNKNOWN };

/* Another namespace's process cannot be seen from here: it is neither counted nor taken for dead. */
static enum life life_of(const struct cabe_registry *registry, const struct slot *slot)
{
    struct who who = {word(&slot->who[0]), word(&slot->who[1]), word(&slot->who[2]), word(&slot->who[3])};

    if (who.pid == 0 || who.boot != registry->me.boot)
        return FREE;
    if (who.namespace != registry->me.namespace)
        return UNKNOWN;
    return who.started != 0 && started(who.pid) == who.started ? ALIVE : FREE;
}

/* Under the file's lock. */
static struct slot *claim(struct cabe_registry *registry)
{
    for (int i = 0; i < REGISTRY_SLOTS; i++) {
        struct slot *slot = &registry->map->slot[i];

        if (life_of(registry, slot) != FREE)
            continue;
        set_word(&slot->who[0], 0);
        for (int d = 0; d < CABE_DEVICES_MAX; d++)
            set_word(&slot->bytes[d], 0);
        set_word(&slot->who[1], registry->me.started);
        set_word(&slot->who[2], registry->me.boot);
        set_word(&slot->who[3], registry->me.namespace);
        set_word(&slot->who[0], registry->me.pid);
        return slot;
    }
    return NULL;
}

/* Ours: a plain file of this user with the right header. */
static int is_sound(int fd)
{
    uint64_t head[2];
    struct stat info;

    return fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid() &&
           info.st_size == (off_t)sizeof(struct layout) && pread(fd, head, sizeof head, 0) == sizeof head &&
           head[0] == MAGIC && head[1] == sizeof(struct layout);
}

/*
 * Puts a fresh file in place of what is there. Never written in place: others may have the old one mapped. It
 * is written in full, since a store into a hole of a full disk would be a bus error.
 */
static int make_file(const char *folder, const char *path)
{
    struct layout *fresh = cabe_calloc(1, sizeof *fresh);
    char temporary[512];
    int fd = -1;

    if (!fresh ||
        snprintf(temporary, sizeof temporary, "%s/.%s-XXXXXX", folder, FILE_NAME) >= (int)sizeof temporary)
        goto done;
    fresh->magic = MAGIC;
    fresh->size = sizeof *fresh;
    fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        goto done;
    if (write(fd, fresh, sizeof *fresh) != (ssize_t)sizeof *fresh || rename(temporary, path) != 0) {
        unlink(temporary);
        close(fd);
        fd = -1;
    }
done:
    cabe_free(fresh);
    return fd;
}

static void pause_ms(long ms)
{
    const struct timespec wanted = {.tv_nsec = ms * 1000000};

    nanosleep(&wanted, NULL);
}

/* The folder's lock serialises those who claim a slot; whoever holds it for longer is not waited for. */
static int lock_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return -1;
    for (int i = 0; i < 20; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return fd;
        pause_ms(5);
    }
    close(fd);
    return -1;
}

/* Under the folder's lock. */
static int attach(struct cabe_registry *registry, const char *folder)
{
    char path[512];
    void *map;
    int fd, result = -1;

    if (snprintf(path, sizeof path, "%s/%s", folder, FILE_NAME) >= (int)sizeof path)
        return -1;
    fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || !is_sound(fd)) {
        if (fd >= 0)
            close(fd);
        fd = make_file(folder, path);
    }
    if (fd < 0)
        return -1;
    map = mmap(NULL, sizeof *registry->map, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) {
        registry->map = map;
        if (cabe_guard_add(&registry->guard, map, sizeof *registry->map, CABE_GUARD_WRITE, -1, path, NULL) ==
            CABE_OK)
            registry->mine = claim(registry);
        result = registry->mine ? 0 : -1;
    }
    close(fd);
    return result;
}

struct cabe_registry *cabe_registry_open(const char *folder)
{
    struct cabe_registry *registry = cabe_calloc(1, sizeof *registry);
    int lock, result;

    if (!registry)
        return NULL;
    registry->me = myself();
    if (registry->me.started == 0) /* no /proc: nobody could see that we live */
        goto fail;
    if (mkdir(folder, 0700) != 0 && errno != EEXIST)
        goto fail;
    lock = lock_folder(folder);
    if (lock < 0)
        goto fail;
    result = attach(registry, folder);
    close(lock);
    if (result == 0)
        return registry;
fail:
    cabe_registry_close(registry);
    return NULL;
}

void cabe_registry_close(struct cabe_registry *registry)
{
    if (!registry)
        return;
    if (registry->mine) {
        for (int d = 0; d < CABE_DEVICES_MAX; d++)
            set_word(&registry->mine->bytes[d], 0);
        set_word(&registry->mine->who[0], 0);
    }
    cabe_guard_remove(registry->guard);
    if (registry->map)
        munmap(registry->map, sizeof *registry->map);
    cabe_free(registry);
}

void cabe_registry_publish(struct cabe_registry *registry, int device, uint64_t bytes)
{
    if (registry)
        set_word(&registry->mine->bytes[device], bytes);
}

void cabe_registry_others(const struct cabe_registry *registry, uint64_t bytes[CABE_DEVICES_MAX])
{
    if (!registry)
        return;
    for (int i = 0; i < REGISTRY_SLOTS; i++) {
        const struct slot *slot = &registry->map->slot[i];

        if (slot == registry->mine || life_of(registry, slot) != ALIVE)
            continue;
        for (int d = 0; d < CABE_DEVICES_MAX; d++)
            if (__builtin_add_overflow(bytes[d], word(&slot->bytes[d]), &bytes[d]))
                bytes[d] = UINT64_MAX;
    }
}

/* Resident bytes of another process; 0 when it cannot be read. */
static uint64_t resident_of(uint64_t pid)
{
    char text[128];
    const char *at;

    if (!read_of(pid, "statm", text, sizeof text))
        return 0;
    at = strchr(text, ' '); /* size resident ... in pages */
    return at ? strtoull(at, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static uint64_t promised_by(const struct cabe_registry *reader)
{
    uint64_t sum = 0;

    for (int i = 0; i < REGISTRY_SLOTS; i++) {
        const struct slot *slot = &reader->map->slot[i];
        uint64_t pid = word(&slot->who[0]), reserved = word(&slot->bytes[CABE_HOST]), resident;

        if (pid == reader->me.pid || life_of(reader, slot) != ALIVE)
            continue;
        resident = resident_of(pid);
        if (reserved > resident && __builtin_add_overflow(sum, reserved - resident, &sum))
            return UINT64_MAX;
    }
    return sum;
}

uint64_t cabe_registry_promised(const char *folder)
{
    struct cabe_registry reader = {.map = cabe_calloc(1, sizeof *reader.map)};
    uint64_t sum = 0;
    char path[512];
    int fd = -1;

    if (reader.map && snprintf(path, sizeof path, "%s/%s", folder, FILE_NAME) < (int)sizeof path)
        fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && is_sound(fd) && read(fd, reader.map, sizeof *reader.map) == (ssize_t)sizeof *reader.map) {
        reader.me = myself();
        sum = promised_by(&reader);
    }
    if (fd >= 0)
        close(fd);
    cabe_free(reader.map);
    return sum;
}
