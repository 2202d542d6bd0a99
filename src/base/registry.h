/*
 * Where cabe processes of one user see each other's reservations: one small file, mapped by all of them.
 *
 * Layout: a header, then REGISTRY_SLOTS slots of {who, bytes per device}. A slot belongs to one open registry
 * and only its owner writes the bytes. "Who" is a process id, the time it started and the system it lives in;
 * the slot of a process that is gone counts for nothing and is taken by the next that needs one.
 *
 * The file is a courtesy between processes, not a promise: whatever is wrong with it (damaged, cut, removed,
 * another program's, no room), the process goes on and merely sees no others.
 *
 * Thread: publish from one thread at a time; read from any.
 */
#ifndef CABE_BASE_REGISTRY_H
#define CABE_BASE_REGISTRY_H

#include <stdint.h>

#include "cabe/ledger.h"

struct cabe_registry;

/* NULL when `folder` (made if it is missing, its parent not) cannot be used. A forked child must not use it.
 */
struct cabe_registry *cabe_registry_open(const char *folder);
void cabe_registry_close(struct cabe_registry *registry); /* NULL is fine */

/* `registry` may be NULL. One store. */
void cabe_registry_publish(struct cabe_registry *registry, int device, uint64_t bytes);
/* Adds what others hold to bytes[CABE_DEVICES_MAX]; saturates. Some microseconds for each other process. */
void cabe_registry_others(const struct cabe_registry *registry, uint64_t bytes[CABE_DEVICES_MAX]);

/*
 * Host bytes reserved and not resident yet, of all live processes but this one; reads the file and claims
 * nothing.
 */
uint64_t cabe_registry_promised(const char *folder);

#endif
