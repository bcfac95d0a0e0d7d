/* Many runs of one network, as the kernel sees them.
 *
 * Sizes (GLOBAL, TENSOR, SHAPE, SUMMARISED, STATISTICS, SMOOTHED, HIDDEN, CONTEXT, WIDTH), constants and the places of fields
 * in packed memories (AT_..., MEMORY) and runs (RUN_..., RUN) are given by the compiler's command line, from the Python
 * modules that own them; so are the columns' centres and spreads. Arrays are row-major; N runs, n tensors.
 */
#ifndef NET_H
#define NET_H
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define PARAMETER 6
#define TINIEST 1e-37f

enum { GLOBAL_IN, GLOBAL_BIAS, GLOBAL_OUT, GLOBAL_SKIP, LSTM_IN, LSTM_HIDDEN, LSTM_BIAS, TENSOR_OUT, TENSOR_SKIP,
       TENSOR_BIAS, MLP_IN, MLP_CONTEXT, MLP_BIAS, MLP_OUT, MLP_OUT_BIAS };

/* A part of one tensor of one run: rows of `length` numbers, `stride` apart; of a matrix, what is orthogonalised at once */
typedef struct {
    int64_t tensor, run, start, rows, length, stride, tall;
} Job;

typedef struct {
    int64_t runs, tensors, number, batches; /* number: of jobs */
    const Job *jobs;            /* in the order of tensors, runs and places */
    const int64_t *order;       /* (number): the dearest first */
    const int64_t *begin;       /* (batches + 1): where in that order a thread's batches of jobs begin */
    float *sums;                /* (number, STATISTICS): what each job has seen */
    int64_t equalised;          /* tensor whose columns are weighed, -1 for none; its first job, its shape */
    int64_t equalised_job, equalised_rows, equalised_columns;
    float *column_sums;         /* (jobs of that tensor, their longest row): second moments */
    int64_t column_stride;      /* that row's length */
    float *factor;              /* (N, columns): equalise.equaliser */
    const int64_t *offset;      /* of the named meta-weights inside theta */
    int64_t theta_stride;       /* 0: one theta for all runs */
    const float *theta;
    const int64_t *size;        /* (n) */
    const int64_t *is_matrix;   /* (n) */
    const float *root;          /* (n): square root of the larger dimension */
    const float *share;         /* (n): weight in the summary */
    const float *shape_columns; /* (n, SHAPE) */
    const float *lr;            /* (n) */
    const float *weight_decay;  /* (n): NaN for learned */
    float **memory;             /* (N, MEMORY) each: learnopt/memory.py */
    float *run;                 /* (N, RUN): learnopt/memory.py */
    float *columns;             /* (N, GLOBAL) */
    float *tensor_columns;      /* (N, n, TENSOR) */
    const float *nudge;         /* (N, n, OUT), added to the raw outputs; NULL for none */
    float *context;             /* (N, n, WIDTH) */
    float **param, **fast, **average, **square; /* (N, size) each */
    const float **grad;         /* (N, size) */
} Net;

static inline float clamp(float x, float low, float high) { return x < low ? low : (x > high ? high : x); }
static inline float larger(float a, float b) { return a > b ? a : b; }
static inline float smaller(float a, float b) { return a < b ? a : b; }
static inline float log_ratio(float a, float b, float floor) { return logf(larger(a, floor) / larger(b, floor)); }
static inline const float *factor_of(const Net *net, const Job *job)
{
    int64_t columns = net->equalised_columns;
    return job->tensor == net->equalised ? net->factor + job->run * columns + job->start % columns : NULL;
}
static inline float lerp(float a, float b, float w) { return a + w * (b - a); }

#endif
