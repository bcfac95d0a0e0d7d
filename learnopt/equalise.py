"""What the directions in the first matrix's columns are multiplied by, where its inputs are of very different scales.

The gradient of a column is proportional to its input: raw inputs, say 0.01 to 1,000, ask for steps as different. Half
the way to what standardised inputs would give (LeCun et al. 1998, Efficient BackProp).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learnopt.layout import Layout

EQUALISED = 0.5
"""Directions in the first matrix's columns are multiplied by the root of their mean squared gradient to minus this
power, before orthogonalisation and after."""
SPREAD = (0.7, 1.4)
"""Standard deviations of the logarithms of those roots: up to the first, as standardised inputs have it, nothing is
equalised, from the second on all is."""
NEVER = 1e-12
"""Columns with less than this share of the average column's squared gradient are left out: inputs that are always 0."""
_TINY = 1e-37


def equaliser(square: Tensor) -> Tensor:
    """Factors of the columns, `(N, columns)`, geometric mean 1, from second moments so far, `(N, rows, columns)`."""
    seen = square.mean(1)
    alive = seen > NEVER * seen.mean(-1, keepdim=True)
    number = alive.sum(-1, keepdim=True).clamp_min(1)
    log = torch.where(alive, (seen + _TINY).log() / 2, torch.zeros_like(seen))
    centred = torch.where(alive, log - log.sum(-1, keepdim=True) / number, torch.zeros_like(seen))
    spread = (centred.square().sum(-1, keepdim=True) / number + _TINY).sqrt()
    low, high = SPREAD
    return (-EQUALISED * ((spread - low) / (high - low)).clamp(0, 1) * centred).clamp(-6, 6).exp()


def column_factors(layout: Layout, square: Sequence[Tensor]) -> Tensor | None:
    """`equaliser` of the layout's equalised tensor, from the second moments of all, `(N, *shape)` each; None where
    there is no such tensor."""
    if layout.equalised is None:
        return None
    own = square[layout.equalised]
    return equaliser(own.reshape(len(own), *layout.tensors[layout.equalised].matrix))
