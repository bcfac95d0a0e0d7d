"""Orthogonal directions of momenta, after Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64
"""Rows of a matrix that are made orthogonal to each other at most at once."""
POLYNOMIALS = ((3.4445, -4.7750, 2.0315),) * 5
"""Newton-Schulz iterations (Jordan et al. 2024): singular values s become a s + b s^3 + c s^5."""
NEAR_SQUARE = 1.5
"""Columns by rows up to which the block itself is iterated, which costs no more and rounds less."""
_TINY = 1e-37


def block_rows(shorter: int) -> int:
    """Rows of each block, the last one excepted, of a matrix with so many rows or columns on its shorter side."""
    return -(-shorter // max(-(-shorter // BLOCK), 1))


def orthogonalise(m: Tensor) -> Tensor:
    """Orthogonal directions of matrices `(N, rows, columns)`: in blocks of at most `BLOCK` of the shorter side, each
    brought near the closest semi-orthogonal matrix by Newton-Schulz iterations.

    In blocks the cost of a step grows with the number of parameters, not with the cube of the width.
    """
    tall = m.shape[-2] > m.shape[-1]
    x = m.mT if tall else m
    n, rows, columns = x.shape
    each = block_rows(rows)
    blocks = -(-rows // max(each, 1))
    if blocks > 1:
        padded = torch.nn.functional.pad(x, (0, 0, 0, blocks * each - rows))
        x = _newton_schulz(padded.reshape(n * blocks, each, columns)).reshape(n, blocks * each, columns)[:, :rows]
    else:
        x = _newton_schulz(x)
    return x.mT if tall else x


def _newton_schulz(x: Tensor) -> Tensor:
    """The iteration on wide matrices. All iterates are polynomials of the Gram matrix times the first: but for matrices
    near square only the polynomial is iterated, the same arithmetic except for rounding in a fraction of the time."""
    largest = x.abs().amax((-2, -1), keepdim=True)  # first by the largest entry: squares neither over- nor underflow
    x = x / (largest + _TINY)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.shape[-1] <= NEAR_SQUARE * x.shape[-2]:
        for first, third, fifth in POLYNOMIALS:
            a = x @ x.mT
            b = torch.baddbmm(a, a, a, beta=third, alpha=fifth)
            x = torch.baddbmm(x, b, x, beta=first)
        return x
    a, identity = x @ x.mT, torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    polynomial = identity
    for first, third, fifth in POLYNOMIALS:
        p = torch.baddbmm(a, a, a, beta=third, alpha=fifth) + first * identity
        polynomial, a = p @ polynomial, p @ a @ p
    return polynomial @ x
