/* What a step does to every parameter: the moments before the momenta are orthogonalised, the move afterwards.
 *
 * The move goes tile by tile through loops that hand on what they found. One loop could do it all, but the chain of
 * operations of an element is longer than what a processor can have in flight, so that it would wait most of the time.
 */
#ifndef __clang__
/* minima in one instruction; products and sums stay fused */
#pragma GCC optimize("finite-math-only", "no-tree-reassoc")
#endif
#include "elements.h"

#include <string.h>

#include "lanes.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LINE 16  /* numbers in a line of the cache */
#define SHORT 64 /* rows up to this length are short */
#define AHEAD 8  /* short rows */
#define FAR 384 /* numbers */

typedef union {
    float number;
    int32_t bits;
} Word;

/* x, or 0 where it is not finite; by masks, because compilers do not turn loops with more than a few branches into
 * vectors */
static inline float kept(float x)
{
    Word word = {x};
    word.bits &= -((word.bits & INT32_MAX) < 0x7f800000);
    return word.number;
}

/* x where y is positive, -x where it is negative */
static inline float turned_by(float x, float y)
{
    Word word = {x}, sign = {y};
    word.bits ^= sign.bits & INT32_MIN;
    return word.number;
}

/* y = 1 / sqrt(x + TINIEST) to rounding, 0 where x is not finite. A guess brought near by polynomials takes a fraction
 * of the time of the processor's root and quotient. */
#ifdef __AVX512F__
static inline __m512 inverse_root(__m512 x)
{
    __m512 number = x + TINIEST, guess = _mm512_rsqrt14_ps(number), t = number * guess * guess;
    __mmask16 finite = _mm512_cmp_ps_mask(number, _mm512_set1_ps(FLT_MAX), _CMP_LE_OQ);
    return _mm512_maskz_mul_ps(finite, guess, 1.875f - t * (1.25f - 0.375f * t));
}

static inline void inverse_roots(int64_t size, const float *x, float *restrict y)
{
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        _mm512_storeu_ps(y + i, inverse_root(_mm512_loadu_ps(x + i)));
    __mmask16 rest = (__mmask16)((1 << (size - i)) - 1);
    _mm512_mask_storeu_ps(y + i, rest, inverse_root(_mm512_maskz_loadu_ps(rest, x + i)));
}
#else
static inline float nearer(float x, float y)
{
    float t = x * y * y;
    return y * (1.875f - t * (1.25f - 0.375f * t));
}

static inline void inverse_roots(int64_t size, const float *restrict x, float *restrict y)
{
    for (int64_t i = 0; i < size; i++) {
        float number = x[i] + TINIEST;
        Word guess = {number};
        guess.bits = 0x5f375a86 - (guess.bits >> 1);
        y[i] = kept(nearer(number, nearer(number, guess.number)));
    }
}
#endif

Terms terms(const float *theta, const int64_t *o, const float *m, const float *context, float root, int given)
{
    Terms t;
    float variance = m[AT_STATISTICS + 8], own = 1.0f - m[AT_GATE];
    t.blend_fast = (float)((1.0 - (double)BETA_FAST) / (1.0 - pow((double)BETA_FAST, m[AT_AGE])));
    t.blend_square = (float)((1.0 - (double)BETA_SQUARE) / (1.0 - pow((double)BETA_SQUARE, m[AT_AGE])));
    t.usual = m[AT_AGE] > CLIP_FROM && variance > 0.0f ? variance : FLT_MAX;
    t.m0 = m[AT_MIXTURE], t.m1 = m[AT_MIXTURE + 1];
    t.relative = 1.0f / (sqrtf(m[AT_STATISTICS + 7]) + 0.03f * m[AT_UNIT] + TINIEST);
    t.away = AWAY * t.relative;
    memcpy(t.in, theta + o[MLP_IN], sizeof t.in);
    memcpy(t.bias, context, sizeof t.bias);
    for (int j = 0; j < WIDTH; j++) {
        t.rate[j] = theta[o[MLP_OUT] + 2 * j];
        t.shift[j] = 0.3f * own * theta[o[MLP_OUT] + 2 * j + 1];
    }
    t.rate_bias = theta[o[MLP_OUT_BIAS]], t.shift_bias = 0.3f * own * theta[o[MLP_OUT_BIAS] + 1];
    t.d0 = own * t.m0, t.d1 = own * t.m1, t.whole = m[AT_GATE] * root;
    /* a decay that the user set acts everywhere; the learned one where the step shrinks the weight */
    t.keep = given ? 1.0f - m[AT_DECAY] : 1.0f, t.learned = given ? 0.0f : m[AT_DECAY] / CAUTION;
    t.length = m[AT_STEP_SIZE], t.pull = m[AT_PULL];
    t.stay = 1.0f - AVERAGE / (m[AT_AGE] + AVERAGE - 1.0f);
    return t;
}

/* `momentum`: NULL where nobody wants it */
static inline __attribute__((always_inline)) void moments_of_row(int64_t size, const Terms *t,
                                                                 const float *restrict grad, float *restrict fast,
                                                                 float *restrict square, float *restrict momentum)
{
    float b0 = t->blend_fast, b1 = t->blend_square, m0 = t->m0, m1 = t->m1, usual = t->usual;
    for (int64_t i = 0; i < size; i++) {
        float limit = CLIP * sqrtf(larger(square[i], usual) + TINIEST);
        float g = clamp(kept(grad[i]), -limit, limit);
        fast[i] = lerp(fast[i], g, b0);
        square[i] = lerp(square[i], g * g, b1);
        if (momentum)
            momentum[i] = m0 * g + m1 * fast[i];
    }
}

/* Short rows far apart: the processor does not foresee where the next ones lie. */
static inline void look_ahead(const Elements *e, const float *x, int64_t row)
{
    if (e->length < e->stride && e->length <= SHORT && row + AHEAD < e->rows)
        for (int64_t i = 0; i < e->length; i += LINE)
            __builtin_prefetch(x + (row + AHEAD) * e->stride + i);
}

/* Long rows: while it calculates, it does not look far enough by itself. */
static inline void look_far_ahead(const float *x) { __builtin_prefetch(x + FAR, 0, 2); }

void moments(const Elements *e, const Terms *t)
{
    for (int64_t row = 0; row < e->rows; row++) {
        int64_t first = row * e->stride, last = first + e->length;
        float *momentum = e->momentum + row * e->momentum_stride;
        look_ahead(e, e->grad, row);
        look_ahead(e, e->fast, row);
        look_ahead(e, e->square, row);
        for (int64_t at = first; at < last; at += SHORT, momentum += SHORT) {
            int64_t size = at + SHORT < last ? SHORT : last - at;
            for (int64_t i = at; e->length > SHORT && i < at + size; i += LINE) {
                look_far_ahead(e->grad + i);
                look_far_ahead(e->fast + i);
                look_far_ahead(e->square + i);
            }
            moments_of_row(size, t, e->grad + at, e->fast + at, e->square + at, momentum);
        }
    }
}

static inline void multiply(int64_t size, const float *restrict by, float *restrict x)
{
    for (int64_t i = 0; i < size; i++)
        x[i] *= by[i];
}

void weigh(const Elements *e)
{
    for (int64_t row = 0; e->factor && row < e->rows; row++)
        multiply(e->length, e->factor, e->momentum + row * e->momentum_stride);
}

/* What is known of the elements of a tile; what pads its rows is calculated too, and not used */
typedef struct {
    _Alignas(64) float scale[TILE], a0[TILE], a1[TILE], b[TILE], weight[TILE], mixed[TILE], added[TILE];
} Tile;

/* The MLP's inputs, and the sums over them and over the second moments */
static inline void inputs(int64_t size, const Terms *t, const float *restrict grad, const float *restrict fast,
                          const float *restrict square, const float *restrict param, const float *restrict average,
                          const float *restrict scale, float *restrict x0, float *restrict x1, float *restrict x2,
                          float *restrict x5, float *restrict seen)
{
    float relative = t->relative, further = t->away;
    float s00 = 0, s11 = 0, s22 = 0, s01 = 0, s02 = 0, s12 = 0, s1w = 0, variance = 0;
    for (int64_t i = 0; i < size; i++) {
        float a0 = clamp(kept(grad[i]) * scale[i], -4.0f, 4.0f), a1 = fast[i] * scale[i];
        float b = clamp((param[i] - average[i]) * further, -3.0f, 3.0f);
        float weight = clamp(param[i] * relative, -3.0f, 3.0f);
        x0[i] = a0, x1[i] = a1, x2[i] = b, x5[i] = weight;
        s00 += a0 * a0;
        s11 += a1 * a1;
        s22 += b * b;
        s01 += a0 * a1;
        s02 += a0 * b;
        s12 += a1 * b;
        s1w += a1 * weight;
        variance += square[i];
    }
    float sums[STATISTICS] = {s00, s11, s22, s01, s02, s12, s1w, 0.0f, variance};
    for (int i = 0; i < STATISTICS; i++)
        seen[i] += sums[i];
}

/* The MLP's outputs for a line: what it makes of the mixture of gradient and momentum, and what it adds */
static inline void outputs(const Terms *t, const float *restrict x0, const float *restrict x1, const float *restrict x2,
                           const float *restrict x5, float *restrict mixed, float *restrict added)
{
    for (int64_t i = 0; i < LINE; i++) {
        float a0 = x0[i], a1 = x1[i], b = x2[i], weight = x5[i], y0 = t->rate_bias, y1 = t->shift_bias;
        for (int j = 0; j < WIDTH; j++) {
            float inner = t->bias[j] + a0 * t->in[0][j] + b * t->in[2][j] + weight * t->in[5][j] +
                          a1 * (t->in[1][j] + a0 * t->in[3][j] + b * t->in[4][j]);
            inner = inner > 0.0f ? inner : 0.0f;
            y0 += inner * t->rate[j];
            y1 += inner * t->shift[j];
        }
        float s = 0.76f * y0, r = 1.0f + fabsf(y0);
        mixed[i] = (t->d0 * a0 + t->d1 * a1) * ((r + s) / (r - s));
        added[i] = y1;
    }
}

/* `matrix`: there is an orthogonalised momentum, and decay may be learned */
static inline __attribute__((always_inline)) void move(int matrix, int64_t size, const Terms *t,
                                                       const float *restrict square, const float *restrict whole,
                                                       const float *restrict mixed, const float *restrict added,
                                                       float *restrict param, float *restrict average,
                                                       float *restrict seen)
{
    float weight = 0, length = t->length, pull = t->pull, stay = t->stay, keep = t->keep;
    for (int64_t i = 0; i < size; i++) {
        float direction = mixed[i] + (square[i] > 0.0f ? added[i] : 0.0f), left = keep, away = param[i] - average[i];
        if (matrix) {
            direction += t->whole * whole[i];
            left -= t->learned * clamp(turned_by(direction, param[i]), 0.0f, CAUTION);
        }
        float moved = param[i] * left - length * direction - pull * away;
        param[i] = moved;
        average[i] = moved + stay * (average[i] - moved); /* exactly `moved` in the first step */
        weight += moved * moved;
    }
    seen[7] += weight;
}

/* The elements of a few short rows, or a part of one row */
static inline __attribute__((always_inline)) void advance_tile(int matrix, const Elements *e, const Terms *terms,
                                                               int64_t row, int64_t rows, int64_t start, int64_t size,
                                                               Tile *x, float *seen)
{
    int64_t wide = padded(size);
    const float *all[] = {e->grad, e->fast, e->square, e->param, e->average};
    Terms t = *terms;
    for (int64_t i = 0; i < rows; i++) {
        int64_t at = (row + i) * e->stride + start, to = i * wide;
        look_ahead(e, e->param, row + i);
        look_ahead(e, e->average, row + i);
        inverse_roots(size, e->square + at, x->scale + to);
        inputs(size, &t, e->grad + at, e->fast + at, e->square + at, e->param + at, e->average + at, x->scale + to,
               x->a0 + to, x->a1 + to, x->b + to, x->weight + to, seen);
    }
    for (int64_t i = 0; i < rows * wide; i += LINE) {
        if (rows == 1)
            for (int j = 0; j < 5; j++)
                look_far_ahead(all[j] + row * e->stride + start + i);
        outputs(&t, x->a0 + i, x->a1 + i, x->b + i, x->weight + i, x->mixed + i, x->added + i);
    }
    for (int64_t i = 0; i < rows; i++) {
        int64_t at = (row + i) * e->stride + start, to = i * wide;
        if (matrix && e->factor) {
            multiply(size, e->factor + start, x->mixed + to);
            multiply(size, e->factor + start, x->added + to);
        }
        const float *whole = matrix ? e->momentum + (row + i) * e->momentum_stride + start : NULL;
        move(matrix, size, &t, e->square + at, whole, x->mixed + to, x->added + to, e->param + at, e->average + at,
             seen);
    }
}

static __attribute__((noinline)) void advance_rows(const Elements *e, const Terms *t, int64_t row, int64_t rows,
                                                   int64_t start, int64_t size, Tile *x, float *seen)
{
    advance_tile(1, e, t, row, rows, start, size, x, seen);
}

static __attribute__((noinline)) void advance_part(const Elements *e, const Terms *t, Tile *x, float *seen)
{
    moments_of_row(e->length, t, e->grad, e->fast, e->square, NULL);
    advance_tile(0, e, t, 0, 1, 0, e->length, x, seen);
}

void advance(const Elements *e, const Terms *t, float *seen)
{
    Tile tile;
    int64_t parts = (e->length + TILE - 1) / TILE, part = padded((e->length + parts - 1) / parts), rows = TILE / part;
    for (int64_t row = 0; row < e->rows; row += rows)
        for (int64_t start = 0; start < e->length; start += part)
            advance_rows(e, t, row, row + rows < e->rows ? rows : e->rows - row, start,
                         start + part < e->length ? part : e->length - start, &tile, seen);
}

void advance_vector(const Elements *e, const Terms *t, float *seen)
{
    Tile tile;
    for (int64_t at = 0; at < e->length; at += TILE) {
        int64_t size = at + TILE < e->length ? TILE : e->length - at;
        Elements part = {1, size, size, size, e->grad + at, e->param + at, e->fast + at, e->average + at,
                         e->square + at, NULL, NULL};
        advance_part(&part, t, &tile, seen);
    }
}
