/* A program outside the tree: uses only what `make install` put in place. usage: main [MODEL] */
#include <cabe/embed.h>
#include <cabe/ledger.h>
#include <cabe/machine.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static int embeds(const char *model)
{
    static float rows[2 * 1024];
    struct cabe_embedder_config config = {.model = model, .memory_bytes = 256u << 20, .dtype = "f32"};
    struct cabe_text texts[2] = {{"the sea", 7}, {"the sea", 7}};
    struct cabe_embedder *embedder;
    struct cabe_error err;
    size_t width;
    double square = 0;

    if (cabe_embedder_open(&embedder, &config, &err) != CABE_OK ||
        cabe_embedder_encode(embedder, texts, 2, CABE_PREFIX_NONE, rows, &err) != CABE_OK) {
        puts(err.text);
        return 0;
    }
    width = cabe_embedder_width(embedder);
    for (size_t i = 0; i < width; i++)
        square += (double)rows[i] * (double)rows[i];
    cabe_embedder_close(embedder);
    return fabs(square - 1) < 1e-5 && memcmp(rows, rows + width, width * sizeof *rows) == 0;
}

int main(int argc, char **argv)
{
    struct cabe_error err = {0};
    struct cabe_embedder_config config = {.model = "/no/such/model"};
    struct cabe_embedder *embedder;
    struct cabe_machine machine;
    enum cabe_status status = cabe_embedder_open(&embedder, &config, &err);

    puts(err.text);
    if (status != CABE_ERR_NOT_FOUND || embedder || cabe_status_exit_code(status) != 3)
        return 1;
    if (cabe_machine_describe(&machine, "2 cores, 4 GB", &err) != CABE_OK ||
        strcmp(cabe_tier_name(cabe_machine_tier(&machine, NULL)), "low") != 0)
        return 2;
    return argc < 2 || embeds(argv[1]) ? 0 : 3;
}
