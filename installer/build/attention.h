/* Attention for llama.cpp's CPU backend that computes each row by itself, whoever else is in the batch.

   Included before every file of llama.cpp; only ggml-cpu.c calls flash attention, and it then calls what is below. The
   source stays as its makers publish it. Whatever is not of the form that language models of today have (keys and values
   in half precision, heads of a multiple of 64 numbers, no ALiBi, no soft cap, no sinks), and whatever is built for a
   processor without AVX2, FMA and F16C, goes to llama.cpp's own kernel.

   A row's result depends on the keys and values that it sees and on their order; neither on where they lie in the cache
   nor on other rows: cells that it does not see are left out first, and what is left is taken in blocks. In a block
   scores come first, then one exponential for eight or sixteen of them (llama.cpp's own ggml_v_expf), then values
   (the online softmax of https://arxiv.org/abs/1805.02867, a block at a time). Heads that share keys and values are
   computed together, so that these are converted once. Sums are single precision. */
#if !defined(__ASSEMBLER__) && !defined(__cplusplus) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#if __has_include("ggml-cpu-impl.h") && __has_include("vec.h")
#define EDGE_ATTENTION
#endif
#endif

#ifdef EDGE_ATTENTION
#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "vec.h"

#include <math.h>
#include <string.h>

void ggml_compute_forward_flash_attn_ext(const struct ggml_compute_params * params, struct ggml_tensor * dst);

enum {
    EDGE_BLOCK = 64,  /* cells */
    EDGE_HEADS = 4,   /* at a time: 4 heads of 4 vectors fill half of AVX-512's registers */
    EDGE_DEPTH = 256, /* numbers of a head at most */
    EDGE_ALIGN = 64,
};

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define EDGE_LANES 16
#define EDGE_VECTOR __m512
#define EDGE_HALVES(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) (p)))
#define EDGE_LOAD _mm512_loadu_ps
#define EDGE_STORE _mm512_storeu_ps
#define EDGE_ALL _mm512_set1_ps
#define EDGE_FMA _mm512_fmadd_ps
#define EDGE_MAX _mm512_max_ps
#define EDGE_SUB _mm512_sub_ps
#define EDGE_MUL _mm512_mul_ps
#define EDGE_ADD _mm512_add_ps
/* Returns the sums of four vectors. */
static inline __m128 edge_sums(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
#else
#define EDGE_LANES 8
#define EDGE_VECTOR __m256
#define EDGE_HALVES(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (p)))
#define EDGE_LOAD _mm256_loadu_ps
#define EDGE_STORE _mm256_storeu_ps
#define EDGE_ALL _mm256_set1_ps
#define EDGE_FMA _mm256_fmadd_ps
#define EDGE_MAX _mm256_max_ps
#define EDGE_SUB _mm256_sub_ps
#define EDGE_MUL _mm256_mul_ps
#define EDGE_ADD _mm256_add_ps
static inline __m128 edge_sums(__m256 a, __m256 b, __m256 c, __m256 d) {
    const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}
#endif
#define EDGE_INLINE static inline __attribute__((always_inline))

/* Collects up to EDGE_BLOCK cells that the row sees, from cell `*next` on; returns how many. */
static inline int edge_visible(const ggml_fp16_t * mask, int64_t cells, int64_t * next, int * seen) {
    const uint16_t hidden = 0xFC00; /* minus infinity */
    const uint64_t four = 0xFC00FC00FC00FC00ull;
    int64_t cell = *next;
    int count = 0;
    while (cell < cells && count < EDGE_BLOCK) {
        uint64_t word;
        if (cell + 4 <= cells && count + 4 <= EDGE_BLOCK) {
            memcpy(&word, mask + cell, sizeof(word));
            if (word != four) {
                for (int i = 0; i < 4; i++) {
                    seen[count] = (int) cell + i;
                    count += mask[cell + i] != hidden;
                }
            }
            cell += 4;
        } else {
            seen[count] = (int) cell;
            count += mask[cell] != hidden;
            cell++;
        }
    }
    *next = cell;
    return count;
}

/* Turns a block's scores into weights; returns what earlier sums have to be scaled by. */
static __attribute__((noinline)) float edge_weigh(float * scores, float * most, float * sum) {
    EDGE_VECTOR highest = EDGE_LOAD(scores);
    for (int i = EDGE_LANES; i < EDGE_BLOCK; i += EDGE_LANES) highest = EDGE_MAX(highest, EDGE_LOAD(scores + i));
    float lanes[EDGE_LANES], top = *most;
    EDGE_STORE(lanes, highest);
    for (int i = 0; i < EDGE_LANES; i++) top = lanes[i] > top ? lanes[i] : top;
    const float scale = top > *most ? expf(*most - top) : 1.0f;
    EDGE_VECTOR total = EDGE_ALL(0.0f);
    for (int i = 0; i < EDGE_BLOCK; i += EDGE_LANES) {
        const EDGE_VECTOR weights = ggml_v_expf(EDGE_SUB(EDGE_LOAD(scores + i), EDGE_ALL(top)));
        EDGE_STORE(scores + i, weights);
        total = EDGE_ADD(total, weights);
    }
    const EDGE_VECTOR none = EDGE_ALL(0.0f);
    *sum = *sum * scale + _mm_cvtss_f32(edge_sums(total, none, none, none));
    *most = top;
    return scale;
}

struct edge_view {
    const char * keys;
    const char * values;
    size_t key_stride, value_stride; /* bytes from cell to cell */
    const ggml_fp16_t * mask;
    int64_t cells;
    int depth;
    float scale;
};

/* Computes one row of `heads` heads that share keys and values; `heads` is a constant where this is compiled into. */
EDGE_INLINE void edge_heads(const struct edge_view * view, const char * query, size_t query_stride, float * out, const int heads) {
    float sums[EDGE_HEADS][EDGE_DEPTH] __attribute__((aligned(EDGE_ALIGN)));
    float scores[EDGE_HEADS][EDGE_BLOCK] __attribute__((aligned(EDGE_ALIGN)));
    float most[EDGE_HEADS], sum[EDGE_HEADS];
    int seen[EDGE_BLOCK + 4];
    const int depth = view->depth;
    for (int h = 0; h < heads; h++) {
        most[h] = -INFINITY;
        sum[h] = 0.0f;
        memset(sums[h], 0, depth * sizeof(float));
    }
    int64_t next = 0;
    for (int count; (count = edge_visible(view->mask, view->cells, &next, seen)) > 0;) {
        for (int i = count; i < EDGE_BLOCK && i % 4 != 0; i++) seen[i] = seen[0]; /* computed, and dropped below */
        for (int i = 0; i < count; i += 4) {
            EDGE_VECTOR dot[EDGE_HEADS][4];
            for (int h = 0; h < heads; h++) {
                for (int j = 0; j < 4; j++) dot[h][j] = EDGE_ALL(0.0f);
            }
            const ggml_fp16_t * key[4];
            for (int j = 0; j < 4; j++) key[j] = (const ggml_fp16_t *) (view->keys + seen[i + j] * view->key_stride);
            for (int d = 0; d < depth; d += EDGE_LANES) {
                EDGE_VECTOR asked[EDGE_HEADS];
                for (int h = 0; h < heads; h++) asked[h] = EDGE_LOAD((const float *) (query + h * query_stride) + d);
                for (int j = 0; j < 4; j++) {
                    const EDGE_VECTOR part = EDGE_HALVES(key[j] + d);
                    for (int h = 0; h < heads; h++) dot[h][j] = EDGE_FMA(asked[h], part, dot[h][j]);
                }
            }
            for (int h = 0; h < heads; h++) {
                const __m128 four = edge_sums(dot[h][0], dot[h][1], dot[h][2], dot[h][3]);
                _mm_store_ps(scores[h] + i, _mm_mul_ps(four, _mm_set1_ps(view->scale)));
            }
        }
        for (int h = 0; h < heads; h++) {
            for (int i = count; i < EDGE_BLOCK; i++) scores[h][i] = -INFINITY;
            const float scale = edge_weigh(scores[h], &most[h], &sum[h]);
            if (scale != 1.0f) {
                for (int d = 0; d < depth; d += EDGE_LANES) EDGE_STORE(sums[h] + d, EDGE_MUL(EDGE_LOAD(sums[h] + d), EDGE_ALL(scale)));
            }
        }
        for (int d = 0; d < depth; d += 4 * EDGE_LANES) {
            EDGE_VECTOR part[EDGE_HEADS][4];
            for (int h = 0; h < heads; h++) {
                for (int j = 0; j < 4; j++) part[h][j] = EDGE_LOAD(sums[h] + d + j * EDGE_LANES);
            }
            for (int i = 0; i < count; i++) {
                const ggml_fp16_t * value = (const ggml_fp16_t *) (view->values + seen[i] * view->value_stride) + d;
                EDGE_VECTOR read[4];
                for (int j = 0; j < 4; j++) read[j] = EDGE_HALVES(value + j * EDGE_LANES);
                for (int h = 0; h < heads; h++) {
                    const EDGE_VECTOR weight = EDGE_ALL(scores[h][i]);
                    for (int j = 0; j < 4; j++) part[h][j] = EDGE_FMA(read[j], weight, part[h][j]);
                }
            }
            for (int h = 0; h < heads; h++) {
                for (int j = 0; j < 4; j++) EDGE_STORE(sums[h] + d + j * EDGE_LANES, part[h][j]);
            }
        }
    }
    for (int h = 0; h < heads; h++) {
        const EDGE_VECTOR whole = EDGE_ALL(sum[h] == 0.0f ? 0.0f : 1.0f / sum[h]);
        for (int d = 0; d < depth; d += EDGE_LANES) EDGE_STORE(out + h * depth + d, EDGE_MUL(EDGE_LOAD(sums[h] + d), whole));
    }
}

static inline void edge_flash_attention(const struct ggml_compute_params * params, struct ggml_tensor * dst) {
    const struct ggml_tensor * q = dst->src[0];
    const struct ggml_tensor * k = dst->src[1];
    const struct ggml_tensor * v = dst->src[2];
    const struct ggml_tensor * mask = dst->src[3];
    float scale, bias, cap;
    memcpy(&scale, (const float *) dst->op_params + 0, sizeof(float));
    memcpy(&bias, (const float *) dst->op_params + 1, sizeof(float));
    memcpy(&cap, (const float *) dst->op_params + 2, sizeof(float));
    const int64_t depth = q->ne[0], rows = q->ne[1], heads = q->ne[2];
    const int64_t shared = heads / k->ne[2]; /* heads for each head of keys and values */
    if (params->use_ref || mask == NULL || mask->type != GGML_TYPE_F16 || dst->src[4] != NULL || bias != 0.0f || cap != 0.0f
        || q->type != GGML_TYPE_F32 || k->type != GGML_TYPE_F16 || v->type != GGML_TYPE_F16
        || depth % 64 != 0 || depth > EDGE_DEPTH || v->ne[0] != depth || k->ne[2] != v->ne[2] || heads % k->ne[2] != 0
        || q->nb[0] != sizeof(float) || k->nb[0] != sizeof(ggml_fp16_t) || v->nb[0] != sizeof(ggml_fp16_t)
        || mask->nb[0] != sizeof(ggml_fp16_t) || q->ne[3] != 1 || k->ne[3] != 1 || v->ne[3] != 1 || mask->ne[2] != 1) {
        ggml_compute_forward_flash_attn_ext(params, dst);
        return;
    }
    /* A unit of work is a row of up to EDGE_HEADS heads, or of one where there would be too few for the threads. */
    int64_t group = shared < EDGE_HEADS ? shared : EDGE_HEADS;
    if (rows * k->ne[2] < 4 * params->nth) group = 1;
    const int64_t groups = (shared + group - 1) / group;
    const int64_t units = rows * groups * k->ne[2];
    const int64_t chunk = (units + 8 * params->nth - 1) / (8 * params->nth);
    if (params->ith == 0) ggml_threadpool_chunk_set(params->threadpool, params->nth);
    ggml_barrier(params->threadpool);
    for (int64_t at = params->ith; at * chunk < units; at = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t end = (at + 1) * chunk < units ? (at + 1) * chunk : units;
        for (int64_t unit = at * chunk; unit < end; unit++) {
            const int64_t row = unit % rows, kv = unit / rows / groups, first = unit / rows % groups * group;
            const int64_t count = shared - first < group ? shared - first : group, head = kv * shared + first;
            const struct edge_view view = {
                .keys = (const char *) k->data + kv * k->nb[2],
                .values = (const char *) v->data + kv * v->nb[2],
                .key_stride = k->nb[1],
                .value_stride = v->nb[1],
                .mask = (const ggml_fp16_t *) ((const char *) mask->data + row * mask->nb[1]),
                .cells = k->ne[1],
                .depth = (int) depth,
                .scale = scale,
            };
            const char * query = (const char *) q->data + row * q->nb[1] + head * q->nb[2];
            float * out = (float *) dst->data + (row * heads + head) * depth;
            switch (count) {
                case 1: edge_heads(&view, query, q->nb[2], out, 1); break;
                case 2: edge_heads(&view, query, q->nb[2], out, 2); break;
                case 3: edge_heads(&view, query, q->nb[2], out, 3); break;
                default: edge_heads(&view, query, q->nb[2], out, 4); break;
            }
        }
    }
}

#define ggml_compute_forward_flash_attn_ext edge_flash_attention
#endif
