/* Vectors as wide as the processor has them, and square tiles of them. */
#pragma once
#include <stdint.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define FOR_LANES(i) _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++)

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLED
#endif
#endif

#if LANES == 16
#define LOW8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define LOW4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define HIGH4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define LOW2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define LOW1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define HIGH1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#else
#define LOW4 0, 1, 2, 3, 8, 9, 10, 11
#define HIGH4 4, 5, 6, 7, 12, 13, 14, 15
#define LOW2 0, 1, 8, 9, 4, 5, 12, 13
#define HIGH2 2, 3, 10, 11, 6, 7, 14, 15
#define LOW1 0, 8, 2, 10, 4, 12, 6, 14
#define HIGH1 1, 9, 3, 11, 5, 13, 7, 15
#endif

/* Of all pairs of rows so far apart, exchange the off-diagonal halves of each 2 x 2 of blocks. */
#define HALVES(apart, low, high)                                   \
    FOR_LANES(i)                                                   \
    if (!(i & apart)) {                                            \
        lanes above = row[i], below = row[i + apart];              \
        row[i] = __builtin_shufflevector(above, below, low);       \
        row[i + apart] = __builtin_shufflevector(above, below, high); \
    }

/* Exchange the rows and columns of a tile. */
static inline __attribute__((always_inline)) void turn(lanes *row)
{
#ifdef SHUFFLED
#if LANES == 16
    HALVES(8, LOW8, HIGH8)
#endif
    HALVES(4, LOW4, HIGH4)
    HALVES(2, LOW2, HIGH2)
    HALVES(1, LOW1, HIGH1)
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            float kept = row[i][j];
            row[i][j] = row[j][i], row[j][i] = kept;
        }
#endif
}
