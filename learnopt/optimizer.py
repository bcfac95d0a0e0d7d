"""`LearnedOptimizer`: torch's optimizer contract around the learned rule."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import ParamsT

from learnopt import artifact, inner_step, intake, memory, meta_network, quick_step, spread, stop_head
from learnopt.averaged_weights import AveragedWeights
from learnopt.inner_step import MOMENTS, Work
from learnopt.layout import Layout

_GRADIENT_LIMIT = 1e15
"""Larger gradients are cut to this: sums of their squares would overflow float32."""
_BETAS = (0.9, 0.995)
"""In every group for schedulers that cycle the momentum (OneCycleLR, CyclicLR) and refuse optimizers without; the rule
does not read them."""
_OPTIONS = ("lr", "weight_decay", "maximize", "total_steps", "betas", "averaged")


class LearnedOptimizer(AveragedWeights):
    r"""A pretrained learned optimizer: no learning rate, no schedule to choose.

    A small meta-network reads each step's gradients and loss, and sets every parameter's step, the schedule, the weight
    decay and whether going on is worth it. Its weights were meta-trained on many small training problems.

    Args:
        params: parameters or groups, as for every torch optimizer; groups may set `lr` and `weight_decay`.
        total_steps: number of steps planned, if known: the learned schedule ends there. None: unknown; then validate
            and save between `eval()` and `train()`.
        lr: multiplies the learned learning rates and decay; 1 is what was learned. Schedulers act on it.
        weight_decay: None: learned. A number: decoupled decay as in AdamW, `p -= rate * weight_decay * p`, where
            `rate` is the tensor's learned learning rate times `lr`.
        weights: name of shipped meta-weights or path of an artifact.
        maximize: ascend instead of descend.
        process_group: where `torch.distributed` runs, losses are averaged over this group's ranks, so that copies of a
            model stay equal; None: the default group. False: ranks train models of their own.

    Raises:
        ValueError: an argument is out of its range, or the weights are unknown, damaged or of another version.

    Example:
        >>> optimizer = LearnedOptimizer(model.parameters(), total_steps=1000)  # doctest: +SKIP
        >>> loss.backward()  # doctest: +SKIP
        >>> optimizer.step(loss=loss)  # doctest: +SKIP
    """

    def __init__(
        self,
        params: ParamsT,
        total_steps: int | None = None,
        *,
        lr: float | Tensor = 1.0,
        weight_decay: float | None = None,
        weights: str | os.PathLike[str] = "default",
        maximize: bool = False,
        process_group: Any = None,
    ) -> None:
        total_steps = intake.steps(total_steps)
        intake.check_options(lr, weight_decay)
        loaded = artifact.load(weights)
        self._meta: dict[str, Any] = {
            "theta": loaded.theta, "stop": loaded.stop, "digest": loaded.digest,
            "threshold": float(loaded.card.get("stop_threshold", stop_head.THRESHOLD)),
        }  # fmt: skip
        self._group = process_group
        self._quick = quick_step.QuickSteps()
        self._unpacked: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "maximize": maximize,
            "total_steps": total_steps, "weights": loaded.digest, "betas": _BETAS, "averaged": False,
        }  # fmt: skip
        super().__init__(params, defaults)

    # ---------------------------------------------------------------------------------------------------- stepping

    @overload
    def step(self, closure: None = None, *, loss: Tensor | float | None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float], *, loss: Tensor | float | None = None) -> float: ...

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # data decides; a compiled step would break at every turn
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None, *, loss: Tensor | float | None = None) -> float | None:
        """Take one step.

        Args:
            closure: reevaluates the model and returns the loss.
            loss: the training loss that the gradients belong to, one number; without it (and without a closure) the
                decisions rest on gradients alone.

        Returns:
            What the closure returned, None without one. A step whose gradients or loss are not finite changes nothing
            but `skipped_steps`.

        Raises:
            RuntimeError: the parameters hold their averages, since `eval()`.
        """
        self._check_training()
        returned = None
        if closure is not None:
            intake.check_closure(closure)
            with torch.enable_grad():
                returned = closure()
            loss = returned if loss is None else loss
        active = [
            (p, group) for group in self.param_groups for p in group["params"] if p.grad is not None and p.numel()
        ]
        if not active:
            return returned
        device = intake.one_device([p for p, _ in active])
        intake.check_not_captured(device)
        told = None if loss is None else spread.average(intake.loss_tensor(loss, device), self._group)
        if told is not None and self.param_groups[0]["maximize"]:
            told = -told
        if self._quick_step(active, told):
            return returned
        run = memory.read_run(self._run(device))
        dtype = intake.precision([p for p, _ in active])
        grads = [intake.plain(intake.dense(spread.whole(cast(Tensor, p.grad))), dtype) for p, _ in active]
        sizes = [torch.linalg.vector_norm(g, math.inf) for g in grads]
        largest = float(torch.stack(sizes if told is None else [*sizes, told[0].abs().to(dtype)]).max())
        if not math.isfinite(largest):
            self._keep_run(memory.write_run(run._replace(skipped=run.skipped + 1)))
            return returned
        if largest > _GRADIENT_LIMIT:
            grads = [g.clamp(-_GRADIENT_LIMIT, _GRADIENT_LIMIT) for g in grads]
        told = None if told is None else told.clamp(-intake.LOSS_LIMIT, intake.LOSS_LIMIT)
        grads = [-g if group["maximize"] else g for g, (_, group) in zip(grads, active, strict=True)]
        with intake.full_precision(device):
            self._advance(active, grads, told)
        return returned

    def _quick_step(self, active: list[tuple[Tensor, dict[str, Any]]], loss: Tensor | None) -> bool:
        """Take a usual step the quick way; False where it is not a usual one, and nothing has been done."""
        keeper = self._run_keeper()
        states = [self.state[p] for p, _ in active if "memory" in self.state.get(p, {})]
        if keeper is None or not keeper.requires_grad or len(states) < len(active):
            return False
        params, groups = [p for p, _ in active], [group for _, group in active]
        horizon = float(self.param_groups[0]["total_steps"] or 0)
        run, meta = self.state[keeper]["run"], self._meta
        self._latest = run
        return self._quick.step(params, states, groups, loss, horizon, run, meta, _GRADIENT_LIMIT)

    def _advance(self, active: list[tuple[Tensor, dict[str, Any]]], grads: list[Tensor], loss: Tensor | None) -> None:
        own = [p for p, _ in active]
        device = own[0].device
        self._remember(own)
        for i, p in enumerate(own):
            inner_step.check_shapes(i, p, self.state[p])
        params = [spread.whole(p) for p in own]
        states = [{name: spread.whole(x) for name, x in self.state[p].items()} for p in own]
        work = Work(
            params, states, [group for _, group in active], grads, loss, self._run(device),
            float(self.param_groups[0]["total_steps"] or 0),
        )  # fmt: skip
        packed, columns = inner_step.advance(work, self._meta["theta"], self._weights(device, grads[0].dtype))
        for p, param, state in zip(own, params, states, strict=True):
            if spread.is_sharded(p):
                spread.put(p, param)
                for name in MOMENTS:
                    spread.put(self.state[p][name], state[name])
        run = memory.read_run(packed)
        stop, seen = self._stop(columns.float(), run)
        self._keep_run(memory.write_run(run._replace(stop=stop, seen=seen)))

    def _stop(self, columns: Tensor, run: memory.Run) -> tuple[Tensor, Tensor]:
        if self._meta["stop"] is None:
            return run.stop, run.seen
        weights = {k: v.to(columns.device) for k, v in self._meta["stop"].items()}
        return stop_head.follow(weights, columns, run.stop, run.seen)

    # ------------------------------------------------------------------------------------------------------- state

    def _remember(self, tensors: list[Tensor]) -> None:
        """Give tensors that step for the first time their state; units come from the whole network."""
        fresh = {p for p in tensors if "memory" not in self.state[p]}
        if not fresh:
            return
        measured = {p: self._rms0(p).to(tensors[0].device) for p in self._params() if p in fresh or self._counts(p)}
        known = [p for p, size in measured.items() if math.isfinite(size)]
        for p in fresh - set(known):
            raise ValueError(f"a parameter of shape {tuple(p.shape)} that is to step holds infinite values or NaN")
        rms0 = torch.stack([measured[p] for p in known])
        unit = Layout.of([intake.plain(p, torch.float32).shape for p in known]).units(rms0[None])[0]
        rows = dict(zip(known, memory.new_memory(rms0, unit).unbind(0), strict=True))
        for p in tensors:
            state = self.state[p]
            if "memory" not in state:
                plain = intake.plain(p, intake.precision([p]))
                state.update(inner_step.large_state(plain))
                state["memory"] = rows[p].to(p.device, copy=True)

    def _counts(self, p: Tensor) -> bool:
        """Whether a network's unit is measured by this tensor: it trains, as in meta-training, or has stepped."""
        there = not is_lazy(p) and not p.is_meta and p.numel() > 0
        return there and (p.requires_grad or "memory" in self.state.get(p, {}))

    def _rms0(self, p: Tensor) -> Tensor:
        if "memory" in self.state.get(p, {}):
            return memory.field(self.state[p]["memory"], "rms0")[0]
        return intake.root_mean_square(spread.whole(p))

    def _weights(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        if (device, dtype) not in self._unpacked:
            self._unpacked[device, dtype] = meta_network.unpack(self._meta["theta"].to(device, dtype))
        return self._unpacked[device, dtype]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters later on; they are measured in units of the whole network and start at age 0."""
        if isinstance(param_group, dict):  # torch says what else is wrong
            intake.check_options(param_group.get("lr", 1.0), param_group.get("weight_decay"))
            self._tell_steps(param_group)
        super().add_param_group(param_group)

    def _tell_steps(self, group: dict[str, Any]) -> None:
        """All groups have the one number of steps that the run has."""
        if "total_steps" in group:
            intake.steps(group["total_steps"])
        if self.param_groups:
            told = self.param_groups[0]["total_steps"]
            if group.setdefault("total_steps", told) != told:
                raise ValueError(f"total_steps is the run's, one for all groups, got {group['total_steps']} and {told}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Options that an older state does not know get their defaults."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name in _OPTIONS:
                group.setdefault(name, self.defaults[name])

    def __getstate__(self) -> dict[str, Any]:
        # a process group belongs to its process: whoever unpickles is in the default one
        group = False if self._group is False else None
        return {
            **super().__getstate__(),
            "_meta": self._meta,
            "_unpacked": {},
            "_group": group,
            "_quick": quick_step.QuickSteps(),
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> LearnedOptimizer:
        """A copy in the same process, which shares the process group."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        new._group = self._group
        return new

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken, its `total_steps` included.

        Raises:
            ValueError: it belongs to other meta-weights or to other parameters.
        """
        seen: dict[str, Any] = {}
        # the last hook before loading and the first one after: they see what users' own hooks made of the state_dict
        before = self.register_load_state_dict_pre_hook(lambda _, found: seen.update(self._ours(found)))
        after = self.register_load_state_dict_post_hook(lambda _: self._restore_precision(seen), prepend=True)
        try:
            super().load_state_dict(state_dict)
            self._latest = None
        finally:
            before.remove()
            after.remove()

    def _ours(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        digests = {g.get("weights") for g in state_dict["param_groups"]}
        if digests != {self._meta["digest"]}:
            if None in digests:
                raise ValueError("state_dict belongs to an optimizer of another kind: it names no meta-weights")
            found = ", ".join(sorted(str(d)[:12] for d in digests))
            raise ValueError(
                f"state_dict belongs to meta-weights {found}, this optimizer has {self._meta['digest'][:12]}"
            )
        saved = [i for g in state_dict["param_groups"] for i in g["params"]]
        for number, (i, p) in enumerate(zip(saved, self._params(), strict=False)):  # torch says if they are not as many
            inner_step.check_shapes(number, p, state_dict["state"].get(i, {}))
        return state_dict

    def _restore_precision(self, state_dict: dict[str, Any]) -> None:
        # torch casts floating state to the parameter's dtype, which would round the recurrent state
        saved = [i for g in state_dict["param_groups"] for i in g["params"]]
        for i, p in zip(saved, self._params(), strict=True):
            for key, value in state_dict["state"].get(i, {}).items():
                kept = torch.float32 if key in ("memory", "run") else value.dtype
                self.state[p][key] = value.detach().to(p.device, kept, copy=True)
