/* Attention of a few new rows over a cache: norm, rotation, write, scores, softmax and weighted sum in one, in float32.
 *
 * Of each of the `rows` new tokens, at position p + row of the text:
 *
 * - q, k and v are the heads in a row of qkv, in this order
 * - q and k, where there is a norm: x[i] = x[i] / sqrt(mean(x^2) + epsilon) * norm[i]
 * - q and k, where there are tables: x[i], x[i + half] for i < half, rotated by the row p + row of cos and sin
 * - k and v go to the row p + row of the caches
 * - score[j] = scale * q . k_cache[j], then softcap * tanh(score / softcap) where there is a softcap
 * - out = sum over j of softmax(score)[j] * v_cache[j], for the keys j that the row sees
 *
 * Query head h reads key-value head h / (heads / kv_heads). A row sees the keys 0..p+row, or without `causal` all up to
 * the last new one; with a window only those after p + row - window.
 *
 * The last `nodes` rows may be nodes of a tree instead of a chain: `parents` gives for each its parent among the rows,
 * or -1 where the text before the run is. A node's position is the one after its parent's, and it sees the text, the
 * rows before the nodes, its ancestors and itself; its keys go to the cache row p + row all the same. Keys count by
 * position then: a node's result has the bits that it has where its ancestors alone stand in its place as a chain.
 *
 * A cache may hold int8 codes with a scale for each head and row. Of a row x that goes there, with m = max |x|:
 * scale = m / 127, code = x * (127 / m) rounded to the nearest, ties to even; m < 2^-100: both 0; m not finite: scale
 * NaN and codes 0. A row's own key and value are read as they were written. Then q too becomes such codes after its
 * rotation, and the sums are of integers, exact:
 *
 * - score[j] = (the sum over i of q_code[i] * k_code[j][i]) * (q_scale * scale) * k_scale[j]
 * - of a block of 64 keys, u[j] = softmax weight * v_scale[j], and 0 where the weight is; with m = max u[j] of those
 *   that the row sees: step = m / 32767, weight_code = u * (32767 / m) rounded as above; m < 2^-100: both 0; m not
 *   finite: step NaN; out gains (the sum over j of weight_code[j] * v_code[j]) * step
 *
 * Each product and quotient is rounded to float32, as a sum is that becomes a float.
 *
 * Before them, `context_rows` rows of a context have only keys and values: at the positions p - context_rows to p - 1,
 * normed, rotated and written in the same way.
 *
 * A row's result never depends on the other rows of the run but by the keys that it sees, nor on how many they are, bit
 * for bit: products are summed in the order of the dimensions, values in the order of the keys, the softmax runs over
 * blocks of 64 keys that begin at multiples of 64, and keys that a row does not see take no part. What is written to
 * the caches has the same bits on every path. So have the results of the paths with fused multiply and add; the
 * portable one differs by the rounding of its products. The exponential is our own, relative error below 1.1e-7.
 */
#ifndef FORERUN_ATTENTION_H
#define FORERUN_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

enum {
    FR_ATTENTION_KEYS = 64,     /* of a block */
    FR_ATTENTION_ROWS = 32,     /* query rows of a part: they share one reading of the keys and values */
    FR_ATTENTION_HEADS = 4,     /* that are prepared together */
    FR_ATTENTION_MULTIPLE = 16, /* of the head dim */
    FR_ATTENTION_MAX_DIM = 256, /* a part has 200 KB on the stack at this head dim, and 100 KB more with nodes */
    FR_ATTENTION_NODES = 128    /* most nodes of a tree in one run */
};

/* One head of q or k, and what is done to it before it is used. */
typedef struct fr_attention_turn {
    const float *x;    /* [dim] */
    const float *norm; /* [dim], or NULL */
    float epsilon;
    const float *cos, *sin; /* [half] of this row, or NULL */
    size_t half;
    float factor; /* multiplied at the end */
} fr_attention_turn;

/* The running softmax of query rows. */
typedef struct fr_attention_rows {
    float *largest, *sum; /* [rows] */
    int32_t *from, *to;   /* [rows] the keys of the block that each sees, from < to <= 64 */
} fr_attention_rows;

/* Those from number `row` on. */
static inline fr_attention_rows fr_attention_rows_from(fr_attention_rows it, size_t row) {
    return (fr_attention_rows){it.largest + row, it.sum + row, it.from + row, it.to + row};
}

/* Lines of memory that will be read next, which a step fetches while it computes. */
typedef struct fr_attention_ahead {
    const char *at;
    size_t lines; /* of 64 bytes */
} fr_attention_ahead;

/* Query rows as codes. */
typedef struct fr_attention_query {
    const int8_t *codes;   /* [rows][dim] */
    const int32_t *sums;   /* [rows] of the codes */
    const float *scales;   /* [rows] */
    const int32_t *turned; /* [dim / 4][64] the codes four by four, of a dim's rows in turn; only for attend_codes() */
} fr_attention_query;

/* A block of keys and values as codes. */
typedef struct fr_attention_codes {
    const int8_t *k, *v;              /* [count][dim] */
    const float *k_scales, *v_scales; /* [count] */
    size_t count, dim;
    fr_attention_ahead next_values, next_keys; /* fetched while scores are computed, and while values are added */
} fr_attention_codes;

/* One way to compute the steps. */
typedef struct fr_attention_path {
    const char *name;
    int (*usable)(void);
    /* At most FR_ATTENTION_HEADS heads, of which only x, cos and sin differ, to y [count][dim]. */
    void (*prepare)(const fr_attention_turn *turns, size_t count, size_t dim, float *y);
    /* As many rows x [count] of [dim] to codes [count][dim], their scales and the sums of their codes. */
    void (*encode)(const float *const *x, size_t count, size_t dim, int8_t *codes, float *scales, int32_t *sums);
    /* q [rows][dim] by keys k [count][dim] -> scores [rows][64], at least the first `count` of each row. */
    void (*score)(const float *q, size_t rows, size_t dim, const float *k, size_t count, fr_attention_ahead next,
                  float *scores);
    /* The same of codes q and k [count][dim] with `scales` [count]. */
    void (*score_codes)(const fr_attention_query *q, size_t rows, size_t dim, const int8_t *k, const float *scales,
                        size_t count, fr_attention_ahead next, float *scores);
    /* Scores [count][64] become weights, zero where the row does not see; corrects the rows' sums and acc [count][dim].
     */
    void (*weigh)(float *scores, fr_attention_rows rows, size_t count, float softcap, float *acc, size_t dim);
    /* acc [count][dim] += weights [count][64] by the values v [64][dim] of the keys that each row sees. */
    void (*add)(const float *weights, fr_attention_rows rows, size_t count, const float *v, size_t dim,
                fr_attention_ahead next, float *acc);
    /* acc [rows][dim] += weights [rows][64] by codes v [count][dim] with `scales` [count]. */
    void (*add_codes)(const float *weights, size_t rows, const int8_t *v, const float *scales, size_t count, size_t dim,
                      fr_attention_ahead next, float *acc);
    /* score_codes(), weigh() and add_codes() in one, faster from `many` rows on, which stand in the lanes of vectors:
     * what there is of each row is read up to 32 rows beyond the last, and stays as it is there. */
    void (*attend_codes)(const fr_attention_query *q, fr_attention_rows rows, size_t count,
                         const fr_attention_codes *block, float softcap, float *acc);
    size_t many;
    /* Codes [rows][dim] to `turned`, zero beyond rows. */
    void (*turn_codes)(const int8_t *codes, size_t rows, size_t dim, int32_t *turned);
    /* out [dim] = acc / sum. */
    void (*finish)(const float *acc, float sum, size_t dim, float *out);
} fr_attention_path;

/* The paths that this processor has, fastest first; the last one needs nothing. */
enum { FR_ATTENTION_MAX_PATHS = 6 };
size_t fr_attention_paths(const fr_attention_path *out[FR_ATTENTION_MAX_PATHS]);

/* The keys or the values of all rows, as they were before the run and as they are after it. */
typedef struct fr_attention_cache {
    const void *before; /* [kv_heads][capacity][dim] float32, int8 with scales; copied where it is not `rows` itself */
    void *rows;
    const float *scales_before; /* [kv_heads][capacity], or NULL */
    float *scales;
} fr_attention_cache;

/* One attention. Call fr_attention_write for each part of the first phase, then, when all are done,
 * fr_attention_attend for each of the second; within a phase in any order and by any threads. Nothing is allocated. */
typedef struct fr_attention {
    const fr_attention_path *path;
    const float *qkv;                   /* [rows][(heads + 2 kv_heads) * dim] */
    const float *context_k, *context_v; /* [context_rows][kv_heads * dim] */
    const float *q_norm, *k_norm;       /* [dim], or NULL */
    const float *cos, *sin;             /* [at least position + rows][half], or NULL */
    const int64_t *parents;             /* [rows]; of the nodes: less than the row itself, at least rows - nodes - 1 */
    fr_attention_cache k, v;
    float *out; /* [rows][heads * dim] */
    size_t rows, heads, kv_heads, dim, capacity, position, half;
    size_t context_rows; /* of at most `position` */
    size_t nodes;        /* at most FR_ATTENTION_NODES, 0 without `causal` */
    size_t window;       /* 0: none */
    float scale, epsilon, softcap;
    int causal;
} fr_attention;

/* How many of the last rows are nodes, of a tree that every parent[row] < row describes: those before are a chain that
 * all others continue. */
size_t fr_attention_count_nodes(const int64_t *parents, size_t rows);

/* Parts of the first phase: 0 where few rows let each part of the second write its own keys and values. Without rows
 * there is this phase only, which copies. */
size_t fr_attention_writes(const fr_attention *it);
void fr_attention_write(const fr_attention *it, size_t part);

size_t fr_attention_parts(const fr_attention *it);
void fr_attention_attend(const fr_attention *it, size_t part);

extern const fr_attention_path fr_attention_avx512_vnni, fr_attention_avx512, fr_attention_avx_vnni, fr_attention_avx2,
    fr_attention_portable;

#endif
