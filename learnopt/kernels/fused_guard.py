"""Whether the Triton kernels may be used: they are tried on a small network first, once per process and device."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from learnopt import meta_network, rule
from learnopt.kernels import fused_step
from learnopt.kernels.library import SWITCH
from learnopt.layout import Layout
from learnopt.orthogonal import orthogonalise
from learnopt.rule import RuleState

DEVICES = ("cuda",)
"""Kinds of devices that the kernels are for."""
_LOG = logging.getLogger("learnopt")
_SHAPES = ((70, 20), (33,), (), (70, 20), (1500,))
_STEPS = 2
_TOLERANCES = {"params": (2e-3, 2e-5), "fast": (1e-4, 1e-6), "average": (2e-3, 2e-5), "square": (1e-4, 1e-6)}
"""Relative and absolute, as in the tests of the compiled kernel; statistics as parameters."""


def available(tensors: Sequence[Tensor]) -> bool:
    """True where the kernels can take these tensors: float32 on one CUDA device, where they do what they should."""
    devices = {t.device for t in tensors}
    if len(devices) != 1 or any(t.dtype != torch.float32 for t in tensors):
        return False
    device = devices.pop()
    return device.type in DEVICES and os.environ.get(SWITCH, "").lower() != "torch" and _trusted(device)


@lru_cache(maxsize=64)
def _trusted(device: torch.device) -> bool:
    """Whether the kernels agree with `rule` on this device; one line says why where they do not."""
    try:
        differs = difference(device)
    except ModuleNotFoundError as error:
        if error.name == "triton":  # not for this platform, or a build of torch that goes without
            return False
        differs = str(error)
    except Exception as error:  # compilers and drivers fail in many ways, and a step by torch is better than none
        differs = f"{type(error).__name__}: {error}".splitlines()[0]
    if differs is None:
        return True
    _LOG.warning(
        "learnopt does without its Triton kernels on %s (%s): steps there take longer; %s=torch silences this",
        device, differs, SWITCH,
    )  # fmt: skip
    return False


@torch.no_grad()
def difference(device: torch.device) -> str | None:
    """What the kernels make of some steps of a small random network that `rule` does not; None where they agree.

    The truth is in float64 and momenta are orthogonalised in it on both sides, so that no setting of the process, such
    as matrix products in TF32, makes a difference.
    """
    g = torch.Generator("cpu").manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64, device="cpu").float().to(device)

    layout = Layout.of(_SHAPES)
    w = meta_network.unpack(0.3 * drawn(meta_network.SIZE))
    params = [0.3 * drawn(1, *shape) for shape in _SHAPES]
    age = 20 * (torch.arange(len(_SHAPES), device=device) > 0).float()  # gradients are cut from some age on
    state = rule.init_state(layout, params)._replace(age=age)
    true, truth, precise = [p.double() for p in params], _as_type(state, torch.float64), _as_type(w, torch.float64)
    for t in range(_STEPS):
        grads = [5.0**t * drawn(1, *shape) for shape in _SHAPES]
        grads[1] = grads[1] * (t > 0)  # nothing met in the first step
        loss, horizon = truth.step.new_full((1,), 1.0 / (t + 1)), truth.step.new_tensor(10.0)
        decision, truth = rule.decide(precise, layout, truth, loss, horizon)
        is_matrix = truth.unit.new_tensor([len(shape) > 1 for shape in _SHAPES])[None]
        decision = decision._replace(  # all that happens by and by
            step_size=0.1 * truth.unit, decay=0.3 * is_matrix, given_decay=0.01 + 0 * truth.unit, pull=0.3 * is_matrix
        )
        state = state._replace(age=truth.age.float())
        true, truth = rule.move(precise, layout, true, [x.double() for x in grads], truth, decision)
        params, state = fused_step.move(w, layout, params, grads, state, _as_type(decision, torch.float32), _exact)
    return _first_difference(params, state, true, truth)


def _exact(m: Tensor) -> Tensor:
    return orthogonalise(m.double()).float()


def _as_type(values: Any, dtype: torch.dtype) -> Any:
    """The same with all tensors in it, however deep, of another precision."""
    if isinstance(values, Tensor):
        return values.to(dtype)
    if isinstance(values, dict):
        return {name: _as_type(x, dtype) for name, x in values.items()}
    parts = [_as_type(x, dtype) for x in values]
    return type(values)(*parts) if hasattr(values, "_fields") else tuple(parts)


def _first_difference(params: list[Tensor], state: RuleState, true: list[Tensor], truth: RuleState) -> str | None:
    pairs = {"params": (params, true), "statistics": ([state.statistics], [truth.statistics])}
    pairs |= {name: (getattr(state, name), getattr(truth, name)) for name in ("fast", "average", "square")}
    for name, (ours, theirs) in pairs.items():
        relative, absolute = _TOLERANCES.get(name, _TOLERANCES["params"])
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if not torch.allclose(a.double(), b, relative, absolute):
                return f"{name} of tensor {k} are off by {float((a.double() - b).abs().max()):.1e}"
    return None
