/* A decoder layer in one: four products and the attention between them, each as it is alone, bit for bit.
 *
 *   qkv = norm(x) Wqkv^T, out = attention(qkv), h = out Wo^T + x, g = gated(norm(h) Wgate^T), y = g Wdown^T + h
 *
 * Threads meet within the layer, where they find work at once, and not in a thread pool between one part and the next.
 */
#ifndef FORERUN_LAYER_H
#define FORERUN_LAYER_H

#include "attention_batch.h"
#include "linear.h"

typedef enum fr_layer_product {
    FR_LAYER_QKV,
    FR_LAYER_OUTPUT,
    FR_LAYER_GATED,
    FR_LAYER_DOWN,
    FR_LAYER_PRODUCTS
} fr_layer_product;

/* What threads do one after the other: the four products, and after the first of them the attention's two. */
enum { FR_LAYER_PHASES = FR_LAYER_PRODUCTS + 2 };

/* One layer. Fill the first part, call fr_layer_begin, then fr_layer_seat for each seat, in any order and by any
 * threads: one is enough, and where more come they share the work. Nothing is allocated. */
typedef struct fr_layer {
    const float *x; /* [rows][k of qkv] */
    float *y;       /* [rows][n of down] */
    /* Without x, y, addends and scratch; each with the rows of x. */
    fr_linear products[FR_LAYER_PRODUCTS];
    fr_attention_batch attention; /* without qkv and out */
    size_t seats;                 /* at least 1; best as many as threads will come */
    void *scratch;                /* fr_layer_scratch bytes */
    /* Ours: */
    fr_lanes phases[FR_LAYER_PHASES];
} fr_layer;

size_t fr_layer_scratch(const fr_layer *it);

void fr_layer_begin(fr_layer *it);

/* Works on the layer until it is done; a seat that comes later returns at once. */
void fr_layer_seat(fr_layer *it, size_t seat);

#endif
