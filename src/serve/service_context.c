/*
 * How much context a model is loaded with, where requests ask for some (Ollama's num_ctx).
 *
 * It only grows while the model is in memory, by powers of two, so that a model is loaded again a few times at the most,
 * whatever is asked. Growing waits until what runs has ended and lets nothing begin meanwhile; not for longer than a third
 * of the time until a first token, and then not again for a while: nobody is held back for long by what others ask.
 */
#include "base/clock.h"
#include "serve/service_impl.h"

#define WAIT_SHARE (1.0 / 3)
#define AGAIN_NS UINT64_C(60000000000)

/* The least that growing brings. */
static int64_t round_up(int64_t context)
{
    int64_t n = 1;

    while (n < context)
        n *= 2;
    return context > 0 ? n : 0;
}

void cabe_context_ask(struct cabe_service_entry *e, int64_t context)
{
    if (context > e->context_asked)
        e->context_asked = context;
}

int64_t cabe_context_wanted(struct cabe_service_entry *e)
{
    int64_t most = 0;

    for (int class_ = 0; class_ < CABE_N_CLASSES; class_++)
        for (const struct cabe_queue_item *item = cabe_queue_oldest(&e->queue, (enum cabe_class)class_); item;
             item = item->next) {
            int64_t asked = CABE_QUEUE_OF(item, struct cabe_service_ticket, item)->ask.context;

            most = asked > most ? asked : most;
        }
    for (const struct cabe_load_waiter *waiter = e->loads; waiter; waiter = waiter->next)
        most = waiter->context > most ? waiter->context : most;
    e->context_asked = most; /* who asked for more has left */
    return round_up(most);
}

void cabe_context_planned(struct cabe_service_entry *e, int64_t wanted)
{
    int64_t possible = wanted < e->view.context_most ? wanted : e->view.context_most;

    e->context_vain = e->view.context < possible ? wanted : 0;
}

void cabe_context_wait(struct cabe_service_entry *e, uint64_t now_ns)
{
    e->asked_ns = 0;
    e->context_asked = 0; /* who asks now is served as it is */
    e->grow_after_ns = now_ns + AGAIN_NS;
}

int cabe_context_grows(struct cabe_service_entry *e, uint64_t now_ns)
{
    int64_t wanted = round_up(e->context_asked);
    int64_t possible = wanted < e->view.context_most ? wanted : e->view.context_most;

    if (e->kind != 1 || e->service->config.context > 0 || possible <= e->view.context ||
        (e->context_vain > 0 && wanted >= e->context_vain) || now_ns < e->grow_after_ns) {
        e->asked_ns = 0;
        return 0;
    }
    if (e->asked_ns == 0)
        e->asked_ns = now_ns;
    if (cabe_seconds(e->asked_ns, now_ns) <= WAIT_SHARE * e->service->config.first_token_s)
        return 1;
    cabe_context_wait(e, now_ns);
    return 0;
}
