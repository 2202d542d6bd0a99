/*
 * The cases of llhttp's own tests (../shared/data/hostile-http), each against a live server: it never hangs, and what it
 * takes for requests is what llhttp takes for them, in order, or fewer.
 */
#include "http_fixture.h"

#include "serve/http_parse.h"

#define ARCHIVE "../shared/data/hostile-http/llhttp-md-cases.tar.gz"
#define MESSAGES_MAX 16

struct message {
    char method[32], path[256];
    size_t n_body;
    int is_other; /* a method that nobody serves: llhttp knows a list, we answer 405 */
};

struct messages {
    struct message all[MESSAGES_MAX];
    int n;
    int upgrades; /* after this many, llhttp stops reading; 0: it does not */
};

struct test_case {
    char title[256], type[64], input[8192];
    size_t n;
    struct messages expected;
};

static struct messages seen;

static void note(struct server *s, struct cabe_http_exchange *x)
{
    struct message *m = &seen.all[seen.n < MESSAGES_MAX ? seen.n : MESSAGES_MAX - 1];

    (void)s;
    snprintf(m->method, sizeof m->method, "%s", cabe_http_method_name(x));
    snprintf(m->path, sizeof m->path, "%s", cabe_http_path(x));
    (void)cabe_http_body(x, &m->n_body);
    m->is_other = cabe_http_method(x) == CABE_HTTP_OTHER;
    seen.n++;
    reply_text(x, 200, "seen");
}

/* The bytes that a block of the page stands for. */
static size_t unfold(char *out, const char *block, size_t n)
{
    size_t to = 0;

    for (size_t i = 0; i < n; i++) {
        unsigned byte;

        if (block[i] == '\n') {
            out[to++] = '\r';
            out[to++] = '\n';
        } else if (block[i] != '\\' || i + 1 == n) {
            out[to++] = block[i];
        } else if (block[i + 1] == 'x' && sscanf(block + i + 2, "%2x", &byte) == 1) {
            out[to++] = (char)byte;
            i += 3;
        } else {
            const char *at = strchr("\nrntf", block[++i]);

            if (!at || block[i] == '\n')
                continue; /* a line that goes on */
            out[to++] = "\0\r\n\t\f"[at - "\nrntf"];
        }
    }
    return to;
}

/* A URL as a path. */
static void path_of(char *path)
{
    char *scheme = strstr(path, "://"), *slash;
    size_t n;

    path[strcspn(path, "?")] = '\0';
    if (scheme && path[0] != '/') {
        slash = strchr(scheme + 3, '/');
        memmove(path, slash ? slash : "/", slash ? strlen(slash) + 1 : 2);
    }
    if (strcmp(path, "*") == 0)
        path[0] = '/';
    n = cabe_http_unescape(path, strlen(path), 0);
    path[n == CABE_HTTP_MALFORMED ? 0 : n] = '\0';
}

/* One line of what llhttp says of the case. */
static void read_log(struct messages *m, const char *line)
{
    struct message *now = &m->all[m->n];
    size_t length = 0;
    const char *at;

    if (m->n == MESSAGES_MAX)
        return;
    if (strstr(line, "message begin"))
        *now = (struct message){0};
    if ((at = strstr(line, " len=")) != NULL)
        length = strtoul(at + 5, NULL, 10);
    if ((at = strstr(line, "span[method]=\"")) != NULL)
        snprintf(now->method + strlen(now->method), sizeof now->method - strlen(now->method), "%.*s", (int)length,
                 at + 14);
    if ((at = strstr(line, "span[url]=\"")) != NULL)
        snprintf(now->path + strlen(now->path), sizeof now->path - strlen(now->path), "%.*s", (int)length, at + 11);
    if (strstr(line, "span[body]"))
        now->n_body += length;
    if (strstr(line, "message complete")) {
        path_of(now->path);
        m->n++;
    }
    if (strstr(line, "pause") || strstr(line, "Upgrade") || strstr(line, "upgrade=1"))
        m->upgrades = m->n > 0 ? m->n : 1;
}

/* Most cases lack what HTTP/1.1 demands: Host, behind every line that ends like a request's first. */
static void add_host(struct test_case *t)
{
    static const char first[] = " HTTP/1.1\r\n", host[] = "Host: h\r\n";
    char *at = t->input;

    while ((at = memmem(at, t->n - (size_t)(at - t->input), first, sizeof first - 1)) != NULL) {
        at += sizeof first - 1;
        if (t->n + sizeof host > sizeof t->input)
            return;
        memmove(at + sizeof host - 1, at, t->n - (size_t)(at - t->input));
        memcpy(at, host, sizeof host - 1);
        t->n += sizeof host - 1;
    }
}

static void run_case(const struct server *s, const struct test_case *t)
{
    static char answers[65536];
    int fd = client_open(s), closed;

    seen = (struct messages){0};
    (void)!send(fd, t->input, t->n, MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    client_read(fd, answers, sizeof answers, 30000, &closed);
    close(fd);
    if (!closed)
        fail_msg("%s: it hangs\n%s", t->title, t->input);
    for (int i = 0; i < seen.n; i++) {
        const struct message *got = &seen.all[i], *want = &t->expected.all[i];

        if (got->is_other || (t->expected.upgrades && i >= t->expected.upgrades))
            break;
        if (i >= t->expected.n || strcmp(got->method, want->method) != 0 || strcmp(got->path, want->path) != 0 ||
            got->n_body != want->n_body)
            fail_msg("%s (%s): request %d is %s %s with %zu bytes, of %d: %s %s with %zu\n%s", t->title, t->type, i,
                     got->method, got->path, got->n_body, t->expected.n, want->method, want->path, want->n_body,
                     t->input);
    }
}

struct reading {
    struct test_case now;
    int in_input, in_log, has_input;
    char block[4096];
    size_t n_block;
    int n_cases, n_requests;
};

static void end_case(struct reading *r, const struct server *s)
{
    if (r->has_input) {
        run_case(s, &r->now);
        r->n_cases++;
        r->n_requests += seen.n;
        if (!strcasestr(r->now.input, "\r\nhost:")) {
            add_host(&r->now);
            run_case(s, &r->now);
            r->n_requests += seen.n;
        }
    }
    r->has_input = 0;
    r->now.n = 0;
    r->now.expected = (struct messages){0};
}

static void read_line(struct reading *r, const struct server *s, char *line)
{
    char *type;

    if (strncmp(line, "```", 3) == 0) {
        if (r->in_input) {
            r->now.n = unfold(r->now.input, r->block, r->n_block > 0 ? r->n_block - 1 : 0);
            r->now.input[r->now.n] = '\0';
            r->has_input = 1;
        }
        if (!r->in_input && strncmp(line, "```http", 7) == 0) {
            end_case(r, s); /* one without a log */
            r->in_input = 1;
            r->n_block = 0;
        } else {
            r->in_log = strncmp(line, "```log", 6) == 0;
            r->in_input = 0;
        }
    } else if (r->in_input) {
        assert_true(r->n_block + strlen(line) < sizeof r->block);
        memcpy(r->block + r->n_block, line, strlen(line));
        r->n_block += strlen(line);
    } else if (r->in_log) {
        read_log(&r->now.expected, line);
    } else if (line[0] == '#') {
        end_case(r, s);
        snprintf(r->now.title, sizeof r->now.title, "%.*s", (int)strcspn(line, "\n"), line);
    } else if ((type = strstr(line, "\"type\": \"")) != NULL) {
        end_case(r, s);
        snprintf(r->now.type, sizeof r->now.type, "%.*s", (int)strcspn(type + 9, "\""), type + 9);
    }
}

static void test_llhttp(void **state)
{
    static struct reading r;
    struct server s = {.request = note};
    FILE *pages;
    char line[4096];

    (void)state;
    pages = popen("tar xzOf " ARCHIVE " test/request test/response", "r");
    assert_non_null(pages);
    server_start(&s);
    while (fgets(line, sizeof line, pages))
        read_line(&r, &s, line);
    end_case(&r, &s);
    assert_int_equal(pclose(pages), 0);
    server_stop(&s);
    print_message("%d cases, %d requests\n", r.n_cases, r.n_requests);
    assert_true(r.n_cases > 150 && r.n_requests > 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_llhttp)};

    if (access(ARCHIVE, R_OK) != 0) {
        printf("skip: %s is not here\n", ARCHIVE);
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
