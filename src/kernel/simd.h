/*
 * A vector of floats, whatever its width: LANES, `vf` and small functions, so that a kernel is written once for the
 * levels that differ in nothing but width. A level file defines CABE_SIMD_AVX512 or nothing before it includes this.
 *
 * Below: functions by polynomial. A NaN stays NaN; an infinity gives the limit.
 */
#ifndef CABE_KERNEL_SIMD_H
#define CABE_KERNEL_SIMD_H

#ifdef CABE_SIMD_AVX512
#include "kernel/simd_avx512.h"
#else
#include "kernel/simd_avx2.h"
#endif

#include "tensor/graph.h"

/* 2^x within 1.5e-7 relative; 0 below 2^-126.5, infinity from 2^127.5. Minimax on [-1/2, 1/2], exact at 0. */
SIMD vf v_exp2(vf x)
{
    vf whole, part, p;

    x = v_min(v_set(128.0f), v_max(v_set(-127.0f), x));
    whole = v_round(x);
    part = v_sub(x, whole);
    p = v_fma(v_set(1.53458124e-4f), part, v_set(1.33999309e-3f));
    p = v_fma(p, part, v_set(9.61848907e-3f));
    p = v_fma(p, part, v_set(5.55032864e-2f));
    p = v_fma(p, part, v_set(2.40226462e-1f));
    p = v_fma(p, part, v_set(6.93147182e-1f));
    p = v_fma(p, part, v_set(1.0f));
    return v_mul(p, v_pow2(whole));
}

/*
 * x (1/2 + x P(x^2)), P minimax for x^2 times the error of erf(x / sqrt 2) / 2x on |x| <= 5.1, in 2 x^2 / 5.1^2 - 1 so
 * that it can be summed in f32. Beyond -5.1 the factor x is held, beyond 5.1 the other is. Measured: 0.4 of the bound.
 */
SIMD vf v_gelu_erf(vf x)
{
    static const float c[] = {
        0.138605282f, -0.0690032616f, 0.0507829562f, -0.0402186736f, 0.0317160226f,
        -0.0240163598f, 0.0174654443f, -0.0120245954f, 0.00686013978f, -0.00322916848f,
        0.0024040821f, -0.00195704773f, 0.000654374133f,
    };
    vf low = v_max(v_set(-5.1f), x), x5 = v_min(v_set(5.1f), low);
    vf u = v_fma(x5, v_mul(x5, v_set(2.0f / 5.1f / 5.1f)), v_set(-1.0f)), p = v_set(c[12]);

#pragma GCC unroll 12
    for (int i = 11; i >= 0; i--)
        p = v_fma(p, u, v_set(c[i]));
    return v_mul(low, v_fma(x5, p, v_set(0.5f)));
}

/* x / (1 + 2^(x s)): SiLU with s = -log2 e. */
SIMD vf v_x_sigmoid(vf x, vf exponent)
{
    return v_div(x, v_add(v_set(1.0f), v_exp2(exponent)));
}

/* 1/2 x (1 + tanh y) = x / (1 + e^-2y) with y = sqrt(2/pi) (x + 0.044715 x^3). */
SIMD vf v_gelu_tanh(vf x)
{
    vf square = v_mul(x, x);
    vf y = v_mul(x, v_fma(square, v_set(-2.30220819814f * 0.044715f), v_set(-2.30220819814f)));

    return v_x_sigmoid(x, y);
}

SIMD vf v_silu(vf x)
{
    return v_x_sigmoid(x, v_mul(x, v_set(-1.44269504089f)));
}

/* 1 - 2 / (1 + e^2x): absolute, not relative, near 0, as the bound asks. */
SIMD vf v_tanh(vf x)
{
    vf e = v_exp2(v_mul(x, v_set(2.88539008178f)));

    return v_sub(v_set(1.0f), v_div(v_set(2.0f), v_add(v_set(1.0f), e)));
}

/* `act` is a constant where this is inlined. */
SIMD vf v_act(enum cabe_act act, vf x)
{
    switch (act) {
    case CABE_ACT_GELU_ERF:
        return v_gelu_erf(x);
    case CABE_ACT_GELU_TANH:
        return v_gelu_tanh(x);
    case CABE_ACT_SILU:
        return v_silu(x);
    case CABE_ACT_RELU:
        return v_max(v_zero(), x);
    case CABE_ACT_TANH:
        return v_tanh(x);
    case CABE_ACT_NONE:
        break;
    }
    return x;
}

#endif
