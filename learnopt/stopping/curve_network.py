"""The network behind the learned stopper: an LSTM reads a curve, a small MLP answers questions about its future."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learnopt.stopping.curve_features import COLUMNS, QUERY

HIDDEN = 32
WIDTH = 32


class CurveNetwork(nn.Module):
    """Answers, at any moment of a curve, how likely its best value still improves by more than an amount.

    After the idea of LC-PFN (Adriaensen et al. 2023), with a recurrent network of 11 thousand numbers in the place of a
    Transformer: it has learned from recorded curves what usually comes next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.LSTM(len(COLUMNS), HIDDEN, batch_first=True)
        inner = HIDDEN + len(COLUMNS)
        self.pays = nn.Sequential(
            nn.Linear(inner + len(QUERY), WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 1)
        )
        self.when = nn.Sequential(nn.Linear(inner, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 1))

    def read(
        self, columns: Tensor, memory: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read `(N, T, len(COLUMNS))`; returns what is known at every moment, `(N, T, ...)`, and the memory."""
        hidden, memory = self.reader(columns, memory)
        return torch.cat([hidden, columns], -1), memory

    def answer(self, known: Tensor, query: Tensor) -> Tensor:
        """Log-odds that the best value improves by more than asked, `(..., Q)`, from `(..., Q, len(QUERY))`."""
        each = known.unsqueeze(-2).expand(*query.shape[:-1], known.shape[-1])
        return self.pays(torch.cat([each, query], -1))[..., 0]  # type: ignore[no-any-return]

    def time(self, known: Tensor) -> Tensor:
        """Log-odds form of the share of the remaining run after which the best value comes, `(...)`."""
        return self.when(known)[..., 0]  # type: ignore[no-any-return]
