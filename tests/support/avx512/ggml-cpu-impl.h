/* AVX-512's instructions that installer/build/dot.h takes, in C, for processors that have AVX2: what the vectors of its
   form for AVX-512 VNNI compute can be tested without them. Each is what Intel's Intrinsics Guide says of it. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VNNI__ 1

typedef union {
    float f[16];
    int32_t i[16];
    int64_t q[8];
    uint64_t u[8];
    uint8_t b[64];
    int8_t c[64];
} edge_wide;

#define __m512 edge_wide
#define __m512i edge_wide
#define EACH(lanes, name) for (int name = 0; name < (lanes); name++)

static inline edge_wide edge_all_bytes(int value) { edge_wide r; memset(&r, value, sizeof(r)); return r; }
static inline edge_wide edge_all_numbers(int value) { edge_wide r; EACH(16, n) r.i[n] = value; return r; }
static inline edge_wide edge_load(const void * from) { edge_wide r; memcpy(&r, from, sizeof(r)); return r; }
static inline edge_wide edge_widened(const void * from, size_t size) { edge_wide r = edge_all_bytes(0x55); memcpy(&r, from, size); return r; }
static inline edge_wide edge_and(edge_wide x, edge_wide y) { EACH(8, n) x.q[n] &= y.q[n]; return x; }
static inline edge_wide edge_shifted(edge_wide x, edge_wide y) { EACH(8, n) x.u[n] >>= y.u[n]; return x; }
static inline edge_wide edge_picked(edge_wide which, edge_wide x) { edge_wide r; EACH(16, n) r.i[n] = x.i[which.i[n] & 15]; return r; }
static inline edge_wide edge_picked_of_two(edge_wide x, edge_wide which, edge_wide y) {
    edge_wide r;
    EACH(16, n) r.i[n] = which.i[n] & 16 ? y.i[which.i[n] & 15] : x.i[which.i[n] & 15];
    return r;
}
static inline edge_wide edge_picked_pairs(edge_wide which, edge_wide x) { edge_wide r; EACH(8, n) r.q[n] = x.q[which.q[n] & 7]; return r; }
static inline edge_wide edge_dots(edge_wide sum, edge_wide x, edge_wide y) { EACH(64, n) sum.i[n / 4] += x.b[n] * y.c[n]; return sum; }
static inline edge_wide edge_floats(edge_wide x) { edge_wide r; EACH(16, n) r.f[n] = (float) x.i[n]; return r; }
static inline edge_wide edge_fused(edge_wide x, edge_wide y, edge_wide z) { EACH(16, n) z.f[n] = fmaf(x.f[n], y.f[n], z.f[n]); return z; }
static inline edge_wide edge_product(edge_wide x, edge_wide y) { EACH(16, n) x.f[n] *= y.f[n]; return x; }
static inline edge_wide edge_sum(edge_wide x, edge_wide y) { EACH(16, n) x.f[n] += y.f[n]; return x; }
static inline edge_wide edge_number_sum(edge_wide x, edge_wide y) { EACH(16, n) x.i[n] += y.i[n]; return x; }

static inline edge_wide edge_all_floats(float value) { edge_wide r; EACH(16, n) r.f[n] = value; return r; }
static inline edge_wide edge_twice(__m256i x) { edge_wide r; memcpy(&r, &x, sizeof(x)); memcpy(&r.q[4], &x, sizeof(x)); return r; }
static inline edge_wide edge_sizes(edge_wide x) { EACH(64, n) if (x.c[n] < 0) x.b[n] = (uint8_t) -x.b[n]; return x; }
static inline uint64_t edge_negative(edge_wide x) { uint64_t r = 0; EACH(64, n) r |= (uint64_t) (x.c[n] < 0) << n; return r; }
static inline edge_wide edge_less_where(edge_wide other, uint64_t where, edge_wide x, edge_wide y) {
    EACH(64, n) if (where >> n & 1) other.b[n] = (uint8_t) (x.b[n] - y.b[n]);
    return other;
}

#undef _mm512_setr_epi32
#undef _mm512_setr_epi64
#define _mm512_setr_epi32(...) ((edge_wide) {.i = {__VA_ARGS__}})
#define _mm512_setr_epi64(...) ((edge_wide) {.q = {__VA_ARGS__}})
#define _mm512_set1_epi8 edge_all_bytes
#define _mm512_set1_epi32 edge_all_numbers
#define _mm512_setzero_si512() edge_all_bytes(0)
#define _mm512_setzero_ps() edge_all_bytes(0)
#define _mm512_loadu_si512 edge_load
#define _mm512_loadu_ps edge_load
#define _mm512_and_si512 edge_and
#define _mm512_srlv_epi64 edge_shifted
#define _mm512_permutexvar_epi32 edge_picked
#define _mm512_permutexvar_ps edge_picked
#define _mm512_permutex2var_epi32 edge_picked_of_two
#define _mm512_permutexvar_epi64 edge_picked_pairs
#define _mm512_dpbusd_epi32 edge_dots
#define _mm512_cvtepi32_ps edge_floats
#define _mm512_fmadd_ps edge_fused
#define _mm512_mul_ps edge_product
#define _mm512_add_ps edge_sum
#define _mm512_add_epi32 edge_number_sum
#define _mm512_castsi512_si128 edge_first_four
#define _mm512_castps512_ps256(x) _mm256_loadu_ps((x).f)
#define _mm512_extractf32x8_ps(x, half) _mm256_loadu_ps((x).f + 8 * (half))
static inline __m128i edge_first_four(edge_wide x) { return _mm_loadu_si128((const __m128i *) &x); }
static inline edge_wide edge_of_ps(__m256 x) { return edge_widened(&x, sizeof(x)); }
static inline edge_wide edge_of_si256(__m256i x) { return edge_widened(&x, sizeof(x)); }
static inline edge_wide edge_of_four(__m128 x) { return edge_widened(&x, sizeof(x)); }
static inline edge_wide edge_inserted(edge_wide x, __m256i y, int half) { memcpy(&x.q[4 * half], &y, sizeof(y)); return x; }
#define _mm512_castps256_ps512 edge_of_ps
#define __mmask64 uint64_t
#define _mm512_set1_ps edge_all_floats
#define _mm512_broadcast_i64x4 edge_twice
#define _mm512_abs_epi8 edge_sizes
#define _mm512_movepi8_mask edge_negative
#define _mm512_mask_sub_epi8 edge_less_where
#define _mm512_castps128_ps512 edge_of_four
#define _mm512_castsi256_si512 edge_of_si256
#define _mm512_inserti64x4 edge_inserted
