#include <stdint.h>

/* Floats of room that `orthogonalise` needs for a matrix of this shape. */
int64_t orthogonalise_room(int64_t rows, int64_t columns);

/* Replace a matrix by the nearest semi-orthogonal one, to Newton-Schulz precision: learnopt/orthogonal.py in place. */
void orthogonalise(float *matrix, int64_t rows, int64_t columns, float *room);
