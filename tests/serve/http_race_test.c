/* Answers from many threads to clients that leave at any moment. For the thread sanitizer, and for what must hold. */
#include "http_fixture.h"

#define WORKERS 4
#define CLIENTS 4
#define ROUNDS 150
#define WAITING 256

/* Exchanges on their way from the loop to the workers. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct cabe_http_exchange *all[WAITING];
    int n, over;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

static atomic_int n_late, n_announced, n_finished, n_posted;

static void request(struct server *s, struct cabe_http_exchange *x)
{
    (void)s;
    atomic_fetch_add(&n_announced, 1);
    cabe_http_hold(x);
    pthread_mutex_lock(&queue.lock);
    if (queue.n < WAITING) {
        queue.all[queue.n++] = x;
        pthread_cond_signal(&queue.more);
        x = NULL;
    }
    pthread_mutex_unlock(&queue.lock);
    if (x) {
        reply_text(x, 503, "full");
        cabe_http_release(x);
    }
}

/* Lives as long as a worker's answer: a call after it was taken back is seen. */
struct watch {
    atomic_int is_over;
};

static void gone(void *self)
{
    if (atomic_load(&((struct watch *)self)->is_over))
        atomic_fetch_add(&n_late, 1);
}

static void posted(void *arg)
{
    cabe_http_release(arg);
    atomic_fetch_add(&n_posted, 1);
}

static void done(void *self, struct cabe_http_exchange *x)
{
    (void)self;
    (void)cabe_http_status(x);
    atomic_fetch_add(&n_finished, 1);
}

static void work(struct server *s, struct cabe_http_exchange *x, unsigned *seed)
{
    struct watch *watch = calloc(1, sizeof *watch);
    char piece[600] = {'p'};
    int kind = rand_r(seed) % 5;

    cabe_http_on_gone(x, gone, watch);
    cabe_http_on_done(x, done, NULL);
    if (rand_r(seed) % 2)
        usleep((unsigned)rand_r(seed) % 2000);
    if (kind == 0) {
        reply_text(x, 200, "whole");
    } else if (kind < 4) {
        cabe_http_begin(x, 200, "text/event-stream");
        for (int i = rand_r(seed) % 30; i > 0 && cabe_http_send(x, piece, sizeof piece) == CABE_OK; i--)
            if (kind == 2)
                usleep(100);
        if (kind == 3)
            cabe_http_on_gone(x, gone, watch); /* again */
    }
    cabe_http_on_gone(x, NULL, NULL);
    atomic_store(&watch->is_over, 1);
    if (kind > 0 && kind < 4)
        cabe_http_end(x); /* kind 4 lets go without an answer */
    if (rand_r(seed) % 4 == 0) {
        cabe_http_hold(x);
        if (cabe_http_post(s->http, posted, x) != CABE_OK)
            cabe_http_release(x);
    }
    cabe_http_release(x);
    usleep(10);
    free(watch);
}

static void *worker_main(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)&seed;

    for (;;) {
        struct cabe_http_exchange *x = NULL;

        pthread_mutex_lock(&queue.lock);
        while (queue.n == 0 && !queue.over)
            pthread_cond_wait(&queue.more, &queue.lock);
        if (queue.n > 0)
            x = queue.all[--queue.n];
        pthread_mutex_unlock(&queue.lock);
        if (!x)
            return NULL;
        work(arg, x, &seed);
    }
}

static void *client_main(void *arg)
{
    static const char ask[] = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    unsigned seed = (unsigned)(uintptr_t)&seed;
    char a[4096];

    for (int i = 0; i < ROUNDS; i++) {
        int fd = client_open(arg), kind = rand_r(&seed) % 4;

        (void)!send(fd, ask, kind == 0 ? 10 : sizeof ask - 1, MSG_NOSIGNAL);
        if (kind == 1) /* a second one behind it */
            (void)!send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL);
        if (kind > 1 && client_waits(fd, rand_r(&seed) % 5))
            (void)!recv(fd, a, sizeof a, 0);
        if (kind == 3) {
            struct linger reset = {.l_onoff = 1};

            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
        close(fd);
    }
    return NULL;
}

static void test_races(void **state)
{
    struct server s = {.request = request};
    pthread_t workers[WORKERS], clients[CLIENTS];
    struct cabe_http_stats stats = {0};

    (void)state;
    server_start(&s);
    for (int i = 0; i < WORKERS; i++)
        assert_int_equal(pthread_create(&workers[i], NULL, worker_main, &s), 0);
    for (int i = 0; i < CLIENTS; i++)
        assert_int_equal(pthread_create(&clients[i], NULL, client_main, &s), 0);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(clients[i], NULL);
    for (int i = 0; i < 3000; i++) {
        cabe_http_stats(s.http, &stats);
        if (stats.n_exchanges == 0 && stats.n_connections == 0)
            break;
        usleep(10000);
    }
    assert_int_equal(stats.n_exchanges, 0);
    assert_int_equal(stats.n_connections, 0);
    pthread_mutex_lock(&queue.lock);
    queue.over = 1;
    pthread_cond_broadcast(&queue.more);
    pthread_mutex_unlock(&queue.lock);
    for (int i = 0; i < WORKERS; i++)
        pthread_join(workers[i], NULL);
    server_stop(&s);
    assert_int_equal(atomic_load(&n_late), 0);
    assert_true(atomic_load(&n_announced) > ROUNDS);
    assert_int_equal(atomic_load(&n_finished), atomic_load(&n_announced));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_races)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
