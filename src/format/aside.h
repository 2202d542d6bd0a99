/* Names beside a path, for folders that are made there and then renamed; base/file.h does the same for files. */
#ifndef CABE_FORMAT_ASIDE_H
#define CABE_FORMAT_ASIDE_H

#include "cabe/status.h"

/* "<folder of path>/.<name>.<pid>.<n>.part", which no other call of any process gives; NULL when memory is refused. */
char *cabe_path_aside(const char *path);
/* Makes a rename in the folder of `path` last. */
CABE_CHECKED enum cabe_status cabe_sync_folder_of(const char *path, struct cabe_error *err);

#endif
