/* Products of matrices whose numbers are split into two of bfloat16, which is what Intel's AMX unit multiplies.
 *
 * What the first one leaves of a number is the second one; of the four products of the parts all but that of the second
 * ones are added up, in float32: each term to 1e-5, and in a fifth of the time that float32 takes (Henry, Tang, Heinecke
 * 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations").
 *
 * A factor lies in strips of 16 rows (a left one) or columns (a right one), a strip in chunks of 32 terms, a chunk as two
 * tiles of 16 x 16 words, of first and of second parts; a word holds the numbers of two successive terms. With the words
 * of its tiles transposed a left factor is its own transpose as a right one.
 */
#pragma once
#include "lanes.h"

#include <immintrin.h>
#include <string.h>

#define TERMS 32
#define TILE_WORDS 256
#define CHUNK 512 /* words */
#define GROUP 32  /* rows and columns of what is multiplied at once */

static inline int64_t chunks(int64_t terms) { return (terms + TERMS - 1) / TERMS; }

/* Words of a factor with so many rows (columns), a multiple of 16, and terms */
static inline int64_t factor_size(int64_t rows, int64_t terms) { return rows / LANES * chunks(terms) * CHUNK; }

/* The first parts of sixteen numbers, in the upper halves of words, and the second ones */
static inline __m512i parts(__m512 x, __m512i *second)
{
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32((int)0xffff0000);
    __m512i first = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper);
    *second = _mm512_add_epi32(_mm512_castps_si512(x - _mm512_castsi512_ps(first)), half);
    return first;
}

/* Words of the upper halves of two rows, one below the other */
static inline __m512i joined(__m512i even, __m512i odd)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(even, 16), odd);
}

/* Words of the upper halves of one row of 32 numbers */
static inline __m512i packed(__m512i left, __m512i right)
{
    static const int16_t places[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                       33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return _mm512_permutex2var_epi16(left, _mm512_loadu_si512(places), right);
}

/* A row of both tiles of a left factor's chunk: successive terms side by side */
static inline void put_left(__m512 x, __m512 next, uint32_t *words)
{
    __m512i low, next_low, high = parts(x, &low), next_high = parts(next, &next_low);
    _mm512_storeu_si512(words, packed(high, next_high));
    _mm512_storeu_si512(words + TILE_WORDS, packed(low, next_low));
}

/* A row of both tiles of a right factor's chunk: successive terms in successive rows */
static inline void put_right(__m512 x, __m512 below, uint32_t *words)
{
    __m512i low, next_low, high = parts(x, &low), next_high = parts(below, &next_low);
    _mm512_storeu_si512(words, joined(high, next_high));
    _mm512_storeu_si512(words + TILE_WORDS, joined(low, next_low));
}

/* Both tiles of a chunk as those of the other factor */
static inline void turn_chunk(const uint32_t *words, uint32_t *turned)
{
    for (int64_t at = 0; at < CHUNK; at += TILE_WORDS) {
        lanes row[LANES];
        FOR_LANES(r) row[r] = ((const lanes *)(words + at))[r];
        turn(row);
        FOR_LANES(r) ((lanes *)(turned + at))[r] = row[r];
    }
}

/* A left factor from rows of x that lie so far apart; terms: a multiple of 16 */
static inline void split_left(int64_t rows, int64_t terms, const float *x, int64_t x_row, uint32_t *words)
{
    for (int64_t i = 0; i < rows; i += LANES)
        for (int64_t t = 0; t < terms; t += TERMS, words += CHUNK)
            for (int64_t r = 0; r < LANES; r++) {
                const float *at = x + (i + r) * x_row + t;
                int full = terms - t > LANES;
                put_left(_mm512_loadu_ps(at), full ? _mm512_loadu_ps(at + LANES) : _mm512_setzero_ps(),
                         words + r * LANES);
            }
}

/* A right factor from columns of x, whose rows lie so far apart */
static inline void split_right(int64_t columns, int64_t terms, const float *x, int64_t x_row, uint32_t *words)
{
    for (int64_t j = 0; j < columns; j += LANES)
        for (int64_t t = 0; t < terms; t += TERMS, words += CHUNK) {
            int64_t pairs = terms - t < TERMS ? LANES / 2 : LANES;
            for (int64_t r = 0; r < pairs; r++) {
                const float *at = x + (t + 2 * r) * x_row + j;
                put_right(_mm512_loadu_ps(at), _mm512_loadu_ps(at + x_row), words + r * LANES);
            }
            for (int64_t tile = 0; pairs < LANES && tile < CHUNK; tile += TILE_WORDS)
                memset(words + tile + pairs * LANES, 0, (size_t)(LANES - pairs) * sizeof(lanes));
        }
}

/* Compilers are not told what memory the unit reads and writes. */
#define MEMORY_IS_USED __asm__ volatile("" ::: "memory")

/* Tiles 0 to 3 are sums, 4 and 5 of the left factor, 6 and 7 of the right one. */
#define MULTIPLY                     \
    _tile_dpbf16ps(0, 4, 6);         \
    if (columns > 1)                 \
        _tile_dpbf16ps(1, 4, 7);     \
    if (rows > 1)                    \
        _tile_dpbf16ps(2, 5, 6);     \
    if (rows > 1 && columns > 1)     \
        _tile_dpbf16ps(3, 5, 7);
#define LOAD(tile, words, wanted)    \
    if (wanted)                      \
        _tile_loadd(tile, words, sizeof(lanes));
#define SUM(act, tile, i, j)         \
    if (rows > i && columns > j)     \
        act(tile, c + i * LANES * c_row + j * LANES, (size_t)c_row * sizeof *c);
#define SUMS(act) SUM(act, 0, 0, 0) SUM(act, 1, 0, 1) SUM(act, 2, 1, 0) SUM(act, 3, 1, 1)

static inline __attribute__((always_inline)) void add_strips(int rows, int columns, int64_t depth, const uint32_t *a,
                                                             const uint32_t *b, int add, float *c, int64_t c_row)
{
    const uint32_t *below = a + depth * CHUNK, *right = b + depth * CHUNK;
    MEMORY_IS_USED;
    if (add) {
        SUMS(_tile_loadd)
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t at = 0; at < depth * CHUNK; at += CHUNK) {
        LOAD(4, a + at, 1)
        LOAD(6, b + at, 1)
        LOAD(5, below + at, rows > 1)
        LOAD(7, right + at, columns > 1)
        MULTIPLY
        LOAD(6, b + at + TILE_WORDS, 1)
        LOAD(7, right + at + TILE_WORDS, columns > 1)
        MULTIPLY
        LOAD(4, a + at + TILE_WORDS, 1)
        LOAD(6, b + at, 1)
        LOAD(5, below + at + TILE_WORDS, rows > 1)
        LOAD(7, right + at, columns > 1)
        MULTIPLY
    }
    SUMS(_tile_stored)
    MEMORY_IS_USED;
}

/* c = a b, or c += a b, for one strip of each where there are no more than 16 rows or columns, otherwise two, of so many
 * chunks; rows of c lie so far apart */
static inline void multiply(int64_t rows, int64_t columns, int64_t depth, const uint32_t *a, const uint32_t *b, int add,
                            float *c, int64_t c_row)
{
    if (rows > LANES && columns > LANES)
        add_strips(2, 2, depth, a, b, add, c, c_row);
    else if (rows > LANES)
        add_strips(2, 1, depth, a, b, add, c, c_row);
    else if (columns > LANES)
        add_strips(1, 2, depth, a, b, add, c, c_row);
    else
        add_strips(1, 1, depth, a, b, add, c, c_row);
}
