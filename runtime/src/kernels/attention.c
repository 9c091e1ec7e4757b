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

/* A block of keys: its cache rows at..at+keys-1 and its first key; the cache rows that are read after it. */
typedef struct key_block {
    size_t at, keys, start, next, next_count;
} key_block;

/* What row number i of the part sees of a block; false where that is nothing. */
static int see(const fr_attention *it, fr_attention_part *mine, const key_block *block, size_t i) {
    const size_t token = (mine->first + i) / fr_attention_group(it);
    size_t from = fr_larger(fr_attention_first_key(it, fr_attention_position(it, token)), block->start);
    size_t to = fr_smaller(last_key(it, token), block->start + block->keys);
    if (from < to)
        mine->from[i] = (int32_t)(from - block->start), mine->to[i] = (int32_t)(to - block->start);
    return from < to;
}

static fr_attention_ahead ahead(const fr_attention *it, const fr_attention_cache *cache, size_t at, size_t count) {
    const size_t size = it->dim * (cache->scales != NULL ? sizeof(int8_t) : sizeof(float));
    return (fr_attention_ahead){(const char *)cache->rows + at * size, (count * size + LINE - 1) / LINE};
}

/* All steps of a block of codes in one, for many rows. */
static void attend_codes(const fr_attention *it, fr_attention_part *mine, const key_block *block, size_t first,
                         size_t count) {
    const size_t at = block->at * it->dim;
    const fr_attention_query q = {mine->codes + first * it->dim, mine->sums + first, mine->scales + first,
                                  mine->turned + first};
    const fr_attention_codes codes = {.k = (const int8_t *)it->k.rows + at,
                                      .v = (const int8_t *)it->v.rows + at,
                                      .k_scales = it->k.scales + block->at,
                                      .v_scales = it->v.scales + block->at,
                                      .count = block->keys,
                                      .dim = it->dim,
                                      .next_values = ahead(it, &it->v, block->next, block->next_count),
                                      .next_keys = ahead(it, &it->k, block->next, block->next_count)};
    it->path->attend_codes(&q, fr_attention_rows_of(mine, first), count, &codes, it->softcap,
                           mine->acc + first * it->dim);
}

/* What is fetched while scores are computed: values of a code each come a block before they are read, as keys do; those
 * of a float each would push what is read now out of the first level, and come just before. */
static fr_attention_ahead values_ahead(const fr_attention *it, const key_block *block) {
    return it->v.scales != NULL ? ahead(it, &it->v, block->next, block->next_count)
                                : ahead(it, &it->v, block->at, block->keys);
}

/* The same step by step; the next keys are fetched while the values are added. */
static void attend_steps(const fr_attention *it, fr_attention_part *mine, const key_block *block, size_t first,
                         size_t count) {
    _Alignas(64) float scores[FR_ATTENTION_ROWS * FR_ATTENTION_KEYS];
    const fr_attention_span span = {block->at, block->keys};
    const fr_attention_rows rows = fr_attention_rows_of(mine, first);
    const fr_attention_ahead next = ahead(it, &it->k, block->next, block->next_count);
    const size_t at = block->at * it->dim;
    float *acc = mine->acc + first * it->dim;
    fr_attention_score(it, mine, first, count, span, values_ahead(it, block), scores);
    it->path->weigh(scores, rows, count, it->softcap, acc, it->dim);
    if (it->v.scales == NULL)
        it->path->add(scores, rows, count, (const float *)it->v.rows + at, it->dim, next, acc);
    else
        it->path->add_codes(scores, count, (const int8_t *)it->v.rows + at, it->v.scales + block->at, block->keys,
                            it->dim, next, acc);
}

static int in_lanes(const fr_attention *it, const fr_attention_part *mine) {
    return it->k.scales != NULL && mine->count >= it->path->many;
}

static void fetch(fr_attention_ahead what) {
    for (size_t line = 0; line < what.lines; line++)
        __builtin_prefetch(what.at + line * LINE);
}

/* The scales of keys, which hardware does not foresee: heads lie `capacity` apart. */
static void fetch_scales(const fr_attention_cache *cache, size_t at, size_t keys) {
    for (size_t i = 0; i < keys; i += LINE / sizeof(float))
        __builtin_prefetch(cache->scales + at + i);
}

static void attend_rows(const fr_attention *it, fr_attention_part *mine, const key_block *block, size_t first,
                        size_t count) {
    if (it->k.scales != NULL) {
        fetch_scales(&it->k, block->next, block->next_count);
        fetch_scales(&it->v, block->next, block->next_count);
    }
    if (in_lanes(it, mine))
        attend_codes(it, mine, block, first, count);
    else
        attend_steps(it, mine, block, first, count);
}

/* Whether all rows see the whole block, where that is soon said: most blocks of a long text are such. */
static int all_see(const fr_attention *it, fr_attention_part *mine, const key_block *block) {
    if (it->window > 0 || block->keys < FR_ATTENTION_KEYS ||
        last_key(it, mine->first / fr_attention_group(it)) < block->start + FR_ATTENTION_KEYS)
        return 0;
    for (size_t i = 0; i < mine->count; i++)
        mine->from[i] = 0, mine->to[i] = FR_ATTENTION_KEYS;
    return 1;
}

/* The part's rows over one block. Rows that see something of it are one run of rows, but for a tree with a window. */
static void attend_block(const fr_attention *it, fr_attention_part *mine, const key_block *block) {
    if (all_see(it, mine, block)) {
        attend_rows(it, mine, block, 0, mine->count);
        return;
    }
    for (size_t i = 0; i < mine->count; i++) {
        size_t first = i;
        while (i < mine->count && see(it, mine, block, i))
            i++;
        if (first < i)
            attend_rows(it, mine, block, first, i - first);
    }
}

/* Where the first block begins of which the part's rows see something. */
static size_t first_block(const fr_attention *it, const fr_attention_part *mine) {
    /* No token has a position before that of the first, or of the first node. */
    const size_t token = fr_smaller(mine->first / fr_attention_group(it), fr_attention_trunk(it));
    const size_t key = fr_attention_first_key(it, it->position + token);
    return key - key % FR_ATTENTION_KEYS;
}

/* The first keys, while the queries are prepared: nobody knows which part a thread takes first. */
static void fetch_first(const fr_attention *it, const fr_attention_part *mine, size_t head) {
    const size_t start = first_block(it, mine), at = head * it->capacity + start;
    const size_t keys = fr_smaller(FR_ATTENTION_KEYS, it->position + it->rows - start);
    fetch(ahead(it, &it->k, at, keys));
    if (it->k.scales != NULL) {
        fetch_scales(&it->k, at, keys);
        fetch_scales(&it->v, at, keys);
        fetch(ahead(it, &it->v, at, keys));
    }
}

/* What is read after a block: more of its head, or the first keys of the next part, which the same thread most often
 * takes. */
static void look_ahead(const fr_attention *it, const fr_attention_part *mine, size_t head, size_t end,
                       key_block *block) {
    const size_t after = block->start + block->keys;
    if (after < end) {
        block->next = block->at + block->keys, block->next_count = fr_smaller(FR_ATTENTION_KEYS, end - after);
        return;
    }
    const size_t first = first_block(it, mine);
    head += mine->first + mine->count == it->rows * fr_attention_group(it); /* its last rows */
    if (head < it->kv_heads)
        block->next = head * it->capacity + first, block->next_count = fr_smaller(FR_ATTENTION_KEYS, end - first);
}

/* All blocks of a run without nodes; of one with nodes those before its tail. */
static void attend_blocks(const fr_attention *it, fr_attention_part *mine, size_t head) {
    const size_t end = last_key(it, (mine->first + mine->count - 1) / fr_attention_group(it));
    for (size_t start = first_block(it, mine); start < end; start += FR_ATTENTION_KEYS) {
        key_block block = {
            .at = head * it->capacity + start, .keys = fr_smaller(FR_ATTENTION_KEYS, end - start), .start = start};
        look_ahead(it, mine, head, end, &block);
        attend_block(it, mine, &block);
    }
}

/* The state of rows that have seen nothing, and of the lanes beyond them where these compute too. */
static void begin(const fr_attention *it, fr_attention_part *mine) {
    const size_t rows = in_lanes(it, mine) ? FR_ATTENTION_KEYS : mine->count;
    for (size_t i = 0; i < rows; i++)
        mine->largest[i] = -INFINITY, mine->sum[i] = 0.0f, mine->scales[i] = 0.0f, mine->sums[i] = 0;
    memset(mine->acc, 0, mine->count * it->dim * sizeof(float));
}

void fr_attention_attend(const fr_attention *it, size_t part) {
    size_t blocks = blocks_of(it), head = part / blocks, group = fr_attention_group(it), dim = it->dim;
    fr_attention_part mine;
    mine.first = part % blocks * FR_ATTENTION_ROWS;
    mine.count = fr_smaller(FR_ATTENTION_ROWS, it->rows * group - mine.first);
    fetch_first(it, &mine, head);
    if (blocks == 1)
        fr_attention_write(it, head);
    begin(it, &mine);
    fr_attention_take_queries(it, &mine, head);
    if (in_lanes(it, &mine))
        it->path->turn_codes(mine.codes, mine.count, dim, mine.turned);
    attend_blocks(it, &mine, head);
    if (it->nodes > 0)
        fr_attention_attend_tail(it, &mine, head);
    for (size_t i = 0; i < mine.count; i++) {
        size_t r = mine.first + i;
        it->path->finish(mine.acc + i * dim, mine.sum[i], dim,
                         it->out + (r / group * it->heads + head * group + r % group) * dim);
    }
}
