/* A program outside the tree: uses only what `make install` put in place. */
#include <cabe/status.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    struct cabe_error err = {0};
    enum cabe_status status = cabe_fail(&err, CABE_ERR_BUDGET, "%d bytes missing", 12);

    puts(err.text);
    return status == CABE_ERR_BUDGET && strcmp(cabe_status_name(status), "budget") == 0 &&
                   cabe_status_exit_code(status) == 6 && strcmp(err.text, "12 bytes missing") == 0
               ? 0
               : 1;
}
