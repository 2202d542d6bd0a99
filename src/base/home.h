/*
 * Where cabe keeps files.
 *
 *     kind    with CABE_HOME          otherwise (XDG, then its default)
 *     models  $CABE_HOME/models       $XDG_DATA_HOME/cabe/models   ~/.local/share/cabe/models
 *     data    $CABE_HOME/data         $XDG_DATA_HOME/cabe          ~/.local/share/cabe
 *     cache   $CABE_HOME/cache        $XDG_CACHE_HOME/cabe         ~/.cache/cabe
 *     state   $CABE_HOME/state        $XDG_STATE_HOME/cabe         ~/.local/state/cabe
 *
 * Relative values of the XDG variables are ignored, as their specification asks.
 * Thread: any, while nobody changes the environment.
 */
#ifndef CABE_BASE_HOME_H
#define CABE_BASE_HOME_H

#include <stddef.h>

#include "cabe/status.h"

enum cabe_home { CABE_HOME_MODELS, CABE_HOME_DATA, CABE_HOME_CACHE, CABE_HOME_STATE };

#define CABE_HOME_PATH_MAX 1024

/* The folder's path, absolute where its variable is; nothing is created. CABE_ERR_NOT_FOUND: no home is
 * known. */
CABE_CHECKED enum cabe_status cabe_home_path(char out[CABE_HOME_PATH_MAX], enum cabe_home kind,
                                             struct cabe_error *err);

/* The same, and creates the folder and its parents where they are missing, with mode 0700. */
CABE_CHECKED enum cabe_status cabe_home_dir(char out[CABE_HOME_PATH_MAX], enum cabe_home kind,
                                            struct cabe_error *err);

/* "<folder of kind>/<name>" in `out`, the folder created as above. `name` may hold slashes; their folders
 * too. */
CABE_CHECKED enum cabe_status cabe_home_file(char out[CABE_HOME_PATH_MAX], enum cabe_home kind,
                                             const char *name, struct cabe_error *err);

/* Creates `path` and its missing parents with `mode`; an existing folder is left as it is. */
CABE_CHECKED enum cabe_status cabe_make_dirs(const char *path, unsigned mode, struct cabe_error *err);

#endif
