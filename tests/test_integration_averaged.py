"""Transformers' Trainer evaluates, saves and ends with the averaged weights of a run whose steps are unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from optimizer_toy import assert_same, values
from torch import Tensor
from trainer_toy import in_groups, plain_loop
from transformers import EarlyStoppingCallback, Trainer
from transformers_toy import ROWS, Toy, arguments, learned, with_callback

from learnopt import LearnedOptimizer


class Watched(Toy):
    """Keeps the weights that it was evaluated with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Tensor]] = []

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if not self.training:
            self.seen.append(values(self.net))
        return super().forward(x, labels)


@pytest.mark.parametrize("best", [False, True])
def test_evaluation_and_checkpoints_have_the_averaged_weights(best: bool, tmp_path: Path) -> None:
    def run(resume: str | None) -> Trainer:
        model = Watched()
        args = arguments(
            tmp_path, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=best, logging_steps=1,
            metric_for_best_model="loss",
        )  # fmt: skip
        trainer = Trainer(
            model, args, train_dataset=ROWS, eval_dataset=ROWS, optimizers=(LearnedOptimizer(model.parameters()), None),
            callbacks=[EarlyStoppingCallback(99)],
        )  # fmt: skip
        with_callback(trainer)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, again = run(None), run(str(tmp_path / "checkpoint-12"))
    assert learned(whole).param_groups[0]["total_steps"] is None
    truth, optimizer = plain_loop(in_groups(1, 4), None)
    optimizer.eval()
    for trainer in (whole, again):
        assert_same(trainer.model.seen[-1], values(truth))
    looks = [log["eval_loss"] for log in whole.state.log_history if "eval_loss" in log]
    final = whole.model.seen[-1] if not best else whole.model.seen[6 * looks.index(min(looks))]
    assert_same(values(whole.model), final)
    assert_same(values(again.model), final)
