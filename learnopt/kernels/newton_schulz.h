/* The iterations of learnopt/orthogonal.py, for a file that has defined two types and goes on to define what is declared
 * here: Square, a symmetric matrix (m, m), and Block, with m, n, tall, the block x and the squares a, p, q, next. */
#include <math.h>

enum { FIRST = 1, SECOND = 2, APPLIED = 4 }; /* what a result is wanted as: which factor, or what the block is to meet */

/* The Gram matrix of the block; its trace */
static float squares(const Block *o);
/* a = that matrix times a number */
static void take(const Block *o, float by);
/* c = weight * (a b) + share * a + diagonal * 1; all are polynomials of one matrix: they commute, c is symmetric */
static void combine(const Block *o, const Square *a, const Square *b, float weight, float share, float diagonal, int uses,
                    const Square *c);
static void copy(const Block *o, const Square *from, const Square *to);
/* x = q x, or x q where it is tall */
static void apply(const Block *o, const Square *q);

#define TINIEST 1e-37f
#define LEAST 1e-20f /* traces within these bounds have neither lost much nor overflown */
#define MOST 1e30f

static const float polynomials[][3] = NEWTON_SCHULZ;
enum { STEPS = sizeof polynomials / sizeof *polynomials };
_Static_assert(STEPS > 1, "the last product carries the scale");

/* p = c1 + c3 a + c5 a a, times `by`: what multiplies the block in one step, for its Gram matrix a */
static void polynomial(const Block *o, int step, float by, int uses)
{
    const float *c = polynomials[step];
    combine(o, &o->a, &o->a, by * c[2], by * c[1], by * c[0], uses, &o->p);
}

/* Step by step; a is the Gram matrix of the block divided by its trace. */
static void iterate(Block *o, float trace)
{
    for (int step = 0; step < STEPS; step++) {
        polynomial(o, step, step == 0 ? 1.0f / sqrtf(trace) : 1.0f, APPLIED);
        apply(o, &o->p);
        if (step < STEPS - 1) {
            squares(o);
            take(o, 1.0f);
        }
    }
}

/* On the Gram matrix alone */
static void compose(Block *o, float trace)
{
    for (int step = 0; step < STEPS; step++) {
        int last = step == STEPS - 1;
        polynomial(o, step, 1.0f, step == 0 ? FIRST | SECOND : SECOND);
        if (step == 0)
            copy(o, &o->p, &o->q);
        else {
            combine(o, &o->q, &o->p, last ? 1.0f / sqrtf(trace) : 1.0f, 0.0f, 0.0f, last ? APPLIED : FIRST, &o->next);
            Square now = o->next;
            o->next = o->q, o->q = now;
        }
        if (!last) {
            combine(o, &o->a, &o->p, 1.0f, 0.0f, 0.0f, FIRST, &o->next);
            combine(o, &o->next, &o->p, 1.0f, 0.0f, 0.0f, FIRST | SECOND, &o->a);
        }
    }
    apply(o, &o->q);
}

static float largest(int64_t size, const float *x)
{
    float most = 0.0f;
    for (int64_t i = 0; i < size; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

static void orthogonalise_block(Block *o, int near_square)
{
    float trace = squares(o);
    if (!(trace > LEAST && trace < MOST)) {
        float by = 1.0f / (largest(o->m * o->n, o->x) + TINIEST);
        for (int64_t i = 0; i < o->m * o->n; i++)
            o->x[i] *= by;
        trace = squares(o);
        if (!(trace > 0.0f))
            return; /* nothing but zeros */
    }
    take(o, 1.0f / trace);
    (near_square ? iterate : compose)(o, trace);
}
