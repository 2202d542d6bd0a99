/* Attention over KV pages at AVX2, FMA, F16C. */
#include "kernel/levels.h"

#if CABE_HAVE_X86
#include "kernel/attend_vector.h"

static void write(const struct cabe_paged *paged, int64_t slot, const float *k, const float *v, int64_t stride,
                  int64_t n)
{
    kv_write(&cabe_rows_avx2, paged, slot, k, v, stride, n);
}

const struct cabe_attention_kernels cabe_attention_avx2 = {
    .write = write, .attend = attend, .part = part, .join = join};
#endif
