/* Products of small matrices that stay in cache, in square tiles as wide as a vector; row-major float32. */
#pragma once
#include "lanes.h"

#define ROWS (LANES / 2) /* by three vectors: as many sums as there are registers for */
#define FOR_ROWS(i) _Pragma("GCC unroll 8") for (int i = 0; i < ROWS; i++)
#define FOR_WIDTH(j) _Pragma("GCC unroll 3") for (int j = 0; j < width; j++)

/* c = a' b, or c += a' b, for ROWS columns of a and `width` vectors of b, with k terms; rows lie so far apart */
static inline __attribute__((always_inline)) void add_strip(int64_t k, const float *a, int64_t a_row, const float *b,
                                                            int64_t b_row, int width, int add, float *c, int64_t c_row)
{
    lanes sum[ROWS][3], right[3];
    FOR_ROWS(i) FOR_WIDTH(j) sum[i][j] = add ? *(const lanes *)(c + i * c_row + j * LANES) : (lanes){0};
    for (int64_t p = 0; p < k; p++, a += a_row, b += b_row) {
        FOR_WIDTH(j) right[j] = *(const lanes *)(b + j * LANES);
        FOR_ROWS(i) FOR_WIDTH(j) sum[i][j] += a[i] * right[j];
    }
    FOR_ROWS(i) FOR_WIDTH(j) *(lanes *)(c + i * c_row + j * LANES) = sum[i][j];
}

/* The same for LANES columns of a */
static __attribute__((noinline)) void add_product(int64_t k, const float *a, int64_t a_row, const float *b,
                                                  int64_t b_row, int width, int add, float *c, int64_t c_row)
{
    for (int i = 0; i < LANES; i += ROWS)
        if (width == 3)
            add_strip(k, a + i, a_row, b, b_row, 3, add, c + i * c_row, c_row);
        else if (width == 2)
            add_strip(k, a + i, a_row, b, b_row, 2, add, c + i * c_row, c_row);
        else
            add_strip(k, a + i, a_row, b, b_row, 1, add, c + i * c_row, c_row);
}

/* How many vectors to take of those left: three or two, rather than one */
static inline int taken(int64_t left)
{
    int64_t vectors = left / LANES;
    return vectors == 4 ? 2 : vectors < 3 ? (int)vectors : 3;
}
