"""Learned initialisations: MAML and its first-order, head-only and learned-rate variants.

Sources: Finn, Abbeel and Levine 2017 (MAML, FOMAML); Raghu et al. 2020 (ANIL); Li et al. 2017 (Meta-SGD); rates per
tensor and per step after Antoniou, Edwards and Storkey 2019 (MAML++).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from learnopt.fewshot.engine import twice_differentiable, unroll
from learnopt.fewshot.episode import Episode, check_pairs
from learnopt.fewshot.evaluation import GROWN
from learnopt.fewshot.learner import Learner, default_loss
from learnopt.fewshot.rates import LearnedRates
from learnopt.fewshot.rules import SGD, Params, Rule
from learnopt.task import seed_of


class InnerLoop(Learner):
    """A learner that adapts by steps of a rule from a learned initialisation.

    Args:
        rule: of the inner loop; its own slow weights are learned with the initialisation.
        steps: inner steps in `fit`, and in `adapt` unless told.
        adapted: which parameters are fast: "all", "head" (the last layer), or beginnings of their names.
        second_order: differentiate through the inner gradients.
        rest: as in `Learner`.
    """

    def __init__(
        self, model: nn.Module, rule: Rule, steps: int, *, adapted: str | Sequence[str] = "all",
        second_order: bool = True, **rest: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, **rest)
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of 1 or more, got {steps!r}")
        if second_order and not rule.twice_differentiable:
            raise ValueError(f"{type(rule).__name__} has no second derivatives: pass second_order=False, or use FOMAML")
        self.rule, self.steps, self.second_order = rule, steps, second_order
        self.fast_names = fast_names(model, adapted)
        self._outputs: int | None = None  # classes, once they are known
        made = rule.theta(self._initial()[0])
        self.theta: Params = {n: x.detach().clone().requires_grad_() for n, x in made.items()}

    def slow(self) -> dict[str, Tensor]:
        return super().slow() | {f"rule.{n}": x for n, x in self.theta.items()}

    def settings(self) -> dict[str, Any]:
        own = {"steps": self.steps, "second_order": self.second_order, "adapted": self.fast_names}
        return super().settings() | own | self.rule.settings()

    def meta_loss(self, episodes: Episode) -> Tensor:
        steps, second_order = self.steps, self.second_order

        def one(slow: tuple[Params, Params, Params], e: Episode) -> Tensor:
            fast, fixed, theta = slow
            loss = self._loss(fixed)
            support = [(e.support_x, e.support_y)] * steps
            adapted = unroll(loss, self.rule, theta, fast, None, support, second_order=second_order).params
            return loss(adapted, (e.query_x, e.query_y))

        return self.over_tasks(one, (*self._initial(), self.theta), episodes).mean()

    def curves(self, episodes: Episode, steps: int | None) -> tuple[Tensor, Tensor, Tensor]:
        steps = self._steps(steps)

        def one(slow: tuple[Params, Params, Params], e: Episode) -> tuple[Tensor, Tensor, Tensor]:
            params, fixed, theta = slow
            loss, state, support = self._loss(fixed), None, (e.support_x, e.support_y)
            rows: list[tuple[Tensor, Tensor, Tensor]] = []

            def measured(at: Params) -> tuple[Tensor, Tensor]:
                out = functional_call(self.model, {**fixed, **at}, (e.query_x,))
                query: Tensor = self.loss(out, e.query_y)
                right = query if e.query_y.is_floating_point() else (out.argmax(-1) == e.query_y).float().mean()
                return query, right

            for _ in range(steps):
                query, right = measured(params)
                params, state, seen = unroll(loss, self.rule, theta, params, state, [support], second_order=False)
                rows.append((query, seen[0], right))
            query, right = measured(params)
            return _columns([*rows, (query, loss(params, support), right)])

        return self.over_tasks(one, (*self._initial(), self.theta), episodes)

    def adapt(self, x: Tensor, y: Tensor, steps: int | None = None) -> nn.Module:
        """The model after `steps` inner steps on a support set; self and global random state stay as they are.

        Warns where the support loss grew instead of falling, or overflowed.

        Args:
            x: examples, `(S, ...)`.
            y: labels, `(S,)` class numbers or `(S, targets)`.

        Raises:
            ValueError: the support set cannot be used; the message names what is wrong.
        """
        check_pairs(x, y, "support")
        steps = self._steps(steps)
        fast, fixed = self._initial()
        loss, support = self._loss(fixed), (x.to(self.device), y.to(self.device))
        with torch.random.fork_rng(devices=[]), torch.no_grad(), twice_differentiable():
            torch.manual_seed(seed_of("adapt"))
            self._check_classes(support[1], support[0])
            end = unroll(loss, self.rule, self.theta, fast, None, [support] * steps, second_order=False)
            before, after = float(end.losses[0]), float(loss(end.params, support))
        if not after <= GROWN * before:
            warnings.warn(f"{self.name}: {steps} inner steps took the support loss from {before:.4g} to {after:.4g}; "
                          "take fewer steps or a smaller rate", RuntimeWarning, stacklevel=2)  # fmt: skip
        adapted = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, p in adapted.named_parameters():
                if name in end.params:
                    p.copy_(end.params[name])
        return adapted

    def _steps(self, steps: int | None) -> int:
        """`steps`, or the number trained for."""
        if steps is None:
            return self.steps
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of 1 or more, got {steps!r}")
        if self.theta and steps > self.steps:
            warnings.warn(f"{self.name} learned its rates for {self.steps} inner steps and is asked for {steps}: "
                          "it may overflow", RuntimeWarning, stacklevel=3)  # fmt: skip
        return steps

    def _initial(self) -> tuple[Params, Params]:
        """The parameters where adaptation starts: fast ones, and the rest."""
        named = dict(self.model.named_parameters())
        return {n: named[n] for n in self.fast_names}, {n: p for n, p in named.items() if n not in self.fast_names}

    def _loss(self, fixed: Params) -> Callable[[Params, tuple[Tensor, Tensor]], Tensor]:
        """Loss of the fast parameters on `(x, y)`."""

        def loss(fast: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
            return self.loss(functional_call(self.model, {**fixed, **fast}, (batch[0],)), batch[1])

        return loss

    def check_labels(self, episodes: Episode) -> None:
        x = episodes.support_x[0]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for y in (episodes.support_y, episodes.query_y):
                self._check_classes(y, x)

    def _check_classes(self, y: Tensor, x: Tensor) -> None:
        """Refuse class numbers that the model has no output for; other losses may mean other things by them."""
        if self.loss is not default_loss or y.is_floating_point():
            return
        if self._outputs is None:
            self._outputs = copy.deepcopy(self.model)(x).shape[1]  # buffers stay as they are
        found = int(y.min()) if int(y.min()) < 0 else int(y.max())
        if not 0 <= found < self._outputs:
            raise ValueError(
                f"the model has {self._outputs} outputs, for labels 0 to {self._outputs - 1}; got label {found}"
            )


def _columns(rows: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    query, support, right = (torch.stack(list(values)) for values in zip(*rows, strict=True))
    return query, support, right


def fast_names(model: nn.Module, adapted: str | Sequence[str]) -> list[str]:
    """Names of the parameters that adapt.

    Raises:
        ValueError: there are none of that name.
    """
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    if adapted == "all":
        return names
    if adapted == "head":
        beginnings = [names[-1].rpartition(".")[0]]
    else:
        beginnings = [adapted] if isinstance(adapted, str) else list(adapted)
    chosen = [n for n in names if any(not b or n == b or n.startswith(b + ".") for b in beginnings)]
    if not chosen:
        raise ValueError(f"no parameter's name begins with {', '.join(beginnings)!r}; there are {', '.join(names)}")
    return chosen


class MAML(InnerLoop):
    """`theta' = theta - lr * grad L_support(theta)`, `steps` times; theta minimises the query loss of theta'.

    Args:
        lr: inner learning rate; ignored where `rule` is given.
        steps: inner steps.
        rule: another rule for the inner loop.
        rest: as in `InnerLoop`.
    """

    name = "maml"

    def __init__(
        self, model: nn.Module, lr: float = 0.01, steps: int = 5, *, rule: Rule | None = None, **rest: Any
    ) -> None:
        super().__init__(model, rule or SGD(lr), steps, **rest)


class FOMAML(MAML):
    """MAML whose meta-gradient takes the inner gradients as constants: no second derivatives."""

    name = "fomaml"

    def __init__(self, model: nn.Module, lr: float = 0.01, steps: int = 5, **rest: Any) -> None:
        super().__init__(model, lr, steps, second_order=False, **rest)


class ANIL(MAML):
    """MAML that adapts the head only; the body is learned, but the same for all tasks.

    Args:
        head: beginnings of the head's parameter names; the last layer by default.
    """

    name = "anil"

    def __init__(
        self, model: nn.Module, lr: float = 0.01, steps: int = 5, *, head: str | Sequence[str] = "head", **rest: Any
    ) -> None:
        super().__init__(model, lr, steps, adapted=head, **rest)


class MetaSGD(InnerLoop):
    """MAML with learned rates.

    Args:
        lr: where the rates start.
        rates: one for every "parameter" (Meta-SGD) or "tensor".
        schedule: learned course over the steps: "none", "shared" by all tensors, or one per "tensor" (with
            rates="tensor": the rates per layer and step of MAML++).
        rest: as in `InnerLoop`.
    """

    name = "metasgd"

    def __init__(
        self, model: nn.Module, lr: float = 0.01, steps: int = 1, *, rates: str = "parameter", schedule: str = "none",
        **rest: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, LearnedRates(lr, steps, rates, schedule), steps, **rest)
