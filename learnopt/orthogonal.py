"""Orthogonal directions of momenta, after Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64
"""Rows of a matrix that are made orthogonal to each other at once."""
_TINY = 1e-37


def orthogonalise(m: Tensor) -> Tensor:
    """Orthogonal directions of matrices `(N, rows, columns)`: in blocks of at most `BLOCK` of the shorter side, each
    brought near the closest semi-orthogonal matrix by 5 Newton-Schulz iterations (Jordan et al. 2024).

    In blocks the cost of a step grows with the number of parameters, not with the cube of the width.
    """
    largest = m.abs().amax((-2, -1), keepdim=True)  # first by the largest entry: squares neither over- nor underflow
    x = m / (largest + _TINY)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    n, rows, columns = x.shape
    blocks = -(-rows // BLOCK)
    each = -(-rows // max(blocks, 1))
    if blocks > 1:
        padded = torch.nn.functional.pad(x, (0, 0, 0, blocks * each - rows))
        x = _newton_schulz(padded.reshape(n * blocks, each, columns)).reshape(n, blocks * each, columns)[:, :rows]
    else:
        x = _newton_schulz(x)
    return x.mT if tall else x


def _newton_schulz(x: Tensor) -> Tensor:
    """The iteration on wide matrices. All iterates are polynomials of the Gram matrix times the first; where that is
    small, only the polynomial is iterated: the same arithmetic, except for rounding, in a fraction of the time."""
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.shape[-1] <= 2 * x.shape[-2]:
        for _ in range(5):
            a = x @ x.mT
            b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
            x = torch.baddbmm(x, b, x, beta=3.4445)
        return x
    a, identity = x @ x.mT, torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    polynomial = identity
    for _ in range(5):
        p = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315) + 3.4445 * identity
        polynomial, a = p @ polynomial, p @ a @ p
    return polynomial @ x
