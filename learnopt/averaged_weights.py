"""Two sets of weights, those that training steps and their average: `eval()` puts the average into the parameters."""

from __future__ import annotations

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
        schedule has led the weights there. Parameters that never had a gradient stay as they are.

        Running statistics of BatchNorm belong to the weights that train: `torch.optim.swa_utils.update_bn(loader,
        model)` makes those of the average.
        """
        groups = self.param_groups
        if groups[0]["averaged"] or self._ended():
            return
        for p in self._params():
            state = self.state.get(p, {})
            if AVERAGE not in state:
                continue
            trained, average = p.detach().clone(), state[AVERAGE]
            if spread.is_sharded(p):
                p.copy_(average)
            else:
                intake.write(p, average)
            state[TRAINED] = trained
        for group in groups:
            group["averaged"] = True

    @torch.no_grad()
    def train(self) -> None:
        """Put the weights that train back, to the bit; nothing where they are there."""
        for p in self._params():
            trained = self.state.get(p, {}).pop(TRAINED, None)
            if trained is not None:
                p.copy_(trained)
        for group in self.param_groups:
            group["averaged"] = False

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
