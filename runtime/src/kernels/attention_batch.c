#include "attention_batch.h"

#include <string.h>

static fr_attention_cache cache_of(const fr_attention_cache *first, size_t rows, size_t dim) {
    fr_attention_cache found = *first;
    size_t size = rows * dim * (first->scales != NULL ? sizeof(int8_t) : sizeof(float));
    found.before = (const char *)first->before + size;
    found.rows = (char *)first->rows + size;
    if (first->scales != NULL)
        found.scales_before += rows, found.scales += rows;
    return found;
}

fr_attention fr_attention_batch_sequence(const fr_attention_batch *it, size_t sequence) {
    const fr_attention *first = &it->first;
    fr_attention found = *first;
    const size_t rows = sequence * first->rows, cache = sequence * first->kv_heads * first->capacity;
    const size_t context = sequence * it->context_room * first->kv_heads * first->dim;
    found.qkv += rows * (first->heads + 2 * first->kv_heads) * first->dim;
    found.out += rows * first->heads * first->dim;
    found.k = cache_of(&first->k, cache, first->dim);
    found.v = cache_of(&first->v, cache, first->dim);
    found.position = (size_t)it->positions[sequence];
    if (it->rows != NULL)
        found.rows = (size_t)it->rows[sequence];
    if (it->starts != NULL) {
        found.context_k += context, found.context_v += context;
        found.context_rows = found.position - (size_t)it->starts[sequence];
    }
    if (first->parents != NULL) {
        found.parents += rows;
        found.nodes = fr_attention_count_nodes(found.parents, found.rows);
    }
    return found;
}

/* Parts of the first phase that each sequence has at most. */
static size_t writes_of(const fr_attention_batch *it) {
    return it->rows != NULL ? it->first.kv_heads : fr_attention_writes(&it->first);
}

size_t fr_attention_batch_writes(const fr_attention_batch *it) {
    return it->sequences * writes_of(it);
}

void fr_attention_batch_write(const fr_attention_batch *it, size_t part) {
    const fr_attention sequence = fr_attention_batch_sequence(it, part / writes_of(it));
    if (part % writes_of(it) < fr_attention_writes(&sequence))
        fr_attention_write(&sequence, part % writes_of(it));
}

size_t fr_attention_batch_parts(const fr_attention_batch *it) {
    return it->sequences * fr_attention_parts(&it->first);
}

void fr_attention_batch_attend(const fr_attention_batch *it, size_t part) {
    const size_t parts = fr_attention_parts(&it->first), width = it->first.heads * it->first.dim;
    const fr_attention sequence = fr_attention_batch_sequence(it, part / parts);
    if (part % parts < fr_attention_parts(&sequence))
        fr_attention_attend(&sequence, part % parts);
    if (part % parts == 0)
        memset(sequence.out + sequence.rows * width, 0, (it->first.rows - sequence.rows) * width * sizeof(float));
}
