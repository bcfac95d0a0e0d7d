"""Muon for hidden matrices and convolutions, AdamW for everything else [Jordan et al. 2024].

Torch's `adjust_lr_fn="match_rms_adamw"` gives Muon's update the RMS of AdamW's [Liu et al. 2025, arXiv:2502.16982],
which makes one rate about right for both; tuned, AdamW's rate is searched for as a multiple of Muon's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learnopt.baselines.base import Baseline, Settings, Space, Stepper


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """`(for Muon, for AdamW)`: hidden matrices go to Muon; embeddings, first, last and vectors do not."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2 and id(p) not in embeddings]
    # an embedding is a first layer already
    hidden = {id(p) for p in (matrices[:-1] if embeddings else matrices[1:-1])}
    return [p for p in parameters if id(p) in hidden], [p for p in parameters if id(p) not in hidden]


class MuonHybrid(Stepper):
    """Torch's Muon sees convolutions as matrices (outputs x rest): views that share the parameters' storage."""

    def __init__(self, model: nn.Module, settings: Settings, total_steps: int) -> None:
        self._hidden, rest = split(model)
        self._views: list[Tensor] = [p.detach().view(p.shape[0], -1) for p in self._hidden]
        optimizers: list[torch.optim.Optimizer] = []
        if self._views:
            optimizers.append(
                torch.optim.Muon(self._views, lr=settings.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            )
        if rest:
            optimizers.append(torch.optim.AdamW(rest, lr=settings.lr * (settings.rest or 1.0)))
        super().__init__(optimizers, settings.schedule, total_steps)

    def step(self, loss: Tensor) -> None:
        """Update the parameters from their gradients."""
        for parameter, view in zip(self._hidden, self._views, strict=True):
            view.grad = None if parameter.grad is None else parameter.grad.reshape(view.shape)
        super().step(loss)


def _make(model: nn.Module, settings: Settings, total_steps: int, weights: str) -> Stepper:
    return MuonHybrid(model, settings, total_steps)


BASELINES = [
    Baseline("muon", "Muon hybrid tuned", _make, None, Space(hybrid=True), slow=True),
    Baseline("muon_default", "Muon hybrid default", _make, Settings(1e-3), slow=True),
]
