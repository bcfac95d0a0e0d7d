/* learnopt/orthogonal.py for small matrices, where the cost of calling a library exceeds the arithmetic. */
#include <math.h>
#include <string.h>

#include "orthogonalise.h"

#define ROWS 4
#define LANES 16
#define TINIEST 1e-37f

typedef float lanes __attribute__((vector_size(4 * LANES / 2), aligned(4), may_alias));

static int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

static int64_t block(int64_t shorter) /* rows at once */
{
    int64_t blocks = (shorter + BLOCK - 1) / BLOCK;
    return blocks ? (shorter + blocks - 1) / blocks : 0;
}

int64_t orthogonalise_room(int64_t rows, int64_t columns)
{
    int64_t m = padded(block(rows < columns ? rows : columns)), n = padded(rows < columns ? columns : rows);
    return 2 * m * n + 4 * m * m;
}

/* c = a b, of shapes (m, k) and (k, n); m and n are multiples of LANES, the sums are kept in registers. Of a symmetric
 * product only the blocks on and above the diagonal are computed, and mirrored. */
static void multiply(int64_t m, int64_t n, int64_t k, const float *restrict a, int64_t wide, const float *restrict b,
                     float *restrict c, int symmetric)
{
    for (int64_t j = 0; j < n; j += LANES)
        for (int64_t i = 0; i < (symmetric ? j + LANES : m); i += ROWS) {
            lanes s00 = {0}, s01 = {0}, s10 = {0}, s11 = {0}, s20 = {0}, s21 = {0}, s30 = {0}, s31 = {0};
            const float *a0 = a + i * wide, *a1 = a0 + wide, *a2 = a1 + wide, *a3 = a2 + wide, *row = b + j;
            for (int64_t p = 0; p < k; p++, row += n) {
                lanes left = *(const lanes *)row, right = *(const lanes *)(row + LANES / 2);
                s00 += a0[p] * left, s01 += a0[p] * right, s10 += a1[p] * left, s11 += a1[p] * right;
                s20 += a2[p] * left, s21 += a2[p] * right, s30 += a3[p] * left, s31 += a3[p] * right;
            }
            float *to = c + i * n + j;
            *(lanes *)to = s00, *(lanes *)(to + LANES / 2) = s01, to += n;
            *(lanes *)to = s10, *(lanes *)(to + LANES / 2) = s11, to += n;
            *(lanes *)to = s20, *(lanes *)(to + LANES / 2) = s21, to += n;
            *(lanes *)to = s30, *(lanes *)(to + LANES / 2) = s31;
        }
    for (int64_t i = LANES; symmetric && i < n; i++)
        for (int64_t j = 0; j < i / LANES * LANES; j++)
            c[i * n + j] = c[j * n + i];
}

/* The padded block, wide and scaled to Frobenius norm 1: m rows of nn numbers; entry (i, j) is at i * down + j * along */
static void load(const float *matrix, float scale, int64_t m, int64_t n, int64_t down, int64_t along, int64_t mm,
                 int64_t nn, float *x)
{
    float norm = 0.0f;
    memset(x, 0, (size_t)(mm * nn) * sizeof *x);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float value = scale * matrix[i * down + j * along];
            x[i * nn + j] = value;
            norm += value * value;
        }
    scale = 1.0f / (sqrtf(norm) + 1e-7f);
    for (int64_t i = 0; i < mm * nn; i++)
        x[i] *= scale;
}

static void gram(int64_t n, int64_t mm, int64_t nn, const float *x, float *turned, float *a)
{
    for (int64_t i = 0; i < mm; i++)
        for (int64_t j = 0; j < nn; j++)
            turned[j * mm + i] = x[i * nn + j];
    multiply(mm, mm, n, x, nn, turned, a, 1);
}

static void block_of(float *matrix, float scale, int64_t m, int64_t n, int64_t down, int64_t along, float *room)
{
    int64_t mm = padded(m), nn = padded(n), size = mm * mm;
    float *x = room, *other = x + mm * nn, *a = other + mm * nn, *p = a + size, *q = p + size, *spare = q + size, *swap;
    load(matrix, scale, m, n, down, along, mm, nn, x);
    gram(n, mm, nn, x, other, a);
    for (int step = 0; step < 5; step++) {
        multiply(mm, mm, m, a, mm, a, p, 1);
        for (int64_t i = 0; i < size; i++)
            p[i] = 2.0315f * p[i] - 4.7750f * a[i];
        for (int64_t i = 0; i < mm; i++)
            p[i * mm + i] += 3.4445f;
        if (n <= 2 * m) {
            multiply(mm, nn, m, p, mm, x, other, 0);
            swap = x, x = other, other = swap;
            if (step < 4)
                gram(n, mm, nn, x, other, a);
            continue;
        }
        /* all of them are polynomials of one symmetric matrix, so they commute and their products are symmetric */
        if (step == 0)
            memcpy(q, p, (size_t)size * sizeof *q);
        else {
            multiply(mm, mm, m, p, mm, q, spare, 1);
            swap = q, q = spare, spare = swap;
        }
        if (step < 4) {
            multiply(mm, mm, m, p, mm, a, spare, 1);
            multiply(mm, mm, m, spare, mm, p, a, 1);
        }
    }
    if (n > 2 * m) {
        multiply(mm, nn, m, q, mm, x, other, 0);
        x = other;
    }
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            matrix[i * down + j * along] = x[i * nn + j];
}

void orthogonalise(float *matrix, int64_t rows, int64_t columns, float *room)
{
    int tall = rows > columns;
    int64_t m = tall ? columns : rows, n = tall ? rows : columns, down = tall ? 1 : n, along = tall ? m : 1;
    int64_t each = block(m);
    float largest = 0.0f;
    for (int64_t i = 0; i < m * n; i++)
        largest = fabsf(matrix[i]) > largest ? fabsf(matrix[i]) : largest;
    for (int64_t i = 0; i < m; i += each)
        block_of(matrix + i * down, 1.0f / (largest + TINIEST), m - i < each ? m - i : each, n, down, along, room);
}
