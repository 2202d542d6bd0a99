/* TLS 1.2 and 1.3 by OpenSSL, over sockets that never raise SIGPIPE. HTTP/1.1 is all that is offered (ALPN). */
#include "serve/http_impl.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

/* ---- how OpenSSL reaches the socket ---- */

static int io_write(BIO *bio, const char *bytes, int n)
{
    ssize_t put = send((int)(intptr_t)BIO_get_data(bio), bytes, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);

    BIO_clear_retry_flags(bio);
    if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        BIO_set_retry_write(bio);
    return (int)put;
}

static int io_read(BIO *bio, char *bytes, int n)
{
    ssize_t got = recv((int)(intptr_t)BIO_get_data(bio), bytes, (size_t)n, MSG_DONTWAIT);

    BIO_clear_retry_flags(bio);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        BIO_set_retry_read(bio);
    return (int)got;
}

static long io_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH; /* nothing is held back */
}

static int io_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

/* ---- the context ---- */

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *n_out, const unsigned char *in,
                           unsigned n_in, void *self)
{
    static const unsigned char ours[] = "\x08http/1.1";

    (void)ssl;
    (void)self;
    if (SSL_select_next_proto((unsigned char **)out, n_out, ours, sizeof ours - 1, in, n_in) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_NOACK; /* it will speak HTTP/1.1 or be told so */
    return SSL_TLSEXT_ERR_OK;
}

static enum cabe_status fail_tls(struct cabe_error *err, enum cabe_status status, const char *what)
{
    char text[200] = "unknown";
    unsigned long code = ERR_get_error();

    if (code != 0)
        ERR_error_string_n(code, text, sizeof text);
    ERR_clear_error();
    return cabe_fail(err, status, "TLS: %s: %s", what, text);
}

static enum cabe_status open_io(struct cabe_http *http, struct cabe_error *err)
{
    BIO_METHOD *io = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "cabe socket");

    http->tls_io = io;
    if (!io || !BIO_meth_set_write(io, io_write) || !BIO_meth_set_read(io, io_read) ||
        !BIO_meth_set_ctrl(io, io_control) || !BIO_meth_set_create(io, io_create))
        return fail_tls(err, CABE_ERR_OOM, "sockets");
    return CABE_OK;
}

enum cabe_status cabe_http_tls_open(struct cabe_http *http, const char *certificate, const char *key,
                                    struct cabe_error *err)
{
    SSL_CTX *tls;

    ERR_clear_error();
    http->tls = tls = SSL_CTX_new(TLS_server_method());
    if (!tls)
        return fail_tls(err, CABE_ERR_OOM, "context");
    SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION);
    SSL_CTX_set_options(tls, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_alpn_select_cb(tls, choose_protocol, NULL);
    if (SSL_CTX_use_certificate_chain_file(tls, certificate) != 1)
        return fail_tls(err, CABE_ERR_ARGUMENT, certificate);
    if (SSL_CTX_use_PrivateKey_file(tls, key ? key : certificate, SSL_FILETYPE_PEM) != 1)
        return fail_tls(err, CABE_ERR_ARGUMENT, key ? key : certificate);
    if (SSL_CTX_check_private_key(tls) != 1)
        return fail_tls(err, CABE_ERR_ARGUMENT, "the key is not the certificate's");
    return open_io(http, err);
}

void cabe_http_tls_close(struct cabe_http *http)
{
    SSL_CTX_free(http->tls);
    BIO_meth_free(http->tls_io);
    http->tls = NULL;
    http->tls_io = NULL;
}

/* ---- a connection ---- */

int cabe_http_tls_begin(struct cabe_http_connection *c)
{
    BIO *bio = BIO_new(c->http->tls_io);

    c->tls = SSL_new(c->http->tls);
    if (!bio || !c->tls) {
        BIO_free(bio);
        ERR_clear_error();
        return 0;
    }
    BIO_set_data(bio, (void *)(intptr_t)c->fd);
    SSL_set_bio(c->tls, bio, bio);
    SSL_set_accept_state(c->tls);
    return 1;
}

/* What a call answered: bytes, 0 at the end, -EAGAIN or lost. */
static ssize_t result(struct cabe_http_connection *c, int n)
{
    int why;

    if (n > 0)
        return n;
    why = SSL_get_error(c->tls, n);
    ERR_clear_error();
    if (why == SSL_ERROR_WANT_WRITE)
        c->tls_wants_write = 1;
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        return -EAGAIN;
    return why == SSL_ERROR_ZERO_RETURN ? 0 : -ECONNRESET;
}

int cabe_http_tls_shake(struct cabe_http_connection *c)
{
    ERR_clear_error();
    return (int)result(c, SSL_do_handshake(c->tls));
}

ssize_t cabe_http_tls_read(struct cabe_http_connection *c, void *bytes, size_t n)
{
    ERR_clear_error();
    return result(c, SSL_read(c->tls, bytes, n < INT_MAX ? (int)n : INT_MAX));
}

ssize_t cabe_http_tls_write(struct cabe_http_connection *c, const void *bytes, size_t n)
{
    ERR_clear_error();
    return result(c, SSL_write(c->tls, bytes, n < INT_MAX ? (int)n : INT_MAX));
}

void cabe_http_tls_end(struct cabe_http_connection *c, int politely)
{
    if (!c->tls)
        return;
    ERR_clear_error();
    if (politely) {
        SSL_shutdown(c->tls);
        ERR_clear_error();
        return;
    }
    SSL_free(c->tls);
    ERR_clear_error();
    c->tls = NULL;
}
