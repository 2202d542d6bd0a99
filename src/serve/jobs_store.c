#include "serve/jobs_store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"

#define OWNERS_MAX 64
#define BUSY_MS 5000
#define APPLICATION_ID 0x63616265 /* "cabe" */
#define SCHEMA_VERSION 1

struct side { /* a connection; SQLite's own locks are off */
    sqlite3 *db;
    pthread_mutex_t lock;
};

struct cabe_jobs_store {
    char path[1024];
    int owners_fd, owner;
    struct side writer, reader;
};

/* ---- errors ---- */

static enum cabe_status explain(const struct cabe_jobs_store *store, sqlite3 *db, int code, struct cabe_error *err)
{
    enum cabe_status status = CABE_ERR_IO;

    switch (code & 0xFF) {
    case SQLITE_FULL:
        status = CABE_ERR_NO_SPACE;
        break;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
    case SQLITE_AUTH:
        status = CABE_ERR_PERMISSION;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        status = CABE_ERR_BUSY;
        break;
    case SQLITE_NOMEM:
        status = CABE_ERR_OOM;
        break;
    default:
        break;
    }
    return cabe_fail(err, status, "%s: jobs cannot be kept: %s", store->path,
                     db && sqlite3_errcode(db) != SQLITE_OK ? sqlite3_errmsg(db) : sqlite3_errstr(code));
}

static enum cabe_status run_sql(const struct cabe_jobs_store *store, sqlite3 *db, const char *sql,
                                struct cabe_error *err)
{
    int code = sqlite3_exec(db, sql, NULL, NULL, NULL);

    return code == SQLITE_OK ? CABE_OK : explain(store, db, code, err);
}

/* One statement from beginning to end: CABE_OK when it is done. */
struct statement {
    const struct cabe_jobs_store *store;
    sqlite3 *db;
    sqlite3_stmt *stmt;
    int n_bound, code;
};

static struct statement prepare(const struct cabe_jobs_store *store, sqlite3 *db, const char *sql)
{
    struct statement s = {.store = store, .db = db};

    s.code = sqlite3_prepare_v2(db, sql, -1, &s.stmt, NULL);
    return s;
}

static void bind_text(struct statement *s, const char *text)
{
    if (s->code == SQLITE_OK)
        s->code = sqlite3_bind_text(s->stmt, ++s->n_bound, text, -1, SQLITE_STATIC);
}

static void bind_int(struct statement *s, int64_t number)
{
    if (s->code == SQLITE_OK)
        s->code = sqlite3_bind_int64(s->stmt, ++s->n_bound, number);
}

static int step(struct statement *s)
{
    if (s->code == SQLITE_OK || s->code == SQLITE_ROW)
        s->code = sqlite3_step(s->stmt);
    return s->code == SQLITE_ROW;
}

static enum cabe_status finish(struct statement *s, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    if (s->code != SQLITE_OK && s->code != SQLITE_ROW && s->code != SQLITE_DONE)
        status = explain(s->store, s->db, s->code, err);
    sqlite3_finalize(s->stmt);
    s->stmt = NULL;
    return status;
}

static enum cabe_status finish_step(struct statement *s, struct cabe_error *err)
{
    step(s);
    return finish(s, err);
}

/* ---- owners: a byte of a file beside, locked while the server lives ---- */

static enum cabe_status take_owner(struct cabe_jobs_store *store, struct cabe_error *err)
{
    char path[sizeof store->path + 16];

    snprintf(path, sizeof path, "%s-owners", store->path);
    store->owners_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (store->owners_fd < 0)
        return cabe_fail_errno(err, errno, "%s", path);
    for (int i = 0; i < OWNERS_MAX; i++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = i, .l_len = 1};

        if (fcntl(store->owners_fd, F_OFD_SETLK, &lock) == 0) {
            store->owner = i;
            return CABE_OK;
        }
        if (errno != EAGAIN && errno != EACCES)
            return cabe_fail_errno(err, errno, "%s: lock", path);
    }
    return cabe_fail(err, CABE_ERR_BUSY, "%s: %d servers keep jobs there already", path, OWNERS_MAX);
}

static int is_alive(const struct cabe_jobs_store *store, int owner)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = owner, .l_len = 1};

    if (owner < 0 || owner >= OWNERS_MAX)
        return 0;
    if (owner == store->owner)
        return 1;
    return fcntl(store->owners_fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* Jobs whose server is gone: also those of our own number, which the one before us left. */
static enum cabe_status find_lost(struct cabe_jobs_store *store, int *n_lost, struct cabe_error *err)
{
    sqlite3 *db = store->writer.db;
    enum cabe_status status = run_sql(store, db, "BEGIN IMMEDIATE", err);
    struct timespec now;

    *n_lost = 0;
    if (status != CABE_OK)
        return status;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int owner = 0; owner < OWNERS_MAX && status == CABE_OK; owner++) {
        struct statement s;

        if (owner != store->owner && is_alive(store, owner))
            continue;
        s = prepare(store, db,
                    "UPDATE jobs SET state = ?, ended_ms = ?, error_status = ?, error = 'the server stopped' "
                    "WHERE owner = ? AND state IN (0, 1)");
        bind_int(&s, CABE_JOB_FAILED);
        bind_int(&s, (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
        bind_int(&s, CABE_ERR_CANCELLED);
        bind_int(&s, owner);
        status = finish_step(&s, err);
        *n_lost += status == CABE_OK ? sqlite3_changes(db) : 0;
    }
    if (status == CABE_OK)
        status = run_sql(store, db, "COMMIT", err);
    if (status != CABE_OK)
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

/* ---- open ---- */

static enum cabe_status open_side(struct cabe_jobs_store *store, struct side *side, int flags, struct cabe_error *err)
{
    int code = sqlite3_open_v2(store->path, &side->db, flags | SQLITE_OPEN_NOMUTEX, NULL);

    if (code != SQLITE_OK)
        return explain(store, side->db, code, err);
    sqlite3_busy_timeout(side->db, BUSY_MS);
    /* Small caches: what is here is written once and read seldom. */
    return run_sql(store, side->db,
                   "PRAGMA cache_size = -256; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;"
                   "PRAGMA trusted_schema = OFF",
                   err);
}

static enum cabe_status number_of(struct cabe_jobs_store *store, const char *sql, int64_t *number,
                                  struct cabe_error *err)
{
    struct statement s = prepare(store, store->writer.db, sql);

    *number = step(&s) ? sqlite3_column_int64(s.stmt, 0) : 0;
    return finish(&s, err);
}

static enum cabe_status make_tables(struct cabe_jobs_store *store, struct cabe_error *err)
{
    static const char *const tables =
        "BEGIN IMMEDIATE;"
        "PRAGMA application_id = 1667326565; PRAGMA user_version = 1;"
        "CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, kind TEXT NOT NULL, state INT NOT NULL,"
        " class INT NOT NULL, owner INT NOT NULL, created_ms INT NOT NULL, started_ms INT NOT NULL,"
        " ended_ms INT NOT NULL, error_status INT NOT NULL, error TEXT NOT NULL, wish TEXT NOT NULL,"
        " n_parts INT NOT NULL DEFAULT 0, result_bytes INT NOT NULL DEFAULT 0) WITHOUT ROWID;"
        "CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state, ended_ms);"
        "CREATE TABLE IF NOT EXISTS parts (job TEXT NOT NULL, n INT NOT NULL, name TEXT NOT NULL,"
        " data TEXT NOT NULL, PRIMARY KEY (job, n)) WITHOUT ROWID;"
        "COMMIT";
    int64_t application, version;
    enum cabe_status status = number_of(store, "PRAGMA application_id", &application, err);

    if (status == CABE_OK)
        status = number_of(store, "PRAGMA user_version", &version, err);
    if (status != CABE_OK)
        return status;
    if ((application != 0 && application != APPLICATION_ID) || version > SCHEMA_VERSION)
        return cabe_fail(err, CABE_ERR_IO, "%s: not a database of jobs, or of a newer cabe (version %lld)",
                         store->path, (long long)version);
    /* auto_vacuum only takes hold before the first table; then WAL: readers do not wait for the writer. */
    status = run_sql(store, store->writer.db,
                     "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                     "PRAGMA journal_size_limit = 1048576",
                     err);
    if (status == CABE_OK && version < SCHEMA_VERSION)
        status = run_sql(store, store->writer.db, tables, err);
    if (status != CABE_OK)
        sqlite3_exec(store->writer.db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

enum cabe_status cabe_jobs_store_open(struct cabe_jobs_store **out, const char *path, int *n_lost,
                                      struct cabe_error *err)
{
    struct cabe_jobs_store *store = cabe_calloc(1, sizeof *store);
    enum cabe_status status;

    *out = NULL;
    *n_lost = 0;
    if (!store)
        return cabe_fail(err, CABE_ERR_OOM, "store of jobs");
    (void)sqlite3_soft_heap_limit64((sqlite3_int64)CABE_JOBS_STORE_BYTES);
    store->owners_fd = -1;
    pthread_mutex_init(&store->writer.lock, NULL);
    pthread_mutex_init(&store->reader.lock, NULL);
    if (snprintf(store->path, sizeof store->path, "%s", path) >= (int)sizeof store->path) {
        cabe_jobs_store_close(store);
        return cabe_fail(err, CABE_ERR_LIMIT, "the path of the jobs' database is longer than %zu bytes",
                         sizeof store->path - 1);
    }
    status = take_owner(store, err);
    if (status == CABE_OK)
        status = open_side(store, &store->writer, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, err);
    if (status == CABE_OK)
        status = make_tables(store, err);
    if (status == CABE_OK)
        status = open_side(store, &store->reader, SQLITE_OPEN_READWRITE, err);
    if (status == CABE_OK)
        status = find_lost(store, n_lost, err);
    if (status != CABE_OK) {
        cabe_jobs_store_close(store);
        return status;
    }
    (void)chmod(path, 0600); /* what people gave to read is theirs */
    *out = store;
    return CABE_OK;
}

void cabe_jobs_store_close(struct cabe_jobs_store *store)
{
    if (!store)
        return;
    sqlite3_close_v2(store->reader.db);
    sqlite3_close_v2(store->writer.db);
    if (store->owners_fd >= 0)
        close(store->owners_fd);
    pthread_mutex_destroy(&store->writer.lock);
    pthread_mutex_destroy(&store->reader.lock);
    cabe_free(store);
}

/* ---- writing ---- */

enum cabe_status cabe_jobs_store_insert(struct cabe_jobs_store *store, const struct cabe_job_record *record,
                                        const char *wish, struct cabe_error *err)
{
    struct statement s;
    enum cabe_status status;

    pthread_mutex_lock(&store->writer.lock);
    s = prepare(store, store->writer.db,
                "INSERT INTO jobs (id, kind, state, class, owner, created_ms, started_ms, ended_ms, error_status, error,"
                " wish) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    bind_text(&s, record->id);
    bind_text(&s, record->kind);
    bind_int(&s, (int64_t)record->state);
    bind_int(&s, (int64_t)record->class_);
    bind_int(&s, store->owner);
    bind_int(&s, record->created_ms);
    bind_int(&s, record->started_ms);
    bind_int(&s, record->ended_ms);
    bind_int(&s, (int64_t)record->error_status);
    bind_text(&s, record->error);
    bind_text(&s, wish);
    status = finish_step(&s, err);
    pthread_mutex_unlock(&store->writer.lock);
    return status;
}

/* The oldest finished ones over the limits, a few at a time. Under the writer's lock, in a transaction. */
static enum cabe_status push_out(struct cabe_jobs_store *store, struct cabe_error *err)
{
    static const char *const over =
        "SELECT id FROM (SELECT id, row_number() OVER w AS place, sum(result_bytes) OVER w AS bytes FROM jobs"
        " WHERE state > 1 WINDOW w AS (ORDER BY ended_ms DESC, id DESC)) WHERE place > ? OR bytes > ? LIMIT 32";
    static const char *const remove[] = {"DELETE FROM parts WHERE job = ?", "DELETE FROM jobs WHERE id = ?"};
    char ids[32][CABE_JOB_ID_MAX];
    struct statement s = prepare(store, store->writer.db, over);
    enum cabe_status status;
    int n = 0;

    bind_int(&s, CABE_JOBS_KEPT);
    bind_int(&s, (int64_t)CABE_JOBS_KEPT_BYTES);
    while (n < 32 && step(&s))
        snprintf(ids[n++], CABE_JOB_ID_MAX, "%s", (const char *)sqlite3_column_text(s.stmt, 0));
    status = finish(&s, err);
    for (int i = 0; i < 2 * n && status == CABE_OK; i++) {
        s = prepare(store, store->writer.db, remove[i % 2]);
        bind_text(&s, ids[i / 2]);
        status = finish_step(&s, err);
    }
    return status;
}

/* Ends a transaction that was begun: commits, or rolls back after an error. */
static enum cabe_status conclude(struct cabe_jobs_store *store, enum cabe_status status, struct cabe_error *err)
{
    if (status == CABE_OK)
        status = run_sql(store, store->writer.db, "COMMIT", err);
    if (status != CABE_OK)
        sqlite3_exec(store->writer.db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

enum cabe_status cabe_jobs_store_update(struct cabe_jobs_store *store, const struct cabe_job_record *record,
                                        struct cabe_error *err)
{
    struct statement s;
    enum cabe_status status;

    pthread_mutex_lock(&store->writer.lock);
    status = run_sql(store, store->writer.db, "BEGIN IMMEDIATE", err);
    if (status == CABE_OK) {
        s = prepare(store, store->writer.db,
                    "UPDATE jobs SET state = ?, started_ms = ?, ended_ms = ?, error_status = ?, error = ? WHERE id = ?");
        bind_int(&s, (int64_t)record->state);
        bind_int(&s, record->started_ms);
        bind_int(&s, record->ended_ms);
        bind_int(&s, (int64_t)record->error_status);
        bind_text(&s, record->error);
        bind_text(&s, record->id);
        status = finish_step(&s, err);
        if (status == CABE_OK && record->state > CABE_JOB_RUNNING)
            status = push_out(store, err);
        status = conclude(store, status, err);
    }
    if (status == CABE_OK && record->state > CABE_JOB_RUNNING)
        sqlite3_exec(store->writer.db, "PRAGMA incremental_vacuum(256)", NULL, NULL, NULL);
    pthread_mutex_unlock(&store->writer.lock);
    return status;
}

enum cabe_status cabe_jobs_store_part(struct cabe_jobs_store *store, const char *id, uint64_t n, const char *name,
                                      const char *data, struct cabe_error *err)
{
    struct statement s;
    enum cabe_status status;

    pthread_mutex_lock(&store->writer.lock);
    status = run_sql(store, store->writer.db, "BEGIN IMMEDIATE", err);
    if (status == CABE_OK) {
        s = prepare(store, store->writer.db, "INSERT INTO parts (job, n, name, data) VALUES (?, ?, ?, ?)");
        bind_text(&s, id);
        bind_int(&s, (int64_t)n);
        bind_text(&s, name);
        bind_text(&s, data);
        status = finish_step(&s, err);
        if (status == CABE_OK) {
            s = prepare(store, store->writer.db,
                        "UPDATE jobs SET n_parts = n_parts + 1, result_bytes = result_bytes + ? WHERE id = ?");
            bind_int(&s, (int64_t)strlen(data));
            bind_text(&s, id);
            status = finish_step(&s, err);
        }
        status = conclude(store, status, err);
    }
    pthread_mutex_unlock(&store->writer.lock);
    return status;
}

enum cabe_status cabe_jobs_store_remove(struct cabe_jobs_store *store, const char *id, struct cabe_error *err)
{
    static const char *const remove[] = {"DELETE FROM parts WHERE job = ?", "DELETE FROM jobs WHERE id = ?"};
    enum cabe_status status;
    int n = 0;

    pthread_mutex_lock(&store->writer.lock);
    status = run_sql(store, store->writer.db, "BEGIN IMMEDIATE", err);
    if (status == CABE_OK) {
        for (int i = 0; i < 2 && status == CABE_OK; i++) {
            struct statement s = prepare(store, store->writer.db, remove[i]);

            bind_text(&s, id);
            status = finish_step(&s, err);
            n = sqlite3_changes(store->writer.db);
        }
        status = conclude(store, status, err);
    }
    pthread_mutex_unlock(&store->writer.lock);
    if (status == CABE_OK && n == 0)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "no job '%s'", id);
    return status;
}

/* ---- reading ---- */

#define COLUMNS \
    "id, kind, state, class, owner, created_ms, started_ms, ended_ms, error_status, error, n_parts, result_bytes"

static void copy_text(char *out, size_t n, const sqlite3_stmt *stmt, int column)
{
    const unsigned char *text = sqlite3_column_text((sqlite3_stmt *)(uintptr_t)stmt, column);

    snprintf(out, n, "%s", text ? (const char *)text : "");
}

/* What another program wrote there may be anything: numbers are kept in their ranges. */
static void read_record(const struct cabe_jobs_store *store, sqlite3_stmt *stmt, struct cabe_job_record *record)
{
    int64_t state = sqlite3_column_int64(stmt, 2), class_ = sqlite3_column_int64(stmt, 3);
    int64_t error = sqlite3_column_int64(stmt, 8);
    int owner = (int)sqlite3_column_int64(stmt, 4);

    memset(record, 0, sizeof *record);
    copy_text(record->id, sizeof record->id, stmt, 0);
    copy_text(record->kind, sizeof record->kind, stmt, 1);
    record->state = state >= 0 && state <= CABE_JOB_CANCELLED ? (enum cabe_job_state)state : CABE_JOB_FAILED;
    record->class_ = class_ >= 0 && class_ < CABE_N_CLASSES ? (enum cabe_class)class_ : CABE_CLASS_NORMAL;
    record->created_ms = sqlite3_column_int64(stmt, 5);
    record->started_ms = sqlite3_column_int64(stmt, 6);
    record->ended_ms = sqlite3_column_int64(stmt, 7);
    record->error_status = error > 0 && error <= CABE_ERR_CANCELLED ? (enum cabe_status)error : CABE_OK;
    copy_text(record->error, sizeof record->error, stmt, 9);
    record->n_parts = (uint64_t)sqlite3_column_int64(stmt, 10);
    record->result_bytes = (uint64_t)sqlite3_column_int64(stmt, 11);
    record->is_others = owner != store->owner;
}

enum cabe_status cabe_jobs_store_get(struct cabe_jobs_store *store, const char *id, struct cabe_job_record *record,
                                     char **wish, struct cabe_error *err)
{
    struct statement s;
    enum cabe_status status;
    int found = 0;

    if (wish)
        *wish = NULL;
    pthread_mutex_lock(&store->reader.lock);
    s = prepare(store, store->reader.db, "SELECT " COLUMNS ", wish FROM jobs WHERE id = ?");
    bind_text(&s, id);
    if (step(&s)) {
        const unsigned char *text = sqlite3_column_text(s.stmt, 12);

        found = 1;
        read_record(store, s.stmt, record);
        if (wish)
            *wish = cabe_strdup(text ? (const char *)text : "");
    }
    status = finish(&s, err);
    pthread_mutex_unlock(&store->reader.lock);
    if (status == CABE_OK && !found)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "no job '%.64s'", id);
    if (status == CABE_OK && wish && !*wish)
        return cabe_fail(err, CABE_ERR_OOM, "wish of a job");
    return status;
}

enum cabe_status cabe_jobs_store_list(struct cabe_jobs_store *store, int state, const char *before, int n_max,
                                      struct cabe_job_record *out, int *n, struct cabe_error *err)
{
    struct statement s;
    enum cabe_status status;

    *n = 0;
    pthread_mutex_lock(&store->reader.lock);
    s = prepare(store, store->reader.db,
                "SELECT " COLUMNS " FROM jobs WHERE (?1 < 0 OR state = ?1) AND (?2 = '' OR id < ?2)"
                " ORDER BY id DESC LIMIT ?3");
    bind_int(&s, state);
    bind_text(&s, before ? before : "");
    bind_int(&s, n_max);
    while (*n < n_max && step(&s))
        read_record(store, s.stmt, &out[(*n)++]);
    status = finish(&s, err);
    pthread_mutex_unlock(&store->reader.lock);
    return status;
}

enum cabe_status cabe_jobs_store_parts(struct cabe_jobs_store *store, const char *id, uint64_t after,
                                       enum cabe_status (*each)(void *self, uint64_t n, const char *name,
                                                                const char *data),
                                       void *self, struct cabe_error *err)
{
    struct statement s;
    enum cabe_status status, said = CABE_OK;

    pthread_mutex_lock(&store->reader.lock);
    s = prepare(store, store->reader.db, "SELECT n, name, data FROM parts WHERE job = ? AND n > ? ORDER BY n");
    bind_text(&s, id);
    bind_int(&s, (int64_t)after);
    while (said == CABE_OK && step(&s)) {
        const char *name = (const char *)sqlite3_column_text(s.stmt, 1);
        const char *data = (const char *)sqlite3_column_text(s.stmt, 2);

        said = name && data ? each(self, (uint64_t)sqlite3_column_int64(s.stmt, 0), name, data) : CABE_ERR_OOM;
    }
    status = finish(&s, err);
    pthread_mutex_unlock(&store->reader.lock);
    if (status == CABE_OK && said == CABE_ERR_OOM)
        return cabe_fail(err, CABE_ERR_OOM, "parts of a job");
    return status == CABE_OK ? said : status;
}
