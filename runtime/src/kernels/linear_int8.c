#include "linear_int8.h"

#include <math.h>
#include <sched.h>
#include <string.h>

enum {
    ALIGNMENT = 64,
    /* Weights of one part: small enough that threads which come late still find some, large enough that taking one
     * costs nothing beside reading it. */
    PART_BYTES = 96 * 1024
};

static const uint32_t NOT_FINITE = 0x7F800000u; /* the bits of infinity; those of every NaN are larger */
static const float TINY = 0x1p-100f;            /* 127 / m must not overflow, and m / 127 not be subnormal */

static size_t ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}

size_t fr_int8_packed(size_t n, size_t k) {
    return ceil_div(n, FR_INT8_OUTPUTS) * ceil_div(k, FR_INT8_INPUTS) * FR_INT8_BLOCK;
}

size_t fr_linear_int8_scratch(const fr_linear_int8 *it) {
    size_t padded = ceil_div(it->k, FR_INT8_INPUTS) * FR_INT8_INPUTS;
    size_t row = padded + sizeof(float) + sizeof(int32_t);
    return ALIGNMENT + it->rows * (it->norm != NULL ? row + it->k * sizeof(float) : row);
}

size_t fr_int8_paths(const fr_int8_path *out[FR_INT8_MAX_PATHS]) {
    static const fr_int8_path *const all[] = {
#if defined(__x86_64__)
        &fr_int8_avx512,
        &fr_int8_avxvnni,
        &fr_int8_avx2,
#elif defined(__aarch64__)
        &fr_int8_neon,
#endif
        &fr_int8_portable,
    };
    size_t count = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i]->usable())
            out[count++] = all[i];
    return count;
}

size_t fr_linear_int8_begin(fr_linear_int8 *it) {
    size_t padded = ceil_div(it->k, FR_INT8_INPUTS) * FR_INT8_INPUTS;
    uintptr_t start = ((uintptr_t)it->scratch + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    it->codes = (int8_t *)it->scratch + (start - (uintptr_t)it->scratch);
    it->scales = (float *)(void *)(it->codes + it->rows * padded);
    it->sums = (int32_t *)(void *)(it->scales + it->rows);
    it->normalized = (float *)(void *)(it->sums + it->rows);
    it->groups = ceil_div(it->rows, it->path->max_rows);
    size_t columns = ceil_div(it->n, FR_INT8_OUTPUTS);
    size_t column_bytes = padded * FR_INT8_OUTPUTS;
    it->columns_per_part = column_bytes < PART_BYTES ? ceil_div(PART_BYTES, column_bytes) : 1;
    it->columns_per_part += it->gated ? it->columns_per_part % 2 : 0; /* gates and values stay together */
    it->parts = it->rows == 0 ? 0 : ceil_div(columns, it->columns_per_part);
    atomic_init(&it->next_row, 0);
    atomic_init(&it->rows_done, 0);
    return it->parts;
}

/* Rows are dealt to the groups evenly: the first `rows % groups` groups have one more. */
static size_t group_start(const fr_linear_int8 *it, size_t group) {
    size_t extra = it->rows % it->groups;
    return group * (it->rows / it->groups) + (group < extra ? group : extra);
}

static void quantize(fr_linear_int8 *it, size_t row) {
    const float *x = it->x + row * it->k;
    if (it->norm != NULL) {
        it->path->steps->normalize(x, it->norm, it->k, it->epsilon, it->normalized + row * it->k);
        x = it->normalized + row * it->k;
    }
    size_t padded = ceil_div(it->k, FR_INT8_INPUTS) * FR_INT8_INPUTS;
    size_t group = 0;
    while (group_start(it, group + 1) <= row)
        group++;
    size_t first = group_start(it, group), count = group_start(it, group + 1) - first;
    int8_t *codes = it->codes + first * padded + 4 * (row - first);
    uint32_t bits = it->path->peak(x, it->k);
    float peak;
    memcpy(&peak, &bits, sizeof peak);
    if (bits < NOT_FINITE && peak >= TINY) {
        it->scales[row] = peak / 127.0f;
        it->sums[row] = it->path->encode(x, it->k, 127.0f / peak, codes, 4 * count);
    } else {
        it->scales[row] = bits < NOT_FINITE ? 0.0f : NAN;
        it->sums[row] = 0;
        for (size_t i = 0; i < padded / 4; i++)
            memset(codes + i * 4 * count, 0, 4);
    }
}

/* Every thread that comes takes rows until none is left, then waits for those that others still work on. */
static void quantize_rows(fr_linear_int8 *it) {
    if (atomic_load_explicit(&it->rows_done, memory_order_acquire) == it->rows)
        return;
    size_t row;
    while ((row = atomic_fetch_add_explicit(&it->next_row, 1, memory_order_relaxed)) < it->rows) {
        quantize(it, row);
        atomic_fetch_add_explicit(&it->rows_done, 1, memory_order_release);
    }
    for (int spins = 0; atomic_load_explicit(&it->rows_done, memory_order_acquire) != it->rows; spins++)
        if (spins > 1000) /* longer than any row takes: the other thread lost its processor */
            sched_yield();
}

static fr_int8_rows rows_of(const fr_linear_int8 *it, size_t group) {
    size_t first = group_start(it, group);
    return (fr_int8_rows){.count = group_start(it, group + 1) - first,
                          .codes = it->codes + first * ceil_div(it->k, FR_INT8_INPUTS) * FR_INT8_INPUTS,
                          .scales = it->scales + first,
                          .sums = it->sums + first};
}

static void multiply(const fr_linear_int8 *it, size_t column, const fr_int8_rows *rows, float *y, size_t stride) {
    size_t n = column * FR_INT8_OUTPUTS, blocks = ceil_div(it->k, FR_INT8_INPUTS);
    const fr_int8_out out = {.y = y,
                             .stride = stride,
                             .weight_scales = it->weight_scales + n,
                             .outputs = it->n - n < FR_INT8_OUTPUTS ? it->n - n : FR_INT8_OUTPUTS};
    it->path->multiply(it->weights + column * blocks * FR_INT8_BLOCK, blocks, rows, &out);
}

static void plain_column(const fr_linear_int8 *it, size_t column, size_t group) {
    const fr_int8_rows rows = rows_of(it, group);
    size_t first = group_start(it, group), n = column * FR_INT8_OUTPUTS;
    float *y = it->y + first * it->n + n;
    multiply(it, column, &rows, y, it->n);
    if (it->addend != NULL)
        it->path->steps->add(y, it->n, it->addend + first * it->addend_stride + n, it->addend_stride, rows.count,
                             it->n - n < FR_INT8_OUTPUTS ? it->n - n : FR_INT8_OUTPUTS);
}

/* Two columns, gates and values, give one. */
static void gated_columns(const fr_linear_int8 *it, size_t column, size_t group) {
    float gates[FR_INT8_MAX_ROWS * FR_INT8_OUTPUTS], values[FR_INT8_MAX_ROWS * FR_INT8_OUTPUTS];
    const fr_int8_rows rows = rows_of(it, group);
    multiply(it, column, &rows, gates, FR_INT8_OUTPUTS);
    multiply(it, column + 1, &rows, values, FR_INT8_OUTPUTS);
    size_t stride = it->n / 2;
    float *y = it->y + group_start(it, group) * stride + column / 2 * FR_INT8_OUTPUTS;
    it->path->steps->gate(gates, values, rows.count, y, stride);
}

void fr_linear_int8_part(fr_linear_int8 *it, size_t part) {
    quantize_rows(it);
    size_t columns = ceil_div(it->n, FR_INT8_OUTPUTS), step = it->gated ? 2 : 1;
    size_t first = part * it->columns_per_part, end = first + it->columns_per_part;
    for (size_t column = first; column < columns && column < end; column += step)
        for (size_t group = 0; group < it->groups; group++) /* the weights stay in the cache */
            if (it->gated)
                gated_columns(it, column, group);
            else
                plain_column(it, column, group);
}
