#include "attention_parts.h"

#include <math.h>
#include <string.h>

enum { LINE = 64 /* bytes of a line of the cache */ };

size_t fr_attention_paths(const fr_attention_path *out[FR_ATTENTION_MAX_PATHS]) {
    static const fr_attention_path *const all[] = {
#if defined(__x86_64__)
        &fr_attention_avx512_vnni, &fr_attention_avx512, &fr_attention_avx_vnni, &fr_attention_avx2,
#endif
        &fr_attention_portable,
    };
    size_t count = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i]->usable())
            out[count++] = all[i];
    return count;
}

static size_t blocks_of(const fr_attention *it) {
    return (it->rows * fr_attention_group(it) + FR_ATTENTION_ROWS - 1) / FR_ATTENTION_ROWS;
}

size_t fr_attention_writes(const fr_attention *it) {
    return blocks_of(it) == 1 ? 0 : it->kv_heads;
}

size_t fr_attention_parts(const fr_attention *it) {
    return blocks_of(it) * it->kv_heads;
}

/* Where the keys end that a token of the trunk sees; those of a node are seen to the tail, which comes after. */
static size_t last_key(const fr_attention *it, size_t token) {
    size_t end = it->position + (it->causal ? token + 1 : it->rows);
    return it->nodes > 0 ? fr_smaller(end, fr_attention_tail(it)) : end;
}

/* A block of keys: its cache rows at..at+keys-1 and its first key; of the keys that this thread will probably read
 * next, those of the same head or else of the next one, the cache rows. */
typedef struct key_block {
    size_t at, keys, start, next, next_keys;
} key_block;

/* What a row sees of a block; false where that is nothing. */
static int see(const fr_attention *it, const key_block *block, size_t token, fr_attention_row *row) {
    size_t from = fr_larger(fr_attention_first_key(it, fr_attention_position(it, token)), block->start);
    size_t to = fr_smaller(last_key(it, token), block->start + block->keys);
    if (from < to)
        row->from = from - block->start, row->to = to - block->start;
    return from < to;
}

static fr_attention_ahead ahead(const fr_attention *it, const fr_attention_cache *cache, size_t at, size_t count) {
    const size_t size = it->dim * (cache->scales != NULL ? sizeof(int8_t) : sizeof(float));
    return (fr_attention_ahead){(const char *)cache->rows + at * size, (count * size + LINE - 1) / LINE};
}

/* Adds the values of a block to the sums of `count` rows. */
static void add_values(const fr_attention *it, const float *weights, const fr_attention_row *rows, size_t count,
                       fr_attention_span values, fr_attention_ahead next, float *acc) {
    const size_t at = values.at * it->dim;
    if (it->v.scales == NULL)
        it->path->add(weights, rows, count, (const float *)it->v.rows + at, it->dim, next, acc);
    else
        it->path->add_codes(weights, count, (const int8_t *)it->v.rows + at, it->v.scales + values.at, values.count,
                            it->dim, next, acc);
}

/* The part's rows over one block: the values are fetched while the scores are computed, and the next keys while the
 * values are added. Rows that see something of it are one run of rows, but for a tree with a window. */
static void attend_block(const fr_attention *it, fr_attention_part *mine, const key_block *block) {
    _Alignas(64) float scores[FR_ATTENTION_ROWS * FR_ATTENTION_KEYS];
    const fr_attention_span span = {block->at, block->keys};
    const size_t group = fr_attention_group(it);
    for (size_t i = 0; i < mine->count; i++) {
        size_t first = i;
        while (i < mine->count && see(it, block, (mine->first + i) / group, &mine->rows[i]))
            i++;
        if (first == i)
            continue;
        const size_t count = i - first;
        float *acc = mine->acc + first * it->dim;
        fr_attention_score(it, mine, first, count, span, ahead(it, &it->v, block->at, block->keys), scores);
        it->path->weigh(scores, mine->rows + first, count, it->softcap, acc, it->dim);
        add_values(it, scores, mine->rows + first, count, span, ahead(it, &it->k, block->next, block->next_keys), acc);
    }
}

/* All blocks of a run without nodes; of one with nodes those before its tail. */
static void attend_blocks(const fr_attention *it, fr_attention_part *mine, size_t head) {
    const size_t group = fr_attention_group(it), first = mine->first / group;
    const size_t end = last_key(it, (mine->first + mine->count - 1) / group);
    /* No token has a position before that of the first, or of the first node. */
    size_t start = fr_attention_first_key(it, it->position + fr_smaller(first, fr_attention_trunk(it)));
    for (start -= start % FR_ATTENTION_KEYS; start < end; start += FR_ATTENTION_KEYS) {
        key_block block = {
            .at = head * it->capacity + start, .keys = fr_smaller(FR_ATTENTION_KEYS, end - start), .start = start};
        block.next = block.at + FR_ATTENTION_KEYS, block.next_keys = end - start - block.keys;
        if (block.next_keys == 0 && head + 1 < it->kv_heads)
            block.next = (head + 1) * it->capacity, block.next_keys = end;
        block.next_keys = fr_smaller(FR_ATTENTION_KEYS, block.next_keys);
        attend_block(it, mine, &block);
    }
}

void fr_attention_attend(const fr_attention *it, size_t part) {
    size_t blocks = blocks_of(it), head = part / blocks, group = fr_attention_group(it), dim = it->dim;
    fr_attention_part mine;
    mine.first = part % blocks * FR_ATTENTION_ROWS;
    mine.count = fr_smaller(FR_ATTENTION_ROWS, it->rows * group - mine.first);
    if (blocks == 1)
        fr_attention_write(it, head);
    for (size_t i = 0; i < mine.count; i++) {
        fr_attention_take_query(it, &mine, i, head);
        mine.rows[i] = (fr_attention_row){.largest = -INFINITY};
        memset(mine.acc + i * dim, 0, dim * sizeof(float));
    }
    attend_blocks(it, &mine, head);
    if (it->nodes > 0)
        fr_attention_attend_tail(it, &mine, head);
    for (size_t i = 0; i < mine.count; i++) {
        size_t r = mine.first + i;
        it->path->finish(mine.acc + i * dim, mine.rows[i].sum, dim,
                         it->out + (r / group * it->heads + head * group + r % group) * dim);
    }
}
