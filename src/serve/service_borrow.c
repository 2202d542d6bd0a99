/* Models lent to long work: held by their host, whose requests the borrower's are. */
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/service_impl.h"

#define LOOK_NS UINT64_C(50000000) /* has the borrower been cancelled? */

struct loan { /* on the borrower's stack until it is told */
    struct cabe_service *service;
    int is_told;
    enum cabe_status status;
    struct cabe_error err;
};

static void on_loaded(void *self, enum cabe_status status, const struct cabe_error *err)
{
    struct loan *loan = self;

    pthread_mutex_lock(&loan->service->lock);
    loan->status = status;
    if (status != CABE_OK)
        loan->err = *err;
    loan->is_told = 1;
    pthread_cond_broadcast(&loan->service->changed);
    pthread_mutex_unlock(&loan->service->lock);
}

/* Under the lock. 0: it is being told at this moment. */
static int take_back_wish(struct cabe_service_entry *e, const struct loan *loan)
{
    for (struct cabe_load_waiter **at = &e->loads; *at; at = &(*at)->next)
        if ((*at)->self == loan) {
            struct cabe_load_waiter *waiter = *at;

            *at = waiter->next;
            cabe_free(waiter);
            cabe_keeper_call(e->service); /* a load for nobody ends */
            return 1;
        }
    return 0;
}

/* Under the lock: until the model is there, or is not wanted any more. */
static enum cabe_status wait_for_load(struct cabe_service_entry *e, struct loan *loan, const struct cabe_cancel *cancel,
                                      struct cabe_error *err)
{
    while (!loan->is_told) {
        uint64_t until_ns = cabe_clock_ns() + LOOK_NS;
        struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};

        if (cabe_cancelled(cancel) && take_back_wish(e, loan))
            return cabe_fail(err, CABE_ERR_CANCELLED, "%s: cancelled while it was loaded", e->view.name);
        (void)pthread_cond_timedwait(&e->service->changed, &e->service->lock, &until);
    }
    if (loan->status != CABE_OK && err)
        *err = loan->err;
    if (loan->status == CABE_OK && e->kind == 1)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: a model that writes text; wanted one that embeds it", e->view.name);
    return loan->status;
}

enum cabe_status cabe_service_borrow(struct cabe_service *service, const char *name, const struct cabe_cancel *cancel,
                                     struct cabe_error *err)
{
    struct loan loan = {.service = service};
    struct cabe_service_entry *e;
    enum cabe_status status = cabe_entry_find(&e, service, name, err);

    if (status != CABE_OK)
        return status;
    pthread_mutex_lock(&service->lock);
    e->n_borrowers++; /* before it is there: not a moment without */
    pthread_mutex_unlock(&service->lock);
    status = cabe_service_load(service, name, on_loaded, &loan, err);
    pthread_mutex_lock(&service->lock);
    if (status == CABE_OK)
        status = wait_for_load(e, &loan, cancel, err);
    if (status != CABE_OK) {
        e->n_borrowers--;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&service->lock);
    return status;
}

void cabe_service_give_back(struct cabe_service *service, const char *name)
{
    struct cabe_service_entry *e;

    if (cabe_entry_find(&e, service, name, NULL) != CABE_OK)
        return; /* borrowed ones are known: entries stay */
    pthread_mutex_lock(&service->lock);
    e->n_borrowers--;
    e->idle_since_ns = cabe_clock_ns();
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&service->lock);
}

enum cabe_status cabe_service_load_bytes(struct cabe_service *service, const char *name, uint64_t *bytes,
                                         struct cabe_error *err)
{
    struct cabe_service_entry *e;
    enum cabe_status status = cabe_entry_find(&e, service, name, err);
    enum cabe_service_state state;

    *bytes = 0;
    if (status != CABE_OK)
        return status;
    pthread_mutex_lock(&service->lock);
    state = e->view.state;
    *bytes = state == CABE_SERVICE_READY ? 0 : e->view.peak_bytes;
    pthread_mutex_unlock(&service->lock);
    return state == CABE_SERVICE_ABSENT ? cabe_loaded_measure(e, bytes, err) : CABE_OK;
}
