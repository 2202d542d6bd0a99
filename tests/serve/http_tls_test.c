/* TLS: requests, large answers, a client that is no TLS client, files that are no certificates. */
#include "http_fixture.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

static char folder[] = "/tmp/cabe-tls-XXXXXX", certificate[64], key[64], other_key[64];

static void write_key(const char *path, EVP_PKEY *pkey)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, pkey, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
}

static int make_files(void **state)
{
    EVP_PKEY *pkey = EVP_EC_gen("P-256"), *other = EVP_EC_gen("P-256");
    X509 *x509 = X509_new();
    FILE *file;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(certificate, sizeof certificate, "%s/certificate.pem", folder);
    snprintf(key, sizeof key, "%s/key.pem", folder);
    snprintf(other_key, sizeof other_key, "%s/other.pem", folder);
    X509_gmtime_adj(X509_getm_notBefore(x509), -60);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1,
                               -1, 0);
    X509_set_issuer_name(x509, X509_get_subject_name(x509));
    X509_set_pubkey(x509, pkey);
    assert_true(X509_sign(x509, pkey, EVP_sha256()) > 0);
    file = fopen(certificate, "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, x509), 1);
    fclose(file);
    write_key(key, pkey);
    write_key(other_key, other);
    X509_free(x509);
    EVP_PKEY_free(pkey);
    EVP_PKEY_free(other);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    unlink(certificate);
    unlink(key);
    unlink(other_key);
    return rmdir(folder);
}

static SSL *dial(const struct server *s, SSL_CTX *context, int *fd)
{
    static const unsigned char protocols[] = "\x02h2\x08http/1.1";
    SSL *ssl = SSL_new(context);
    const unsigned char *chosen;
    unsigned n;

    *fd = client_open(s);
    SSL_set_fd(ssl, *fd);
    SSL_set_alpn_protos(ssl, protocols, sizeof protocols - 1);
    if (SSL_connect(ssl) != 1)
        fail_msg("%s", ERR_error_string(ERR_get_error(), NULL));
    SSL_get0_alpn_selected(ssl, &chosen, &n);
    assert_int_equal(n, 8);
    assert_memory_equal(chosen, "http/1.1", 8);
    return ssl;
}

static size_t ask(SSL *ssl, const char *request, char *out, size_t size, size_t n_body)
{
    size_t n = 0, want = size - 1;

    assert_int_equal(SSL_write(ssl, request, (int)strlen(request)), (int)strlen(request));
    while (n < want) {
        int got = SSL_read(ssl, out + n, (int)(want - n));
        const char *end;

        if (got <= 0)
            break;
        n += (size_t)got;
        out[n] = '\0';
        end = strstr(out, "\r\n\r\n");
        if (end)
            want = (size_t)(end + 4 - out) + n_body;
    }
    return n;
}

static void request(struct server *s, struct cabe_http_exchange *x)
{
    static char large[3000000];

    (void)s;
    if (strcmp(cabe_http_path(x), "/large") == 0) {
        memset(large, 'x', sizeof large);
        cabe_http_reply(x, 200, "text/plain", large, sizeof large);
    } else {
        size_t n;
        const char *body = cabe_http_body(x, &n);

        cabe_http_reply(x, 200, "text/plain", body, n);
    }
}

static void test_tls(void **state)
{
    struct server s = {.request = request,
                       .config = {.tls_certificate = certificate, .tls_key = key}};
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    static char a[3100000], body[50000];
    char head[256];
    SSL *ssl;
    int fd, closed;

    (void)state;
    server_start(&s);
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        SSL_CTX_set_max_proto_version(context, version);
        ssl = dial(&s, context, &fd);
        for (int i = 0; i < 3; i++) {
            ask(ssl, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", a, sizeof a, 5);
            assert_string_equal(client_body(a), "hello");
            assert_true(ask(ssl, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n", a, sizeof a, 3000000) > 3000000);
            assert_int_equal(a[3000000], 'x');
        }
        snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %zu\r\n\r\n", sizeof body);
        memset(body, 'b', sizeof body);
        SSL_write(ssl, head, (int)strlen(head));
        assert_int_equal(SSL_write(ssl, body, sizeof body), sizeof body);
        ask(ssl, "", a, sizeof a, sizeof body);
        assert_memory_equal(client_body(a), body, sizeof body);
        ask(ssl, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", a, sizeof a, 10);
        assert_non_null(strstr(a, "Connection: close"));
        assert_int_equal(SSL_get_shutdown(ssl) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
        SSL_free(ssl);
        close(fd);
    }
    fd = client_open(&s); /* no TLS at all */
    client_say(fd, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client_read(fd, a, sizeof a, 30000, &closed);
    assert_true(closed);
    assert_null(strstr(a, "HTTP/1.1"));
    close(fd);
    server_stop(&s);
    s.config.header_s = 1;
    server_start(&s);
    fd = client_open(&s); /* nothing: out of time */
    client_read(fd, a, sizeof a, 30000, &closed);
    assert_true(closed);
    close(fd);
    server_stop(&s);
    SSL_CTX_free(context);
}

static void test_not_certificates(void **state)
{
    const char *const cases[][2] = {
        {key, key}, {certificate, certificate}, {certificate, other_key}, {"/nowhere", key}, {certificate, "/nowhere"}};
    struct cabe_error err;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cabe_http_config config = {
            .host = "127.0.0.1", .request = server_request, .tls_certificate = cases[i][0], .tls_key = cases[i][1]};
        struct cabe_http *http;

        assert_int_equal(cabe_http_open(&http, &config, &err), CABE_ERR_ARGUMENT);
        assert_non_null(strstr(err.text, "TLS: "));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_not_certificates),
    };

    return cmocka_run_group_tests(tests, make_files, remove_files);
}
