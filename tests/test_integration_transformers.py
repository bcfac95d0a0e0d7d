"""Transformers' Trainer: the optimizer moves as in a plain loop, hears losses through the callback, and can stop it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_toy import assert_same, values
from trainer_toy import impatient_weights, in_groups, losses_told, plain_loop
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    get_constant_schedule,
    get_linear_schedule_with_warmup,
)
from transformers_toy import ROWS, Toy, arguments, learned, trainer_for, with_callback

from learnopt import LearnedOptimizer
from learnopt.integrations.transformers import LearnedOptimizerCallback, TrainersOptimizer


@pytest.mark.parametrize("count", [1, 4])  # 4: the last step of an epoch of 6 batches has only two
@pytest.mark.parametrize("clip", [0, 0.1], ids=["free", "clipped"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_the_callback_makes_it_a_plain_loop_that_tells_the_loss(
    bf16: bool, clip: float, count: int, tmp_path: Path
) -> None:
    trainer = trainer_for(tmp_path, bf16=bf16, max_grad_norm=clip, gradient_accumulation_steps=count)
    with_callback(trainer)
    trainer.train()
    groups = in_groups(count, 4)
    cast = torch.autocast("cpu", torch.bfloat16) if bf16 else None
    truth, optimizer = plain_loop(groups, len(groups), clip=clip or None, cast=cast)
    assert losses_told(learned(trainer)) == losses_told(optimizer) == len(groups) == trainer.state.global_step
    for p, q in zip(values(trainer.model), values(truth), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    if count == 1:
        assert_same(values(trainer.model), values(truth))


def test_steps_that_a_scaler_skips_leave_no_loss_behind(tmp_path: Path) -> None:
    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=2.0**10)

    trainer = trainer_for(tmp_path, num_train_epochs=2)
    trainer.train_dataset = [row | {"x": row["x"] / (i != 20)} for i, row in enumerate(ROWS)]  # the third batch
    with_callback(trainer)
    trainer.accelerator.scaler = scaler()  # as with fp16, which needs a GPU
    trainer.train()
    batches = in_groups(1, 2)
    for epoch in (0, 6):
        x, y = batches[epoch + 2][0]
        batches[epoch + 2] = [(x / (torch.arange(8) != 4)[:, None], y)]
    truth, _ = plain_loop(batches, 12, scaler=scaler())
    assert losses_told(learned(trainer)) == 10
    learned(trainer).train()  # the end that was told is not reached
    assert_same(values(trainer.model), values(truth))


def test_without_the_callback_it_decides_from_gradients_alone(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path)
    trainer.train()
    assert losses_told(learned(trainer)) == 0
    assert_same(values(trainer.model), values(plain_loop(in_groups(1, 4), None, tell=False)[0]))


def test_the_callback_tells_the_number_of_steps(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path)
    with_callback(trainer)
    trainer.train()
    assert learned(trainer).param_groups[0]["total_steps"] == 24


def test_a_run_that_began_without_a_number_of_steps_goes_on_without(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, max_steps=3)
    trainer.train()
    with_callback(trainer)
    trainer.train()
    assert learned(trainer).param_groups[0]["total_steps"] is None


def test_with_early_stopping_the_number_of_steps_stays_unknown(tmp_path: Path) -> None:
    early = {"eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": "loss"}
    trainer = trainer_for(tmp_path, load_best_model_at_end=True, **early)
    trainer.add_callback(EarlyStoppingCallback(3))
    with_callback(trainer)
    trainer.train()
    assert learned(trainer).param_groups[0]["total_steps"] is None


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Stands for TensorBoard and the like, which come before users' callbacks."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self.seen.append((state.global_step, dict(logs)))


def test_decisions_are_logged_where_losses_are(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, eval_strategy="epoch")
    reporter = Reporter()
    trainer.add_callback(reporter)
    with_callback(trainer)
    trainer.train()
    ours = [(step, logs) for step, logs in reporter.seen if "learnopt/schedule" in logs]
    assert [step for step, _ in ours] == [step for step, logs in reporter.seen if "loss" in logs] == [6, 12, 18, 24]
    last, optimizer = ours[-1][1], learned(trainer)
    assert last["learnopt/schedule"] == optimizer.schedule
    assert last["learnopt/stop_probability"] == optimizer.stop_probability
    named = zip((n for n, _ in trainer.model.named_parameters()), optimizer.learning_rates(), strict=True)
    assert {k: v for k, v in last.items() if "learning_rate" in k} == {
        f"learnopt/learning_rate/{name}": rate for name, rate in named
    }
    assert sum("learnopt/schedule" in row for row in trainer.state.log_history) == 4


def test_without_layers_only_the_run_is_logged(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path)
    with_callback(trainer, layers=False)
    trainer.train()
    logged = {k for row in trainer.state.log_history for k in row if "learnopt" in k}
    assert logged == {"learnopt/schedule", "learnopt/stop_probability"}


@pytest.mark.parametrize("stop", [True, False])
def test_the_callback_ends_training_when_the_optimizer_says_so(
    stop: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_for(tmp_path, weights=impatient_weights(tmp_path))
    callback = with_callback(trainer, stop=stop)
    trainer.train()
    assert learned(trainer).should_stop
    assert trainer.state.global_step == (20 if stop else 24)
    assert (callback.stop_reason is not None) is stop
    assert ("training ends: " in caplog.text) is stop


def test_the_trainers_own_schedule_is_refused(tmp_path: Path) -> None:
    message = "lr_scheduler_type='linear' would act upon the learned schedule"
    with pytest.raises(ValueError, match=message):
        LearnedOptimizerCallback(trainer_for(tmp_path, lr_scheduler_type="linear"))


def test_a_schedule_of_ones_own_is_not(tmp_path: Path) -> None:
    model = Toy()
    optimizer = LearnedOptimizer(model.parameters())
    schedule = get_linear_schedule_with_warmup(optimizer, 0, 48)
    trainer = Trainer(
        model, arguments(tmp_path, lr_scheduler_type="linear"), train_dataset=ROWS, optimizers=(optimizer, schedule)
    )
    with_callback(trainer)
    trainer.train()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(Toy(), arguments(tmp_path), train_dataset=ROWS)
    with_callback(trainer)
    with pytest.raises(ValueError, match="must be a LearnedOptimizer, got AcceleratedOptimizer"):
        trainer.train()


def decays(folder: Path, made: Any, options: dict[str, Any], **arguments_: Any) -> list[Any]:
    trainer = Trainer(
        Toy(), arguments(folder, max_steps=3, **arguments_), train_dataset=ROWS,
        optimizer_cls_and_kwargs=(made, options),
    )  # fmt: skip
    with_callback(trainer)
    trainer.train()
    assert learned(trainer).param_groups[0]["total_steps"] == 3
    return [group["weight_decay"] for group in learned(trainer).param_groups]


def test_an_optimizer_made_by_the_trainer_keeps_the_learned_decay(tmp_path: Path) -> None:
    assert decays(tmp_path, LearnedOptimizer, {}) == [0, 0]  # what TrainersOptimizer is for
    assert decays(tmp_path, TrainersOptimizer, {}) == [None, None]
    assert decays(tmp_path, TrainersOptimizer, {}, weight_decay=0.1) == [0.1, 0]
    assert decays(tmp_path, TrainersOptimizer, {"weight_decay": 0}) == [0, 0]


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=8, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config)


@pytest.mark.parametrize("made_by_trainer", [False, True])
def test_a_checkpoint_goes_on_exactly(made_by_trainer: bool, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    rows = [{"input_ids": t, "labels": t[0] % 3} for t in torch.randint(0, 20, (48, 8), generator=g)]

    def run(resume: str | None) -> Trainer:
        model = bert()  # with dropout: the Trainer restores the random state
        made: dict[str, Any] = {"optimizer_cls_and_kwargs": (TrainersOptimizer, {})}
        if not made_by_trainer:
            made = {"optimizers": (LearnedOptimizer(model.parameters()), None)}
        args = arguments(
            tmp_path, save_strategy="steps", save_steps=9, gradient_accumulation_steps=2, num_train_epochs=5
        )
        trainer = Trainer(model, args, train_dataset=rows, **made)
        with_callback(trainer)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, again = run(None), run(str(tmp_path / "checkpoint-9"))
    assert whole.state.global_step == again.state.global_step == 15
    assert_same(values(whole.model), values(again.model))
    assert learned(again).stop_probability == learned(whole).stop_probability
    assert losses_told(learned(again)) == 15


def test_the_optimizer_is_left_as_it_was(tmp_path: Path) -> None:
    model = Toy()
    optimizer = LearnedOptimizer(model.parameters())
    constant = get_constant_schedule(optimizer)
    trainer = Trainer(model, arguments(tmp_path), train_dataset=ROWS, optimizers=(optimizer, constant))
    with_callback(trainer)
    trainer.train()
    trainer.train()
    assert losses_told(optimizer) == 48  # once per step
    assert not optimizer._optimizer_step_pre_hooks
