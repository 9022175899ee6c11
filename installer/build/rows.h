/* Products of llama.cpp's CPU backend in which a row comes out the same however many rows there are.

   Included before every file of llama.cpp, whose source stays as its makers publish it. It multiplies few rows by one
   kernel and many by another, and each adds up in an order of its own. All are right, to a millionth; but the next layer
   rounds what it is given to eight bits, and a last bit that differs becomes half a nat of a token's log-probability.

   - Q4_K, Q5_K, Q6_K: from 8 rows on `tiled` kernels, which sum up a block of 256 products in whole numbers;
     below one vec_dot for each number, which sums up in eight lanes. Here is a vec_dot that adds up as the tiled kernels
     do. Other types that have tiled kernels (Q2_K, Q3_K, IQ types), and processors without AVX2, do without them.
   - F32, F16, BF16, IQ4_NL, without AVX2 also Q4_0 and Q8_0: from 2 rows on llamafile's kernels, below vec_dot. Here is
     the same for one row.

   Weights that llama.cpp has laid out anew do not come here: the engine has it leave Q2_K and Q4_K as they are. */
#if !defined(__ASSEMBLER__) && !defined(__cplusplus) && defined(__AVX__)
#if __has_include("ggml-cpu-impl.h") && __has_include("quants.h")
#define EDGE_ROWS
#endif
#endif

#if defined(EDGE_ROWS) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define EDGE_K_TYPES
/* As in dot.h: with a parenthesis it is their function, without one, in the table of types, ours. So this header stands
   before dot.h, which includes the declarations, and after attention.h. */
#define ggml_vec_dot_q4_K_q8_K(...) edge_their_dot_q4_K_q8_K(__VA_ARGS__)
#define ggml_vec_dot_q5_K_q8_K(...) edge_their_dot_q5_K_q8_K(__VA_ARGS__)
#define ggml_vec_dot_q6_K_q8_K(...) edge_their_dot_q6_K_q8_K(__VA_ARGS__)
#endif

#ifdef EDGE_ROWS
#define GGML_COMMON_DECL_C
#include "ggml-common.h"
#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#endif

#ifdef EDGE_K_TYPES
#include <string.h>

/* Adds a block to the sum: d * first - least * second, in single precision from here on, as the tiled kernels do.
   GCC makes one instruction of a product and a sum, here as there. */
static inline __m128 edge_add_block(__m128 sum, __m256i first, __m128i second, const ggml_half * d, const ggml_half * least, float scale) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(first), _mm256_extracti128_si256(first, 1));
    const __m128i both = _mm_hadd_epi32(four, second);
    const __m128i whole = _mm_hadd_epi32(both, both); /* the sum of `first`, and that of `second` */
    const __m128 numbers = _mm_cvtepi32_ps(whole);
    __m128 result = _mm_mul_ps(numbers, _mm_cvtph_ps(_mm_cvtsi32_si128(*d)));
    if (least != NULL) result = _mm_fnmadd_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(*least)), _mm_movehdup_ps(numbers), result);
    return _mm_add_ps(sum, _mm_mul_ps(result, _mm_set1_ps(scale)));
}

/* Returns eight scales and eight minima, in 16 bits, of the twelve bytes in which Q4_K and Q5_K have them. */
static inline __m256i edge_scales_of(const uint8_t * packed) {
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x03030303;
    uint32_t word[3];
    memcpy(word, packed, sizeof(word));
    const uint32_t late = (word[2] & four) | (((word[0] >> 6) & two) << 4);
    const uint32_t late_least = ((word[2] >> 4) & four) | (((word[1] >> 6) & two) << 4);
    return _mm256_cvtepu8_epi16(_mm_setr_epi32(word[0] & six, late, word[1] & six, late_least));
}

/* Returns the minima times the sums of the activations that they belong to. */
static inline __m128i edge_minima(__m256i scales, const block_q8_K * y) {
    const __m256i sums = _mm256_loadu_si256((const __m256i *) y->bsums);
    const __m128i pairs = _mm_hadd_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return _mm_madd_epi16(_mm256_extracti128_si256(scales, 1), pairs);
}

/* Returns one of eight scales, sixteen times. */
static inline __m256i edge_scale(__m256i scales, int which) {
    const __m256i both = _mm256_permute2x128_si256(scales, scales, 0);
    return _mm256_shuffle_epi8(both, _mm256_set1_epi16((short) (0x0100 + 0x0202 * which)));
}

/* ggml_vec_dot_t's; bs, bx, by and nrc are for processors that compute more than one number at a time. */
static inline void (ggml_vec_dot_q4_K_q8_K)(int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc) {
    const block_q4_K * x = (const block_q4_K *) vx;
    const block_q8_K * y = (const block_q8_K *) vy;
    const __m256i nibble = _mm256_set1_epi8(15);
    __m128 sum = _mm_setzero_ps();
    for (int i = 0; i < n / QK_K; i++) {
        const __m256i scales = edge_scales_of(x[i].scales);
        __m256i products = _mm256_setzero_si256();
        for (int j = 0; j < 4; j++) {
            const __m256i packed = _mm256_loadu_si256((const __m256i *) x[i].qs + j);
            const __m256i low = _mm256_and_si256(packed, nibble), high = _mm256_and_si256(_mm256_srli_epi16(packed, 4), nibble);
            const __m256i first = _mm256_maddubs_epi16(low, _mm256_loadu_si256((const __m256i *) y[i].qs + 2 * j));
            const __m256i second = _mm256_maddubs_epi16(high, _mm256_loadu_si256((const __m256i *) y[i].qs + 2 * j + 1));
            products = _mm256_add_epi32(products, _mm256_madd_epi16(edge_scale(scales, 2 * j), first));
            products = _mm256_add_epi32(products, _mm256_madd_epi16(edge_scale(scales, 2 * j + 1), second));
        }
        sum = edge_add_block(sum, products, edge_minima(scales, y + i), &x[i].d, &x[i].dmin, y[i].d);
    }
    *s = _mm_cvtss_f32(sum);
    (void) bs, (void) bx, (void) by, (void) nrc;
}

static inline void (ggml_vec_dot_q5_K_q8_K)(int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc) {
    const block_q5_K * x = (const block_q5_K *) vx;
    const block_q8_K * y = (const block_q8_K *) vy;
    const __m256i nibble = _mm256_set1_epi8(15), fifth = _mm256_set1_epi8(16);
    __m128 sum = _mm_setzero_ps();
    for (int i = 0; i < n / QK_K; i++) {
        const __m256i scales = edge_scales_of(x[i].scales), tops = _mm256_loadu_si256((const __m256i *) x[i].qh);
        __m256i products = _mm256_setzero_si256();
        for (int j = 0; j < 4; j++) {
            const __m256i packed = _mm256_loadu_si256((const __m256i *) x[i].qs + j);
            /* Bit 2 * j of each top byte belongs to the low half, bit 2 * j + 1 to the high one. */
            const __m256i two = _mm256_srl_epi16(tops, _mm_cvtsi32_si128(2 * j));
            const __m256i low_top = _mm256_and_si256(_mm256_slli_epi16(two, 4), fifth);
            const __m256i high_top = _mm256_and_si256(_mm256_slli_epi16(two, 3), fifth);
            const __m256i low = _mm256_or_si256(_mm256_and_si256(packed, nibble), low_top);
            const __m256i high = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(packed, 4), nibble), high_top);
            const __m256i first = _mm256_maddubs_epi16(low, _mm256_loadu_si256((const __m256i *) y[i].qs + 2 * j));
            const __m256i second = _mm256_maddubs_epi16(high, _mm256_loadu_si256((const __m256i *) y[i].qs + 2 * j + 1));
            products = _mm256_add_epi32(products, _mm256_madd_epi16(edge_scale(scales, 2 * j), first));
            products = _mm256_add_epi32(products, _mm256_madd_epi16(edge_scale(scales, 2 * j + 1), second));
        }
        sum = edge_add_block(sum, products, edge_minima(scales, y + i), &x[i].d, &x[i].dmin, y[i].d);
    }
    *s = _mm_cvtss_f32(sum);
    (void) bs, (void) bx, (void) by, (void) nrc;
}

/* Returns two neighbours of sixteen scales, eight times each. */
static inline __m256i edge_two_scales(__m128i scales, int which) {
    const __m128i pick = _mm_add_epi8(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), _mm_set1_epi8((char) which));
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, pick));
}

static inline void (ggml_vec_dot_q6_K_q8_K)(int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc) {
    const block_q6_K * x = (const block_q6_K *) vx;
    const block_q8_K * y = (const block_q8_K *) vy;
    const __m256i nibble = _mm256_set1_epi8(15), top = _mm256_set1_epi8(0x30);
    __m128 sum = _mm_setzero_ps();
    for (int i = 0; i < n / QK_K; i++) {
        const __m128i scales = _mm_loadu_si128((const __m128i *) x[i].scales);
        const __m256i sums = _mm256_loadu_si256((const __m256i *) y[i].bsums);
        /* Weights are 32 less than their six bits. */
        const __m256i less = _mm256_slli_epi32(_mm256_madd_epi16(sums, _mm256_cvtepi8_epi16(scales)), 5);
        __m256i products = _mm256_setzero_si256();
        for (int j = 0; j < 2; j++) {
            const __m256i first = _mm256_loadu_si256((const __m256i *) x[i].ql + 2 * j);
            const __m256i second = _mm256_loadu_si256((const __m256i *) x[i].ql + 2 * j + 1);
            const __m256i tops = _mm256_loadu_si256((const __m256i *) x[i].qh + j);
            const __m256i weights[4] = {
                _mm256_or_si256(_mm256_and_si256(first, nibble), _mm256_and_si256(_mm256_slli_epi16(tops, 4), top)),
                _mm256_or_si256(_mm256_and_si256(second, nibble), _mm256_and_si256(_mm256_slli_epi16(tops, 2), top)),
                _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(first, 4), nibble), _mm256_and_si256(tops, top)),
                _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(second, 4), nibble), _mm256_and_si256(_mm256_srli_epi16(tops, 2), top)),
            };
            for (int k = 0; k < 4; k++) {
                const __m256i pairs = _mm256_maddubs_epi16(weights[k], _mm256_loadu_si256((const __m256i *) y[i].qs + 4 * j + k));
                products = _mm256_add_epi32(products, _mm256_madd_epi16(edge_two_scales(scales, 8 * j + 2 * k), pairs));
            }
        }
        sum = edge_add_block(sum, _mm256_sub_epi32(products, less), _mm_setzero_si128(), &x[i].d, NULL, y[i].d);
    }
    *s = _mm_cvtss_f32(sum);
    (void) bs, (void) bx, (void) by, (void) nrc;
}
#endif

#ifdef EDGE_ROWS
bool ggml_compute_forward_mul_mat_tiled(const struct ggml_compute_params * params, struct ggml_tensor * dst);
bool ggml_compute_forward_mul_mat_id_tiled(const struct ggml_compute_params * params, struct ggml_tensor * dst, int64_t cur_a, int64_t cne1, const int32_t * expert_rows, char * scratch);
bool llamafile_sgemm(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * A, int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc, int Atype, int Btype, int Ctype);

/* Tells whether few rows of such weights come out as many do with tiled kernels. */
static inline bool edge_may_be_tiled(const struct ggml_tensor * weights) {
#ifdef EDGE_K_TYPES
    return weights->type == GGML_TYPE_Q4_K || weights->type == GGML_TYPE_Q5_K || weights->type == GGML_TYPE_Q6_K;
#else
    (void) weights;
    return false;
#endif
}

static inline bool edge_mul_mat_tiled(const struct ggml_compute_params * params, struct ggml_tensor * dst) {
    return edge_may_be_tiled(dst->src[0]) && ggml_compute_forward_mul_mat_tiled(params, dst);
}

static inline bool edge_mul_mat_id_tiled(const struct ggml_compute_params * params, struct ggml_tensor * dst, int64_t cur_a, int64_t cne1, const int32_t * expert_rows, char * scratch) {
    return edge_may_be_tiled(dst->src[0]) && ggml_compute_forward_mul_mat_id_tiled(params, dst, cur_a, cne1, expert_rows, scratch);
}

/* llamafile's kernels take two rows at least. A lone one is two here that lie, and whose results lie, at one place; but
   with AVX2 for F32 and F16, where that takes longer: there the functions below add up as llamafile's do. Of other types
   vec_dot does. */
static inline bool edge_sgemm(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * A, int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc, int Atype, int Btype, int Ctype) {
#ifdef EDGE_ATTENTION
    const bool twice = Atype == GGML_TYPE_BF16 || Atype == GGML_TYPE_IQ4_NL;
#else
    const bool twice = true;
#endif
    if (n == 1 && twice) return llamafile_sgemm(params, m, 2, k, A, lda, B, 0, C, 0, Atype, Btype, Ctype);
    return llamafile_sgemm(params, m, n, k, A, lda, B, ldb, C, ldc, Atype, Btype, Ctype);
}

#ifdef EDGE_ATTENTION /* attention.h: what vectors this processor has */
/* Returns the sum of products of two rows; `halves` is a constant where this is compiled into. */
EDGE_INLINE float edge_dot(int n, const char * x, const char * y, const int halves) {
    const int size = halves ? (int) sizeof(ggml_fp16_t) : (int) sizeof(float);
    EDGE_VECTOR sum = EDGE_ALL(0.0f);
    int i = 0;
    for (; i + EDGE_LANES <= n; i += EDGE_LANES) {
        const EDGE_VECTOR weights = halves ? EDGE_HALVES(x + i * size) : EDGE_LOAD((const float *) (x + i * size));
        const EDGE_VECTOR numbers = halves ? EDGE_HALVES(y + i * size) : EDGE_LOAD((const float *) (y + i * size));
        sum = EDGE_FMA(weights, numbers, sum);
    }
#if EDGE_LANES == 16
    float all = _mm512_reduce_add_ps(sum);
#else
    const __m128 four = _mm_add_ps(_mm256_extractf128_ps(sum, 1), _mm256_castps256_ps128(sum));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    float all = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#endif
    for (; i < n; i++) { /* rows that llamafile's kernels do not take, however many they are */
        all += halves ? GGML_CPU_FP16_TO_FP32(((const ggml_fp16_t *) x)[i]) * GGML_CPU_FP16_TO_FP32(((const ggml_fp16_t *) y)[i])
                      : ((const float *) x)[i] * ((const float *) y)[i];
    }
    return all;
}

static inline void edge_dot_f32(int n, float * s, size_t bs, const float * x, size_t bx, const float * y, size_t by, int nrc) {
    *s = edge_dot(n, (const char *) x, (const char *) y, 0);
    (void) bs, (void) bx, (void) by, (void) nrc;
}

static inline void edge_dot_f16(int n, float * s, size_t bs, ggml_fp16_t * x, size_t bx, ggml_fp16_t * y, size_t by, int nrc) {
    *s = edge_dot(n, (const char *) x, (const char *) y, 1);
    (void) bs, (void) bx, (void) by, (void) nrc;
}

#define ggml_vec_dot_f32 edge_dot_f32
#define ggml_vec_dot_f16 edge_dot_f16
#endif

#define ggml_compute_forward_mul_mat_tiled edge_mul_mat_tiled
#define ggml_compute_forward_mul_mat_id_tiled edge_mul_mat_id_tiled
#define llamafile_sgemm edge_sgemm
#endif
