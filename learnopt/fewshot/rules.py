"""Update rules of the inner loop: pure `init` and `step` over named tensors, equal to `torch.optim`'s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Tensors by name: fast parameters, their gradients, or a rule's own slow weights."""

State = Any
"""A tree of tensors, as `vmap` wants it: no None, no numbers."""


class Rule(ABC):
    """How fast parameters move. Pure: what changes is in the state, what is learned is in `theta`.

    Attributes:
        twice_differentiable: whether a step has derivatives with respect to its gradients that are finite everywhere.
    """

    twice_differentiable: ClassVar[bool] = True

    def theta(self, params: Params) -> Params:
        """Initial values of the rule's own slow weights for these parameters; empty for a rule that learns nothing."""
        return {}

    @abstractmethod
    def init(self, params: Params) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, theta: Params, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        """One step; names, shapes and dtypes of `params` are kept.

        Args:
            theta: slow weights as from `theta`.
            grads: gradients by the names of `params`.
            loss: the loss that the gradients belong to, shape `()`.
        """

    def settings(self) -> dict[str, Any]:
        """What defines the rule, for cards and checkpoints: plain values."""
        return {"rule": type(self).__name__} | {
            k: v for k, v in vars(self).items() if isinstance(v, int | float | str | bool | None)
        }


def checked_rate(lr: float) -> float:
    """`lr` if it can be a learning rate.

    Raises:
        ValueError: it is not a positive number.
    """
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr must be a positive number, got {lr!r}")
    return float(lr)


class SGD(Rule):
    """`p -= lr * g`, with momentum as in `torch.optim.SGD`: `b = momentum * b + g`, `p -= lr * b`.

    Args:
        lr: learning rate.
        momentum: share of the old velocity that is kept.
        nesterov: step along `g + momentum * b` instead of `b` (Sutskever et al. 2013, as torch has it).
    """

    def __init__(self, lr: float, momentum: float = 0.0, nesterov: bool = False) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum!r}")
        if nesterov and not momentum:
            raise ValueError("nesterov needs a momentum above 0, got 0")
        self.lr, self.momentum, self.nesterov = checked_rate(lr), momentum, nesterov

    def init(self, params: Params) -> State:
        return {name: torch.zeros_like(p) for name, p in params.items()} if self.momentum else {}

    def step(self, theta: Params, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        if not self.momentum:
            return {name: p - self.lr * grads[name] for name, p in params.items()}, state
        state = {name: self.momentum * b + grads[name] for name, b in state.items()}
        along = {n: grads[n] + self.momentum * b for n, b in state.items()} if self.nesterov else state
        return {name: p - self.lr * along[name] for name, p in params.items()}, state


class RMSprop(Rule):
    """`s = alpha * s + (1 - alpha) * g^2`, `p -= lr * g / (sqrt(s) + eps)` (`torch.optim.RMSprop`; Hinton 2012)."""

    def __init__(self, lr: float, alpha: float = 0.99, eps: float = 1e-8) -> None:
        self.lr, self.alpha, self.eps = checked_rate(lr), alpha, eps

    def init(self, params: Params) -> State:
        return {name: torch.zeros_like(p) for name, p in params.items()}

    def step(self, theta: Params, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        state = {name: self.alpha * s + (1 - self.alpha) * grads[name] ** 2 for name, s in state.items()}
        return {n: p - self.lr * grads[n] / (_root(state[n]) + self.eps) for n, p in params.items()}, state


class Adam(Rule):
    """Bias-corrected first and second moments (`torch.optim.Adam`; Kingma and Ba 2015).

    Args:
        lr: learning rate.
        betas: decay of the two moments; Reptile's images want a first of 0.
    """

    def __init__(self, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        if not all(0 <= b < 1 for b in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas!r}")
        self.lr, (self.beta1, self.beta2), self.eps = checked_rate(lr), betas, eps

    def init(self, params: Params) -> State:
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        return {"first": zeros, "second": dict(zeros), "step": torch.zeros((), dtype=next(iter(params.values())).dtype)}

    def step(self, theta: Params, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        step = state["step"] + 1
        first = {n: self.beta1 * m + (1 - self.beta1) * grads[n] for n, m in state["first"].items()}
        second = {n: self.beta2 * v + (1 - self.beta2) * grads[n] ** 2 for n, v in state["second"].items()}
        rate, whole = self.lr / (1 - self.beta1**step), (1 - self.beta2**step).sqrt()
        params = {n: p - rate * first[n] / (_root(second[n]) / whole + self.eps) for n, p in params.items()}
        return params, {"first": first, "second": second, "step": step}


def _root(x: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0, not infinite: a parameter without a gradient must not spoil the rest."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


RULES: dict[str, type[Rule]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam}
"""Hand-designed rules by name."""
