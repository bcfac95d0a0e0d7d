#include <stdint.h>

/* A block lies in rows of orthogonalise_stride(length) numbers; what pads them, and rows behind, is free to be used. */
int64_t orthogonalise_stride(int64_t length);

/* Floats of room for a block of this shape, and for what `orthogonalise` needs behind it. */
int64_t orthogonalise_room(int64_t rows, int64_t length);

/* Replace the block by the nearest semi-orthogonal one, to Newton-Schulz precision: learnopt/orthogonal.py in place.
 * `tall`: its columns are to become orthogonal to each other, otherwise its rows. */
void orthogonalise(float *block, int64_t rows, int64_t length, int64_t tall);
