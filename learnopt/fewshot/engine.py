"""The inner loop: fast parameters moved by a rule, for one task or for many at once, differentiable throughout.

Everything is a pure function of tensors, so that one `unroll` serves every meta-learner: MAML and its relatives
differentiate it to the initialisation, learned optimizers to the rule's own weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from learnopt.fewshot.normalisation import ElementaryNorms
from learnopt.fewshot.rules import Params, Rule, State

Result = TypeVar("Result")

Loss = Callable[[Params, Any], Tensor]
"""Loss of fast parameters on a batch, shape `()`."""


class Unrolled(NamedTuple):
    """Where an inner loop of `T` steps ended."""

    params: Params
    state: State
    losses: Tensor  # (T,): loss before each step


def unroll(
    loss: Loss, rule: Rule, theta: Params, params: Params, state: State | None, batches: Sequence[Any],
    *, second_order: bool = True, keep_losses: bool = False,
) -> Unrolled:  # fmt: skip
    """Take one step per batch, from `params`; pure, for one task (`over_tasks` maps it).

    Args:
        loss: differentiated with respect to its first argument only.
        theta: the rule's own slow weights, as `rule.theta` made them.
        state: of the rule, to go on from (a truncated unroll carries it, `detached`); None: `rule.init(params)`.
        second_order: keep the graph through the gradients; False treats them as constants (FOMAML; Andrychowicz et al.
            2016), which saves the second derivatives.
        keep_losses: without second order, keep the graph from the losses to the parameters all the same.
    """
    state = rule.init(params) if state is None else state
    losses = []
    for batch in batches:
        at = params if second_order or keep_losses else detached(params)
        grads, value = grad_and_value(loss)(at, batch)
        params, state = rule.step(theta, params, grads if second_order else detached(grads), state, value)
        losses.append(value)
    return Unrolled(params, state, torch.stack(losses) if losses else torch.zeros(0))


def detached(tree: Result) -> Result:
    """The same tree of tensors without its graph: what a truncated unroll goes on from."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)  # type: ignore[no-any-return]


class OverTasks:
    """Calls a function of one task for a batch of tasks: by `vmap` where torch can, otherwise in a loop.

    Args:
        vectorise: True or False to insist; None finds out at the first call.

    Attributes:
        vectorise: what it does, once known.
        reason: why `vmap` could not, where it could not.
    """

    def __init__(self, vectorise: bool | None = None) -> None:
        self.vectorise, self.reason = vectorise, ""

    def __call__(self, one: Callable[[Any, Any], Result], shared: Any, each: Any) -> Result:
        """`one(shared, each[i])` for every task, results stacked.

        Args:
            one: takes and returns trees of tensors.
            shared: the same for all tasks.
            each: a tree of tensors with a leading task dimension.
        """
        with twice_differentiable(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # slow, not wrong
            if self.vectorise is not None:
                return _vmapped(one, shared, each) if self.vectorise else _looped(one, shared, each)
            try:
                result = _vmapped(one, shared, each)
            except (RuntimeError, NotImplementedError) as error:
                # where the loop fails as well the model is at fault, and its own error says more than vmap's
                result = _looped(one, shared, each)
                self.vectorise, self.reason = False, str(error).strip().split("\n", 1)[0]
                return result
            self.vectorise = True
            return result


def _vmapped(one: Callable[[Any, Any], Result], shared: Any, each: Any) -> Result:
    return vmap(one, in_dims=(None, 0), randomness="different")(shared, each)


def _looped(one: Callable[[Any, Any], Result], shared: Any, each: Any) -> Result:
    leaves, shape = tree_flatten(each)
    results = [one(shared, tree_unflatten([x[i] for x in leaves], shape)) for i in range(len(leaves[0]))]
    parts = [tree_flatten(r)[0] for r in results]
    stacked = [torch.stack(list(values)) for values in zip(*parts, strict=True)]
    return tree_unflatten(stacked, tree_flatten(results[0])[1])  # type: ignore[no-any-return]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Kernels that have right second derivatives: no fused attention, Transformer layers or norms."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), ElementaryNorms():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
