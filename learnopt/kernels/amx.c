/* amx.h: orthogonalise.c with its matrices kept as factors of the unit's products from one product to the next. */
#define _GNU_SOURCE
#include "amx.h"

#if defined(__AMX_BF16__) && defined(__AVX512BW__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include "factors.h"

#define FROM 32      /* rows: smaller blocks gain nothing */
#define PANEL 128    /* terms of the Gram matrix at once */
#define LINE 64      /* bytes of a line of the cache */
#define STATE 0x1023 /* ARCH_REQ_XCOMP_PERM of Linux's arch_prctl: a process asks for what its threads may keep there */
#define TILES 18     /* XFEATURE_XTILEDATA */

typedef struct {
    uint32_t *left, *right;
} Square;

typedef struct {
    int64_t m, n, tall;
    float *x, *sums; /* the block; its Gram matrix, from the diagonal on */
    uint32_t *spare; /* room for parts of the block */
    Square a, p, q, next;
} Block;

#include "newton_schulz.h"

#define EIGHT(x) {x, x, x, x, x, x, x, x}
static const struct {
    uint8_t palette, start_row, unused[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} shapes = {.palette = 1, .row_bytes = EIGHT(sizeof(lanes)), .rows = EIGHT(LANES)};

enum { UNKNOWN, REFUSED, GRANTED };
static int leave = UNKNOWN, forbidden = 0;

int64_t amx_used(void)
{
    int known = __atomic_load_n(&leave, __ATOMIC_RELAXED);
    if (known == UNKNOWN) {
        known = syscall(SYS_arch_prctl, STATE, TILES) == 0 ? GRANTED : REFUSED;
        __atomic_store_n(&leave, known, __ATOMIC_RELAXED);
    }
    return known == GRANTED && !__atomic_load_n(&forbidden, __ATOMIC_RELAXED);
}

void amx_allow(int64_t allowed) { __atomic_store_n(&forbidden, !allowed, __ATOMIC_RELAXED); }

_Static_assert(GROUP == TERMS, "a group is a chunk of two strips of either factor");

/* Rows of 32 numbers of a symmetric matrix, from row i and column j on; what lies beyond the matrix is zero. */
typedef struct {
    _Alignas(LINE) float rows[GROUP][GROUP];
} Group;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static inline lanes *vector(Group *g, int64_t row, int64_t column) { return (lanes *)&g->rows[row][column]; }

/* Make a group on the diagonal symmetric: what of it is not grows from product to product. */
static void mend(Group *g)
{
    lanes row[LANES];
    for (int64_t i = 0; i < GROUP; i += LANES) {
        FOR_LANES(r) row[r] = *vector(g, i + r, i);
        turn(row);
        FOR_LANES(r) *vector(g, i + r, i) = 0.5f * (row[r] + *vector(g, i + r, i));
    }
    FOR_LANES(r) row[r] = *vector(g, r, LANES);
    turn(row);
    FOR_LANES(r) *vector(g, LANES + r, 0) = row[r];
}

/* Write the group from (i, j) on, j >= i, and its mirror image into the factors that are wanted of a matrix. With words
 * transposed, a strip's chunk of one factor is that of the other. */
static inline void write_group(int64_t m, Group *g, int64_t i, int64_t j, int uses, const Square *c)
{
    int64_t depth = chunks(m), rows = least(m - i, GROUP), columns = least(m - j, GROUP);
    uint32_t other[CHUNK];
    for (int64_t s = 0; s < rows && (i < j || uses & FIRST); s += LANES) {
        int64_t place = ((i + s) / LANES * depth + j / TERMS) * CHUNK;
        uint32_t *left = uses & FIRST ? c->left + place : other;
        FOR_LANES(r)
        put_left((__m512)*vector(g, s + r, 0), (__m512)*vector(g, s + r, LANES), left + r * LANES);
        if (i < j && uses & SECOND)
            turn_chunk(left, c->right + place);
    }
    for (int64_t s = 0; s < columns && (i < j || uses & SECOND); s += LANES) {
        int64_t place = ((j + s) / LANES * depth + i / TERMS) * CHUNK;
        uint32_t *right = uses & SECOND ? c->right + place : other;
        FOR_LANES(r)
        put_right((__m512)*vector(g, 2 * r, s), (__m512)*vector(g, 2 * r + 1, s), right + r * LANES);
        if (i < j && uses & FIRST)
            turn_chunk(right, c->left + place);
    }
}

/* g = weight * g + share * a, for a from its right factor */
static void add_share(int64_t m, Group *g, int64_t i, int64_t j, float weight, float share, const uint32_t *right)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    for (int64_t s = 0; s < least(m - j, GROUP); s += LANES) {
        const uint32_t *words = right + ((j + s) / LANES * chunks(m) + i / TERMS) * CHUNK;
        for (int64_t r = 0; r < LANES; r++, words += LANES) {
            __m512i high = _mm512_loadu_si512(words), low = _mm512_loadu_si512(words + TILE_WORDS);
            lanes even = (lanes)_mm512_slli_epi32(high, 16) + (lanes)_mm512_slli_epi32(low, 16);
            lanes odd = (lanes)_mm512_and_si512(high, upper) + (lanes)_mm512_and_si512(low, upper);
            *vector(g, 2 * r, s) = weight * *vector(g, 2 * r, s) + share * even;
            *vector(g, 2 * r + 1, s) = weight * *vector(g, 2 * r + 1, s) + share * odd;
        }
    }
}

static int wanted(const Block *o, int uses) { return uses & APPLIED ? (o->tall ? SECOND : FIRST) : uses; }

static void combine(const Block *o, const Square *a, const Square *b, float weight, float share, float diagonal, int uses,
                    const Square *c)
{
    int64_t m = o->m, depth = chunks(m), strip = depth * CHUNK;
    for (int64_t i = 0; i < m; i += GROUP)
        for (int64_t j = i; j < m; j += GROUP) {
            Group g;
            if (m - i < GROUP || m - j < GROUP)
                memset(&g, 0, sizeof g);
            multiply(m - i, m - j, depth, a->left + i / LANES * strip, b->right + j / LANES * strip, 0, g.rows[0], GROUP);
            if (share != 0.0f)
                add_share(m, &g, i, j, weight, share, a->right);
            else if (weight != 1.0f)
                for (int64_t r = 0; r < GROUP * GROUP; r += LANES)
                    *vector(&g, 0, r) *= weight;
            if (i == j) {
                for (int64_t r = 0; r < least(m - i, GROUP); r++)
                    g.rows[r][r] += diagonal;
                mend(&g);
            }
            write_group(m, &g, i, j, wanted(o, uses), c);
        }
}

/* As a first factor, which is all that it is wanted for */
static void copy(const Block *o, const Square *from, const Square *to)
{
    memcpy(to->left, from->left, (size_t)factor_size(o->m, o->m) * sizeof *to->left);
}

/* What the terms from `start` on add to the Gram matrix */
static void add_panel(const Block *o, int64_t start, int64_t terms)
{
    int64_t m = o->m, size = factor_size(m, terms), strip = chunks(terms) * CHUNK;
    uint32_t *left = o->spare, *right = left + size;
    if (o->tall)
        split_right(m, terms, o->x + start * m, m, right);
    else
        split_left(m, terms, o->x + start, o->n, left);
    for (int64_t at = 0; at < size; at += CHUNK)
        turn_chunk((o->tall ? right : left) + at, (o->tall ? left : right) + at);
    for (int64_t i = 0; i < m; i += GROUP)
        for (int64_t j = i; j < m; j += GROUP)
            multiply(m - i, m - j, chunks(terms), left + i / LANES * strip, right + j / LANES * strip, 1,
                     o->sums + i * m + j, m);
}

static float squares(const Block *o)
{
    float trace = 0.0f;
    memset(o->sums, 0, (size_t)(o->m * o->m) * sizeof *o->sums);
    for (int64_t start = 0; start < o->n; start += PANEL)
        add_panel(o, start, least(o->n - start, PANEL));
    for (int64_t i = 0; i < o->m; i++)
        trace += o->sums[i * o->m + i];
    return trace;
}

static void take(const Block *o, float by)
{
    int64_t m = o->m;
    for (int64_t i = 0; i < m; i += GROUP)
        for (int64_t j = i; j < m; j += GROUP) {
            Group g = {0};
            for (int64_t r = 0; r < least(m - i, GROUP); r++)
                for (int64_t s = 0; s < least(m - j, GROUP); s += LANES)
                    *vector(&g, r, s) = by * *(const lanes *)(o->sums + (i + r) * m + j + s);
            if (i == j)
                mend(&g);
            write_group(m, &g, i, j, FIRST | SECOND, &o->a);
        }
}

static void apply(const Block *o, const Square *q)
{
    int64_t m = o->m, n = o->n, depth = chunks(m), strip = depth * CHUNK;
    for (int64_t j = 0; j < n; j += GROUP) {
        int64_t few = least(n - j, GROUP);
        if (o->tall)
            split_left(few, m, o->x + j * m, m, o->spare);
        else
            split_right(few, m, o->x + j, n, o->spare);
        for (int64_t i = 0; i < m; i += GROUP)
            if (o->tall)
                multiply(few, m - i, depth, o->spare, q->right + i / LANES * strip, 0, o->x + j * m + i, m);
            else
                multiply(m - i, few, depth, q->left + i / LANES * strip, o->spare, 0, o->x + i * n + j, n);
    }
}

int64_t amx_room(int64_t m)
{
    int64_t factors = 8 * factor_size(m, m), spare = 2 * factor_size(m, PANEL);
    return m < FROM ? 0 : LINE + m * m + factors + spare;
}

int amx_orthogonalise(int64_t m, int64_t n, int64_t tall, int near_square, float *x, float *room)
{
    if (m < FROM || !amx_used())
        return 0;
    int64_t size = factor_size(m, m);
    float *sums = (float *)(((uintptr_t)room + LINE - 1) / LINE * LINE);
    uint32_t *w = (uint32_t *)(sums + m * m);
    Block o = {.m = m, .n = n, .tall = tall, .x = x, .sums = sums, .spare = w + 8 * size, .a = {w, w + size},
               .p = {w + 2 * size, w + 3 * size}, .q = {w + 4 * size, w + 5 * size},
               .next = {w + 6 * size, w + 7 * size}};
    _tile_loadconfig(&shapes);
    orthogonalise_block(&o, near_square);
    _tile_release();
    return 1;
}
#else
int64_t amx_room(int64_t m) { return 0 * m; }

int amx_orthogonalise(int64_t m, int64_t n, int64_t tall, int near_square, float *x, float *room)
{
    (void)m, (void)n, (void)tall, (void)near_square, (void)x, (void)room;
    return 0;
}

int64_t amx_used(void) { return 0; }
void amx_allow(int64_t allowed) { (void)allowed; }
#endif
