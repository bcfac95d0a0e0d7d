/* What a step does to every parameter: the moments before the momenta are orthogonalised, the move afterwards. */
#ifndef __clang__
#pragma GCC optimize("finite-math-only", "no-tree-reassoc") /* minima in one instruction; products and sums stay fused */
#endif
#include "elements.h"

#include <string.h>

#define AHEAD 8 /* rows */

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

/* y brought near 1 / sqrt(x), to third order */
static inline float nearer(float x, float y)
{
    float t = x * y * y;
    return y * (1.875f - t * (1.25f - 0.375f * t));
}

/* 1 / sqrt(x) to rounding, for x from 1e-37; 0 for what is not finite. A guess from the exponent, twice improved, takes a
 * fraction of the time of the processor's root and quotient. */
static inline float inverse_root(float x)
{
    Word guess = {x};
    guess.bits = 0x5f375a86 - (guess.bits >> 1);
    return kept(nearer(x, nearer(x, guess.number)));
}

/* `usual`: mean square of the tensor's gradients so far; FLT_MAX where nothing is to be cut */
static inline void moments_of_row(int64_t size, const float *blend, const float *mix, float usual,
                                  const float *restrict grad, float *restrict fast, float *restrict square,
                                  float *restrict momentum)
{
    float b0 = blend[0], b1 = blend[1], m0 = mix[0], m1 = mix[1];
    for (int64_t i = 0; i < size; i++) {
        float most = larger(square[i], usual) + TINIEST, limit = CLIP * most * inverse_root(most);
        float g = clamp(kept(grad[i]), -limit, limit);
        fast[i] = lerp(fast[i], g, b0);
        square[i] = lerp(square[i], g * g, b1);
        momentum[i] = m0 * g + m1 * fast[i];
    }
}

/* Short rows far apart: the processor does not foresee where the next ones lie. */
static inline void look_ahead(const Elements *e, const float *x, int64_t row)
{
    if (e->length < e->stride && e->length <= 64 && row + AHEAD < e->rows)
        for (int64_t i = 0; i < e->length; i += 16)
            __builtin_prefetch(x + (row + AHEAD) * e->stride + i);
}

void moments(const Elements *e, const float *m)
{
    static const double beta[2] = {BETA_FAST, BETA_SQUARE};
    float blend[2], variance = m[AT_STATISTICS + 8];
    float usual = m[AT_AGE] > CLIP_FROM && variance > 0.0f ? variance : FLT_MAX;
    for (int i = 0; i < 2; i++)
        blend[i] = (float)((1.0 - beta[i]) / (1.0 - pow(beta[i], m[AT_AGE])));
    for (int64_t row = 0; row < e->rows; row++) {
        int64_t at = row * e->stride;
        look_ahead(e, e->grad, row);
        look_ahead(e, e->fast, row);
        look_ahead(e, e->square, row);
        moments_of_row(e->length, blend, m + AT_MIXTURE, usual, e->grad + at, e->fast + at, e->square + at,
                       e->momentum + row * e->momentum_stride);
    }
}

void advance(const Elements *e, const float *theta, const int64_t *o, const float *m, const float *context, float root,
             int given, float *seen)
{
    float w[PARAMETER * WIDTH], u[WIDTH * 2], c[WIDTH];
    memcpy(w, theta + o[MLP_IN], sizeof w);
    memcpy(u, theta + o[MLP_OUT], sizeof u);
    memcpy(c, context, sizeof c);
    float v0 = theta[o[MLP_OUT_BIAS]], v1 = theta[o[MLP_OUT_BIAS] + 1];
    /* a decay that the user set acts everywhere; the learned one where the step shrinks the weight */
    float learned = given ? 0.0f : m[AT_DECAY], keep = given ? 1.0f - m[AT_DECAY] : 1.0f;
    float length = m[AT_STEP_SIZE], gate = m[AT_GATE], m0 = m[AT_MIXTURE], m1 = m[AT_MIXTURE + 1], pull = m[AT_PULL];
    float stay = 1.0f - AVERAGE / (m[AT_AGE] + AVERAGE - 1.0f);
    float relative = 1.0f / (sqrtf(m[AT_STATISTICS + 7]) + 0.03f * m[AT_UNIT] + TINIEST);
    float s00 = 0, s11 = 0, s22 = 0, s01 = 0, s02 = 0, s12 = 0, s1w = 0, weight = 0, variance = 0;
    for (int64_t row = 0; row < e->rows; row++) {
        int64_t at = row * e->stride;
        look_ahead(e, e->param, row);
        look_ahead(e, e->average, row);
        const float *restrict grad = e->grad + at, *restrict fast = e->fast + at, *restrict square = e->square + at;
        const float *restrict whole = e->momentum + row * e->momentum_stride;
        float *restrict average = e->average + at, *restrict param = e->param + at;
        for (int64_t i = 0; i < e->length; i++) {
            float scale = inverse_root(square[i] + TINIEST);
            float a0 = clamp(kept(grad[i]) * scale, -4.0f, 4.0f), a1 = fast[i] * scale;
            float away = param[i] - average[i], b = clamp(AWAY * away * relative, -3.0f, 3.0f);
            float x[PARAMETER] = {a0, a1, b, a0 * a1, a1 * b, clamp(param[i] * relative, -3.0f, 3.0f)};
            float y0 = v0, y1 = v1;
            for (int j = 0; j < WIDTH; j++) {
                float inner = c[j];
                for (int p = 0; p < PARAMETER; p++)
                    inner += x[p] * w[p * WIDTH + j];
                inner = inner > 0.0f ? inner : 0.0f;
                y0 += inner * u[2 * j];
                y1 += inner * u[2 * j + 1];
            }
            float s = 0.76f * y0, r = 1.0f + fabsf(y0), rate = (r + s) / (r - s);
            float direction = (m0 * a0 + m1 * a1) * rate + (square[i] > 0.0f ? 0.3f * y1 : 0.0f);
            direction = lerp(direction, whole[i] * root, gate);
            float cautious = clamp(copysignf(direction, param[i] * direction) / CAUTION, 0.0f, 1.0f);
            float moved = param[i] * (keep - learned * cautious) - length * direction - pull * away;
            param[i] = moved;
            average[i] = moved + stay * (average[i] - moved); /* exactly `moved` in the first step */
            s00 += a0 * a0;
            s11 += a1 * a1;
            s22 += b * b;
            s01 += x[3];
            s02 += a0 * b;
            s12 += x[4];
            s1w += a1 * x[5];
            weight += moved * moved;
            variance += square[i];
        }
    }
    float sums[STATISTICS] = {s00, s11, s22, s01, s02, s12, s1w, weight, variance};
    for (int i = 0; i < STATISTICS; i++)
        seen[i] += sums[i];
}
