"""Two sets of weights, those that training steps and their average: `eval()` puts the average into the parameters."""

from __future__ import annotations

import warnings

import torch

from learnopt import intake, memory, spread
from learnopt.inner_step import AVERAGE, TRAINED
from learnopt.read_outs import ReadOuts


class AveragedWeights(ReadOuts):
    """`eval()` and `train()` by the names and the use that Schedule-Free has given them [Defazio et al. 2024,
    arXiv:2405.15682, `schedulefree`]; Transformers' `Trainer` and Accelerate call optimizers that have them.

    The average is the polynomial one of Shamir and Zhang 2013 [arXiv:1212.1824], about the last sixth of the steps so
    far, which the learned rule keeps anyway.
    """

    @torch.no_grad()
    def eval(self) -> None:
        """Put the averaged weights into the parameters, to validate or to save them; `train()` takes them out again.

        While a run is under way they are better than the weights that train, most of all where `total_steps` is not
        told and no schedule comes to an end. Once `total_steps` steps were taken nothing is changed: the learned
        schedule has led the weights there. Parameters that never had a gradient stay as they are, as do frozen ones
        beside others that train: their average has not followed them.

        Running statistics of BatchNorm belong to the weights that train: `torch.optim.swa_utils.update_bn(loader,
        model)` makes those of the average.

        A `state_dict` taken here has both and goes on exactly. `torch.distributed.checkpoint` restores only what a
        fresh optimizer has: save by it after `train()`, or `train()` warns that training goes on from the average.
        """
        if self.param_groups[0]["averaged"] or self._ended():
            return
        self._mark(True)  # first, so that an interruption leaves nothing that could be stepped from
        training = any(p.requires_grad for p in self._params())  # or else the whole model was frozen to be used
        for p in self._params():
            state = self.state.get(p, {})
            if AVERAGE not in state or p.requires_grad != training:
                continue
            state[TRAINED] = p.detach().clone()
            if spread.is_sharded(p):
                p.copy_(state[AVERAGE])
            else:
                intake.write(p, state[AVERAGE])

    @torch.no_grad()
    def train(self) -> None:
        """Put the weights that train back, to the bit; nothing where they are there."""
        states = [(p, self.state.get(p, {})) for p in self._params()]
        away = [(p, state) for p, state in states if TRAINED in state]
        if self.param_groups[0]["averaged"] and not away and any(AVERAGE in state for _, state in states):
            warnings.warn("the weights that train were not restored: training goes on from their average", stacklevel=3)
        for p, state in away:
            p.copy_(state[TRAINED])
            del state[TRAINED]
        self._mark(False)

    def _mark(self, averaged: bool) -> None:
        for group in self.param_groups:
            group["averaged"] = averaged

    def _ended(self) -> bool:
        """Whether all steps that were told have been taken."""
        told: int | None = self.param_groups[0]["total_steps"]
        if told is None:
            return False
        run = memory.read_run(self._run())
        return float(run.step + run.skipped) >= told

    def _check_training(self) -> None:
        """Refuse a step from the average: its gradients are those of other weights than it would move."""
        if self.param_groups[0]["averaged"]:
            raise RuntimeError(
                "the parameters hold their averages since optimizer.eval(); call optimizer.train() before the forward "
                "pass of a training step"
            )
