"""What the tests of the integrations share: data, meta-weights that want to stop, and the plain loop as the truth."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from optimizer_toy import network
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from learnopt import LearnedOptimizer, artifact, memory, meta_network, stop_head


def data(rows: int = 48) -> TensorDataset:
    g = torch.Generator().manual_seed(5)
    x = torch.randn(rows, 5, generator=g)
    return TensorDataset(x, torch.sin(2 * x[:, :2]))


def loader(rows: int = 48, batch: int = 8) -> DataLoader[tuple[Tensor, ...]]:
    """Batches in a fixed order."""
    return DataLoader(data(rows), batch_size=batch)


def impatient_weights(folder: Path) -> str:
    """Meta-weights whose stop head wants to stop as soon as it may: after 20 losses."""
    theta = meta_network.initial_theta(torch.Generator().manual_seed(1))
    head = {k: torch.zeros(s) for k, s in stop_head.SHAPES.items()}
    head["out_bias"] += 10
    return str(artifact.save(folder / "impatient.safetensors", theta, head, {"name": "impatient"}))


def plain_loop(
    batches: Sequence[Sequence[tuple[Tensor, Tensor]]], steps: int | None, *, share: int | None = None,
    clip: float | None = None, cast: AbstractContextManager[object] | None = None,
    scaler: torch.amp.GradScaler | None = None, tell: bool = True,
) -> tuple[nn.Module, LearnedOptimizer]:  # fmt: skip
    """The truth: a loop in plain torch, one step for each list of micro-batches, told their mean loss.

    Args:
        share: a micro-batch's gradient is divided by it; None: by their number.
    """
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), total_steps=steps)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for micro_batches in batches:
        losses = []
        optimizer.zero_grad()
        for x, y in micro_batches:
            with cast or nullcontext():
                losses.append(functional.mse_loss(model(x), y))
            scaler.scale(losses[-1] / (share or len(micro_batches))).backward()
        scaler.unscale_(optimizer)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(optimizer, loss=torch.stack(losses).detach().float().mean() if tell else None)
        scaler.update()
    return model, optimizer


def in_groups(count: int, epochs: int = 1) -> list[list[tuple[Tensor, Tensor]]]:
    """The loader's batches, `count` to a step; an epoch's last step takes what is left."""
    rows = [tuple(b) for b in loader()]
    return [rows[i : i + count] for _ in range(epochs) for i in range(0, len(rows), count)]  # type: ignore[misc]


def losses_told(optimizer: LearnedOptimizer) -> int:
    """How many losses have reached the optimizer."""
    packed = next(s["run"] for s in optimizer.state.values() if "run" in s)
    return int(memory.read_run(packed).history.number)
