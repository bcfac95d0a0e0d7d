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
                      .square = net->square[k] + at};
}

/* The largest size of an element of a job's gradient, as bits: those of infinity, or more, where one is not finite */
static void look(const Net *net, int64_t j, float *room)
{
    const Job *job = net->jobs + j;
    Elements e = elements(net, job);
    int32_t most = 0;
    (void)room;
    for (int64_t row = 0; row < e.rows; row++) {
        const float *grad = e.grad + row * e.stride;
        for (int64_t i = 0; i < e.length; i++) {
            int32_t bits;
            memcpy(&bits, grad + i, sizeof bits);
            bits &= INT32_MAX;
            most = bits > most ? bits : most;
        }
    }
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
        orthogonalise(room, e.rows, e.length, job->tall);
        advance(&e, &t, sums);
    } else
        advance_vector(&e, &t, sums);
}

/* Do jobs that nobody has begun until there are none: those of the first or the second kind. Where gradients have
 * stayed zero, momenta decay until they are denormal: calculating with those takes many times as long, for nothing. */
void take_jobs(const Net *net, int64_t moves, int64_t *next, float *room)
{
#ifdef NO_DENORMALS
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | NO_DENORMALS);
#endif
    for (int64_t i; (i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < net->number;)
        (moves ? move : look)(net, net->order[i], room);
#ifdef NO_DENORMALS
    _mm_setcsr(before);
#endif
}

/* All jobs, in so many threads, each with `room` floats of its own. */
void all_jobs(const Net *net, int64_t moves, int64_t threads, float *rooms, int64_t room)
{
    int64_t next = 0;
    (void)room;
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads((int)threads)
        take_jobs(net, moves, &next, rooms + omp_get_thread_num() * room);
        return;
    }
#endif
    (void)threads;
    take_jobs(net, moves, &next, rooms);
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
