/* learnopt/orthogonal.py for one block: the Gram matrix, a polynomial of it, and one product with the block. */
#include "orthogonalise.h"

#include <string.h>

#include "amx.h"
#include "products.h"

#define PANEL 64

typedef struct {
    float *numbers;
} Square;

typedef struct {
    int64_t m, n, tall;
    float *x, *panel;
    Square a, p, q, next;
} Block;

#include "newton_schulz.h"

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

static __attribute__((noinline)) void combine(const Block *o, const Square *first, const Square *second, float weight,
                                              float share, float diagonal, int uses, const Square *result)
{
    int64_t m = o->m;
    const float *a = first->numbers, *b = second->numbers;
    float *c = result->numbers;
    _Alignas(64) float sum[LANES * 3 * LANES];
    (void)uses;
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

/* Panel by panel */
static float squares(const Block *o)
{
    float trace = 0.0f, *a = o->a.numbers;
    int64_t m = o->m, n = o->n;
    memset(a, 0, (size_t)(m * m) * sizeof *a);
    for (int64_t start = 0; start < n; start += PANEL) {
        int64_t k = n - start < PANEL ? n - start : PANEL;
        if (!o->tall)
            turn_panel(m, n, k, o->x + start, o->panel);
        add_squares(m, k, o->tall ? o->x + start * m : o->panel, a);
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

static void take(const Block *o, float by)
{
    for (int64_t i = 0; i < o->m * o->m; i++)
        o->a.numbers[i] *= by;
}

static void copy(const Block *o, const Square *from, const Square *to)
{
    memcpy(to->numbers, from->numbers, (size_t)(o->m * o->m) * sizeof *to->numbers);
}

static void apply(const Block *o, const Square *q)
{
    (o->tall ? apply_to_tall : apply_to_wide)(o->m, o->n, q->numbers, o->x, o->panel);
}

/* Zeros around the block */
static void pad(int64_t rows, int64_t length, float *x)
{
    int64_t wide = padded(length);
    for (int64_t i = 0; length < wide && i < rows; i++)
        memset(x + i * wide + length, 0, (size_t)(wide - length) * sizeof *x);
    memset(x + rows * wide, 0, (size_t)((padded(rows) - rows) * wide) * sizeof *x);
}

int64_t orthogonalise_stride(int64_t length) { return padded(length); }

int64_t orthogonalise_room(int64_t rows, int64_t length)
{
    int64_t m = padded(rows < length ? rows : length), own = 4 * m * m + PANEL * m, other = amx_room(m);
    return padded(rows) * padded(length) + (own > other ? own : other);
}

void orthogonalise(float *x, int64_t rows, int64_t length, int64_t tall)
{
    int64_t m = padded(tall ? length : rows), n = padded(tall ? rows : length), size = m * m;
    int near_square = NEAR_SQUARE * (float)(tall ? length : rows) >= (float)(tall ? rows : length);
    float *room = x + m * n;
    pad(rows, length, x);
    if (amx_orthogonalise(m, n, tall, near_square, x, room))
        return;
    Block o = {.m = m, .n = n, .tall = tall, .x = x, .panel = room + 4 * size,
               .a = {room}, .p = {room + size}, .q = {room + 2 * size}, .next = {room + 3 * size}};
    orthogonalise_block(&o, near_square);
}
