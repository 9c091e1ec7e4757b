#include "layer.h"

#include "scratch.h"

enum { WRITE = 1, ATTEND }; /* the attention's phases */

/* Bytes of what a product writes for the next phase. */
static size_t written(const fr_linear *it) {
    return fr_lines(it->rows * (it->gated ? it->n / 2 : it->n) * sizeof(float));
}

/* Bytes of what the attention writes: what the next product reads. */
static size_t attended(const fr_layer *it) {
    const fr_linear *output = &it->products[FR_LAYER_OUTPUT];
    return fr_lines(output->rows * output->k * sizeof(float));
}

size_t fr_layer_scratch(const fr_layer *it) {
    size_t shared = 0, total = FR_LINE + attended(it);
    for (size_t i = 0; i < FR_LAYER_PRODUCTS; i++) {
        const size_t own = fr_linear_scratch(&it->products[i]);
        shared = own > shared ? own : shared; /* products never run at the same time */
        total += i < FR_LAYER_DOWN ? written(&it->products[i]) : 0;
    }
    return total + shared;
}

static size_t phase_of(size_t product) {
    return product == FR_LAYER_QKV ? 0 : product + ATTEND;
}

/* Each phase writes what the next one reads. */
static void connect(fr_layer *it) {
    fr_linear *qkv = &it->products[FR_LAYER_QKV], *output = &it->products[FR_LAYER_OUTPUT];
    fr_linear *gated = &it->products[FR_LAYER_GATED], *down = &it->products[FR_LAYER_DOWN];
    char *free = fr_first_line(it->scratch);
    qkv->x = it->x, qkv->y = fr_take_lines(&free, written(qkv));
    it->attention.first.qkv = qkv->y, it->attention.first.out = fr_take_lines(&free, attended(it));
    output->x = it->attention.first.out, output->y = fr_take_lines(&free, written(output));
    gated->x = output->y, gated->y = fr_take_lines(&free, written(gated));
    down->x = gated->y, down->y = it->y;
    output->addend = it->x, output->addend_stride = output->n;
    down->addend = output->y, down->addend_stride = down->n;
    for (size_t i = 0; i < FR_LAYER_PRODUCTS; i++)
        it->products[i].scratch = free;
}

void fr_layer_begin(fr_layer *it) {
    size_t counts[FR_LAYER_PHASES];
    connect(it);
    for (size_t i = 0; i < FR_LAYER_PRODUCTS; i++)
        counts[phase_of(i)] = fr_linear_begin(&it->products[i]);
    counts[WRITE] = fr_attention_batch_writes(&it->attention);
    counts[ATTEND] = fr_attention_batch_parts(&it->attention);
    for (size_t i = 0; i < FR_LAYER_PHASES; i++)
        fr_lanes_begin(&it->phases[i], counts[i], it->seats);
}

static void multiply(void *product, size_t part) {
    fr_linear_part(product, part);
}

static void write(void *attention, size_t part) {
    fr_attention_batch_write(attention, part);
}

static void attend(void *attention, size_t part) {
    fr_attention_batch_attend(attention, part);
}

/* Fetches what this seat will read first of a product, while it waits for other threads. */
static void fetch(const fr_layer *it, size_t product, size_t seat) {
    if (product < FR_LAYER_PRODUCTS)
        fr_linear_fetch(&it->products[product], fr_lanes_first(&it->phases[phase_of(product)], seat, it->seats));
}

/* One phase, and the product whose weights come next. */
static void run(fr_layer *it, size_t phase, size_t seat, fr_piece work, void *job, size_t next) {
    fr_lanes_take(&it->phases[phase], seat, it->seats, work, job);
    fetch(it, next, seat);
    fr_lanes_wait(&it->phases[phase]);
}

void fr_layer_seat(fr_layer *it, size_t seat) {
    const fr_lanes *last = &it->phases[FR_LAYER_PHASES - 1];
    if (last->count > 0 && fr_lanes_done(last)) /* without rows there are caches to copy all the same */
        return;
    fetch(it, FR_LAYER_QKV, seat);
    run(it, phase_of(FR_LAYER_QKV), seat, multiply, &it->products[FR_LAYER_QKV], FR_LAYER_PRODUCTS);
    run(it, WRITE, seat, write, &it->attention, FR_LAYER_PRODUCTS);
    run(it, ATTEND, seat, attend, &it->attention, FR_LAYER_OUTPUT);
    for (size_t i = FR_LAYER_OUTPUT; i < FR_LAYER_PRODUCTS; i++)
        run(it, phase_of(i), seat, multiply, &it->products[i], i + 1);
}
