/* What the AVX-512 paths of both weight formats do with four inputs. They define TARGET before. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* Adds the products of 16 outputs' unsigned weights with each row's four codes at a. In one instruction a row, which
 * reads the codes itself: what the compiler makes of the intrinsics are two, and sixteen rows then take 5 % longer. */
static inline __attribute__((always_inline)) TARGET void add_four(__m512i weights, const int8_t *a, size_t count,
                                                                  __m512i *sums) {
#pragma GCC unroll 16
    for (size_t row = 0; row < count; row++)
        __asm__("vpdpbusd %2%{1to16%}, %1, %0"
                : "+v"(sums[row])
                : "v"(weights), "m"(*(const int8_t (*)[4])(a + 4 * row)));
}
