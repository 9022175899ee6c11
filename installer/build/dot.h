/* Products for llama.cpp's CPU backend: weights in Q4_1 with activations in Q8_1, several blocks at a time, and several
   rows of activations at a time, in Q8_1 with weights in Q4_1 and in Q8_0 with weights in Q8_0.

   Included before every file of llama.cpp, whose source stays as its makers publish it. Formats that llama.cpp packs anew
   are multiplied many rows at once. Q4_1 is not: one number of the result after the other, block by block, and of the
   time half is what each block needs beside its products: four half floats, looked up in a table, and their scale. Here
   two blocks share each of these steps, or four with AVX-512 VNNI. A number of the result depends on its row and its
   column alone, as before.

   Blocks (ggml-common.h): 32 weights w = d * q + m, 0 <= q <= 15, the first 16 in the low halves of bytes, and 32
   activations a = e * p, -127 <= p <= 127, with s = e * sum(p). The sum of their products is d * e * sum(q * p) + m * s.

   The macro has arguments: where llama.cpp declares, defines or calls the function, a parenthesis follows, and it gets
   another name; ggml-cpu.c's table of formats names it without one, and so takes the function below.

   Processors with SSE4.1 and no AVX, such as the small ones in many tills, have a function of their own at the end: there
   llama.cpp multiplies number by number. */
#if !defined(__ASSEMBLER__) && !defined(__cplusplus) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#if __has_include("ggml-cpu-impl.h") && __has_include("quants.h")
#define ggml_vec_dot_q4_1_q8_1(...) edge_their_dot_q4_1_q8_1(__VA_ARGS__)
#include "ggml-cpu-impl.h"
#include "quants.h"

#include <string.h>

#define EDGE_UNROLLED static inline __attribute__((always_inline))

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

/* The same numbers for several rows of activations at once, which are columns of the result: weights are unpacked once for
   eight of them. A number is the sum of the same terms in the same order as above, so it has the same bits. */
enum {
    EDGE_COLUMNS = 8,
    EDGE_PAIRS_MAX = 256, /* of blocks in a row: the activations of so many lie on the stack */
    EDGE_JOB_ROWS = 64,
    EDGE_JOB_COLUMNS = 16,
    EDGE_JOBS_MIN = 64, /* of a product that has so many */
    EDGE_JOB_HEIGHTS_MAX = 8,
#ifdef EDGE_FOUR_BLOCKS
    EDGE_BLOCK_SUMS = 8,
#else
    EDGE_BLOCK_SUMS = 4,
#endif
};

/* Two blocks of activations of each column. Without AVX-512 the first halves of both come before the second ones. */
struct edge_pair {
    _Alignas(64) int8_t numbers[EDGE_COLUMNS][2 * QK8_1];
    float scale[EDGE_COLUMNS][2 * EDGE_BLOCK_SUMS]; /* of the one block, of the other */
    float rest[2][EDGE_COLUMNS];
};

#ifdef EDGE_FOUR_BLOCKS
enum { EDGE_SECOND_BLOCK = QK8_1, EDGE_SECOND_HALF = QK8_1 / 2 };
#else
enum { EDGE_SECOND_BLOCK = QK8_1 / 2, EDGE_SECOND_HALF = QK8_1 };
#endif

/* Lays out columns of activations; those that are none are zero. */
static inline void edge_lay_out(struct edge_pair * pairs, const block_q8_1 * y, int64_t stride, int columns, int blocks) {
    static const block_q8_1 no_numbers;
    for (int column = 0; column < EDGE_COLUMNS; column++) {
        for (int i = 0; i < blocks; i++) {
            const block_q8_1 * block = column < columns ? y + column * stride + i : &no_numbers;
            struct edge_pair * pair = pairs + i / 2;
            int8_t * numbers = pair->numbers[column] + i % 2 * EDGE_SECOND_BLOCK;
            const __m128 scales = edge_scales(block, block);
            memcpy(numbers, block->qs, QK8_1 / 2);
            memcpy(numbers + EDGE_SECOND_HALF, block->qs + QK8_1 / 2, QK8_1 / 2);
            for (int j = 0; j < EDGE_BLOCK_SUMS; j++) pair->scale[column][i % 2 * EDGE_BLOCK_SUMS + j] = _mm_cvtss_f32(scales);
            pair->rest[i % 2][column] = _mm_cvtss_f32(_mm_movehdup_ps(scales));
        }
        if (blocks % 2) { /* the block beside the last one */
            struct edge_pair * pair = pairs + blocks / 2;
            memset(pair->numbers[column] + EDGE_SECOND_BLOCK, 0, QK8_1 / 2);
            memset(pair->numbers[column] + EDGE_SECOND_BLOCK + EDGE_SECOND_HALF, 0, QK8_1 / 2);
            memset(pair->scale[column] + EDGE_BLOCK_SUMS, 0, EDGE_BLOCK_SUMS * sizeof(float));
            pair->rest[1][column] = 0.0f;
        }
    }
}

/* Returns the first or the second halves of two blocks. */
static inline __m256i edge_halves(const int8_t * numbers, const int half) {
#ifdef EDGE_FOUR_BLOCKS
    return edge_bytes(numbers + half * EDGE_SECOND_HALF, numbers + half * EDGE_SECOND_HALF + EDGE_SECOND_BLOCK);
#else
    return _mm256_load_si256((const __m256i *) numbers + half);
#endif
}

/* Adds the products of two blocks of weights to the sums of the columns: edge_blocks without its rest. */
EDGE_UNROLLED void edge_add_pair(const block_q4_1 * x, const block_q4_1 * x2, const struct edge_pair * y, const int columns, __m256 * sums) {
    const __m256i weights = edge_bytes(x->qs, x2->qs), nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const __m256i low = _mm256_and_si256(weights, nibble), high = _mm256_and_si256(_mm256_srli_epi16(weights, 4), nibble);
    const __m256i whose = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
    const __m256 scale = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(edge_scales(x, x2)), whose);
    for (int column = 0; column < columns; column++) {
        const __m256i first = _mm256_maddubs_epi16(low, edge_halves(y->numbers[column], 0));
        const __m256i second = _mm256_maddubs_epi16(high, edge_halves(y->numbers[column], 1));
        const __m256 products = _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_add_epi16(first, second), ones));
        const __m256 other = _mm256_loadu_ps(y->scale[column] + EDGE_BLOCK_SUMS - 4);
        sums[column] = _mm256_fmadd_ps(_mm256_mul_ps(scale, other), products, sums[column]);
    }
}

/* Adds what the minima of two blocks of weights make. The compiler is not to make one instruction of product and sum, which
   would round once: above it cannot, since the product is needed for itself. */
EDGE_UNROLLED void edge_add_rest(const block_q4_1 * x, const block_q4_1 * x2, const struct edge_pair * y, __m256 * rest) {
    const __m128 scales = edge_scales(x, x2);
    __m256 first = _mm256_mul_ps(_mm256_broadcastss_ps(_mm_movehdup_ps(scales)), _mm256_loadu_ps(y->rest[0]));
    __m256 second = _mm256_mul_ps(_mm256_broadcastss_ps(_mm_shuffle_ps(scales, scales, 3)), _mm256_loadu_ps(y->rest[1]));
    __asm__("" : "+x"(first), "+x"(second));
    rest[0] = _mm256_add_ps(rest[0], first);
    rest[1] = _mm256_add_ps(rest[1], second);
}

#ifdef EDGE_FOUR_BLOCKS
/* Adds the products of two blocks of weights to the sums of the columns: half of edge_four_blocks without its rest. */
EDGE_UNROLLED void edge_add_wide(const block_q4_1 * x, const struct edge_pair * y, const int columns, __m512 * sums) {
    const __m512i by = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4), nibble = _mm512_set1_epi8(15);
    const __m512i packed = _mm512_castsi256_si512(edge_bytes(x[0].qs, x[1].qs));
    const __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), packed);
    const __m512i weights = _mm512_and_si512(_mm512_srlv_epi64(twice, by), nibble);
    const __m512i whose = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
    const __m512 scale = _mm512_permutexvar_ps(whose, _mm512_castps128_ps512(edge_scales(x, x + 1)));
    for (int column = 0; column < columns; column++) {
        const __m512i numbers = _mm512_loadu_si512(y->numbers[column]);
        const __m512 products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, numbers));
        sums[column] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_loadu_ps(y->scale[column])), products, sums[column]);
    }
}
#endif

/* Adds up all groups of four blocks, so many pairs, as the function above does. */
EDGE_UNROLLED void edge_add_fours(const block_q4_1 * x, const int pairs, const struct edge_pair * y, const int columns, __m256 * sums, __m256 * more, __m256 * rest) {
#ifdef EDGE_FOUR_BLOCKS
    __m512 wide[EDGE_COLUMNS], wide_more[EDGE_COLUMNS];
    __m256 late[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int column = 0; column < columns; column++) wide[column] = wide_more[column] = _mm512_setzero_ps();
    for (int i = 0; i < pairs; i += 2) {
        edge_add_wide(x + 2 * i, y + i, columns, wide);
        edge_add_wide(x + 2 * i + 2, y + i + 1, columns, wide_more);
        edge_add_rest(x + 2 * i, x + 2 * i + 1, y + i, rest);
        edge_add_rest(x + 2 * i + 2, x + 2 * i + 3, y + i + 1, late);
    }
    for (int column = 0; column < columns; column++) {
        const __m512 both = _mm512_add_ps(wide[column], wide_more[column]);
        sums[column] = _mm512_castps512_ps256(both);
        more[column] = _mm512_extractf32x8_ps(both, 1);
    }
    for (int j = 0; j < 2; j++) rest[j] = _mm256_add_ps(rest[j], late[j]);
#else
    for (int column = 0; column < columns; column++) more[column] = _mm256_setzero_ps();
    for (int i = 1; i < pairs; i += 2) edge_add_pair(x + 2 * i, x + 2 * i + 1, y + i, columns, more);
    for (int column = 0; column < columns; column++) sums[column] = _mm256_setzero_ps();
    for (int i = 0; i < pairs; i += 2) edge_add_pair(x + 2 * i, x + 2 * i + 1, y + i, columns, sums);
    for (int i = 0; i < pairs; i++) edge_add_rest(x + 2 * i, x + 2 * i + 1, y + i, rest);
#endif
}

/* Computes one row of weights with so many columns, four or eight. */
EDGE_UNROLLED void edge_row(const block_q4_1 * x, const int blocks, const struct edge_pair * y, const int columns, float * result) {
    static const block_q4_1 no_weights;
    __m256 sums[EDGE_COLUMNS], more[EDGE_COLUMNS], rest[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    const int fours = blocks / 4 * 4;
    edge_add_fours(x, fours / 2, y, columns, sums, more, rest);
    for (int i = fours; i < blocks; i += 2) {
        const block_q4_1 * other = i + 1 < blocks ? x + i + 1 : &no_weights;
        edge_add_pair(x + i, other, y + i / 2, columns, sums);
        edge_add_rest(x + i, other, y + i / 2, rest);
    }
    for (int start = 0; start < columns; start += 4) {
        __m128 four[4];
        for (int i = 0; i < 4; i++) {
            const __m256 eight = _mm256_add_ps(sums[start + i], more[start + i]);
            four[i] = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        }
        _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
        const __m128 first = start ? _mm256_extractf128_ps(rest[0], 1) : _mm256_castps256_ps128(rest[0]);
        const __m128 second = start ? _mm256_extractf128_ps(rest[1], 1) : _mm256_castps256_ps128(rest[1]);
        const __m128 odd = _mm_add_ps(_mm_add_ps(four[1], first), _mm_add_ps(four[3], second));
        _mm_storeu_ps(result + start, _mm_add_ps(_mm_add_ps(four[0], four[2]), odd));
    }
}

/* Computes `rows` of weights with `columns` of activations, EDGE_COLUMNS at most; strides are in blocks and numbers. */
static inline void edge_rows(const block_q4_1 * x, int64_t x_stride, int rows, const block_q8_1 * y, int64_t y_stride, int columns, int blocks, float * to, int64_t stride) {
    struct edge_pair pairs[EDGE_PAIRS_MAX];
    float result[EDGE_COLUMNS];
    edge_lay_out(pairs, y, y_stride, columns, blocks);
    for (int row = 0; row < rows; row++) {
        if (columns > 4) edge_row(x + row * x_stride, blocks, pairs, 8, result);
        else edge_row(x + row * x_stride, blocks, pairs, 4, result);
        for (int column = 0; column < columns; column++) to[column * stride + row] = result[column];
    }
}

/* Q8_0, several rows of activations at once: weights are made positive, and unpacked, once for eight of them. llama.cpp's
   vec_dot and llamafile's kernels have one sum of eight lanes for a number, to which each block adds the product of both
   scales times four products in each lane. So has this, in the same order: a number has the bits that it has there.

   With AVX-512 VNNI two columns share a vector, each in its half. */
#if defined(EDGE_FOUR_BLOCKS) && defined(__AVX512BW__)
#define EDGE_TWO_COLUMNS
enum { EDGE_SCALES = 8 };
#else
enum { EDGE_SCALES = 1 };
#endif
enum { EDGE_BLOCKS_MAX = 2 * EDGE_PAIRS_MAX };

/* A block of activations of each column. */
struct edge_column_blocks {
    _Alignas(64) int8_t numbers[EDGE_COLUMNS][QK8_0];
    float scale[EDGE_COLUMNS][EDGE_SCALES];
};

static inline float edge_half(ggml_half half) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

/* Lays out columns of activations; those that are none are zero. */
static inline void edge_lay_out_q8_0(struct edge_column_blocks * to, const block_q8_0 * y, int64_t stride, int columns, int blocks) {
    static const block_q8_0 no_numbers;
    for (int column = 0; column < EDGE_COLUMNS; column++) {
        for (int i = 0; i < blocks; i++) {
            const block_q8_0 * block = column < columns ? y + column * stride + i : &no_numbers;
            memcpy(to[i].numbers[column], block->qs, QK8_0);
            for (int j = 0; j < EDGE_SCALES; j++) to[i].scale[column][j] = edge_half(block->d);
        }
    }
}

/* Computes one row of weights with so many columns, an even number. */
EDGE_UNROLLED void edge_row_q8_0(const block_q8_0 * x, const int blocks, const struct edge_column_blocks * y, const int columns, float * result) {
    __m256 sums[EDGE_COLUMNS];
#ifdef EDGE_TWO_COLUMNS
    __m512 both[EDGE_COLUMNS / 2];
    for (int pair = 0; pair < columns / 2; pair++) both[pair] = _mm512_setzero_ps();
    for (int i = 0; i < blocks; i++) {
        const __m512i weights = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *) x[i].qs));
        const __m512i sizes = _mm512_abs_epi8(weights);
        const __mmask64 negative = _mm512_movepi8_mask(weights);
        const __m512 scale = _mm512_set1_ps(edge_half(x[i].d));
        for (int pair = 0; pair < columns / 2; pair++) {
            const __m512i numbers = _mm512_loadu_si512(y[i].numbers[2 * pair]);
            const __m512i turned = _mm512_mask_sub_epi8(numbers, negative, _mm512_setzero_si512(), numbers);
            const __m512 products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), sizes, turned));
            both[pair] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_loadu_ps(y[i].scale[2 * pair])), products, both[pair]);
        }
    }
    for (int pair = 0; pair < columns / 2; pair++) {
        sums[2 * pair] = _mm512_castps512_ps256(both[pair]);
        sums[2 * pair + 1] = _mm512_extractf32x8_ps(both[pair], 1);
    }
#else
    for (int column = 0; column < columns; column++) sums[column] = _mm256_setzero_ps();
    for (int i = 0; i < blocks; i++) {
        const __m256i weights = _mm256_loadu_si256((const __m256i *) x[i].qs);
        const __m256i sizes = _mm256_sign_epi8(weights, weights);
        const __m256 scale = _mm256_set1_ps(edge_half(x[i].d));
        for (int column = 0; column < columns; column++) {
            const __m256i turned = _mm256_sign_epi8(_mm256_load_si256((const __m256i *) y[i].numbers[column]), weights);
            const __m256i pairs = _mm256_maddubs_epi16(sizes, turned);
            const __m256 products = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            const __m256 scales = _mm256_mul_ps(scale, _mm256_broadcast_ss(y[i].scale[column]));
            sums[column] = _mm256_fmadd_ps(scales, products, sums[column]);
        }
    }
#endif
    for (int column = 0; column < columns; column++) {
        const __m128 four = _mm_add_ps(_mm256_extractf128_ps(sums[column], 1), _mm256_castps256_ps128(sums[column]));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        result[column] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
}

/* As edge_rows. */
static inline void edge_rows_q8_0(const block_q8_0 * x, int64_t x_stride, int rows, const block_q8_0 * y, int64_t y_stride, int columns, int blocks, float * to, int64_t stride) {
    struct edge_column_blocks laid[EDGE_BLOCKS_MAX];
    float result[EDGE_COLUMNS];
    edge_lay_out_q8_0(laid, y, y_stride, columns, blocks);
    for (int row = 0; row < rows; row++) {
        const block_q8_0 * weights = x + row * x_stride;
        if (columns > 6) edge_row_q8_0(weights, blocks, laid, 8, result);
        else if (columns > 4) edge_row_q8_0(weights, blocks, laid, 6, result);
        else if (columns > 2) edge_row_q8_0(weights, blocks, laid, 4, result);
        else edge_row_q8_0(weights, blocks, laid, 2, result);
        for (int column = 0; column < columns; column++) to[column * stride + row] = result[column];
    }
}

#ifdef llamafile_sgemm /* rows.h */
/* Stands before llamafile's kernels, which have none for Q4_1 (without one, each number is a call of vec_dot) and a slower
   one for Q8_0. Of a tall matrix a job has more rows, for which the activations are laid out once. */
static inline bool edge_sgemm_rows(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * A, int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc, int Atype, int Btype, int Ctype) {
    const bool q4_1 = Atype == GGML_TYPE_Q4_1 && Btype == GGML_TYPE_Q8_1, q8_0 = Atype == GGML_TYPE_Q8_0 && Btype == GGML_TYPE_Q8_0;
    if ((!q4_1 && !q8_0) || Ctype != GGML_TYPE_F32 || n < 2 || k > EDGE_BLOCKS_MAX) {
        return edge_sgemm(params, m, n, k, A, lda, B, ldb, C, ldc, Atype, Btype, Ctype);
    }
    const int64_t tall = m / (EDGE_JOB_ROWS * EDGE_JOBS_MIN), height = EDGE_JOB_ROWS * MAX(1, MIN(tall, EDGE_JOB_HEIGHTS_MAX));
    const int64_t high = (m + height - 1) / height, jobs = high * ((n + EDGE_JOB_COLUMNS - 1) / EDGE_JOB_COLUMNS);
    if (B != params->wdata) { /* not the first matrix of a product, for which all threads begin with their number */
        ggml_barrier(params->threadpool);
        if (params->ith == 0) ggml_threadpool_chunk_set(params->threadpool, params->nth);
        ggml_barrier(params->threadpool);
    }
    for (int64_t job = params->ith; job < jobs; job = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t row = job % high * height, last = MIN(n, (job / high + 1) * EDGE_JOB_COLUMNS);
        const int rows = (int) MIN(m - row, height);
        for (int64_t column = job / high * EDGE_JOB_COLUMNS; column < last; column += EDGE_COLUMNS) {
            const int columns = (int) MIN(last - column, EDGE_COLUMNS);
            float * to = (float *) C + column * ldc + row;
            if (q4_1) edge_rows((const block_q4_1 *) A + row * lda, lda, rows, (const block_q8_1 *) B + column * ldb, ldb, columns, (int) k, to, ldc);
            else edge_rows_q8_0((const block_q8_0 *) A + row * lda, lda, rows, (const block_q8_0 *) B + column * ldb, ldb, columns, (int) k, to, ldc);
        }
    }
    return true;
}
#undef llamafile_sgemm
#define llamafile_sgemm edge_sgemm_rows
#endif
#endif
#elif !defined(__ASSEMBLER__) && !defined(__cplusplus) && defined(__SSE4_1__) && !defined(__AVX__)
#if __has_include("ggml-cpu-impl.h") && __has_include("quants.h") && __has_include("simd-mappings.h")
#define ggml_vec_dot_q4_1_q8_1(...) edge_their_dot_q4_1_q8_1(__VA_ARGS__)
#include "ggml-cpu-impl.h"
#include "quants.h"
#include "simd-mappings.h"

/* A ggml_vec_dot_t, one block at a time. A product of sixteen bits holds four of numbers at most: 4 * 15 * 128. */
static inline void (ggml_vec_dot_q4_1_q8_1)(int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc) {
    const block_q4_1 * x = (const block_q4_1 *) vx;
    const block_q8_1 * y = (const block_q8_1 *) vy;
    const __m128i nibble = _mm_set1_epi8(15), ones = _mm_set1_epi16(1);
    __m128 sum = _mm_setzero_ps();
    float rest = 0.0f;
    for (int i = 0; i < n / QK8_1; i++) {
        const __m128i weights = _mm_loadu_si128((const __m128i *) x[i].qs);
        const __m128i low = _mm_and_si128(weights, nibble), high = _mm_and_si128(_mm_srli_epi16(weights, 4), nibble);
        const __m128i first = _mm_maddubs_epi16(low, _mm_loadu_si128((const __m128i *) y[i].qs));
        const __m128i second = _mm_maddubs_epi16(high, _mm_loadu_si128((const __m128i *) (y[i].qs + QK8_1 / 2)));
        const __m128 products = _mm_cvtepi32_ps(_mm_madd_epi16(_mm_add_epi16(first, second), ones));
        const float scale = GGML_CPU_FP16_TO_FP32(x[i].d) * GGML_CPU_FP16_TO_FP32(y[i].d);
        sum = _mm_add_ps(sum, _mm_mul_ps(_mm_set1_ps(scale), products));
        rest += GGML_CPU_FP16_TO_FP32(x[i].m) * GGML_CPU_FP16_TO_FP32(y[i].s);
    }
    const __m128 two = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    *s = _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1))) + rest;
    (void) bs;
    (void) bx;
    (void) by;
    (void) nrc;
}
#endif
#endif
