/* Intel's AMX unit, where the processor has one and the system lends it: learnopt/orthogonal.py for a block. */
#pragma once
#include <stdint.h>

/* Floats of room that it needs behind the block. */
int64_t amx_room(int64_t m);

/* Whether it has done the work of `orthogonalise` on the block, padded already, of m rows to become orthogonal to each
 * other and n columns; the other way round where it is tall. Smaller ones are left to others. */
int amx_orthogonalise(int64_t m, int64_t n, int64_t tall, int near_square, float *x, float *room);

/* Whether it is used: where it is there, granted and allowed, as it is at first. `amx_allow` is for the whole process. */
int64_t amx_used(void);
void amx_allow(int64_t allowed);
