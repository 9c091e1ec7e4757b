/* 64-bit ARM. */
#include "row_codes.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>

static uint32_t peak(const float *x, size_t k) {
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

static int32_t encode(const float *x, size_t k, size_t padded, float inverse, int8_t *codes, size_t stride) {
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

const fr_row_codes fr_row_codes_neon = {peak, encode, NULL};

#endif
