"""What can be said of a training problem before it is trained: meta-features of task, model and first gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

VERSION = 1
SIGN_STEPS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Lengths of trial steps along the sign of the gradient, Adam's first direction, in units of a learning rate."""
GRADIENT_STEPS = (1e-3, 1e-2, 1e-1, 1.0)
"""Lengths of trial steps along the gradient."""
BATCHES = 6
"""Training batches that the features are measured on."""
CAP = 6.0
"""Log ratios of losses are clipped here."""

NAMES: tuple[str, ...] = (
    "log_parameters", "log_tensors", "share_vectors", "share_convolutions", "share_embeddings", "normalised",
    "log_fan_in", "log_rms", "log_rms_least", "log_rms_most", "log_batch", "log_steps", "log_epochs", "epochs_known",
    "log_loss", "loss_spread", "log_relative_gradient", "log_gradient", "gradient_agreement", "gradient_zeros",
    *(f"sign_response_{s:g}" for s in SIGN_STEPS), *(f"gradient_response_{s:g}" for s in GRADIENT_STEPS),
)  # fmt: skip

Loss = Callable[[nn.Module, Any], Tensor]


def _log(x: float) -> float:
    return math.log(min(max(x, 1e-12), 1e12)) if math.isfinite(x) else 0.0


def _shape_features(model: nn.Module, params: list[Tensor]) -> list[float]:
    total = sum(p.numel() for p in params)
    embedded = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    matrices = [p for p in params if p.dim() >= 2]
    rms = [float(p.square().mean().sqrt()) for p in params if p.dim() >= 2 or not matrices]
    rms = [r for r in rms if r > 0] or [1.0]
    fans = [p[0].numel() for p in matrices] or [1]
    normalised = any("Norm" in type(m).__name__ for m in model.modules())
    return [
        _log(total), _log(len(params)), sum(p.numel() for p in params if p.dim() < 2) / total,
        sum(p.numel() for p in params if p.dim() > 2) / total, embedded / total, float(normalised),
        sum(map(_log, fans)) / len(fans), sum(map(_log, rms)) / len(rms), _log(min(rms)), _log(max(rms)),
    ]  # fmt: skip


def first_tensor(batch: Any) -> Tensor | None:
    """The first tensor in a batch of any nesting of tuples, lists and mappings; None if there is none."""
    if isinstance(batch, Tensor):
        return batch
    values = batch.values() if hasattr(batch, "values") else batch if isinstance(batch, list | tuple) else ()
    return next((t for t in map(first_tensor, values) if t is not None), None)


def rows_of(batch: Any) -> int:
    """Number of rows of a batch; 0 where it cannot be told."""
    tensor = first_tensor(batch)
    return int(tensor.shape[0]) if tensor is not None and tensor.dim() else 0


def _response(
    model: nn.Module, params: list[Tensor], directions: list[Tensor], lengths: Sequence[float],
    probe: Callable[[nn.Module], float], before: float,
) -> list[float]:  # fmt: skip
    """Log ratio of the loss after a trial step to that before, per length; the parameters are put back."""
    found = []
    start = [p.detach().clone() for p in params]
    for length in lengths:
        with torch.no_grad():
            for p, p0, d in zip(params, start, directions, strict=True):
                p.copy_(p0 - length * d)
            after = probe(model)
        ratio = after / before if before > 0 and after > 0 else 1.0 + (after - before) / (abs(before) + 1e-12)
        found.append(min(max(math.log(max(ratio, 1e-3)), -CAP), CAP) if math.isfinite(ratio) else CAP)
    with torch.no_grad():
        for p, p0 in zip(params, start, strict=True):
            p.copy_(p0)
    return found


def meta_features(model: nn.Module, loss: Loss, batches: Sequence[Any], *, steps: int, rows: int = 0) -> list[float]:
    """The features of `NAMES`, all finite.

    Args:
        model: freshly initialised; left as found.
        loss: `(model, batch) -> ()`.
        batches: at least one training batch; half of them give the gradient, the others judge trial steps along it.
        steps: planned length of a full run.
        rows: number of training rows; 0: unknown.

    Raises:
        ValueError: the model has no parameters that train, or the loss has no gradient, or a sparse one.
    """
    model = copy.deepcopy(model).train()
    params: list[Tensor] = [p for p in model.parameters() if p.requires_grad and p.numel()]
    if not params:
        raise ValueError("the model has no trainable parameters")
    values, grads = _gradients(model, loss, params, batches)
    mean = [torch.stack(g).mean(0) for g in zip(*grads, strict=True)]
    norm2 = sum(float(g.square().sum()) for g in mean)
    each2 = sum(float(x.square().sum()) for g in grads for x in g) / len(grads)
    size2 = sum(float(p.detach().square().sum()) for p in params)
    level = sum(values) / len(values)
    spread = torch.tensor(values).std(correction=0).item() / (abs(level) + 1e-12)
    zeros = sum(int((x == 0).sum()) for x in mean) / sum(x.numel() for x in mean)
    batch = rows_of(batches[0])
    epochs = steps * batch / rows if rows else 0.0
    judges = batches[1::2] or batches

    def probe(m: nn.Module) -> float:
        return sum(float(loss(m, b)) for b in judges) / len(judges)

    with torch.no_grad():
        before = probe(model)
    relative = math.sqrt(norm2 * size2) / (abs(level) + 1e-12)
    found = [
        *_shape_features(model, [p.detach() for p in params]),
        *(_log(batch), _log(steps), _log(epochs) if epochs else 0.0, float(epochs > 0)),
        *(_log(abs(level)), min(spread, 10.0), _log(relative)),
        *(_log(math.sqrt(norm2 / sum(p.numel() for p in params))), norm2 / each2 if each2 > 0 else 0.0, zeros),
        *_response(model, params, [g.sign() for g in mean], SIGN_STEPS, probe, before),
        *_response(model, params, mean, GRADIENT_STEPS, probe, before),
    ]
    return [x if math.isfinite(x) else 0.0 for x in found]


def _gradients(
    model: nn.Module, loss: Loss, params: list[Tensor], batches: Sequence[Any]
) -> tuple[list[float], list[list[Tensor]]]:
    """Losses of all batches, and gradients of every second one."""
    values, grads = [], []
    for i, batch in enumerate(batches):
        value = loss(model, batch)
        values.append(float(value.detach()))
        if i % 2 == 0:
            if not value.requires_grad:
                raise ValueError("the loss does not depend on the model's parameters")
            found = torch.autograd.grad(value, params, allow_unused=True)
            if any(g is not None and g.is_sparse for g in found):
                raise ValueError("the model has sparse gradients, which are not supported: build it with sparse=False")
            grads.append([
                torch.zeros_like(p) if g is None else g.nan_to_num(0.0, 0.0, 0.0)
                for g, p in zip(found, params, strict=True)
            ])  # fmt: skip
    return values, grads
