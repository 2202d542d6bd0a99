#include "base/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/utf8.h"

/*
 * The handler may run at any instant on any thread, so it reads only this table: slots are never freed, and a
 * slot is live while `end` is not 0. `end` is written last (release) and read first (acquire).
 */
struct cabe_guard {
    _Atomic uintptr_t begin;
    _Atomic uintptr_t end;
    atomic_int is_broken;
    atomic_int is_writable;
    /* Below: of the owner, under `lock` while the slot changes hands. */
    int is_taken;
    int fd;
    uint64_t file_bytes;
    struct timespec modified;
    char name[256];
};

static struct cabe_guard table[CABE_GUARD_MAX];
static atomic_size_t n_slots_used; /* slots ever taken: the rest need no look */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before; /* the handler that ours replaced */
static uintptr_t page_bytes;

static struct cabe_guard *find(uintptr_t address)
{
    size_t n = atomic_load_explicit(&n_slots_used, memory_order_acquire);

    for (size_t i = 0; i < n; i++)
        if (address < atomic_load_explicit(&table[i].end, memory_order_acquire) &&
            address >= atomic_load_explicit(&table[i].begin, memory_order_relaxed))
            return &table[i];
    return NULL;
}

/* From the faulting page to the end: a file that shrank has lost all of it, and one mapping is enough. */
static int put_zero_pages(struct cabe_guard *guard, uintptr_t address)
{
    uintptr_t from = address / page_bytes * page_bytes;
    uintptr_t end = atomic_load_explicit(&guard->end, memory_order_relaxed);
    int protection = PROT_READ;

    if (atomic_load_explicit(&guard->is_writable, memory_order_relaxed))
        protection |= PROT_WRITE;
    /*
     * Release: whoever sees what was computed from the zeros sees this too, through the barrier that orders
     * it.
     */
    atomic_store_explicit(&guard->is_broken, 1, memory_order_release);
    /* The address is inside a mapping of ours, so the pointer is made from a number without inventing memory.
     */
    return mmap((void *)from, end - from, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
                -1, 0) == MAP_FAILED
               ? -1
               : 0;
}

static void pass_on(int number, siginfo_t *info, void *context)
{
    /*
     * A handler that was put over ours, and then ours over it, may call ours again: then nobody wants the
     * fault.
     */
    static _Thread_local volatile sig_atomic_t is_passing __attribute__((tls_model("initial-exec")));

    if (!is_passing && (before.sa_flags & SA_SIGINFO)) {
        is_passing = 1;
        before.sa_sigaction(number, info, context);
        is_passing = 0;
    } else if (!is_passing && before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        is_passing = 1;
        before.sa_handler(number);
        is_passing = 0;
    } else if (is_passing || info->si_code > 0 || before.sa_handler == SIG_DFL) {
        /* A real fault happens again on return and then ends the process; a sent signal is sent again. */
        signal(number, SIG_DFL);
        if (info->si_code <= 0)
            raise(number);
    }
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    uintptr_t address = (uintptr_t)info->si_addr;
    struct cabe_guard *guard = info->si_code > 0 ? find(address) : NULL;

    if (!guard || put_zero_pages(guard, address) != 0)
        pass_on(number, info, context);
    errno = saved_errno;
}

/* Under `lock`. Each time: the program may have put a handler of its own over ours since. */
static enum cabe_status install(struct cabe_error *err)
{
    struct sigaction action = {.sa_sigaction = on_bus_error,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    struct sigaction now;

    if (sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus_error)
        return CABE_OK;
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&action.sa_mask);
    before = now;
    if (sigaction(SIGBUS, &action, NULL) != 0)
        return cabe_fail_errno(err, errno, "handler for bus errors");
    return CABE_OK;
}

/* Under `lock`. */
static struct cabe_guard *take_slot(void)
{
    size_t n = atomic_load_explicit(&n_slots_used, memory_order_relaxed);

    for (size_t i = 0; i < CABE_GUARD_MAX; i++) {
        if (table[i].is_taken)
            continue;
        table[i].is_taken = 1;
        if (i >= n)
            atomic_store_explicit(&n_slots_used, i + 1, memory_order_release);
        return &table[i];
    }
    return NULL;
}

static enum cabe_status add_locked(struct cabe_guard **out, uintptr_t begin, uint64_t bytes,
                                   enum cabe_guard_access access, int fd, const char *name,
                                   struct cabe_error *err)
{
    enum cabe_status status = install(err);
    struct cabe_guard *guard;
    struct stat info = {0};
    size_t name_bytes;
    int copy = -1;

    if (status != CABE_OK)
        return status;
    if (fd >= 0 && (fstat(fd, &info) != 0 || (copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0))
        return cabe_fail_errno(err, errno, "%s: guard of the mapped file", name);
    guard = take_slot();
    if (!guard) {
        if (copy >= 0)
            close(copy);
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: %d files are mapped already", name, CABE_GUARD_MAX);
    }
    guard->fd = copy;
    guard->file_bytes = (uint64_t)info.st_size;
    guard->modified = info.st_mtim;
    name_bytes = cabe_utf8_cut(name, sizeof guard->name - 1);
    memcpy(guard->name, name, name_bytes);
    guard->name[name_bytes] = '\0';
    atomic_store_explicit(&guard->is_broken, 0, memory_order_relaxed);
    atomic_store_explicit(&guard->is_writable, access == CABE_GUARD_WRITE, memory_order_relaxed);
    atomic_store_explicit(&guard->begin, begin, memory_order_relaxed);
    /* The kernel maps whole pages; the rest of the last one belongs to the mapping. */
    atomic_store_explicit(&guard->end, (begin + bytes + page_bytes - 1) / page_bytes * page_bytes,
                          memory_order_release);
    *out = guard;
    return CABE_OK;
}

enum cabe_status cabe_guard_add(struct cabe_guard **out, void *memory, uint64_t bytes,
                                enum cabe_guard_access access, int fd, const char *name,
                                struct cabe_error *err)
{
    enum cabe_status status;

    *out = NULL;
    if (!memory || bytes == 0 || bytes > UINTPTR_MAX / 2)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: guard of %llu bytes", name, (unsigned long long)bytes);
    pthread_mutex_lock(&lock);
    status = add_locked(out, (uintptr_t)memory, bytes, access, fd, name, err);
    pthread_mutex_unlock(&lock);
    return status;
}

void cabe_guard_remove(struct cabe_guard *guard)
{
    if (!guard)
        return;
    pthread_mutex_lock(&lock);
    atomic_store_explicit(&guard->end, 0, memory_order_release);
    if (guard->fd >= 0)
        close(guard->fd);
    guard->is_taken = 0;
    pthread_mutex_unlock(&lock);
}

enum cabe_status cabe_guard_check(const struct cabe_guard *guard, struct cabe_error *err)
{
    struct stat info;
    int is_seen = guard->fd >= 0 && fstat(guard->fd, &info) == 0;

    if (is_seen && (uint64_t)info.st_size < guard->file_bytes)
        return cabe_fail(err, CABE_ERR_CHANGED, "%s: had %llu bytes when it was mapped and has %llu now",
                         guard->name, (unsigned long long)guard->file_bytes,
                         (unsigned long long)info.st_size);
    if (atomic_load_explicit(&guard->is_broken, memory_order_acquire))
        return cabe_fail(err, CABE_ERR_CHANGED, "%s: a part of the mapped file could not be read",
                         guard->name);
    if (is_seen && !atomic_load_explicit(&guard->is_writable, memory_order_relaxed) &&
        (info.st_mtim.tv_sec != guard->modified.tv_sec || info.st_mtim.tv_nsec != guard->modified.tv_nsec))
        return cabe_fail(err, CABE_ERR_CHANGED, "%s: was written to after it was mapped", guard->name);
    return CABE_OK;
}

enum cabe_status cabe_guard_check_memory(const void *memory, uint64_t bytes, struct cabe_error *err)
{
    size_t n = atomic_load_explicit(&n_slots_used, memory_order_acquire);
    uintptr_t begin = (uintptr_t)memory;
    enum cabe_status status = CABE_OK;

    for (size_t i = 0; i < n && status == CABE_OK; i++)
        if (begin < atomic_load_explicit(&table[i].end, memory_order_acquire) &&
            begin + bytes > atomic_load_explicit(&table[i].begin, memory_order_relaxed))
            status = cabe_guard_check(&table[i], err);
    return status;
}
