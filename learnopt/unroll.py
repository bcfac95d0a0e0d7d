"""Run many inner trainings of one task at once, each with its own meta-weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from learnopt import meta_network, rule
from learnopt.devices import generators_kept, moved
from learnopt.kernels import in_place
from learnopt.layout import Layout
from learnopt.replay import Replay, record, signature
from learnopt.runs_at_once import RunsAtOnce
from learnopt.task import Batch, Task, seed_of

RECORD_FROM = 40
"""Unrolls of at least so many steps record their passes first, which takes about as long as 30 steps gain."""
_RECORDINGS = 4
"""Shapes of batches that one problem records; the steps of the others go without."""


class Runs(NamedTuple):
    """`N` inner trainings in flight."""

    params: list[Tensor]  # each (N, *shape)
    state: rule.RuleState


class Trajectory(NamedTuple):
    """What `N` inner trainings went through; in the main memory, wherever the runs live."""

    losses: Tensor  # (K, N): training loss before each step
    valid: Tensor  # (V, N): validation loss after the steps in `valid_steps`
    valid_steps: tuple[int, ...]
    columns: Tensor  # (K, N, len(GLOBAL)): what the rule saw of the run
    tensor_columns: Tensor | None = None  # (K, N, n, len(TENSOR)): what it saw of the tensors, when recorded


class Telling(NamedTuple):
    """What the rule is told about a run besides its gradients."""

    horizon: int  # 0: unknown
    loss: bool = True  # False: losses withheld


class _Loss(nn.Module):
    """The task's loss as a module, so that `functional_call` can swap the parameters underneath."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._task = (task,)  # in a tuple: a task that is itself a module must not be registered

    def forward(self, *batch: Tensor) -> Tensor:
        return self._task[0].loss(self.model, batch)


class Problem:
    """A task set up for `len(seeds) * copies` runs.

    Runs `i`, `i + M`, `i + 2M`, ... (M = `len(seeds)`) share the initialisation and the batches of `seeds[i]`: the two
    sides of an antithetic pair differ in nothing but their meta-weights. Buffers and frozen parameters are those of
    `seeds[0]` in all runs.

    Args:
        vectorise: False runs one after the other, as models need that `vmap` cannot take; None finds out.
        kernel: True: where no graph to theta is wanted, `unroll` advances the rule by the compiled kernel if there is
            one, and records the networks' passes if there are `RECORD_FROM` steps. False: the slow truth of both.
    """

    def __init__(
        self, task: Task, seeds: list[int], copies: int = 1, *, vectorise: bool | None = None, device: str = "cpu",
        kernel: bool = True,
    ) -> None:  # fmt: skip
        self.task, self.seeds, self.copies, self.device = task, seeds, copies, torch.device(device)
        self.kernel = kernel
        self._recordings: dict[Any, Replay | None] = {}
        models = [task.build(s) for s in seeds]
        each = [dict(_Loss(task, m).named_parameters()) for m in models]
        names = [n for n, p in each[0].items() if p.requires_grad]
        self.start = [
            torch.stack([e[n].detach() for e in each]).repeat(copies, *[1] * each[0][n].dim()).to(self.device)
            for n in names
        ]
        self._module = _Loss(task, models[0]).to(self.device)  # moves the first of the models itself
        self.layout = Layout.of([p.shape[1:] for p in self.start])
        self.run = RunsAtOnce(self._module, names, vectorise)

    @property
    def n(self) -> int:
        """Number of runs, `N`."""
        return len(self.seeds) * self.copies

    def begin(self) -> Runs:
        """All runs at their initialisation."""
        return Runs(list(self.start), rule.init_state(self.layout, self.start))

    def batch(self, step: int) -> Batch:
        """Batch number `step` of every run: tensors of shape `(N, B, ...)`."""
        batch = self.task.batches(self.seeds, step)
        return tuple(torch.cat([x] * self.copies) if self.copies > 1 else x for x in moved(batch, self.device))

    def losses(self, params: list[Tensor], batch: Batch) -> Tensor:
        """Training loss of every run, shape `(N,)`."""
        self._module.train()
        return self.run(params, batch, [0] * len(batch))

    def gradients_at(
        self, params: list[Tensor], step: int, *, graph: bool = False, recorded: bool = False
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """`gradients` on batch number `step`; seeds torch's generator with the step, for randomness inside the model
        (dropout): fork it around a run."""
        _seed(self.device, seed_of("inner", self.seeds[0], step))
        return self.gradients(params, self.batch(step), graph=graph, recorded=recorded)

    def gradients(
        self, params: list[Tensor], batch: Batch, *, graph: bool = False, recorded: bool = False
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Training loss of every run, `(N,)`, and its gradients.

        Args:
            params: `(N, *shape)` each.
            graph: keep the graph of both.
            recorded: replay a recording, made in the first step, where there can be one.
        """
        replay = self._recording(params, batch) if recorded else None
        if replay is not None:
            replayed, *found = replay(*params, *batch)
            return replayed, found
        with torch.enable_grad():
            leaves = [p if p.requires_grad else p.detach().requires_grad_() for p in params]
            loss = self.losses(leaves, batch)
            grads = torch.autograd.grad(loss.sum(), leaves, create_graph=graph, allow_unused=True)
        return loss if graph else loss.detach(), grads

    def _recording(self, params: list[Tensor], batch: Batch) -> Replay | None:
        key, known = signature(batch), self.run.vectorise
        if key not in self._recordings and len(self._recordings) < _RECORDINGS and known is not False:
            count = len(params)

            def passes(*arguments: Tensor) -> tuple[Tensor, ...]:
                given = list(arguments[:count])
                loss, grads = self.gradients(given, arguments[count:])
                return loss, *(torch.zeros_like(p) if g is None else g for g, p in zip(grads, given, strict=True))

            self.run.vectorise = True  # what vmap cannot take is not recorded
            self._recordings[key] = record(passes, [*params, *batch], list(self._module.buffers()))
            self.run.vectorise = True if self._recordings[key] else known
        return self._recordings.get(key)

    def valid_losses(self, params: list[Tensor], *, differentiable: bool = False) -> Tensor:
        """Validation loss of every run, shape `(N,)`, with dropout off; with a graph only when `differentiable`."""
        self._module.eval()
        batch = tuple(b.to(self.device) for b in self.task.validation())
        with torch.set_grad_enabled(differentiable):
            return self.run(params, batch, [None] * len(batch))


class _TorchRuns:
    """Runs advanced by `rule.apply`: the slow truth, any device, and the only way to keep the graph to theta."""

    def __init__(self, theta: Tensor, layout: Layout, runs: Runs, differentiable: bool) -> None:
        self._w, self._layout, self._differentiable = meta_network.unpack(theta), layout, differentiable
        self.params = [self._leaf(p) for p in runs.params]
        self._state = runs.state
        self.columns = self.tensor_columns = torch.zeros(0)

    def _leaf(self, p: Tensor) -> Tensor:
        return p if self._differentiable and p.requires_grad else p.detach().requires_grad_()

    def step(
        self, grads: Sequence[Tensor | None], loss: Tensor | None, horizon: float, nudge: Tensor | None = None
    ) -> None:
        with torch.set_grad_enabled(self._differentiable):
            clean = [
                torch.zeros_like(p) if g is None else g.nan_to_num(0.0, 0.0, 0.0)
                for g, p in zip(grads, self.params, strict=True)
            ]
            told = torch.tensor(horizon, device=self.params[0].device)
            params, self._state, decision = rule.apply(
                self._w, self._layout, self.params, clean, self._state, loss, told, nudge
            )
        self.params = [self._leaf(p) for p in params]
        self.columns, self.tensor_columns = decision.columns.detach(), decision.tensor_columns.detach()

    def state(self) -> rule.RuleState:
        return self._state


def _seed(device: torch.device, seed: int) -> None:
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # what torch.manual_seed does besides takes 30 times as long
    else:
        torch.manual_seed(seed)


def unroll(
    problem: Problem, theta: Tensor, runs: Runs, start: int, stop: int, telling: Telling,
    *, valid_at: tuple[int, ...] = (), differentiable: bool = False,
    nudges: Tensor | None = None, record: bool = False,
) -> tuple[Runs, Trajectory]:  # fmt: skip
    """Take steps `start` to `stop` (exclusive) of all runs with the rule of `theta`.

    Args:
        theta: meta-weights, `(SIZE,)` for all runs or `(N, SIZE)`, on any device, like `nudges`.
        valid_at: step counts (in `start + 1 .. stop`) after which the validation loss is measured.
        differentiable: keep the graph from theta to the losses (memory grows with the number of steps).
        nudges: added to the raw outputs per tensor, `(K, N, n, len(OUTPUTS))`; None for nothing.
        record: keep what the rule saw of the tensors.

    Randomness inside the model (dropout) is seeded from the problem's seeds and the step.
    """
    quick = problem.kernel and not differentiable
    recorded = quick and stop - start >= RECORD_FROM
    theta, nudges = moved((theta, nudges), problem.device)
    losses, columns, seen, valid = [], [], [], []
    moving: _TorchRuns | in_place.InPlaceRuns
    if quick and in_place.available(runs.params):
        moving = in_place.InPlaceRuns(theta, problem.layout, runs.params, runs.state)
    else:
        moving = _TorchRuns(theta, problem.layout, runs, differentiable)
    with generators_kept(problem.device):
        for t in range(start, stop):
            loss, grads = problem.gradients_at(moving.params, t, graph=differentiable, recorded=recorded)
            nudge = None if nudges is None else nudges[t - start]
            moving.step(grads, loss if telling.loss else None, float(telling.horizon), nudge)
            losses.append(loss)
            columns.append(moving.columns.clone())
            if record:
                seen.append(moving.tensor_columns.clone())
            if t + 1 in valid_at:
                valid.append(problem.valid_losses(moving.params, differentiable=differentiable))
    params = moving.params if differentiable else [p.detach() for p in moving.params]
    trajectory = Trajectory(
        torch.stack(losses), torch.stack(valid) if valid else torch.zeros(0, problem.n),
        tuple(v for v in valid_at if start < v <= stop), torch.stack(columns),
        torch.stack(seen) if record else None,
    )  # fmt: skip
    return Runs(params, moving.state()), moved(trajectory, "cpu")
