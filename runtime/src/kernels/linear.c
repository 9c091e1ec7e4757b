#include "linear.h"

#include <math.h>
#include <string.h>

enum {
    ALIGNMENT = 64,
    LINE = 64,
    /* Weights of one part: small enough that no thread waits long for the last one, large enough that taking one costs
     * nothing beside reading it. */
    PART_BYTES = 32 * 1024,
    FETCH_BYTES = 16 * 1024, /* what memory gives while threads meet */
    FEW_ROWS = 2,            /* that one thread quantizes faster than two meet */
    CHUNK_INPUTS = 512       /* that one thread encodes for a batch of rows: whole groups */
};

static const uint32_t NOT_FINITE = 0x7F800000u; /* the bits of infinity; those of every NaN are larger */
static const float TINY = 0x1p-100f;            /* 127 / m must not overflow, and m / 127 not be subnormal */

static size_t ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}

static size_t blocks_of(const fr_linear *it) {
    return ceil_div(it->k, FR_LINEAR_INPUTS);
}

size_t fr_linear_packed(const fr_linear_format *format, size_t n, size_t k) {
    return ceil_div(n, FR_LINEAR_OUTPUTS) * ceil_div(k, FR_LINEAR_INPUTS) * format->block_bytes;
}

size_t fr_linear_groups(size_t k, size_t group_size) {
    return group_size == 0 ? 1 : ceil_div(k, group_size);
}

size_t fr_linear_scratch(const fr_linear *it) {
    size_t padded = blocks_of(it) * FR_LINEAR_INPUTS;
    size_t row = padded + 2 * sizeof(float) + fr_linear_groups(it->k, it->group_size) * sizeof(int32_t);
    row += it->norm != NULL ? it->k * sizeof(float) : 0;
    /* A batch of one row less than the others reads one more than it has, whatever that holds. */
    return ALIGNMENT + it->rows * row + (it->path->row_major ? padded : 0);
}

size_t fr_linear_begin(fr_linear *it) {
    if (it->rows < it->path->min_rows)
        it->path = it->path->fewer;
    size_t padded = blocks_of(it) * FR_LINEAR_INPUTS;
    uintptr_t start = ((uintptr_t)it->scratch + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    it->groups = fr_linear_groups(it->k, it->group_size);
    it->codes = (int8_t *)it->scratch + (start - (uintptr_t)it->scratch);
    it->scales = (float *)(void *)(it->codes + it->rows * padded);
    it->inverses = it->scales + it->rows;
    it->offsets = (int32_t *)(void *)(it->inverses + it->rows);
    it->normalized = (float *)(void *)(it->offsets + it->rows * it->groups);
    it->batches = ceil_div(it->rows, it->path->max_rows);
    it->chunks = it->group_size == 0 ? 1 : ceil_div(it->k, CHUNK_INPUTS); /* an int8 row is one group */
    size_t columns = ceil_div(it->n, FR_LINEAR_OUTPUTS);
    size_t column_bytes = blocks_of(it) * it->path->format->block_bytes;
    /* A power of two: widths are multiples of many, so that equal shares of the parts are equal shares of the work. */
    it->columns_per_part = it->gated ? 2 : 1; /* gates and values stay together */
    while (2 * it->columns_per_part * column_bytes <= PART_BYTES)
        it->columns_per_part *= 2;
    it->parts = it->rows == 0 ? 0 : ceil_div(columns, it->columns_per_part);
    fr_pieces_begin(&it->measured, it->rows);
    fr_pieces_begin(&it->encoded, it->rows <= FEW_ROWS ? 1 : it->batches * it->chunks);
    return it->parts;
}

/* Rows are dealt to the batches evenly: the first `rows % batches` batches have one more. */
static size_t batch_start(const fr_linear *it, size_t batch) {
    size_t extra = it->rows % it->batches;
    return batch * (it->rows / it->batches) + (batch < extra ? batch : extra);
}

static const float *values_of(const fr_linear *it, size_t row) {
    return (it->norm != NULL ? it->normalized : it->x) + row * it->k;
}

static void measure(void *job, size_t row) {
    const fr_linear *it = job;
    if (it->norm != NULL)
        it->path->steps->normalize(it->x + row * it->k, it->norm, it->k, it->epsilon, it->normalized + row * it->k);
    uint32_t bits = it->path->codes->peak(values_of(it, row), it->k);
    float peak;
    memcpy(&peak, &bits, sizeof peak);
    const int used = bits < NOT_FINITE && peak >= TINY;
    it->scales[row] = used ? peak / 127.0f : bits < NOT_FINITE ? 0.0f : NAN;
    it->inverses[row] = used ? 127.0f / peak : 0.0f;
}

/* Codes of one row and group, `stride` bytes from four to four; returns their sum. */
static int32_t encode_row(const fr_linear *it, size_t row, size_t first, size_t k, size_t padded, int8_t *codes,
                          size_t stride) {
    if (it->inverses[row] != 0.0f)
        return it->path->codes->encode(values_of(it, row) + first, k, padded, it->inverses[row], codes, stride);
    for (size_t i = 0; i < padded / 4; i++)
        memset(codes + i * stride, 0, 4);
    return 0;
}

/* One group of a batch; the last one takes what is left of its block, too. */
static void encode_group(fr_linear *it, size_t batch, size_t group) {
    const size_t all = blocks_of(it) * FR_LINEAR_INPUTS, size = it->group_size == 0 ? all : it->group_size;
    const size_t first = group * size, last = group + 1 == it->groups;
    const size_t k = last ? it->k - first : size, padded = last ? all - first : size;
    const size_t start = batch_start(it, batch), count = batch_start(it, batch + 1) - start;
    int8_t *codes = it->codes + start * all;
    int32_t *offsets = it->offsets + start * it->groups + group * count;
    if (it->path->codes->encode_rows != NULL && !it->path->row_major && count > 1)
        it->path->codes->encode_rows(values_of(it, start) + first, it->k, count, k, padded, it->inverses + start,
                                     codes + first * count, offsets);
    else
        for (size_t i = 0; i < count; i++)
            offsets[i] = encode_row(it, start + i, first, k, padded,
                                    codes + (it->path->row_major ? i * all + first : first * count + 4 * i),
                                    it->path->row_major ? 4 : 4 * count);
    for (size_t i = 0; i < count; i++)
        offsets[i] *= -it->path->format->zero;
}

/* Of all rows of a batch, whose codes share cache lines, which two threads would take from each other. */
static void encode_chunk(void *job, size_t chunk) {
    fr_linear *it = job;
    const size_t per_chunk = ceil_div(it->groups, it->chunks), first = chunk % it->chunks * per_chunk;
    for (size_t group = first; group < first + per_chunk && group < it->groups; group++)
        encode_group(it, chunk / it->chunks, group);
}

static void quantize_few(void *job, size_t piece) {
    fr_linear *it = job;
    (void)piece; /* there is one */
    for (size_t row = 0; row < it->rows; row++)
        measure(it, row);
    for (size_t chunk = 0; chunk < it->batches * it->chunks; chunk++)
        encode_chunk(it, chunk);
}

/* Row by row what needs the whole row, then all rows' codes by chunks of inputs. */
static void quantize(fr_linear *it) {
    if (fr_pieces_done(&it->encoded))
        return;
    if (it->rows <= FEW_ROWS) {
        fr_pieces_take(&it->encoded, quantize_few, it);
    } else {
        fr_pieces_take(&it->measured, measure, it);
        fr_pieces_take(&it->encoded, encode_chunk, it);
    }
}

static fr_linear_rows rows_of(const fr_linear *it, size_t batch) {
    size_t first = batch_start(it, batch);
    return (fr_linear_rows){.count = batch_start(it, batch + 1) - first,
                            .codes = it->codes + first * blocks_of(it) * FR_LINEAR_INPUTS,
                            .scales = it->scales + first,
                            .offsets = it->offsets + first * it->groups};
}

static void multiply(const fr_linear *it, size_t column, const fr_linear_rows *rows, float *y, size_t stride) {
    const fr_linear_format *format = it->path->format;
    size_t n = column * FR_LINEAR_OUTPUTS, blocks = blocks_of(it);
    const fr_linear_column of = {.weights = it->weights + column * blocks * format->block_bytes,
                                 .scales = (const char *)it->weight_scales + n * it->groups * format->scale_bytes,
                                 .blocks = blocks,
                                 .outputs = it->n - n < FR_LINEAR_OUTPUTS ? it->n - n : FR_LINEAR_OUTPUTS,
                                 .groups = it->groups,
                                 .group_size = it->group_size};
    it->path->multiply(&of, rows, y, stride);
}

static void plain_column(const fr_linear *it, size_t column, size_t batch) {
    const fr_linear_rows rows = rows_of(it, batch);
    size_t first = batch_start(it, batch), n = column * FR_LINEAR_OUTPUTS;
    float *y = it->y + first * it->n + n;
    multiply(it, column, &rows, y, it->n);
    if (it->addend != NULL)
        it->path->steps->add(y, it->n, it->addend + first * it->addend_stride + n, it->addend_stride, rows.count,
                             it->n - n < FR_LINEAR_OUTPUTS ? it->n - n : FR_LINEAR_OUTPUTS);
}

/* Two columns, gates and values, give one. */
static void gated_columns(const fr_linear *it, size_t column, size_t batch) {
    float gates[FR_LINEAR_MAX_ROWS * FR_LINEAR_OUTPUTS], values[FR_LINEAR_MAX_ROWS * FR_LINEAR_OUTPUTS];
    const fr_linear_rows rows = rows_of(it, batch);
    multiply(it, column, &rows, gates, FR_LINEAR_OUTPUTS);
    multiply(it, column + 1, &rows, values, FR_LINEAR_OUTPUTS);
    size_t stride = it->n / 2;
    float *y = it->y + batch_start(it, batch) * stride + column / 2 * FR_LINEAR_OUTPUTS;
    it->path->steps->gate(gates, values, rows.count, y, stride);
}

void fr_linear_part(fr_linear *it, size_t part) {
    quantize(it);
    size_t columns = ceil_div(it->n, FR_LINEAR_OUTPUTS), step = it->gated ? 2 : 1;
    size_t first = part * it->columns_per_part, end = first + it->columns_per_part;
    if (it->path->enter != NULL)
        it->path->enter(ceil_div(it->rows, it->batches), it->group_size);
    for (size_t column = first; column < columns && column < end; column += step)
        for (size_t batch = 0; batch < it->batches; batch++) /* the weights stay in the cache */
            if (it->gated)
                gated_columns(it, column, batch);
            else
                plain_column(it, column, batch);
    if (it->path->leave != NULL)
        it->path->leave();
}

void fr_linear_fetch(const fr_linear *it, size_t part) {
    const size_t all = fr_linear_packed(it->path->format, it->n, it->k);
    const size_t start = part * it->columns_per_part * blocks_of(it) * it->path->format->block_bytes;
    const size_t end = start + FETCH_BYTES < all ? start + FETCH_BYTES : all;
    for (size_t at = start; at < end; at += LINE)
        __builtin_prefetch(it->weights + at, 0, 2);
}
