"""What `LearnedOptimizer` decided, for people and training loops to read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from learnopt import evidence, memory
from learnopt.evidence import Evidence
from learnopt.layout import Layout
from learnopt.run_state import RunState

_STOP_AFTER = 20
"""Losses that must have been seen before `should_stop` may be true."""
_NUMBER, _STOP = (memory.RUN_FIELDS.index(name) for name in ("number", "stop"))


class ReadOuts(RunState):
    """The read-outs of an optimizer that keeps its state as `memory` says; no look creates state."""

    _meta: dict[str, Any]

    def _memories(self) -> Tensor:
        """What is remembered of every parameter tensor, `(tensors, MEMORY_SIZE)`; zeros before its first step."""
        rows = [self.state.get(p, {}).get("memory") for p in self._params()]
        device = next((row.device for row in rows if row is not None), torch.device("cpu"))
        none = torch.zeros(memory.MEMORY_SIZE, dtype=torch.float32, device=device)
        found = [none if row is None else row.detach().to(device) for row in rows]
        return torch.stack(found) if found else none[None][:0]

    def learning_rates(self) -> list[float]:
        """Effective learning rate of every parameter tensor in the last step, in units of weight, in the groups' order.

        The size of a typical step of one parameter; 0 before a tensor's first step.
        """
        return [row["learning_rate"] for row in self.explain()]

    def explain(self) -> list[dict[str, Any]]:
        """What was decided for every parameter tensor in the last step, in the groups' order.

        Keys: `shape`, `learning_rate`, `decay` (share of the weight removed), `gradient`, `momentum` (mixture of
        directions, sums to 1), `orthogonal` (share of the orthogonalised direction) and `pull` (share of the way back
        to the averaged weights).
        """
        columns = {key: values.tolist() for key, values in self.decisions().items()}
        return [
            {"shape": () if is_lazy(p) else tuple(p.shape), **{key: values[i] for key, values in columns.items()}}
            for i, p in enumerate(self._params())
        ]

    def decisions(self) -> dict[str, Tensor]:
        """The numbers of `explain` as one tensor per key, `(tensors,)` float32 on the CPU; read in one go."""
        return memory.decided(self._memories().cpu())

    def explain_run(self) -> dict[str, float | None]:
        """What holds for the whole run after the last step.

        Keys: `step` (steps taken), `skipped`, `loss_average` (of about the last 7 losses told, over all ranks; None
        without any), `schedule` and `stop_probability`.
        """
        run = memory.read_run(self._run().cpu())
        sign = -1.0 if self.param_groups[0]["maximize"] else 1.0  # an objective is remembered as its negative
        return {
            "step": int(run.step), "skipped": int(run.skipped),
            "loss_average": sign * float(run.history.fast) if float(run.history.number) else None,
            "schedule": float(run.schedule), "stop_probability": float(run.stop),
        }  # fmt: skip

    @property
    def schedule(self) -> float:
        """Schedule multiplier of the last step, warm-up and decay included; 0 before the first."""
        return float(memory.read_run(self._run()).schedule)

    @property
    def stop_probability(self) -> float:
        """Probability that the best validation loss will not improve any more, smoothed over about 10 steps."""
        return float(memory.read_run(self._run()).stop)

    @property
    def should_stop(self) -> bool:
        """True when the meta-network is sure that going on is pointless; needs losses to be given."""
        run = self._run()
        return float(run[_NUMBER]) >= _STOP_AFTER and float(run[_STOP]) > self.stop_threshold

    @property
    def stop_threshold(self) -> float:
        """Probability above which `should_stop` turns true."""
        return float(self._meta["threshold"])

    def stop_evidence(self) -> list[Evidence]:
        """What the stop probability rests on now, what speaks most for stopping first; empty before the first step.

        Worked out from the state as it is, so that it is the same after loading; the readings of the gradients are
        those that the next step will see.
        """
        params = self._params()
        stepped = [i for i, p in enumerate(params) if p.numel() and "memory" in self.state.get(p, {})]
        if not stepped or self._meta["stop"] is None:
            return []
        shapes = [(*p.shape, 2) if p.is_complex() else p.shape for p in (params[i] for i in stepped)]
        memories = self._memories()[stepped].float().cpu()
        horizon = float(self.param_groups[0]["total_steps"] or 0)
        run = memory.read_run(self._run().cpu())
        return evidence.gather(self._meta["stop"], memories, Layout.of(shapes), run, horizon)

    @property
    def stop_reason(self) -> str | None:
        """One line that says why `should_stop` is true; None while it is not."""
        if not self.should_stop:
            return None
        run = memory.read_run(self._run().cpu())
        return evidence.sentence(
            int(run.step + run.skipped), float(run.stop), self.stop_threshold, self.stop_evidence()
        )

    @property
    def skipped_steps(self) -> int:
        """Steps that were skipped because a gradient or the loss was not finite."""
        return int(memory.read_run(self._run()).skipped)
