#include "net.h"

/* The elements of a job at their places; momenta lie in rows of their own, `momentum_stride` apart. */
typedef struct {
    int64_t rows, length, stride, momentum_stride;
    const float *grad;
    float *param, *fast, *average, *square, *momentum;
} Elements;

#pragma GCC visibility push(hidden) /* libraries of the system have functions of such names */

/* rule.advance up to the momenta: the moments brought up to date, `momentum` written */
void moments(const Elements *e, const float *m);

/* rule.advance after the momenta, which have been orthogonalised: the per-parameter level. `seen` gets STATISTICS sums. */
void advance(const Elements *e, const float *theta, const int64_t *offset, const float *m, const float *context,
             float root, int given, float *seen);

#pragma GCC visibility pop
