"""The usual step of `LearnedOptimizer` with as little around the kernel as can be.

It takes parameters that are plain float32 on the CPU and have been stepped before; buffers are kept from step to step,
addresses are not: whatever was loaded or replaced in between is found anew. All else is `inner_step`'s.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from learnopt import memory
from learnopt.inner_step import MOMENTS
from learnopt.kernels import in_place, library
from learnopt.layout import Layout

KEPT = 1 << 24
"""Parameters up to which buffers are kept between steps; those of larger networks are worth more than their making."""
_SETS = 8
"""Sets of parameters whose buffers are kept: gradients may be missing in turns."""
_SKIPPED = memory.RUN_FIELDS.index("skipped")


class QuickSteps:
    """The kernel's buffers for the sets of parameters that one optimizer steps."""

    def __init__(self) -> None:
        self._bound: dict[tuple[int, ...], _Bound] = {}

    def step(
        self, params: Sequence[Tensor], states: Sequence[Mapping[str, Tensor]], groups: Sequence[dict[str, Any]],
        loss: Tensor | None, horizon: float, run: Tensor, meta: Mapping[str, Any], limit: float,
    ) -> bool:  # fmt: skip
        """Take the step, or count it as skipped where a gradient or the loss is not finite.

        Args:
            loss: `(1,)` or None.
            horizon: told number of steps, 0 for unknown.
            run: `(RUN_SIZE,)`, changed in place like parameters and states.
            meta: `theta`, and the weights of the stop head in `stop` or None there.
            limit: elements of gradients may not be larger.

        Returns:
            False if nothing was done because something does not fit.
        """
        grads = [p.grad for p in params]
        tensors = [x for state in states for x in (*(state[name] for name in MOMENTS), state["memory"])]
        key = (torch.get_num_threads(), *map(id, params))
        bound = self._bound.get(key)
        if not all(map(_simple, (*params, *grads))) or library.load() is None:
            return False
        known = bound is not None and bound.knows(tensors, run)
        if not known and not all(map(_simple, (*tensors, run))):
            return False
        shapes = [p.shape for p in params]
        if bound is None or bound.shapes != shapes:
            bound, known = _Bound(params, meta["theta"]), False
        if shapes != [g.shape for g in grads if g is not None] or not (known or bound.point(tensors, run)):
            return False
        if bound.size <= KEPT:
            while len(self._bound) >= _SETS and key not in self._bound:
                self._bound.pop(next(iter(self._bound)))
            self._bound[key] = bound
        signed = [-g if group["maximize"] else g for g, group in zip(grads, groups, strict=True) if g is not None]
        largest = bound.net.largest(signed)
        told = None if loss is None else loss.float()
        if not math.isfinite(largest) or (told is not None and not math.isfinite(float(told))):
            run[_SKIPPED] += 1
            return True
        if max(largest, 0.0 if told is None else abs(float(told))) > limit:
            return False
        bound.take(groups)
        bound.net.move(told, horizon)
        if meta["stop"] is not None:
            bound.net.follow(meta["stop"])
        torch.autograd.graph.increment_version(params)  # so that autograd notices, as after any in-place change
        return True


class _Bound:
    """Buffers for one set of parameters."""

    def __init__(self, params: Sequence[Tensor], theta: Tensor) -> None:
        self.params = tuple(params)  # alive, so that nobody else gets their ids
        self.shapes = [p.shape for p in params]
        layout, n = Layout.of(self.shapes), len(params)
        self.size = sum(p.numel() for p in params)
        self._options = in_place.Options(theta.new_ones(n), theta.new_full((n,), math.nan))
        self._set: list[float] = []
        self._known: Sequence[Tensor] = ()
        self._places: Sequence[int] = ()
        self.net = in_place.InPlaceNet(theta, layout, 1, self._options)

    def knows(self, tensors: Sequence[Tensor], run: Tensor) -> bool:
        """Whether parameters, states (`moments, memory` of one after the other) and run are where they were."""
        there = (*tensors, run)
        same = len(self._known) == len(there) and all(map(operator.is_, there, self._known))
        return same and self._places == [x.data_ptr() for x in (*self.params, *there)]

    def point(self, tensors: Sequence[Tensor], run: Tensor) -> bool:
        """Point the kernel at things where they are now; False where shapes do not fit or memory was given back."""
        each, places = len(MOMENTS) + 1, [x.data_ptr() for x in (*self.params, *tensors, run)]
        moments = in_place.Moments(*(tensors[i::each] for i in range(len(MOMENTS))))
        if 0 in places or any([x.shape for x in moment] != self.shapes for moment in moments):
            return False
        self.net.point(tensors[len(MOMENTS) :: each], run, self.params, moments)
        self._known, self._places = (*tensors, run), places
        return True

    def take(self, groups: Sequence[dict[str, Any]]) -> None:
        """Tell the kernel what users have set, as it is now."""
        given = [math.nan if g["weight_decay"] is None else float(g["weight_decay"]) for g in groups]
        options = [float(g["lr"]) for g in groups] + given
        if options != self._set:  # also when NaN is among them: equal only as the same object
            for target, values in zip(self._options, (options[: len(groups)], given), strict=True):
                target.copy_(target.new_tensor(values))
            self._set = options


def _simple(x: Tensor | None) -> bool:
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.dtype is torch.float32  # type: ignore[union-attr]
        and x.layout is torch.strided  # type: ignore[union-attr]
        and x.is_cpu  # type: ignore[union-attr]
        and x.is_contiguous()  # type: ignore[union-attr]
        and not x.is_neg()  # type: ignore[union-attr]
    )
