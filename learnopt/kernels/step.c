/* One step of the learned rule for many runs, in place: the arithmetic of learnopt/rule.py, which it is tested against.
 *
 * After `decide` the work on parameters comes in jobs, parts of one tensor of one run each, that threads share; what comes
 * out does not depend on who does which.
 */
#include <string.h>

#include "elements.h"
#include "orthogonalise.h"

#ifdef __SSE__
#include <xmmintrin.h>
#define NO_DENORMALS 0x8040 /* neither read nor written */
#endif

#ifdef _OPENMP
int omp_get_thread_num(void);
int omp_get_num_threads(void);
#endif

int64_t has_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

static Elements elements(const Net *net, const Job *job)
{
    int64_t k = job->tensor, at = job->run * net->size[k] + job->start;
    return (Elements){.rows = job->rows, .length = job->length, .stride = job->stride, .grad = net->grad[k] + at,
                      .param = net->param[k] + at, .fast = net->fast[k] + at, .average = net->average[k] + at,
                      .square = net->square[k] + at, .factor = factor_of(net, job)};
}

#define STREAMS 8 /* places read from in turn: a processor has more of the memory on its way to it then */
#define STRETCH 64

/* The larger of `most` and the largest size of an element, as bits */
static inline int32_t largest_of(int64_t size, const float *x, int32_t most)
{
    for (int64_t i = 0; i < size; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= INT32_MAX;
        most = bits > most ? bits : most;
    }
    return most;
}

/* The largest size of an element of a gradient, as bits: those of infinity, or more, where one is not finite. Of as many
 * elements as the job has, but those that lie together: all jobs see all. */
static void look(const Net *net, int64_t j, float *room)
{
    const Job *job = net->jobs + j;
    int64_t size = job->rows * job->length, part = size / (STREAMS * STRETCH) * STRETCH;
    int64_t first = job->run * net->size[job->tensor] + (job->tall ? job->start * job->rows : job->start);
    const float *grad = net->grad[job->tensor] + first;
    int32_t most = 0;
    (void)room;
    for (int64_t i = 0; i < part; i += STRETCH)
        for (int k = 0; k < STREAMS; k++)
            most = largest_of(STRETCH, grad + k * part + i, most);
    most = largest_of(size - STREAMS * part, grad + STREAMS * part, most);
    memcpy(net->sums + j * STATISTICS, &most, sizeof most);
}

static void move(const Net *net, int64_t j, float *room)
{
    const Job *job = net->jobs + j;
    int64_t k = job->tensor, r = job->run;
    const float *m = net->memory[k] + r * MEMORY, *context = net->context + (r * net->tensors + k) * WIDTH;
    const float *theta = net->theta + r * net->theta_stride;
    float *sums = net->sums + j * STATISTICS;
    int given = net->weight_decay[k] == net->weight_decay[k];
    Elements e = elements(net, job);
    Terms t = terms(theta, net->offset, m, context, net->root[k], given);
    memset(sums, 0, STATISTICS * sizeof *sums);
    if (net->is_matrix[k]) {
        e.momentum = room;
        e.momentum_stride = orthogonalise_stride(e.length);
        moments(&e, &t);
        weigh(&e);
        orthogonalise(room, e.rows, e.length, job->tall);
        weigh(&e);
        advance(&e, &t, sums);
    } else
        advance_vector(&e, &t, sums);
}

/* Sums of the second moments over the rows of a job, of the tensor whose columns are weighed */
static void sum_columns(const Net *net, int64_t j, float *room)
{
    const Job *job = net->jobs + j;
    (void)room;
    if (job->tensor != net->equalised)
        return;
    Elements e = elements(net, job);
    float *sums = net->column_sums + (j - net->equalised_job) * net->column_stride;
    memset(sums, 0, (size_t)e.length * sizeof *sums);
    for (int64_t row = 0; row < e.rows; row++)
        for (int64_t i = 0; i < e.length; i++)
            sums[i] += e.square[row * e.stride + i];
}

/* equalise.equaliser, from what `sum_columns` has left, in the order of the jobs, so that threads change nothing */
void equalise(const Net *net)
{
    int64_t columns = net->equalised_columns, size = net->equalised_rows * columns, j = net->equalised_job;
    for (int64_t r = 0; r < net->runs; r++) {
        float *f = net->factor + r * columns, mean = 0.0f, centre = 0.0f, alive = 0.0f, spread = 0.0f;
        memset(f, 0, (size_t)columns * sizeof *f);
        for (int64_t done = 0; done < size; done += net->jobs[j].rows * net->jobs[j].length, j++)
            for (int64_t i = 0; i < net->jobs[j].length; i++)
                f[net->jobs[j].start % columns + i] +=
                    net->column_sums[(j - net->equalised_job) * net->column_stride + i] / (float)net->equalised_rows;
        for (int64_t i = 0; i < columns; i++)
            mean += f[i] / (float)columns;
        for (int64_t i = 0; i < columns; i++) {
            f[i] = f[i] > NEVER * mean ? logf(f[i] + TINIEST) / 2.0f : NAN;
            centre += f[i] == f[i] ? f[i] : 0.0f;
            alive += f[i] == f[i];
        }
        centre /= larger(alive, 1.0f);
        for (int64_t i = 0; i < columns; i++) {
            f[i] = f[i] == f[i] ? f[i] - centre : 0.0f;
            spread += f[i] * f[i];
        }
        spread = sqrtf(spread / larger(alive, 1.0f));
        float power = -EQUALISED * clamp((spread - SPREAD_LOW) / (SPREAD_HIGH - SPREAD_LOW), 0.0f, 1.0f);
        for (int64_t i = 0; i < columns; i++)
            f[i] = power < 0.0f ? expf(clamp(power * f[i], -6.0f, 6.0f)) : 1.0f;
    }
}

typedef void (*Work)(const Net *net, int64_t j, float *room);
static const Work works[] = {look, move, sum_columns};

/* Do jobs, of kind number `work`: batch number `batch`, then those that nobody has begun until there are none.
 * Where gradients have stayed zero, momenta decay until they are denormal: calculating with those takes many times as
 * long, for nothing. */
void take_jobs(const Net *net, int64_t work, int64_t batch, int64_t *next, float *room)
{
#ifdef NO_DENORMALS
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | NO_DENORMALS);
#endif
    for (; batch < net->batches; batch = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED))
        for (int64_t i = net->begin[batch]; i < net->begin[batch + 1]; i++)
            works[work](net, net->order[i], room);
#ifdef NO_DENORMALS
    _mm_setcsr(before);
#endif
}

/* All jobs, in so many threads, each with `room` floats of its own. A thread begins with the same batch in every step,
 * which its cache may still hold. */
void all_jobs(const Net *net, int64_t work, int64_t threads, float *rooms, int64_t room)
{
    int64_t next = 1;
    (void)room;
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads((int)threads)
        {
#pragma omp single
            next = omp_get_num_threads();
            take_jobs(net, work, omp_get_thread_num(), &next, rooms + omp_get_thread_num() * room);
        }
        return;
    }
#endif
    (void)threads;
    take_jobs(net, work, 0, &next, rooms);
}

/* The largest over all jobs; infinite where an element is not finite */
float largest(const Net *net)
{
    int32_t most = 0, infinite = 0x7f800000;
    for (int64_t j = 0; j < net->number; j++) {
        int32_t bits;
        memcpy(&bits, net->sums + j * STATISTICS, sizeof bits);
        most = bits > most ? bits : most;
    }
    most = most < infinite ? most : infinite;
    float size;
    memcpy(&size, &most, sizeof size);
    return size;
}

/* Gather what the jobs have seen of each tensor, in their order, so that threads change nothing. */
void end_step(const Net *net)
{
    for (int64_t j = 0; j < net->number;) {
        const Job *job = net->jobs + j;
        float now[STATISTICS] = {0}, *m = net->memory[job->tensor] + job->run * MEMORY, *s = m + AT_STATISTICS;
        for (int64_t done = 0; done < net->size[job->tensor]; done += net->jobs[j].rows * net->jobs[j].length, j++)
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
