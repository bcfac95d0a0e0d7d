/* Everything small in a step of the learned rule: features, the global and the per-tensor level, the stop head. */
#include <string.h>

#include "net.h"

#define OUT 5
#define MOST (4 * HIDDEN + STOP_HIDDEN) /* outputs of a product */
#define TINY 1e-30f

static const float global_standard[GLOBAL][2] = GLOBAL_STANDARD, tensor_standard[TENSOR][2] = TENSOR_STANDARD;

/* exp(x) to rounding where that is neither 0 nor infinite; without a call, so that loops become vectors */
static inline float exponential(float x)
{
    x = clamp(x, -87.0f, 88.0f);
    float n = rintf(1.44269504f * x), r = x - 0.693147181f * n;
    float series = 1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r / 720)))));
    union {
        int32_t bits;
        float number;
    } power = {((int32_t)n + 127) << 23};
    return series * power.number;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
static inline float hyperbolic_tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

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
    return UNTOLD * clamp((step + 1.0f) / UNTOLD_STEPS, 0.0f, 1.0f) / (1.0f + step / UNTOLD_STEPS);
}

/* course.base_pull */
static float base_pull(float step, float horizon)
{
    float share = (step + 1.0f) / larger(horizon, 1.0f);
    if (!(horizon > 0.0f) || share > 1.0f)
        return PULL_LOW;
    return PULL_LOW + (PULL_HIGH - PULL_LOW) * clamp((share - (1.0f - ENDING)) / ENDING, 0.0f, 1.0f);
}

/* course.longest_step of features.agreement */
static float longest_step(const float *columns, float age)
{
    float sure = clamp((columns[2] * tensor_standard[2][1] + tensor_standard[2][0]) / BETA_FAST, 0.0f, 1.0f);
    for (int i = 0; i < 4; i++)
        sure *= sure;
    return age > AGREED_FROM ? LONGEST + (FARTHEST - LONGEST) * sure : LONGEST;
}

/* y += x W for W of shape (inputs, outputs); inlined, so that the sums stay in registers */
static inline __attribute__((always_inline)) void add_product(const float *x, const float *w, int inputs, int outputs,
                                                              float *y)
{
    float sum[MOST] = {0};
    for (int i = 0; i < inputs; i++)
        for (int j = 0; j < outputs; j++)
            sum[j] += x[i] * w[i * outputs + j];
    for (int j = 0; j < outputs; j++)
        y[j] += sum[j];
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
    for (int j = 0; j < 4 * HIDDEN; j++)
        gates[j] = j < 3 * HIDDEN ? sigmoid(gates[j]) : hyperbolic_tangent(gates[j]);
    for (int j = 0; j < HIDDEN; j++) {
        cell[j] = gates[HIDDEN + j] * cell[j] + gates[j] * gates[3 * HIDDEN + j];
        hidden[j] = gates[2 * HIDDEN + j] * hyperbolic_tangent(cell[j]);
    }
    memcpy(out, theta + o[TENSOR_BIAS], sizeof out);
    add_product(hidden, theta + o[TENSOR_OUT], HIDDEN, OUT, out);
    add_product(x, theta + o[TENSOR_SKIP], GLOBAL + TENSOR, OUT, out);
    if (net->nudge)
        for (int i = 0; i < OUT; i++)
            out[i] += net->nudge[(r * net->tensors + k) * OUT + i];

    float is_matrix = (float)net->is_matrix[k], unit = m[AT_UNIT], rms = sqrtf(m[AT_STATISTICS + 7]);
    float reach = (rms < 1e3f * unit ? rms : 1e3f * unit) + unit, given = net->weight_decay[k];
    float longer = exponential(clamp(2.0f * out[0], -7.0f, 7.0f));
    float more = exponential(3.0f * clamp(out[2], -3.0f, 2.0f));
    float length = net->lr[k] * reach * smaller(STEP * schedule * longer, longest_step(x + GLOBAL, m[AT_AGE]));
    float shrunk = m[AT_RMS0] / (rms + TINIEST), grown = larger(1.0f - shrunk * shrunk, 0.0f);
    float learned = clamp(DECAY * schedule * more, 0.0f, 0.5f) * is_matrix * grown;
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
        float summary[SUMMARISED] = {0}, x[GLOBAL + TENSOR], context[CONTEXT];
        float *g = net->columns + r * GLOBAL, *seen = net->tensor_columns + r * n * TENSOR;
        static const int summarised[SUMMARISED] = {0, 2, 3, 6, 9, 10};
        if (loss)
            observe(net, r, loss[r]);
        for (int64_t k = 0; k < n; k++) {
            float *t = seen + k * TENSOR;
            tensor_columns(net, r, k, t);
            for (int i = 0; i < SUMMARISED; i++)
                summary[i] += net->share[k] * t[summarised[i]];
        }
        global_columns(net, r, horizon, summary, g);
        memcpy(context, theta + o[GLOBAL_BIAS], sizeof context);
        add_product(g, theta + o[GLOBAL_IN], GLOBAL, CONTEXT, context);
        float logit = 0.0f;
        for (int j = 0; j < CONTEXT; j++)
            logit += hyperbolic_tangent(context[j]) * theta[o[GLOBAL_OUT] + j];
        for (int j = 0; j < GLOBAL; j++)
            logit += g[j] * theta[o[GLOBAL_SKIP] + j];
        float *run = net->run + r * RUN;
        float schedule = base_schedule(run[RUN_STEP], horizon) * exponential(2.0f * clamp(logit, -3.0f, 3.0f));
        float pull = base_pull(run[RUN_STEP], horizon);
        run[RUN_SCHEDULE] = schedule;
        run[RUN_STEP] += 1.0f;
        memcpy(x, g, GLOBAL * sizeof(float));
        for (int64_t k = 0; k < n; k++) {
            memcpy(x + GLOBAL, seen + k * TENSOR, TENSOR * sizeof(float));
            decide_tensor(net, theta, r, k, x, schedule, pull);
        }
    }
}

/* stop_head.follow: the stop probability of every run, smoothed */
void follow(const Net *net, const float *in, const float *bias, const float *out, const float *out_bias)
{
    for (int64_t r = 0; r < net->runs; r++) {
        float hidden[STOP_HIDDEN], logit = out_bias[0], *run = net->run + r * RUN;
        memcpy(hidden, bias, sizeof hidden);
        add_product(net->columns + r * GLOBAL, in, GLOBAL, STOP_HIDDEN, hidden);
        for (int j = 0; j < STOP_HIDDEN; j++)
            logit += hyperbolic_tangent(hidden[j]) * out[j];
        run[RUN_SEEN] += 1.0f;
        run[RUN_STOP] = lerp(run[RUN_STOP], sigmoid(logit), larger(1.0f / run[RUN_SEEN], STOP_MEMORY));
    }
}
