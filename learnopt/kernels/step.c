/* One step of the learned rule for many runs, in place: the arithmetic of learnopt/rule.py, which it is tested against.
 *
 * Sizes (GLOBAL, TENSOR, SHAPE, SUMMARISED, STATISTICS, SMOOTHED, HIDDEN, CONTEXT, WIDTH), constants and the places of fields
 * in packed memories (AT_..., MEMORY) and runs (RUN_..., RUN) are given by the compiler's command line, from the Python
 * modules that own them; so are the columns' centres and spreads. Arrays are row-major; N runs, n tensors.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "orthogonalise.h"

#define PARAMETER 6
#define OUT 5
#define TINY 1e-30f
#define TINIEST 1e-37f

enum { GLOBAL_IN, GLOBAL_BIAS, GLOBAL_OUT, GLOBAL_SKIP, LSTM_IN, LSTM_HIDDEN, LSTM_BIAS, TENSOR_OUT, TENSOR_SKIP,
       TENSOR_BIAS, MLP_IN, MLP_CONTEXT, MLP_BIAS, MLP_OUT, MLP_OUT_BIAS };

typedef struct {
    int64_t tensor, run, start, size;
} Job;

typedef struct {
    int64_t runs, tensors, number; /* of jobs */
    const Job *jobs;            /* in the order of tensors, runs and places */
    float *sums;                /* (number, STATISTICS): what each job has seen */
    const int64_t *offset;      /* of the named meta-weights inside theta */
    int64_t theta_stride;       /* 0: one theta for all runs */
    const float *theta;
    const int64_t *size;        /* (n) */
    const int64_t *is_matrix;   /* (n) */
    const float *root;          /* (n): square root of the larger dimension */
    const int64_t *rows;        /* (n): of the matrices that are orthogonalised here; 0 for all else */
    const float *share;         /* (n): weight in the summary */
    const float *shape_columns; /* (n, SHAPE) */
    const float *lr;            /* (n) */
    const float *weight_decay;  /* (n): NaN for learned */
    float **memory;             /* (N, MEMORY) each: learnopt/memory.py */
    float *run;                 /* (N, RUN): learnopt/memory.py */
    float *columns;             /* (N, GLOBAL) */
    float *tensor_columns;      /* (N, n, TENSOR) out; NULL where nobody reads them */
    const float *nudge;         /* (N, n, OUT), added to the raw outputs; NULL for none */
    float *context;             /* (N, n, WIDTH) */
    float **param, **fast, **average, **square; /* (N, size) each */
    float **whole;              /* (N, size): momentum out, its orthogonalisation in; NULL for vectors */
    const float **grad;         /* (N, size); NULL for none */
} Net;

static const float global_standard[GLOBAL][2] = GLOBAL_STANDARD, tensor_standard[TENSOR][2] = TENSOR_STANDARD;

static inline float clamp(float x, float low, float high) { return x < low ? low : (x > high ? high : x); }
static inline float larger(float a, float b) { return a > b ? a : b; }
static inline float smaller(float a, float b) { return a < b ? a : b; }
static inline float finite_or_zero(float x) { return fabsf(x) <= FLT_MAX ? x : 0.0f; }
static inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
static inline float log_ratio(float a, float b, float floor) { return logf(larger(a, floor) / larger(b, floor)); }
static inline float lerp(float a, float b, float w) { return a + w * (b - a); }

/* features.observe */
static void observe(const Net *net, int64_t r, float loss)
{
    float *f = net->run + r * RUN; /* fast, slow, first, best, noise, number */
    if (!(fabsf(loss) <= FLT_MAX))
        return;
    float count = f[5] + 1.0f, plain = 1.0f / count, slow = f[1];
    f[0] = lerp(f[0], loss, larger(plain, LOSS_FAST));
    f[1] = lerp(slow, loss, larger(plain, LOSS_SLOW));
    if (count <= LOSS_FIRST)
        f[2] = lerp(f[2], loss, plain);
    f[3] = count <= 1.0f || f[0] < f[3] ? f[0] : f[3];
    f[4] = lerp(f[4], count > 1.0f ? fabsf(loss - slow) : 0.0f, larger(plain, LOSS_SLOW));
    f[5] = count;
}

/* features._standardised */
static void standardise(float *x, const float (*standard)[2], const float *known, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = known[i] * clamp((x[i] - standard[i][0]) / standard[i][1], -4.0f, 4.0f);
}

/* features.tensor_columns of one tensor */
static void tensor_columns(const Net *net, int64_t r, int64_t k, float *t)
{
    const float *m = net->memory[k] + r * MEMORY, *s = m + AT_STATISTICS, *h = net->run + r * RUN;
    float r0 = s[0], r1 = s[1], r2 = s[2], c01 = s[3], c02 = s[4], c12 = s[5], c1w = s[6];
    float unit = m[AT_UNIT], rms0 = m[AT_RMS0];
    float started = r0 > 0.0f, weight = sqrtf(s[7]), loss = larger(h[0], 1e-4f * fabsf(h[2]) + TINY);
    float positive = h[5] > 0.0f && h[3] > 0.0f;
    float change = logf((float)net->size[k] * (weight + unit)) + logf(s[8] + TINY) / 2.0f - logf(loss);
    t[0] = logf(r1 + 1e-4f) / 4.0f;
    t[1] = logf(r2 + 1e-4f) / 4.0f;
    t[2] = (c01 - (1.0f - BETA_FAST) * r0) / sqrtf(r0 * r1 + 1e-12f);
    t[3] = c02 / sqrtf(r0 * r2 + 1e-12f);
    t[4] = c12 / sqrtf(r1 * r2 + 1e-12f);
    t[5] = logf(r0 + 1e-4f) / 4.0f;
    t[6] = c1w / sqrtf(r1 + 1e-12f);
    t[7] = clamp(logf((weight + 0.01f * unit) / (rms0 + 0.03f * unit)), -3.0f, 3.0f);
    t[8] = clamp(logf(rms0 / unit + 0.03f), -4.0f, 4.0f) / 2.0f;
    t[9] = logf(larger((s[8] + TINY) / (m[AT_PEAK] + TINY), 1e-9f)) / 8.0f;
    t[10] = clamp(change, -9.0f, 9.0f) / 4.0f;
    memcpy(t + TENSOR - SHAPE, net->shape_columns + SHAPE * k, SHAPE * sizeof(float));
    float both = started * positive;
    float known[TENSOR] = {started, started, started, started, started, started, started, 1, 1, started, both};
    for (int i = TENSOR - SHAPE; i < TENSOR; i++)
        known[i] = 1.0f;
    standardise(t, tensor_standard, known, TENSOR);
}

/* features.global_columns */
static void global_columns(const Net *net, int64_t r, float horizon, const float *summary, float *g)
{
    const float *h = net->run + r * RUN;
    float fast = h[0], slow = h[1], first = h[2], best = h[3], noise = h[4];
    float known = h[5] > 0.0f, positive = known * (best > 0.0f), floor = 1e-4f * fabsf(first) + TINY;
    float span = fabsf(first - best) + noise + TINY, told = horizon > 0.0f, step = h[RUN_STEP];
    float progress = told * clamp((step + 1.0f) / larger(horizon, 1.0f), 0.0f, 1.0f);
    g[0] = clamp(log_ratio(fast, slow, floor), -3.0f, 3.0f);
    g[1] = clamp(log_ratio(fast, first, floor), -9.0f, 3.0f) / 3.0f;
    g[2] = clamp(log_ratio(fast, best, floor), -3.0f, 3.0f);
    g[3] = clamp((fast - slow) / span, -1.0f, 1.0f);
    g[4] = clamp((fast - best) / span, 0.0f, 2.0f);
    g[5] = clamp(noise / span, 0.0f, 1.0f);
    g[6] = known;
    g[7] = progress;
    g[8] = progress * progress;
    g[9] = logf(step + 1.0f) / 8.0f;
    g[10] = logf(larger(horizon, 1.0f)) / 8.0f;
    g[11] = told;
    float seen[12] = {positive, positive, positive, known, known, known, 1, told, told, 1, told, 1};
    standardise(g, global_standard, seen, 12);
    memcpy(g + 12, summary, SUMMARISED * sizeof(float));
}

static float base_schedule(float step, float horizon)
{
    if (horizon > 0.0f) {
        float span = larger(horizon, 1.0f);
        return clamp((step + 1.0f) / span / WARMUP, 0.0f, 1.0f) * larger(1.0f - step / span, SCHEDULE_FLOOR);
    }
    return UNTOLD * clamp((step + 1.0f) / UNTOLD_STEPS, 0.0f, 1.0f) * powf(1.0f + step / UNTOLD_STEPS, -UNTOLD_POWER);
}

/* rule.base_pull */
static float base_pull(float step, float horizon)
{
    float share = (step + 1.0f) / larger(horizon, 1.0f);
    if (!(horizon > 0.0f) || share > 1.0f)
        return PULL_LOW;
    return PULL_LOW + (PULL_HIGH - PULL_LOW) * clamp((share - (1.0f - ENDING)) / ENDING, 0.0f, 1.0f);
}

/* y += x W for W of shape (inputs, outputs) */
static void add_product(const float *x, const float *w, int inputs, int outputs, float *y)
{
    for (int i = 0; i < inputs; i++)
        for (int j = 0; j < outputs; j++)
            y[j] += x[i] * w[i * outputs + j];
}

/* The per-tensor level of rule.decide: LSTM and outputs */
static void decide_tensor(const Net *net, const float *theta, int64_t r, int64_t k, const float *x, float schedule,
                          float pull)
{
    const int64_t *o = net->offset;
    float gates[4 * HIDDEN], out[OUT], *m = net->memory[k] + r * MEMORY, *hidden = m + AT_HIDDEN, *cell = m + AT_CELL;
    memcpy(gates, theta + o[LSTM_BIAS], sizeof gates);
    add_product(x, theta + o[LSTM_IN], GLOBAL + TENSOR, 4 * HIDDEN, gates);
    add_product(hidden, theta + o[LSTM_HIDDEN], HIDDEN, 4 * HIDDEN, gates);
    for (int j = 0; j < HIDDEN; j++) {
        cell[j] = sigmoid(gates[HIDDEN + j]) * cell[j] + sigmoid(gates[j]) * tanhf(gates[3 * HIDDEN + j]);
        hidden[j] = sigmoid(gates[2 * HIDDEN + j]) * tanhf(cell[j]);
    }
    memcpy(out, theta + o[TENSOR_BIAS], sizeof out);
    add_product(hidden, theta + o[TENSOR_OUT], HIDDEN, OUT, out);
    add_product(x, theta + o[TENSOR_SKIP], GLOBAL + TENSOR, OUT, out);
    if (net->nudge)
        for (int i = 0; i < OUT; i++)
            out[i] += net->nudge[(r * net->tensors + k) * OUT + i];

    float is_matrix = (float)net->is_matrix[k], unit = m[AT_UNIT], rms = sqrtf(m[AT_STATISTICS + 7]);
    float reach = (rms < 1e3f * unit ? rms : 1e3f * unit) + unit, given = net->weight_decay[k];
    float length = net->lr[k] * reach * smaller(STEP * schedule * expf(clamp(2.0f * out[0], -7.0f, 7.0f)), LONGEST);
    float shrunk = m[AT_RMS0] / (rms + TINIEST), grown = larger(1.0f - shrunk * shrunk, 0.0f);
    float learned = clamp(DECAY * schedule * expf(3.0f * clamp(out[2], -3.0f, 2.0f)), 0.0f, 0.5f) * is_matrix * grown;
    m[AT_STEP_SIZE] = length;
    m[AT_DECAY] = clamp(given == given ? length * given : learned * net->lr[k], 0.0f, 1.0f);
    m[AT_GATE] = sigmoid(out[3]) * is_matrix;
    m[AT_MIXTURE] = sigmoid(out[1] - 1.5f);
    m[AT_MIXTURE + 1] = 1.0f - m[AT_MIXTURE];
    m[AT_PULL] = clamp(PULL * sigmoid(out[4] + pull) * net->lr[k], 0.0f, 1.0f);
    float *context = net->context + (r * net->tensors + k) * WIDTH;
    memcpy(context, theta + o[MLP_BIAS], WIDTH * sizeof(float));
    add_product(hidden, theta + o[MLP_CONTEXT], HIDDEN, WIDTH, context);
    m[AT_AGE] += 1.0f;
}

/* rule.decide: everything small */
void decide(const Net *net, const float *loss, float horizon)
{
    int64_t n = net->tensors;
    for (int64_t r = 0; r < net->runs; r++) {
        const float *theta = net->theta + r * net->theta_stride;
        const int64_t *o = net->offset;
        float summary[SUMMARISED] = {0}, x[GLOBAL + TENSOR], context[CONTEXT], *g = net->columns + r * GLOBAL;
        static const int summarised[SUMMARISED] = {0, 2, 3, 6, 9, 10};
        if (loss)
            observe(net, r, loss[r]);
        for (int64_t k = 0; k < n; k++) {
            float t[TENSOR];
            tensor_columns(net, r, k, t);
            for (int i = 0; i < SUMMARISED; i++)
                summary[i] += net->share[k] * t[summarised[i]];
        }
        global_columns(net, r, horizon, summary, g);
        memcpy(context, theta + o[GLOBAL_BIAS], sizeof context);
        add_product(g, theta + o[GLOBAL_IN], GLOBAL, CONTEXT, context);
        float logit = 0.0f;
        for (int j = 0; j < CONTEXT; j++)
            logit += tanhf(context[j]) * theta[o[GLOBAL_OUT] + j];
        for (int j = 0; j < GLOBAL; j++)
            logit += g[j] * theta[o[GLOBAL_SKIP] + j];
        float *run = net->run + r * RUN;
        float schedule = base_schedule(run[RUN_STEP], horizon) * expf(2.0f * clamp(logit, -3.0f, 3.0f));
        float pull = base_pull(run[RUN_STEP], horizon);
        run[RUN_SCHEDULE] = schedule;
        run[RUN_STEP] += 1.0f;
        memcpy(x, g, GLOBAL * sizeof(float));
        for (int64_t k = 0; k < n; k++) {
            tensor_columns(net, r, k, x + GLOBAL);
            if (net->tensor_columns)
                memcpy(net->tensor_columns + (r * n + k) * TENSOR, x + GLOBAL, TENSOR * sizeof(float));
            decide_tensor(net, theta, r, k, x, schedule, pull);
        }
    }
}

/* The largest size of an element of each job's gradient; infinite where one is not finite */
void look_jobs(const Net *net, int64_t first, int64_t stop, float *room)
{
    (void)room;
    for (int64_t j = first; j < stop; j++) {
        int64_t k = net->jobs[j].tensor, size = net->jobs[j].size;
        const float *grad = net->grad[k] + net->jobs[j].run * net->size[k] + net->jobs[j].start;
        float most = 0.0f, bad = 0.0f;
        for (int64_t i = 0; i < size; i++) {
            float g = fabsf(grad[i]);
            bad += g <= FLT_MAX ? 0.0f : 1.0f;
            most = larger(g, most);
        }
        net->sums[j * STATISTICS] = bad > 0.0f ? INFINITY : most;
    }
}

/* The largest over all jobs */
float largest(const Net *net)
{
    float most = 0.0f;
    for (int64_t j = 0; j < net->number; j++)
        most = larger(net->sums[j * STATISTICS], most);
    return most;
}

/* stop_head.follow: the stop probability of every run, smoothed */
void follow(const Net *net, const float *in, const float *bias, const float *out, const float *out_bias)
{
    for (int64_t r = 0; r < net->runs; r++) {
        float hidden[STOP_HIDDEN], logit = out_bias[0], *run = net->run + r * RUN;
        memcpy(hidden, bias, sizeof hidden);
        add_product(net->columns + r * GLOBAL, in, GLOBAL, STOP_HIDDEN, hidden);
        for (int j = 0; j < STOP_HIDDEN; j++)
            logit += tanhf(hidden[j]) * out[j];
        run[RUN_SEEN] += 1.0f;
        run[RUN_STOP] = lerp(run[RUN_STOP], sigmoid(logit), larger(1.0f / run[RUN_SEEN], STOP_MEMORY));
    }
}

/* `usual`: mean square of the tensor's gradients so far; FLT_MAX where nothing is to be cut */
static void moments(int64_t size, const float *blend, const float *mix, float usual, const float *restrict grad,
                    float *restrict fast, float *restrict square, float *restrict whole)
{
    float b0 = blend[0], b1 = blend[1], m0 = mix[0], m1 = mix[1];
    for (int64_t i = 0; i < size; i++) {
        float limit = CLIP * sqrtf(larger(square[i], usual)), g = clamp(finite_or_zero(grad[i]), -limit, limit);
        fast[i] = lerp(fast[i], g, b0);
        square[i] = lerp(square[i], g * g, b1);
        if (whole)
            whole[i] = m0 * g + m1 * fast[i];
    }
}

/* The work on parameters comes in jobs, parts of one tensor of one run each, that threads may share. Begin: bring the
 * moments up to date; afterwards `whole` holds the momenta to orthogonalise, and those of the small matrices are. */
void begin_jobs(const Net *net, int64_t first, int64_t stop, float *room)
{
    static const double beta[2] = {BETA_FAST, BETA_SQUARE};
    for (const Job *job = net->jobs + first; job < net->jobs + stop; job++) {
        int64_t k = job->tensor, at = job->run * net->size[k] + job->start;
        const float *m = net->memory[k] + job->run * MEMORY;
        float blend[2], *whole = net->whole[k] ? net->whole[k] + at : 0;
        for (int i = 0; i < 2; i++)
            blend[i] = (float)((1.0 - beta[i]) / (1.0 - pow(beta[i], m[AT_AGE])));
        float variance = m[AT_STATISTICS + 8], usual = m[AT_AGE] > CLIP_FROM && variance > 0.0f ? variance : FLT_MAX;
        moments(job->size, blend, m + AT_MIXTURE, usual, net->grad[k] + at, net->fast[k] + at, net->square[k] + at,
                whole);
        if (net->rows[k]) /* such a tensor is one job */
            orthogonalise(whole, net->rows[k], job->size / net->rows[k], room);
    }
}

/* rule.advance after the moments: the per-parameter level */
static void advance(int64_t size, const float *theta, const int64_t *o, const float *m, const float *context, float root,
                    const float *restrict grad, const float *restrict fast, float *restrict average,
                    const float *restrict square, const float *restrict whole, float *restrict param, int given,
                    float *sums)
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
    for (int64_t i = 0; i < size; i++) {
        float scale = 1.0f / sqrtf(square[i] + TINIEST);
        float a0 = clamp(finite_or_zero(grad[i]) * scale, -4.0f, 4.0f), a1 = fast[i] * scale;
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
        float s = 0.76f * y0 / (1.0f + fabsf(y0));
        float direction = (m0 * a0 + m1 * a1) * ((1.0f + s) / (1.0f - s)) + (square[i] > 0.0f ? 0.3f * y1 : 0.0f);
        if (whole)
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
    float seen[STATISTICS] = {s00, s11, s22, s01, s02, s12, s1w, weight, variance};
    memcpy(sums, seen, sizeof seen);
}

/* Move the parameters; `whole` holds the orthogonalised momenta. */
void end_jobs(const Net *net, int64_t first, int64_t stop, float *room)
{
    (void)room;
    for (int64_t j = first; j < stop; j++) {
        int64_t k = net->jobs[j].tensor, r = net->jobs[j].run, at = r * net->size[k] + net->jobs[j].start;
        advance(net->jobs[j].size, net->theta + r * net->theta_stride, net->offset, net->memory[k] + r * MEMORY,
                net->context + (r * net->tensors + k) * WIDTH, net->root[k], net->grad[k] + at, net->fast[k] + at,
                net->average[k] + at, net->square[k] + at, net->whole[k] ? net->whole[k] + at : 0, net->param[k] + at,
                net->weight_decay[k] == net->weight_decay[k], net->sums + j * STATISTICS);
    }
}

/* Gather what the jobs have seen of each tensor, in their order, so that threads change nothing. */
void end_step(const Net *net)
{
    for (int64_t j = 0; j < net->number;) {
        const Job *job = net->jobs + j;
        float now[STATISTICS] = {0}, *m = net->memory[job->tensor] + job->run * MEMORY, *s = m + AT_STATISTICS;
        for (int64_t done = 0; done < net->size[job->tensor]; done += net->jobs[j++].size)
            for (int i = 0; i < STATISTICS; i++)
                now[i] += net->sums[j * STATISTICS + i];
        float rate = larger(1.0f / m[AT_AGE], SMOOTHING);
        for (int i = 0; i < STATISTICS; i++) {
            now[i] /= (float)net->size[job->tensor];
            s[i] = i < SMOOTHED ? lerp(s[i], now[i], rate) : now[i];
        }
        m[AT_PEAK] = larger(m[AT_PEAK], s[8]);
    }
}
