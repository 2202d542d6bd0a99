/* The machine and what is recommended for it as JSON documents; keys as in cabe-machine(1). NULL: no memory.
 */
#ifndef CABE_MACHINE_JSON_H
#define CABE_MACHINE_JSON_H

#include <jansson.h>

#include "cabe/machine.h"

json_t *cabe_machine_json(const struct cabe_machine *machine);
json_t *cabe_recommendation_json(const struct cabe_recommendation *advice);

#endif
