"""Many runs of the rule advanced in place by the compiled kernel; the slow truth is `learnopt.rule.apply`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from learnopt import features, rule
from learnopt.features import LossHistory
from learnopt.kernels import library
from learnopt.layout import Layout
from learnopt.rule import RuleState

_DECISION = 6 + rule.WIDTH
_POINTERS = (
    "size", "is_matrix", "root", "share", "shape_columns", "history", "hidden", "cell", "statistics", "rms0", "unit",
    "peak", "age", "step", "columns", "decision", "param", "fast", "slow", "square", "whole", "grad",
)  # fmt: skip


class _Net(ctypes.Structure):
    _fields_ = [
        ("runs", ctypes.c_int64), ("tensors", ctypes.c_int64), ("offset", ctypes.c_void_p),
        ("theta_stride", ctypes.c_int64), ("theta", ctypes.c_void_p), *((n, ctypes.c_void_p) for n in _POINTERS),
    ]  # fmt: skip


def available(tensors: Sequence[Tensor]) -> bool:
    """True where the kernel can take these parameters: float32 on the CPU, and a compiler was there."""
    fits = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
    return fits and library.load() is not None


def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


class InPlaceRuns:
    """`N` runs whose parameters and state the kernel owns: copies of what it is given.

    Args:
        theta: meta-weights, `(SIZE,)` for all runs or `(N, SIZE)`.
        params: parameters, each `(N, *shape)`.
        state: the rule's state for them.

    Attributes:
        params: the current parameters, leaves that require gradients; every step changes them in place.
        columns: `(N, len(GLOBAL))`, what the rule saw of the runs in the last step.
    """

    def __init__(self, theta: Tensor, layout: Layout, params: list[Tensor], state: RuleState) -> None:
        loaded = library.load()
        assert loaded is not None, "ask available() first"
        self._library, self._layout = loaded, layout
        n, count = params[0].shape[0], len(params)
        self.params = [_own(p) for p in params]
        self._moments = [[_own(x) for x in moment] for moment in (state.fast, state.slow, state.square)]
        self._whole, self._groups = self._momenta(n)
        self._small = {
            name: _own(getattr(state, name))
            for name in ("hidden", "cell", "statistics", "rms0", "unit", "peak", "age")
        }  # fmt: skip
        self._small["history"], self._small["step"] = _own(torch.stack(list(state.history))), _own(state.step[None])
        self.columns = torch.zeros(n, len(features.GLOBAL))
        self._small["columns"], self._small["decision"] = self.columns, torch.zeros(n, count, _DECISION)
        sizes = [t.size for t in layout.tensors]
        self._fixed = {
            "size": torch.tensor(sizes), "is_matrix": layout.is_matrix.long(),
            "root": torch.tensor([max(t.matrix) ** 0.5 for t in layout.tensors]),
            "share": layout.sizes.sqrt() / layout.sizes.sqrt().sum(), "shape_columns": layout.columns.contiguous(),
        }  # fmt: skip
        starts = torch.tensor([0, *(a * b for a, b in rule.SHAPES.values())]).cumsum(0)[:-1]
        self._theta, self._offset = _own(theta), starts
        self._lists = {
            "param": _pointers(self.params), "whole": _pointers(self._whole),
            **{name: _pointers(m) for name, m in zip(("fast", "slow", "square"), self._moments, strict=True)},
        }  # fmt: skip
        self._grad = (ctypes.c_void_p * count)()
        tensors = {name: t.data_ptr() for name, t in (self._small | self._fixed).items()}
        arrays = {name: ctypes.addressof(a) for name, a in (self._lists | {"grad": self._grad}).items()}
        self._net = _Net(
            runs=n, tensors=count, offset=starts.data_ptr(), theta=self._theta.data_ptr(),
            theta_stride=rule.SIZE if theta.dim() == 2 and theta.shape[0] > 1 else 0, **tensors, **arrays,
        )  # fmt: skip
        for p in self.params:
            p.requires_grad_()

    def _momenta(self, n: int) -> tuple[list[Tensor | None], list[Tensor]]:
        """Room for each matrix's momentum; matrices of one shape lie side by side, to be orthogonalised together."""
        shapes: dict[tuple[int, int], list[int]] = {}
        for k, t in enumerate(self._layout.tensors):
            if t.is_matrix:
                shapes.setdefault(t.matrix, []).append(k)
        whole: list[Tensor | None] = [None] * len(self._layout.tensors)
        groups = []
        for (rows, columns), members in shapes.items():
            group = torch.zeros(len(members) * n, rows, columns)
            groups.append(group)
            for i, k in enumerate(members):
                whole[k] = group[i * n : (i + 1) * n]
        return whole, groups

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor | None], loss: Tensor | None, horizon: float) -> None:
        """One step of all runs; entries of gradients that are not finite count as 0, so do missing gradients."""
        dense = [torch.zeros_like(p) if g is None else g.contiguous() for g, p in zip(grads, self.params, strict=True)]
        self._grad[:] = [g.data_ptr() for g in dense]
        told = None if loss is None else loss.detach().contiguous()
        self._library.begin_step(ctypes.byref(self._net), None if told is None else told.data_ptr(), horizon)
        for group in self._groups:
            group.copy_(rule.orthogonalise(group))
        self._library.end_step(ctypes.byref(self._net))

    def state(self) -> RuleState:
        """The rule's state now; shares memory with the runs."""
        s = self._small
        fast, slow, square = (tuple(m) for m in self._moments)
        return RuleState(
            fast, slow, square, s["hidden"], s["cell"], s["statistics"], s["rms0"], s["unit"], s["peak"], s["age"],
            LossHistory(*s["history"].unbind(0)), s["step"][0],
        )  # fmt: skip


def _own(x: Tensor) -> Tensor:
    return x.detach().to(torch.float32).contiguous().clone(memory_format=torch.contiguous_format)
