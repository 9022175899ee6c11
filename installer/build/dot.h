/* A dot product for llama.cpp's CPU backend: weights in Q4_1 with activations in Q8_1, several blocks at a time.

   Included before every file of llama.cpp, whose source stays as its makers publish it. Formats that llama.cpp packs anew
   are multiplied many rows at once. Q4_1 is not: one number of the result after the other, block by block, and of the
   time half is what each block needs beside its products: four half floats, looked up in a table, and their scale. Here
   two blocks share each of these steps, or four with AVX-512 VNNI. A number of the result depends on its row and its
   column alone, as before.

   Blocks (ggml-common.h): 32 weights w = d * q + m, 0 <= q <= 15, the first 16 in the low halves of bytes, and 32
   activations a = e * p, -127 <= p <= 127, with s = e * sum(p). The sum of their products is d * e * sum(q * p) + m * s.

   The macro has arguments: where llama.cpp declares, defines or calls the function, a parenthesis follows, and it gets
   another name; ggml-cpu.c's table of formats names it without one, and so takes the function below. */
#if !defined(__ASSEMBLER__) && !defined(__cplusplus) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#if __has_include("ggml-cpu-impl.h") && __has_include("quants.h")
#define ggml_vec_dot_q4_1_q8_1(...) edge_their_dot_q4_1_q8_1(__VA_ARGS__)
#include "ggml-cpu-impl.h"
#include "quants.h"

#include <string.h>

/* Returns two times sixteen bytes. */
static inline __m256i edge_bytes(const void * first, const void * second) {
    const __m256i half = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *) first));
    return _mm256_inserti128_si256(half, _mm_loadu_si128((const __m128i *) second), 1);
}

/* Returns what two blocks begin with: scale and rest of the one, scale and rest of the other. */
static inline __m128 edge_scales(const void * first, const void * second) {
    int one, other;
    memcpy(&one, first, sizeof(one));
    memcpy(&other, second, sizeof(other));
    return _mm_cvtph_ps(_mm_insert_epi32(_mm_cvtsi32_si128(one), other, 1));
}

/* Adds the products of x and y to the lower half of `sum`, those of x2 and y2 to the upper one, and to lanes 1 and 3 of
   `rest` what the weights' minima make. */
static inline __m256 edge_blocks(const block_q4_1 * x, const block_q4_1 * x2, const block_q8_1 * y, const block_q8_1 * y2, __m256 sum, __m128 * rest) {
    const __m256i weights = edge_bytes(x->qs, x2->qs), nibble = _mm256_set1_epi8(15);
    const __m256i low = _mm256_and_si256(weights, nibble), high = _mm256_and_si256(_mm256_srli_epi16(weights, 4), nibble);
    const __m256i first = edge_bytes(y->qs, y2->qs), second = edge_bytes(y->qs + 16, y2->qs + 16);
    /* Four products at most in 16 bits: 4 * 15 * 128. */
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, first), _mm256_maddubs_epi16(high, second));
    const __m256i products = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    const __m128 scales = _mm_mul_ps(edge_scales(x, x2), edge_scales(y, y2));
    const __m256i whose = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
    *rest = _mm_add_ps(*rest, scales);
    return _mm256_fmadd_ps(_mm256_permutevar8x32_ps(_mm256_castps128_ps256(scales), whose), _mm256_cvtepi32_ps(products), sum);
}

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#define EDGE_FOUR_BLOCKS
/* Returns the products of two blocks, each in eight sums; the weights come twice, first for their lower halves. */
static inline __m512 edge_products(__m512i twice, const block_q8_1 * y) {
    const __m512i by = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4), nibble = _mm512_set1_epi8(15);
    const __m512i weights = _mm512_and_si512(_mm512_srlv_epi64(twice, by), nibble);
    const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *) y[0].qs));
    const __m512i numbers = _mm512_inserti64x4(first, _mm256_loadu_si256((const __m256i *) y[1].qs), 1);
    return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, numbers));
}

/* Adds the products of four blocks to `sum` and `more`, and to odd lanes of `rest` what the weights' minima make. Loads of
   64 bytes lie within the blocks, and what is needed is picked out of them: 4 bytes each, of which a block of weights has
   5 and a block of activations 9. */
static inline void edge_four_blocks(const block_q4_1 * x, const block_q8_1 * y, __m512 * sum, __m512 * more, __m256 * rest) {
    const __m512i head = _mm512_loadu_si512(x), tail = _mm512_loadu_si512((const char *) x + 16);
    const __m512i early = _mm512_setr_epi32(1, 2, 3, 4, 1, 2, 3, 4, 6, 7, 8, 9, 6, 7, 8, 9);
    const __m512i late = _mm512_setr_epi32(7, 8, 9, 10, 7, 8, 9, 10, 12, 13, 14, 15, 12, 13, 14, 15);
    const __m512i begin_x = _mm512_setr_epi32(0, 5, 10, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i begin_y = _mm512_setr_epi32(0, 9, 16, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m128i of_x = _mm512_castsi512_si128(_mm512_permutexvar_epi32(begin_x, head));
    const __m128i of_y = _mm512_castsi512_si128(_mm512_permutex2var_epi32(_mm512_loadu_si512(y), begin_y, _mm512_loadu_si512(y + 2)));
    const __m256 scales = _mm256_mul_ps(_mm256_cvtph_ps(of_x), _mm256_cvtph_ps(of_y));
    const __m512i whose = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2), next = _mm512_set1_epi32(4);
    const __m512 scale = _mm512_permutexvar_ps(whose, _mm512_castps256_ps512(scales));
    const __m512 scale_more = _mm512_permutexvar_ps(_mm512_add_epi32(whose, next), _mm512_castps256_ps512(scales));
    *rest = _mm256_add_ps(*rest, scales);
    *sum = _mm512_fmadd_ps(scale, edge_products(_mm512_permutexvar_epi32(early, head), y), *sum);
    *more = _mm512_fmadd_ps(scale_more, edge_products(_mm512_permutexvar_epi32(late, tail), y + 2), *more);
}
#endif

/* A ggml_vec_dot_t; bs, bx and by are for processors that compute more than one number at a time. */
static inline void (ggml_vec_dot_q4_1_q8_1)(int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc) {
    static const block_q4_1 no_weights;
    static const block_q8_1 no_numbers;
    const block_q4_1 * x = (const block_q4_1 *) vx;
    const block_q8_1 * y = (const block_q8_1 *) vy;
    const int blocks = n / QK8_1;
    __m256 sum = _mm256_setzero_ps(), more = sum; /* two, so that one need not wait for the other */
    __m128 rest = _mm_setzero_ps();
    int i = 0;
#ifdef EDGE_FOUR_BLOCKS
    __m512 wide = _mm512_setzero_ps(), wide_more = wide;
    __m256 wide_rest = sum;
    for (; i + 4 <= blocks; i += 4) edge_four_blocks(x + i, y + i, &wide, &wide_more, &wide_rest);
    wide = _mm512_add_ps(wide, wide_more);
    sum = _mm512_castps512_ps256(wide);
    more = _mm512_extractf32x8_ps(wide, 1);
    rest = _mm_add_ps(_mm256_castps256_ps128(wide_rest), _mm256_extractf128_ps(wide_rest, 1));
#else
    for (; i + 4 <= blocks; i += 4) {
        sum = edge_blocks(x + i, x + i + 1, y + i, y + i + 1, sum, &rest);
        more = edge_blocks(x + i + 2, x + i + 3, y + i + 2, y + i + 3, more, &rest);
    }
#endif
    for (; i < blocks; i += 2) {
        const int whole = i + 2 <= blocks;
        sum = edge_blocks(x + i, whole ? x + i + 1 : &no_weights, y + i, whole ? y + i + 1 : &no_numbers, sum, &rest);
    }
    const __m256 eight = _mm256_add_ps(sum, more);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 all = _mm_add_ps(four, _mm_blend_ps(_mm_setzero_ps(), rest, 0xA));
    const __m128 two = _mm_add_ps(all, _mm_movehl_ps(all, all));
    *s = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    (void) bs;
    (void) bx;
    (void) by;
    (void) nrc;
}
#endif
#endif
