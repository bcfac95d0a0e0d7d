"""The network behind the learned pruner: is this trial going to be the best of its study?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learnopt.stopping import peer_features
from learnopt.stopping.curve_features import CurveState, query
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.peer_features import Peers

WIDTH = 48


class PeerNetwork(nn.Module):
    """An MLP over a trial's standing among its peers and what the curve network makes of its own curve."""

    def __init__(self) -> None:
        super().__init__()
        inputs = len(peer_features.COLUMNS) + 1
        self.layers = nn.Sequential(
            nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 1)
        )

    def forward(self, columns: Tensor) -> Tensor:
        """Log-odds, `(...)`, from `(..., inputs)`."""
        return self.layers(columns)[..., 0]  # type: ignore[no-any-return]


@torch.no_grad()
def inputs(curve: CurveNetwork, known: Tensor, state: CurveState, peers: Peers, horizon: float) -> Tensor:
    """What `PeerNetwork` reads at `T` moments of one trial, `(T, inputs)`.

    Args:
        known: what the curve network knows at these moments, `(T, ...)`.
    """
    need = peer_features.amounts(state.best, peers).clamp_min(1e-30)[:, None]
    own = curve.answer(known, query(state, need)).clamp(-12, 12) / 4
    return torch.cat([peer_features.columns(state, peers, horizon), own], 1)
