#include "net.h"

#define TILE 256 /* elements at once: what one loop hands to the next stays in the first cache */

/* The elements of a job at their places; momenta lie in rows of their own, `momentum_stride` apart. */
typedef struct {
    int64_t rows, length, stride, momentum_stride;
    const float *grad;
    float *param, *fast, *average, *square, *momentum;
    const float *factor; /* (length): what columns are multiplied by; NULL for nothing */
} Elements;

/* What is the same for all elements of a tensor: its decision and the per-parameter MLP, multiplied out */
typedef struct {
    float blend_fast, blend_square, usual; /* usual: mean square of the gradients so far; FLT_MAX: nothing is cut */
    float m0, m1;                          /* mixture of the momentum */
    float relative, away;
    float in[PARAMETER][WIDTH], bias[WIDTH], rate[WIDTH], shift[WIDTH], rate_bias, shift_bias;
    float d0, d1, whole; /* mixture of the direction; whole: share of the orthogonalised momentum */
    float keep, learned, length, pull, stay;
} Terms;

#pragma GCC visibility push(hidden) /* libraries of the system have functions of such names */

/* `root`: square root of the larger dimension; `given`: the user has set the decay */
Terms terms(const float *theta, const int64_t *offset, const float *m, const float *context, float root, int given);

/* rule.advance up to the momenta: the moments brought up to date, `momentum` written */
void moments(const Elements *e, const Terms *t);

/* Multiply rows of momenta by the factor, where there is one. */
void weigh(const Elements *e);

/* rule.advance after the momenta, which have been orthogonalised: the per-parameter level. `seen` gets STATISTICS
 * sums. */
void advance(const Elements *e, const Terms *t, float *seen);

/* Both for a vector, whose momentum nobody orthogonalises: one row */
void advance_vector(const Elements *e, const Terms *t, float *seen);

#pragma GCC visibility pop
