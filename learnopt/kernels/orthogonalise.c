/* learnopt/orthogonal.py for one block: the Gram matrix, a polynomial of it, and one product with the block. */
#include "orthogonalise.h"

#include <math.h>
#include <string.h>

#include "products.h"

#define PANEL 64
#define TINIEST 1e-37f
#define LEAST 1e-20f /* traces within these bounds have neither lost much nor overflown */
#define MOST 1e30f

static const float polynomials[][3] = NEWTON_SCHULZ;
enum { STEPS = sizeof polynomials / sizeof *polynomials };

int64_t orthogonalise_stride(int64_t length) { return padded(length); }

int64_t orthogonalise_room(int64_t rows, int64_t length)
{
    int64_t m = padded(rows < length ? rows : length);
    return padded(rows) * padded(length) + 4 * m * m + PANEL * m;
}

/* Write a tile of a symmetric matrix and its mirror image; that on the diagonal is made symmetric: what of it is not
 * grows from product to product. */
static inline __attribute__((always_inline)) void put(int64_t m, int64_t i, int64_t j, const lanes *row, float *c)
{
    lanes turned[LANES];
    FOR_LANES(r) turned[r] = row[r];
    turn(turned);
    if (i == j) {
        FOR_LANES(r) *(lanes *)(c + (i + r) * m + i) = 0.5f * (row[r] + turned[r]);
        return;
    }
    FOR_LANES(r) *(lanes *)(c + (i + r) * m + j) = row[r];
    FOR_LANES(r) *(lanes *)(c + (j + r) * m + i) = turned[r];
}

/* c = weight * (a b) + share * a + diagonal * 1 for matrices (m, m) that are polynomials of one symmetric one */
static __attribute__((noinline)) void symmetric(int64_t m, const float *a, const float *b, float weight, float share,
                                                float diagonal, float *c)
{
    _Alignas(64) float sum[LANES * 3 * LANES];
    for (int64_t i = 0; i < m; i += LANES)
        for (int64_t j = i, next; j < m; j = next) {
            int width = taken(m - j);
            next = j + width * LANES;
            add_product(m, a + i, m, b + j, m, width, 0, sum, 3 * LANES);
            for (int64_t at = j; at < next; at += LANES) {
                lanes row[LANES];
                FOR_LANES(r) row[r] = weight * *(const lanes *)(sum + r * 3 * LANES + at - j);
                FOR_LANES(r) row[r] += share * *(const lanes *)(a + (i + r) * m + at);
                put(m, i, at, row, c);
            }
        }
    for (int64_t i = 0; i < m; i++)
        c[i * m + i] += diagonal;
}

/* c = a b of such matrices */
static void product(int64_t m, const float *a, const float *b, float *c) { symmetric(m, a, b, 1.0f, 0.0f, 0.0f, c); }

/* The tiles of c from the diagonal on += a' a for a of shape (k, m) */
static __attribute__((noinline)) void add_squares(int64_t m, int64_t k, const float *a, float *c)
{
    for (int64_t i = 0; i < m; i += LANES)
        for (int64_t j = i; j < m; j += taken(m - j) * LANES)
            add_product(k, a + i, m, a + j, m, taken(m - j), 1, c + i * m + j, m);
}

/* panel = x' for k columns of x, of shape (m, n) */
static void turn_panel(int64_t m, int64_t n, int64_t k, const float *x, float *panel)
{
    for (int64_t i = 0; i < m; i += LANES)
        for (int64_t j = 0; j < k; j += LANES) {
            lanes row[LANES];
            FOR_LANES(r) row[r] = *(const lanes *)(x + (i + r) * n + j);
            turn(row);
            FOR_LANES(r) *(lanes *)(panel + (j + r) * m + i) = row[r];
        }
}

/* x = q x for x of shape (m, n) and symmetric q */
static __attribute__((noinline)) void apply_to_wide(int64_t m, int64_t n, const float *q, float *x, float *panel)
{
    for (int64_t j = 0, wide; j < n; j += wide) {
        int width = taken(n - j);
        wide = width * LANES;
        for (int64_t i = 0; i < m; i++)
            for (int64_t p = 0; p < wide; p += LANES)
                *(lanes *)(panel + i * wide + p) = *(const lanes *)(x + i * n + j + p);
        for (int64_t i = 0; i < m; i += LANES)
            add_product(m, q + i, m, panel, wide, width, 0, x + i * n + j, n);
    }
}

/* x = x q for x of shape (n, m) and symmetric q */
static __attribute__((noinline)) void apply_to_tall(int64_t m, int64_t n, const float *q, float *x, float *panel)
{
    for (int64_t i = 0; i < n; i += LANES) {
        for (int64_t j = 0; j < m; j += LANES) {
            lanes row[LANES];
            FOR_LANES(r) row[r] = *(const lanes *)(x + (i + r) * m + j);
            turn(row);
            FOR_LANES(r) *(lanes *)(panel + (j + r) * LANES) = row[r];
        }
        for (int64_t j = 0; j < m; j += taken(m - j) * LANES)
            add_product(m, panel, LANES, q + j, m, taken(m - j), 0, x + i * m + j, m);
    }
}

/* The Gram matrix of the block, panel by panel, and its trace */
static float gram(int64_t m, int64_t n, int64_t tall, const float *x, float *panel, float *a)
{
    float trace = 0.0f;
    memset(a, 0, (size_t)(m * m) * sizeof *a);
    for (int64_t start = 0; start < n; start += PANEL) {
        int64_t k = n - start < PANEL ? n - start : PANEL;
        if (!tall)
            turn_panel(m, n, k, x + start, panel);
        add_squares(m, k, tall ? x + start * m : panel, a);
    }
    for (int64_t i = 0; i < m; i += LANES)
        for (int64_t j = i; j < m; j += LANES) {
            lanes row[LANES];
            FOR_LANES(r) row[r] = *(const lanes *)(a + (i + r) * m + j);
            put(m, i, j, row, a);
        }
    for (int64_t i = 0; i < m; i++)
        trace += a[i * m + i];
    return trace;
}

/* Zeros around the block */
static void pad(int64_t rows, int64_t length, float *x)
{
    int64_t wide = padded(length);
    for (int64_t i = 0; length < wide && i < rows; i++)
        memset(x + i * wide + length, 0, (size_t)(wide - length) * sizeof *x);
    memset(x + rows * wide, 0, (size_t)((padded(rows) - rows) * wide) * sizeof *x);
}

static void scale(int64_t size, float by, float *x)
{
    for (int64_t i = 0; i < size; i++)
        x[i] *= by;
}

static float largest(int64_t size, const float *x)
{
    float most = 0.0f;
    for (int64_t i = 0; i < size; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

/* p = c1 + c3 a + c5 a a: what multiplies the block in one step, for its Gram matrix a */
static void polynomial(int64_t m, int step, const float *a, float *p)
{
    const float *c = polynomials[step];
    symmetric(m, a, a, c[2], c[1], c[0], p);
}

static void apply(int64_t m, int64_t n, int64_t tall, const float *q, float *x, float *panel)
{
    if (tall)
        apply_to_tall(m, n, q, x, panel);
    else
        apply_to_wide(m, n, q, x, panel);
}

/* Step by step; a is the Gram matrix of the block divided by its trace. */
static void iterate(int64_t m, int64_t n, int64_t tall, float trace, float *x, float *a, float *p, float *panel)
{
    for (int step = 0; step < STEPS; step++) {
        polynomial(m, step, a, p);
        if (step == 0)
            scale(m * m, 1.0f / sqrtf(trace), p);
        apply(m, n, tall, p, x, panel);
        if (step < STEPS - 1)
            gram(m, n, tall, x, panel, a);
    }
}

/* On the Gram matrix alone: all are polynomials of one symmetric matrix, so they commute and products are symmetric. */
static void compose(int64_t m, int64_t n, int64_t tall, float trace, float *x, float *a, float *p, float *panel)
{
    float *q = p + m * m, *spare = q + m * m, *swap;
    for (int step = 0; step < STEPS; step++) {
        polynomial(m, step, a, p);
        if (step == 0)
            memcpy(q, p, (size_t)(m * m) * sizeof *q);
        else {
            product(m, p, q, spare);
            swap = q, q = spare, spare = swap;
        }
        if (step < STEPS - 1) {
            product(m, p, a, spare);
            product(m, spare, p, a);
        }
    }
    scale(m * m, 1.0f / sqrtf(trace), q);
    apply(m, n, tall, q, x, panel);
}

void orthogonalise(float *x, int64_t rows, int64_t length, int64_t tall)
{
    int64_t m = padded(tall ? length : rows), n = padded(tall ? rows : length), size = m * m;
    int near_square = NEAR_SQUARE * (float)(tall ? length : rows) >= (float)(tall ? rows : length);
    float *a = x + m * n, *p = a + size, *panel = p + 3 * size;
    pad(rows, length, x);
    float trace = gram(m, n, tall, x, panel, a);
    if (!(trace > LEAST && trace < MOST)) {
        scale(m * n, 1.0f / (largest(m * n, x) + TINIEST), x);
        trace = gram(m, n, tall, x, panel, a);
        if (!(trace > 0.0f))
            return; /* nothing but zeros */
    }
    scale(size, 1.0f / trace, a);
    (near_square ? iterate : compose)(m, n, tall, trace, x, a, p, panel);
}
