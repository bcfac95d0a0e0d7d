"""The network behind the learned pruner: is a trial worth its remaining steps?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learnopt.stopping import neighbours, peer_features
from learnopt.stopping.curve_features import CurveState, query
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.neighbours import Neighbours
from learnopt.stopping.peer_features import Peers

WIDTH = 48
SHARES = (1.0, 0.5, 2.0, 4.0)
"""The curve network is asked for these multiples of what a trial must still gain."""
INPUTS = len(peer_features.COLUMNS) + len(SHARES) + len(neighbours.COLUMNS)


class PeerNetwork(nn.Module):
    """An MLP over a trial's standing among its peers, its parameters and what the curve network makes of its curve."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 1)
        )

    def forward(self, columns: Tensor) -> Tensor:
        """Log-odds, `(...)`, from `(..., inputs)`."""
        return self.layers(columns)[..., 0]  # type: ignore[no-any-return]

    @torch.no_grad()
    def shift(self, odds: float) -> None:
        """Add to all log-odds."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.bias.add_(odds)


@torch.no_grad()
def inputs(
    curve: CurveNetwork, known: Tensor, state: CurveState, peers: Peers, near: Neighbours | None, horizon: float
) -> Tensor:
    """What `PeerNetwork` reads at `T` moments of one trial, `(T, INPUTS)`.

    Args:
        known: what the curve network knows at these moments, `(T, ...)`.
        near: the trial's parameters beside its peers'; None where they are not told.
    """
    need = peer_features.amounts(state.best, peers).clamp_min(1e-30)
    asked = need[:, None] * torch.tensor(SHARES, dtype=torch.float64)
    own = curve.answer(known, query(state, asked)).clamp(-12, 12) / 4
    standing = peer_features.columns(state, peers, horizon)
    return torch.cat([standing, own, neighbours.columns(state.best, need, peers, near)], 1)
