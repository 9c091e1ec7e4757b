/* 64-bit ARM with the dot product instructions (ARMv8.2 SDOT): four rows in one pass over a column of weights. */
#include "linear_int8.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { MAX_ROWS = 4, AHEAD = 8192 };

static int usable(void) {
#ifdef __linux__
    const unsigned long dot_product = 1ul << 20; /* HWCAP_ASIMDDP of the kernel's interface */
    return (getauxval(AT_HWCAP) & dot_product) != 0;
#else
    return 0; /* no way to ask */
#endif
}

TARGET static uint32_t peak(const float *x, size_t k) {
    uint32x4_t largest = vdupq_n_u32(0);
    size_t i = 0;
    for (; i + 4 <= k; i += 4)
        largest = vmaxq_u32(largest, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(0x7FFFFFFFu)));
    uint32_t found = vmaxvq_u32(largest);
    for (; i < k; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7FFFFFFFu;
        found = bits > found ? bits : found;
    }
    return found;
}

TARGET static int32_t encode(const float *x, size_t k, float inverse, int8_t *codes, size_t stride) {
    size_t padded = (k + FR_INT8_INPUTS - 1) / FR_INT8_INPUTS * FR_INT8_INPUTS;
    int32x4_t sum = vdupq_n_s32(0);
    for (size_t i = 0; i < padded; i += 4, codes += stride) {
        float four[4] = {0};
        if (i < k)
            memcpy(four, x + i, (k - i < 4 ? k - i : 4) * sizeof(float));
        int32x4_t wide = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(four), inverse)); /* to the nearest, ties to even */
        sum = vaddq_s32(sum, wide);
        int8_t narrow[8];
        vst1_s8(narrow, vmovn_s16(vcombine_s16(vmovn_s32(wide), vdup_n_s16(0))));
        memcpy(codes, narrow, 4);
    }
    return vaddvq_s32(sum);
}

INLINE void rows_of(const uint8_t *w, size_t blocks, const fr_int8_rows *rows, const fr_int8_out *out, size_t count) {
    int32x4_t sums[MAX_ROWS][4];
#pragma GCC unroll 4
    for (size_t row = 0; row < count; row++)
        sums[row][0] = sums[row][1] = sums[row][2] = sums[row][3] = vdupq_n_s32(0);
    const int8_t *a = rows->codes;
    for (size_t step = 0; step < blocks * 16; step++, w += 64, a += 4 * count) {
        __builtin_prefetch(w + AHEAD);
#pragma GCC unroll 4
        for (size_t quarter = 0; quarter < 4; quarter++) {
            int8x16_t weights = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w + 16 * quarter), vdupq_n_u8(0x80)));
#pragma GCC unroll 4
            for (size_t row = 0; row < count; row++) {
                int32_t four;
                memcpy(&four, a + 4 * row, 4);
                sums[row][quarter] = vdotq_s32(sums[row][quarter], weights, vreinterpretq_s8_s32(vdupq_n_s32(four)));
            }
        }
    }
    float scales[FR_INT8_OUTPUTS] = {0}, y[FR_INT8_OUTPUTS];
    memcpy(scales, out->weight_scales, out->outputs * sizeof(float));
    for (size_t row = 0; row < count; row++) {
        for (size_t quarter = 0; quarter < 4; quarter++) {
            float32x4_t scale = vmulq_f32(vdupq_n_f32(rows->scales[row]), vld1q_f32(scales + 4 * quarter));
            vst1q_f32(y + 4 * quarter, vmulq_f32(vcvtq_f32_s32(sums[row][quarter]), scale));
        }
        memcpy(out->y + row * out->stride, y, out->outputs * sizeof(float));
    }
}

TARGET static void multiply(const uint8_t *weights, size_t blocks, const fr_int8_rows *rows, const fr_int8_out *out) {
    switch (rows->count) {
    case 1:
        rows_of(weights, blocks, rows, out, 1);
        break;
    case 2:
        rows_of(weights, blocks, rows, out, 2);
        break;
    case 3:
        rows_of(weights, blocks, rows, out, 3);
        break;
    case 4:
        rows_of(weights, blocks, rows, out, 4);
        break;
    }
}

const fr_int8_path fr_int8_neon = {"neon-dot", usable, MAX_ROWS, &fr_float_steps_portable, peak, encode, multiply};

#endif
