#include "serve/jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "fakes.h"
#include "sanitizer.h"
#include "serve/jobs_impl.h"

#define KILLS 200

/* ---- a disk that fails when the test says so: SQLite's own, with a lid on it ---- */

static atomic_int writes_left = -1; /* until they fail; below 0: never */
static int failing_code = SQLITE_FULL;

struct lid {
    sqlite3_file base;
    sqlite3_file *real;
};

static int fails(void)
{
    int left = atomic_load(&writes_left);

    if (left > 0)
        atomic_fetch_sub(&writes_left, 1);
    return left == 0;
}

#define REAL(file) (((struct lid *)(file))->real)
#define PASS(name, parameters, ...) \
    static int lid_##name parameters { return REAL(file)->pMethods->name(__VA_ARGS__); }
PASS(xRead, (sqlite3_file *file, void *to, int n, sqlite3_int64 at), REAL(file), to, n, at)
PASS(xFileSize, (sqlite3_file *file, sqlite3_int64 *size), REAL(file), size)
PASS(xLock, (sqlite3_file *file, int level), REAL(file), level)
PASS(xUnlock, (sqlite3_file *file, int level), REAL(file), level)
PASS(xCheckReservedLock, (sqlite3_file *file, int *out), REAL(file), out)
PASS(xFileControl, (sqlite3_file *file, int op, void *arg), REAL(file), op, arg)
PASS(xSectorSize, (sqlite3_file *file), REAL(file))
PASS(xDeviceCharacteristics, (sqlite3_file *file), REAL(file))
PASS(xShmMap, (sqlite3_file *file, int page, int size, int extend, void volatile **out), REAL(file), page, size, extend,
     out)
PASS(xShmLock, (sqlite3_file *file, int offset, int n, int flags), REAL(file), offset, n, flags)
PASS(xShmUnmap, (sqlite3_file *file, int remove), REAL(file), remove)

static int lid_xClose(sqlite3_file *file)
{
    int code = REAL(file)->pMethods->xClose(REAL(file));

    sqlite3_free(REAL(file));
    return code;
}

static void lid_xShmBarrier(sqlite3_file *file)
{
    REAL(file)->pMethods->xShmBarrier(REAL(file));
}

static int lid_xWrite(sqlite3_file *file, const void *from, int n, sqlite3_int64 at)
{
    return fails() ? failing_code : REAL(file)->pMethods->xWrite(REAL(file), from, n, at);
}

static int lid_xTruncate(sqlite3_file *file, sqlite3_int64 size)
{
    return fails() ? SQLITE_IOERR_TRUNCATE : REAL(file)->pMethods->xTruncate(REAL(file), size);
}

static int lid_xSync(sqlite3_file *file, int flags)
{
    return fails() ? SQLITE_IOERR_FSYNC : REAL(file)->pMethods->xSync(REAL(file), flags);
}

static const sqlite3_io_methods lid_methods = {
    2,         lid_xClose,         lid_xRead,    lid_xWrite, lid_xTruncate, lid_xSync,       lid_xFileSize, lid_xLock,
    lid_xUnlock, lid_xCheckReservedLock, lid_xFileControl, lid_xSectorSize, lid_xDeviceCharacteristics,
    lid_xShmMap, lid_xShmLock, lid_xShmBarrier, lid_xShmUnmap, NULL, NULL};

static sqlite3_vfs lid_vfs, *real_vfs;

static int lid_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags, int *out)
{
    struct lid *lid = (struct lid *)file;
    int code;

    (void)vfs;
    lid->base.pMethods = NULL;
    lid->real = sqlite3_malloc(real_vfs->szOsFile);
    if (!lid->real)
        return SQLITE_NOMEM;
    memset(lid->real, 0, (size_t)real_vfs->szOsFile);
    code = real_vfs->xOpen(real_vfs, name, lid->real, flags, out);
    if (code == SQLITE_OK)
        lid->base.pMethods = &lid_methods;
    else
        sqlite3_free(lid->real);
    return code;
}

static void put_lid_on(void)
{
    real_vfs = sqlite3_vfs_find(NULL);
    lid_vfs = *real_vfs;
    lid_vfs.zName = "lid";
    lid_vfs.szOsFile = sizeof(struct lid);
    lid_vfs.xOpen = lid_open;
    sqlite3_vfs_register(&lid_vfs, 1);
}

/* ---- the rest of a server ---- */

static int n_operations;

void cabe_metrics_operation(struct cabe_metrics *metrics, const char *name, const char *detail, double seconds);
void cabe_metrics_operation(struct cabe_metrics *metrics, const char *name, const char *detail, double seconds)
{
    (void)metrics;
    (void)detail;
    (void)seconds;
    assert_true(strncmp(name, "job.", 4) == 0);
    __atomic_fetch_add(&n_operations, 1, __ATOMIC_RELAXED);
}

void cabe_events_publish(struct cabe_events *events, const char *event, json_t *data);
void cabe_events_publish(struct cabe_events *events, const char *event, json_t *data)
{
    (void)events;
    (void)event;
    json_decref(data);
}

static char folder[64], path[128];
static struct cabe_serve_config config;
static struct cabe_server server = {.config = &config};

static void new_path(void)
{
    static int n;

    snprintf(path, sizeof path, "%s/jobs%d.db", folder, n++);
    snprintf(config.jobs_path, sizeof config.jobs_path, "%s", path);
    config.heavy_slots = 1;
    config.slot_wait = 30;
}

static struct cabe_jobs *open_jobs(void)
{
    struct cabe_error err = {0};

    if (cabe_jobs_open(&server.jobs, &server, &err) != CABE_OK)
        fail_msg("%s", err.text);
    return server.jobs;
}

/* ---- kinds ---- */

static atomic_int is_held, n_begun, n_inside, most_inside;

static enum cabe_status run_quick(struct cabe_server *s, struct cabe_job *job, const json_t *wish, struct cabe_error *err)
{
    int inside = atomic_fetch_add(&n_inside, 1) + 1;

    (void)s;
    (void)err;
    if (inside > atomic_load(&most_inside))
        atomic_store(&most_inside, inside);
    cabe_job_progress(job, "counting", 1, 2, "things");
    cabe_job_part(job, "read", json_pack("{s:O}", "wish", json_object_get(wish, "x")));
    cabe_job_part(job, "pairs", json_pack("[i,i]", 1, 2));
    cabe_job_part(job, "pairs", json_pack("[i]", 3));
    cabe_job_progress(job, "counting", 2, 2, "things");
    atomic_fetch_sub(&n_inside, 1);
    return CABE_OK;
}

static enum cabe_status run_held(struct cabe_server *s, struct cabe_job *job, const json_t *wish, struct cabe_error *err)
{
    (void)s;
    (void)wish;
    cabe_job_part(job, "read", json_pack("{s:i}", "begun", 1));
    atomic_fetch_add(&n_begun, 1);
    while (atomic_load(&is_held) && !cabe_cancelled(cabe_job_cancel(job)))
        usleep(1000);
    if (cabe_cancelled(cabe_job_cancel(job)))
        return cabe_fail(err, CABE_ERR_CANCELLED, "stopped on request");
    return CABE_OK;
}

static enum cabe_status run_slow(struct cabe_server *s, struct cabe_job *job, const json_t *wish, struct cabe_error *err)
{
    (void)s;
    (void)wish;
    (void)err;
    while (atomic_load(&is_held))
        usleep(1000);
    cabe_job_part(job, "read", json_pack("{s:i}", "begun", 1));
    return CABE_OK;
}

static enum cabe_status run_failing(struct cabe_server *s, struct cabe_job *job, const json_t *wish,
                                    struct cabe_error *err)
{
    (void)s;
    (void)job;
    (void)wish;
    return cabe_fail(err, CABE_ERR_FORMAT, "notes.txt: byte 17 is not UTF-8");
}

static const struct cabe_job_kind quick = {"quick", 1, CABE_CLASS_LOW, run_quick};
static const struct cabe_job_kind held = {"held", 1, CABE_CLASS_NORMAL, run_held};
static const struct cabe_job_kind slow = {"slow", 0, CABE_CLASS_NORMAL, run_slow};
static const struct cabe_job_kind failing = {"failing", 0, CABE_CLASS_NORMAL, run_failing};

static void start(const struct cabe_job_kind *kind, char *id)
{
    struct cabe_error err = {0};

    if (cabe_jobs_start(server.jobs, kind, json_pack("{s:i}", "x", 7), kind->class_, id, &err) != CABE_OK)
        fail_msg("%s", err.text);
}

/* Asks over "HTTP"; the caller releases. */
static json_t *ask(enum cabe_http_method method, const char *id, const char *what, int wanted)
{
    struct cabe_http_exchange x;
    char text[128], *sent;
    json_t *json;

    fake_open(&x);
    snprintf(text, sizeof text, "/v1/jobs%s%s%s", id[0] ? "/" : "", id, what);
    fake_call(&server, cabe_job_routes, &x, method, text);
    sent = fake_sent(&x);
    if (x.status != wanted)
        fail_msg("%s: %d, wanted %d: %s", text, x.status, wanted, sent);
    json = json_loads(sent, 0, NULL);
    assert_non_null(json);
    assert_int_equal(x.n_holds, 0);
    free(sent);
    fake_close(&x);
    return json;
}

static void is_state(const char *id, const char *state)
{
    json_t *json = NULL;

    for (int i = 0; i < 30000; i++) {
        json = ask(CABE_HTTP_GET, id, "", 200);
        if (strcmp(json_string_value(json_object_get(json, "state")), state) == 0) {
            json_decref(json);
            return;
        }
        json_decref(json);
        usleep(1000);
    }
    fail_msg("%s never was %s", id, state);
}

/* Running, and its part stored: what fails from now on meets its end only. */
static void start_held(char *id)
{
    int n_before = atomic_load(&n_begun);

    atomic_store(&is_held, 1);
    start(&held, id);
    for (int i = 0; i < 30000 && atomic_load(&n_begun) == n_before; i++)
        usleep(1000);
    assert_true(atomic_load(&n_begun) > n_before);
}

static void wait_end(struct cabe_http_exchange *x)
{
    for (int i = 0; i < 60000 && !fake_ended(x); i++)
        usleep(1000);
    assert_true(fake_ended(x));
}

/* ---- life ---- */

static void test_a_job_from_start_to_result(void **state)
{
    char id[CABE_JOB_ID_MAX];
    json_t *json, *pairs;

    (void)state;
    new_path();
    open_jobs();
    start(&quick, id);
    is_state(id, "done");
    json = ask(CABE_HTTP_GET, id, "", 200);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "wish"), "x")), 7);
    assert_true(json_number_value(json_object_get(json, "ended_at")) >= json_number_value(json_object_get(json, "created_at")));
    json_decref(json);
    json = ask(CABE_HTTP_GET, id, "/result", 200);
    pairs = json_object_get(json_object_get(json, "result"), "pairs");
    assert_int_equal(json_array_size(pairs), 3); /* two parts of one name are one list */
    json_decref(json);
    json_decref(ask(CABE_HTTP_POST, id, "/cancel", 409));
    json_decref(ask(CABE_HTTP_DELETE, id, "", 200));
    json_decref(ask(CABE_HTTP_GET, id, "", 404));
    json_decref(ask(CABE_HTTP_GET, "job-nothing", "/result", 404));
    json_decref(ask(CABE_HTTP_GET, id, "/nothing", 404));

    start(&failing, id);
    is_state(id, "failed");
    json = ask(CABE_HTTP_GET, id, "/result", 200);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json, "error"), "message")),
                        "notes.txt: byte 17 is not UTF-8");
    json_decref(json);
    cabe_jobs_close(server.jobs);
}

static void test_followers_see_parts_and_the_end(void **state)
{
    struct cabe_http_exchange x, late, lines;
    char id[CABE_JOB_ID_MAX], text[64], *sent;

    (void)state;
    new_path();
    open_jobs();
    atomic_store(&is_held, 1);
    start(&held, id);
    is_state(id, "running");
    fake_open(&x);
    fake_open(&late);
    fake_open(&lines);
    snprintf(text, sizeof text, "/v1/jobs/%s/events", id);
    fake_call(&server, cabe_job_routes, &x, CABE_HTTP_GET, text);
    usleep(20000);
    json_decref(ask(CABE_HTTP_GET, id, "/result", 409));
    json_decref(ask(CABE_HTTP_DELETE, id, "", 409));
    atomic_store(&is_held, 0);
    wait_end(&x);
    sent = fake_sent(&x);
    assert_non_null(strstr(sent, "event: read\nid: 1\ndata: {\"begun\":1}"));
    assert_non_null(strstr(sent, "event: end\n"));
    assert_non_null(strstr(sent, "\"state\":\"done\""));
    free(sent);
    fake_call(&server, cabe_job_routes, &late, CABE_HTTP_GET, text); /* all over: told again */
    wait_end(&late);
    sent = fake_sent(&late);
    assert_non_null(strstr(sent, "event: read\nid: 1\n"));
    assert_non_null(strstr(sent, "event: end\n"));
    free(sent);
    lines.headers[0] = "last-event-id";
    lines.headers[1] = "1";
    lines.headers[2] = "accept";
    lines.headers[3] = "application/x-ndjson";
    fake_call(&server, cabe_job_routes, &lines, CABE_HTTP_GET, text);
    wait_end(&lines);
    sent = fake_sent(&lines);
    assert_null(strstr(sent, "begun"));
    assert_non_null(strstr(sent, "{\"event\":\"end\",\"data\":{"));
    free(sent);
    cabe_jobs_close(server.jobs);
    assert_int_equal(x.n_holds + late.n_holds + lines.n_holds, 0);
    fake_close(&x);
    fake_close(&late);
    fake_close(&lines);
}

static void test_cancel_and_slots(void **state)
{
    char first[CABE_JOB_ID_MAX], second[CABE_JOB_ID_MAX], third[CABE_JOB_ID_MAX];
    json_t *json;
    const char *why;
    int64_t n_waiting, n_running;

    (void)state;
    new_path();
    config.slot_wait = 0.2;
    open_jobs();
    atomic_store(&is_held, 1);
    start(&held, first);
    is_state(first, "running");
    start(&quick, second); /* waits for the slot, in vain */
    is_state(second, "failed");
    json = ask(CABE_HTTP_GET, second, "", 200);
    why = json_string_value(json_object_get(json_object_get(json, "error"), "message"));
    if (!strstr(why, first))
        fail_msg("the holder %s is not named: %s", first, why);
    json_decref(json);
    config.slot_wait = 30;
    start(&quick, third);
    cabe_jobs_counts(server.jobs, &n_waiting, &n_running);
    assert_int_equal(n_running, 1);
    assert_int_equal(n_waiting, 1);
    assert_int_equal(cabe_jobs_cancel(server.jobs, third, NULL), CABE_OK); /* while it waits */
    is_state(third, "cancelled");
    json_decref(ask(CABE_HTTP_POST, first, "/cancel", 202));
    is_state(first, "cancelled");
    assert_int_equal(cabe_jobs_cancel(server.jobs, "job-nothing", NULL), CABE_ERR_NOT_FOUND);
    atomic_store(&is_held, 0);
    atomic_store(&most_inside, 0);
    for (int i = 0; i < 12; i++)
        start(&quick, first);
    is_state(first, "done");
    json = ask(CABE_HTTP_GET, "", "", 200);
    assert_true(json_array_size(json_object_get(json, "data")) == 15);
    json_decref(json);
    cabe_jobs_close(server.jobs);
    assert_int_equal(atomic_load(&most_inside), 1);
}

static void test_who_asked_leaves(void **state)
{
    struct cabe_http_exchange x;
    struct cabe_job_start wish = {.kind = &held, .class_ = CABE_CLASS_NORMAL, .exchange = &x, .is_fleeting = 1};
    char id[CABE_JOB_ID_MAX];
    json_t *json;

    (void)state;
    new_path();
    open_jobs();
    atomic_store(&is_held, 1);
    fake_open(&x);
    wish.wish = json_pack("{}");
    assert_int_equal(cabe_jobs_begin(server.jobs, &wish, id, NULL), CABE_OK);
    is_state(id, "running");
    json = ask(CABE_HTTP_GET, "", "", 200);
    assert_int_equal(json_array_size(json_object_get(json, "data")), 1); /* listed while it lives */
    json_decref(json);
    fake_leave(&x);
    wait_end(&x);
    atomic_store(&is_held, 0);
    is_state(id, "cancelled");
    json = ask(CABE_HTTP_GET, "", "", 200); /* and for a while after that */
    assert_int_equal(json_array_size(json_object_get(json, "data")), 1);
    assert_true(json_is_true(json_object_get(json_array_get(json_object_get(json, "data"), 0), "streamed")));
    json_decref(json);
    json_decref(ask(CABE_HTTP_GET, id, "/result", 410));
    json_decref(ask(CABE_HTTP_DELETE, id, "", 200));
    json_decref(ask(CABE_HTTP_GET, id, "", 404));
    cabe_jobs_close(server.jobs);
    assert_int_equal(x.n_holds, 0);
    fake_close(&x);

    open_jobs(); /* nothing of it was kept */
    json = ask(CABE_HTTP_GET, "", "", 200);
    assert_int_equal(json_array_size(json_object_get(json, "data")), 0);
    json_decref(json);
    cabe_jobs_close(server.jobs);
}

static void test_list(void **state)
{
    char id[CABE_JOB_ID_MAX], text[64];
    struct cabe_http_exchange x;
    json_t *json, *data;
    char *sent;

    (void)state;
    new_path();
    open_jobs();
    for (int i = 0; i < 9; i++) {
        start(i % 3 ? &quick : &failing, id);
        is_state(id, i % 3 ? "done" : "failed");
    }
    fake_open(&x);
    x.query[0] = "limit";
    x.query[1] = "4";
    fake_call(&server, cabe_job_routes, &x, CABE_HTTP_GET, "/v1/jobs");
    sent = fake_sent(&x);
    json = json_loads(sent, 0, NULL);
    data = json_object_get(json, "data");
    assert_int_equal(json_array_size(data), 4);
    assert_true(json_is_true(json_object_get(json, "has_more")));
    assert_string_equal(json_string_value(json_object_get(json_array_get(data, 0), "id")), id);
    snprintf(text, sizeof text, "%s", json_string_value(json_object_get(json_array_get(data, 3), "id")));
    free(sent);
    json_decref(json);
    fake_close(&x);
    fake_open(&x);
    x.query[0] = "before";
    x.query[1] = text;
    x.query[2] = "state";
    x.query[3] = "failed";
    fake_call(&server, cabe_job_routes, &x, CABE_HTTP_GET, "/v1/jobs");
    sent = fake_sent(&x);
    json = json_loads(sent, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(json, "data")), 2);
    free(sent);
    json_decref(json);
    fake_close(&x);
    fake_open(&x);
    x.query[0] = "state";
    x.query[1] = "odd";
    fake_call(&server, cabe_job_routes, &x, CABE_HTTP_GET, "/v1/jobs");
    assert_int_equal(x.status, 400);
    fake_close(&x);
    cabe_jobs_close(server.jobs);
}

/* One that was stored and one that was streamed in turn, read a page of `limit` at a time. */
static void pages_of(const char *limit, int n_wanted)
{
    char last[64] = "";
    int n = 0, more = 1;

    while (more) {
        struct cabe_http_exchange x;
        json_t *json, *data;
        char *sent;

        fake_open(&x);
        x.query[0] = "limit";
        x.query[1] = limit;
        x.query[2] = last[0] ? "before" : NULL;
        x.query[3] = last[0] ? last : NULL;
        fake_call(&server, cabe_job_routes, &x, CABE_HTTP_GET, "/v1/jobs");
        sent = fake_sent(&x);
        json = json_loads(sent, 0, NULL);
        data = json_object_get(json, "data");
        more = json_is_true(json_object_get(json, "has_more"));
        assert_true((int)json_array_size(data) <= atoi(limit));
        assert_true(!more || (int)json_array_size(data) == atoi(limit));
        for (size_t i = 0; i < json_array_size(data); i++, n++) {
            const char *id = json_string_value(json_object_get(json_array_get(data, i), "id"));

            assert_true(!last[0] || strcmp(id, last) < 0);
            snprintf(last, sizeof last, "%s", id);
            assert_int_equal(json_is_true(json_object_get(json_array_get(data, i), "streamed")), n % 2 == 0);
        }
        free(sent);
        json_decref(json);
        fake_close(&x);
    }
    assert_int_equal(n, n_wanted);
}

static void test_pages(void **state)
{
    char id[CABE_JOB_ID_MAX];

    (void)state;
    new_path();
    open_jobs();
    for (int i = 0; i < 5; i++) {
        struct cabe_http_exchange x;
        struct cabe_job_start wish = {.kind = &quick, .class_ = CABE_CLASS_NORMAL, .exchange = &x, .is_fleeting = 1};

        start(&quick, id);
        is_state(id, "done");
        fake_open(&x);
        wish.wish = json_pack("{s:i}", "x", 7);
        assert_int_equal(cabe_jobs_begin(server.jobs, &wish, id, NULL), CABE_OK);
        wait_end(&x);
        is_state(id, "done");
        fake_close(&x);
    }
    pages_of("1", 10);
    pages_of("3", 10);
    pages_of("10", 10);
    pages_of("200", 10);
    cabe_jobs_close(server.jobs);
}

/* ---- restarts ---- */

static void test_a_restart_loses_nothing(void **state)
{
    char first[CABE_JOB_ID_MAX], second[CABE_JOB_ID_MAX];
    json_t *json;
    pid_t child;
    int to_parent[2], status;

    (void)state;
    new_path();
    assert_int_equal(pipe(to_parent), 0);
    child = fork();
    if (child == 0) { /* a server that is killed while a job runs */
        open_jobs();
        start(&quick, first);
        is_state(first, "done");
        start_held(second);
        if (write(to_parent[1], first, sizeof first) < 0 || write(to_parent[1], second, sizeof second) < 0)
            _exit(1);
        pause();
        _exit(1);
    }
    assert_int_equal(read(to_parent[0], first, sizeof first), sizeof first);
    assert_int_equal(read(to_parent[0], second, sizeof second), sizeof second);

    open_jobs(); /* another server beside it: its jobs are alive and not ours */
    is_state(second, "running");
    assert_int_equal(cabe_jobs_cancel(server.jobs, second, NULL), CABE_ERR_BUSY);
    cabe_jobs_close(server.jobs);

    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    open_jobs();
    json = ask(CABE_HTTP_GET, second, "/result", 200);
    assert_string_equal(json_string_value(json_object_get(json, "state")), "failed");
    assert_string_equal(json_string_value(json_object_get(json_object_get(json, "error"), "message")),
                        "the server stopped");
    assert_non_null(json_object_get(json_object_get(json, "result"), "read")); /* what it had found */
    json_decref(json);
    is_state(first, "done");
    atomic_store(&is_held, 1);
    start(&held, second);
    is_state(second, "running");
    cabe_jobs_close(server.jobs); /* an orderly end says the same */
    atomic_store(&is_held, 0);
    open_jobs();
    json = ask(CABE_HTTP_GET, second, "", 200);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json, "error"), "message")),
                        "the server stopped");
    json_decref(json);
    cabe_jobs_close(server.jobs);
    close(to_parent[0]);
    close(to_parent[1]);
}

/* What the child says it has stored; it is told after each write has returned. */
struct said {
    char id[CABE_JOB_ID_MAX];
    uint64_t n_parts;
    int state;
};

static void write_for_ever(int to_parent)
{
    struct cabe_jobs_store *store;
    int n_lost;

    if (cabe_jobs_store_open(&store, path, &n_lost, NULL) != CABE_OK)
        _exit(3);
    for (unsigned k = 0;; k++) {
        struct cabe_job_record record = {.kind = "kill", .created_ms = 1};
        struct said said = {.state = CABE_JOB_WAITING};

        snprintf(record.id, sizeof record.id, "job-%d-%06u", (int)getpid(), k);
        snprintf(said.id, sizeof said.id, "%s", record.id);
        if (cabe_jobs_store_insert(store, &record, "{}", NULL) != CABE_OK || write(to_parent, &said, sizeof said) < 0)
            _exit(4);
        record.state = CABE_JOB_RUNNING;
        if (cabe_jobs_store_update(store, &record, NULL) != CABE_OK)
            _exit(5);
        for (said.state = CABE_JOB_RUNNING; said.n_parts < 3;) {
            if (cabe_jobs_store_part(store, record.id, said.n_parts + 1, "part", "[1,2,3]", NULL) != CABE_OK)
                _exit(6);
            said.n_parts++;
            if (write(to_parent, &said, sizeof said) < 0)
                _exit(7);
        }
        record.state = CABE_JOB_DONE;
        record.ended_ms = (int64_t)k;
        said.state = CABE_JOB_DONE;
        if (cabe_jobs_store_update(store, &record, NULL) != CABE_OK || write(to_parent, &said, sizeof said) < 0)
            _exit(8);
    }
}

static enum cabe_status count_part(void *self, uint64_t n, const char *name, const char *data)
{
    uint64_t *n_seen = self;

    assert_int_equal(n, *n_seen + 1);
    assert_string_equal(name, "part");
    assert_string_equal(data, "[1,2,3]");
    *n_seen = n;
    return CABE_OK;
}

static void check_said(const struct said *said)
{
    struct cabe_jobs_store *store;
    struct cabe_job_record record;
    struct cabe_error err = {0};
    uint64_t n_seen = 0;
    int n_lost;

    if (cabe_jobs_store_open(&store, path, &n_lost, &err) != CABE_OK)
        fail_msg("%s", err.text);
    if (said->id[0]) {
        assert_int_equal(cabe_jobs_store_get(store, said->id, &record, NULL, NULL), CABE_OK);
        assert_true(record.n_parts >= said->n_parts);
        assert_int_equal(cabe_jobs_store_parts(store, said->id, 0, count_part, &n_seen, NULL), CABE_OK);
        assert_int_equal(n_seen, record.n_parts);
        assert_true(record.state == CABE_JOB_DONE || record.state == CABE_JOB_FAILED);
        if (said->state == CABE_JOB_DONE)
            assert_int_equal(record.state, CABE_JOB_DONE);
    }
    cabe_jobs_store_close(store);
}

static void check_whole(void)
{
    sqlite3 *db;
    sqlite3_stmt *stmt;

    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(stmt, 0), "ok");
    sqlite3_finalize(stmt);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM jobs WHERE state < 2", -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(stmt, 0), 0);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
}

static void test_killed_while_writing(void **state)
{
    uint64_t random = 88172645463325252u;
    uint64_t n_said = 0;

    (void)state;
    new_path();
    for (int k = 0; k < KILLS; k++) {
        struct said said = {{0}, 0, 0}, next;
        int to_parent[2], status, n_wanted;
        pid_t child;

        assert_int_equal(pipe(to_parent), 0);
        child = fork();
        if (child == 0) {
            close(to_parent[0]);
            write_for_ever(to_parent[1]);
        }
        close(to_parent[1]);
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        for (n_wanted = (int)(random >> 32) % 9; n_wanted > 0; n_wanted--, n_said++) /* however fast the disk is */
            assert_int_equal(read(to_parent[0], &said, sizeof said), sizeof said);
        usleep((useconds_t)(random % 3000));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        while (read(to_parent[0], &next, sizeof next) == sizeof next) {
            said = next;
            n_said++;
        }
        close(to_parent[0]);
        check_said(&said);
    }
    check_whole();
    print_message("%d kills, %llu writes that had been acknowledged\n", KILLS, (unsigned long long)n_said);
    assert_true(n_said > KILLS);
}

/* ---- disks that fail ---- */

static enum cabe_status write_one(struct cabe_jobs_store *store, const char *id, struct cabe_error *err)
{
    struct cabe_job_record record = {.kind = "disk", .created_ms = 1};
    enum cabe_status status;

    snprintf(record.id, sizeof record.id, "%s", id);
    status = cabe_jobs_store_insert(store, &record, "{}", err);
    if (status == CABE_OK)
        status = cabe_jobs_store_part(store, id, 1, "part", "[1,2,3]", err);
    record.state = CABE_JOB_DONE;
    if (status == CABE_OK)
        status = cabe_jobs_store_update(store, &record, err);
    return status;
}

static void test_a_disk_that_fails(void **state)
{
    static const int codes[] = {SQLITE_FULL, SQLITE_IOERR_WRITE};
    struct cabe_jobs_store *store;
    int n_failed = 0, n_lost;

    (void)state;
    for (int c = 0; c < 2; c++) {
        new_path();
        assert_int_equal(cabe_jobs_store_open(&store, path, &n_lost, NULL), CABE_OK);
        failing_code = codes[c];
        for (int n = 0; n < 40; n++) {
            struct cabe_job_record record;
            struct cabe_error err = {0};
            uint64_t n_seen = 0;
            enum cabe_status status;
            char id[32];

            snprintf(id, sizeof id, "job-%d", n);
            atomic_store(&writes_left, n);
            status = write_one(store, id, &err);
            atomic_store(&writes_left, -1);
            if (status != CABE_OK) {
                n_failed++;
                assert_true(status == CABE_ERR_NO_SPACE || status == CABE_ERR_IO);
                assert_non_null(strstr(err.text, path));
            }
            /* The disk is well again: what is there is whole, and work goes on. */
            if (cabe_jobs_store_get(store, id, &record, NULL, NULL) == CABE_OK) {
                assert_int_equal(cabe_jobs_store_parts(store, id, 0, count_part, &n_seen, NULL), CABE_OK);
                assert_int_equal(n_seen, record.n_parts);
            }
            snprintf(id, sizeof id, "job-%d-again", n);
            assert_int_equal(write_one(store, id, &err), CABE_OK);
        }
        cabe_jobs_store_close(store);
        for (int n = 0; n < 60; n++) { /* while it is opened */
            snprintf(path, sizeof path, "%s/opening%d-%d.db", folder, c, n);
            atomic_store(&writes_left, n);
            if (cabe_jobs_store_open(&store, path, &n_lost, NULL) == CABE_OK)
                cabe_jobs_store_close(store);
            atomic_store(&writes_left, -1);
            assert_int_equal(cabe_jobs_store_open(&store, path, &n_lost, NULL), CABE_OK);
            cabe_jobs_store_close(store);
        }
    }
    assert_true(n_failed > 10);
}

static void test_a_job_whose_result_cannot_be_kept(void **state)
{
    char id[CABE_JOB_ID_MAX];
    struct cabe_error err;
    json_t *json;
    int seen = 0;

    (void)state;
    new_path();
    open_jobs();
    failing_code = SQLITE_FULL;
    start_held(id);
    atomic_store(&writes_left, 0);
    assert_int_equal(cabe_jobs_start(server.jobs, &quick, json_pack("{}"), CABE_CLASS_LOW, (char[CABE_JOB_ID_MAX]){0}, &err),
                     CABE_ERR_NO_SPACE);
    atomic_store(&is_held, 0); /* its end cannot be stored now */
    for (int i = 0; i < 20000 && !seen; i++) {
        json = ask(CABE_HTTP_GET, id, "", 200);
        seen = strcmp(json_string_value(json_object_get(json, "state")), "done") == 0;
        json_decref(json);
        usleep(1000);
    }
    assert_true(seen); /* but we know it */
    atomic_store(&writes_left, -1);
    start(&quick, (char[CABE_JOB_ID_MAX]){0}); /* and the next write brings it along */
    cabe_jobs_close(server.jobs);
    open_jobs();
    is_state(id, "done");
    cabe_jobs_close(server.jobs);
}

static void test_a_part_that_cannot_be_kept(void **state)
{
    char id[CABE_JOB_ID_MAX];
    json_t *json;

    (void)state;
    new_path();
    open_jobs();
    failing_code = SQLITE_FULL;
    atomic_store(&is_held, 1);
    start(&slow, id);
    is_state(id, "running");
    atomic_store(&writes_left, 0);
    atomic_store(&is_held, 0);
    is_state(id, "failed"); /* a result with a hole in it is none */
    json = ask(CABE_HTTP_GET, id, "", 200);
    assert_non_null(strstr(json_string_value(json_object_get(json_object_get(json, "error"), "message")), path));
    json_decref(json);
    atomic_store(&writes_left, -1);
    cabe_jobs_close(server.jobs);
    open_jobs();
    is_state(id, "failed");
    cabe_jobs_close(server.jobs);
}

static void test_stores_that_do_not_open(void **state)
{
    struct cabe_jobs_store *store;
    struct cabe_error err;
    int n_lost, fd;

    (void)state;
    new_path();
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(write(fd, "this is not a database, and long enough to be seen as none: .........................."
                          "..................", 100) == 100);
    close(fd);
    assert_int_equal(cabe_jobs_store_open(&store, path, &n_lost, &err), CABE_ERR_IO);
    assert_non_null(strstr(err.text, path));
    open_jobs(); /* the server still starts, and says so to who wants a job */
    assert_int_equal(cabe_jobs_start(server.jobs, &quick, json_pack("{}"), CABE_CLASS_LOW, (char[CABE_JOB_ID_MAX]){0}, &err),
                     CABE_ERR_IO);
    json_decref(ask(CABE_HTTP_GET, "", "", 500));
    cabe_jobs_close(server.jobs);
    assert_int_equal(cabe_jobs_store_open(&store, "/proc/nothing/jobs.db", &n_lost, &err), CABE_ERR_NOT_FOUND);
    if (geteuid() != 0) {
        new_path();
        assert_int_equal(chmod(folder, 0500), 0);
        assert_int_equal(cabe_jobs_store_open(&store, path, &n_lost, &err), CABE_ERR_PERMISSION);
        assert_int_equal(chmod(folder, 0700), 0);
    }
}

static void test_old_ones_go(void **state)
{
    struct cabe_jobs_store *store;
    struct cabe_job_record record = {.kind = "old", .state = CABE_JOB_DONE}, records[2];
    int n_lost, n;

    (void)state;
    new_path();
    assert_int_equal(cabe_jobs_store_open(&store, path, &n_lost, NULL), CABE_OK);
    sqlite3 *db;

    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db,
                                  "WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < 1010) "
                                  "INSERT INTO jobs (id, kind, state, class, owner, created_ms, started_ms, ended_ms,"
                                  " error_status, error, wish) SELECT printf('job-%05d', n), 'old', 2, 0, 0, n, n, n, 0, '',"
                                  " '{}' FROM k",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    snprintf(record.id, sizeof record.id, "job-99999");
    record.ended_ms = 99999;
    assert_int_equal(cabe_jobs_store_insert(store, &record, "{}", NULL), CABE_OK);
    assert_int_equal(cabe_jobs_store_update(store, &record, NULL), CABE_OK);
    assert_int_equal(cabe_jobs_store_get(store, "job-00011", records, NULL, NULL), CABE_ERR_NOT_FOUND);
    assert_int_equal(cabe_jobs_store_get(store, "job-00012", records, NULL, NULL), CABE_OK);
    assert_int_equal(cabe_jobs_store_list(store, CABE_JOB_DONE, NULL, 2, records, &n, NULL), CABE_OK);
    assert_int_equal(n, 2);
    assert_string_equal(records[0].id, "job-99999");
    cabe_jobs_store_close(store);
}

static void test_without_memory(void **state)
{
    (void)state;
    new_path();
    for (uint64_t n = 1; n < 24; n++) {
        char id[CABE_JOB_ID_MAX];

        server.jobs = NULL;
        cabe_memory_fail_at(n);
        if (cabe_jobs_open(&server.jobs, &server, NULL) == CABE_OK)
            (void)!cabe_jobs_start(server.jobs, &quick, json_pack("{s:i}", "x", 7), CABE_CLASS_LOW, id, NULL);
        cabe_jobs_close(server.jobs);
        cabe_memory_fail_at(0);
    }
    open_jobs();
    start(&quick, (char[CABE_JOB_ID_MAX]){0});
    cabe_jobs_close(server.jobs);
}

static int let_write(void **state) /* whatever became of the test */
{
    (void)state;
    atomic_store(&writes_left, -1);
    return 0;
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/cabe_jobs_test.XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    put_lid_on();
    return 0;
}

static int remove_folder(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_while_writing), /* forks: before any thread */
        cmocka_unit_test(test_a_restart_loses_nothing),
        cmocka_unit_test(test_a_job_from_start_to_result),
        cmocka_unit_test(test_followers_see_parts_and_the_end),
        cmocka_unit_test(test_cancel_and_slots),
        cmocka_unit_test(test_who_asked_leaves),
        cmocka_unit_test(test_list), cmocka_unit_test(test_pages),
        cmocka_unit_test_teardown(test_a_disk_that_fails, let_write),
        cmocka_unit_test_teardown(test_a_job_whose_result_cannot_be_kept, let_write),
        cmocka_unit_test_teardown(test_a_part_that_cannot_be_kept, let_write),
        cmocka_unit_test(test_stores_that_do_not_open),
        cmocka_unit_test(test_old_ones_go),
        cmocka_unit_test(test_without_memory),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
