"""Lightning: the optimizer gets the losses a plain loop would give it, and the callback logs and stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from optimizer_toy import assert_same, network, values
from torch import Tensor
from torch.nn import functional
from trainer_toy import impatient_weights, in_groups, loader, losses_told, plain_loop

from learnopt import LearnedOptimizer
from learnopt.integrations import decisions
from learnopt.integrations.lightning import LearnedOptimizerCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),  # advice
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]


class Toy(lightning.LightningModule):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.net = network()
        self.options = options

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return LearnedOptimizer(self.parameters(), total_steps=self.trainer.estimated_stepping_batches, **self.options)


def fit(module: lightning.LightningModule, *, resume: Path | None = None, **options: Any) -> lightning.Trainer:
    quiet = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "max_epochs": 4,
    }  # fmt: skip
    trainer = lightning.Trainer(**(quiet | options))
    trainer.fit(module, loader(), ckpt_path=resume)
    return trainer


@pytest.mark.parametrize("clip", [None, 0.1], ids=["free", "clipped"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_closure_tells_the_loss(precision: Any, clip: float | None) -> None:
    module = Toy()
    trainer = fit(module, precision=precision, gradient_clip_val=clip)
    assert trainer.global_step == 24
    cast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else None
    model, optimizer = plain_loop(in_groups(1, 4), 24, clip=clip, cast=cast)
    assert_same(values(module.net), values(model))
    assert trainer.optimizers[0].stop_probability == optimizer.stop_probability
    assert losses_told(trainer.optimizers[0]) == 24


@pytest.mark.parametrize("count", [2, 4])  # 4: the last step of an epoch of 6 batches has only two
def test_the_callback_tells_the_mean_loss_of_accumulated_batches(count: int) -> None:
    module = Toy()
    fit(module, accumulate_grad_batches=count, callbacks=[LearnedOptimizerCallback()], max_epochs=3)
    groups = in_groups(count, 3)
    truth, optimizer = plain_loop(groups, len(groups), share=count)
    assert_same(values(module.net), values(truth))
    assert losses_told(module.optimizers().optimizer) == losses_told(optimizer) == len(groups)


@pytest.mark.parametrize(("scale", "taken"), [(2.0**10, 24), (2.0**20, 20)], ids=["scaled", "first-steps-overflow"])
def test_half_precision_with_a_scaler_hears_the_loss_through_the_callback(scale: float, taken: int) -> None:
    def plugin() -> MixedPrecision:
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))

    heard, deaf = Toy(), Toy()
    fit(heard, plugins=[plugin()], callbacks=[LearnedOptimizerCallback()])
    fit(deaf, plugins=[plugin()])
    assert losses_told(heard.optimizers().optimizer) == taken
    assert losses_told(deaf.optimizers().optimizer) == 0
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    truth, _ = plain_loop(in_groups(1, 4), 24, cast=torch.autocast("cpu", torch.float16), scaler=scaler)
    heard.optimizers().optimizer.train()  # the end that was told is not reached where steps were skipped
    assert_same(values(heard.net), values(truth))


def test_the_callback_logs_by_name_at_the_trainers_interval(tmp_path: Path) -> None:
    module = Toy()
    callbacks = [LearnedOptimizerCallback(), LearningRateMonitor()]
    trainer = fit(module, logger=CSVLogger(tmp_path), log_every_n_steps=8, callbacks=callbacks)
    optimizer = trainer.optimizers[0]
    named = dict(zip((n for n, _ in module.named_parameters()), optimizer.learning_rates(), strict=True))
    logged = {k: float(v) for k, v in trainer.logged_metrics.items()}
    assert logged["learnopt/schedule"] == pytest.approx(optimizer.schedule)
    assert logged["learnopt/stop_probability"] == pytest.approx(optimizer.stop_probability)
    for name, rate in named.items():
        assert logged[f"learnopt/learning_rate/{name}"] == pytest.approx(rate)
    table = pd.read_csv(next(tmp_path.rglob("metrics.csv"))).dropna(subset="learnopt/schedule")
    assert table["step"].tolist() == [7, 15, 23]
    assert table["loss"].notna().all()  # in one row with the module's own


def test_without_layers_only_the_run_is_logged() -> None:
    trainer = fit(Toy(), log_every_n_steps=1, callbacks=[LearnedOptimizerCallback(layers=False)])
    assert {k for k in trainer.logged_metrics if "learnopt" in k} == {"learnopt/schedule", "learnopt/stop_probability"}


@pytest.mark.parametrize("stop", [True, False])
def test_the_callback_ends_training_when_the_optimizer_says_so(
    stop: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = LearnedOptimizerCallback(stop=stop)
    trainer = fit(Toy(weights=impatient_weights(tmp_path)), max_epochs=5, callbacks=[callback])
    assert trainer.optimizers[0].should_stop
    assert trainer.global_step == (20 if stop else 30)
    assert (callback.stop_reason is not None) is stop
    assert ("training ends: " in caplog.text) is stop


def test_the_trainers_least_number_of_epochs_is_kept_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = Toy(weights=impatient_weights(tmp_path))
    assert fit(module, max_epochs=6, min_epochs=5, callbacks=[LearnedOptimizerCallback()]).global_step == 30
    assert caplog.text.count("training ends: ") == 1


def test_decisions_are_read_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(decisions, "numbers", lambda *_: read.append(1) or {})
    fit(Toy(), accumulate_grad_batches=2, log_every_n_steps=1, callbacks=[LearnedOptimizerCallback()])
    assert len(read) == 12


def test_another_optimizer_is_refused() -> None:
    class Other(Toy):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.raises(ValueError, match="must return a LearnedOptimizer, got SGD"):
        fit(Other(), callbacks=[LearnedOptimizerCallback()])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("callback", [True, False], ids=["callback", "bare"])
def test_a_checkpoint_goes_on_exactly(callback: bool, count: int, tmp_path: Path) -> None:
    def run(module: Toy, resume: Path | None) -> lightning.Trainer:
        keep = ModelCheckpoint(tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
        callbacks = [keep, LearnedOptimizerCallback()] if callback else [keep]
        return fit(module, resume=resume, enable_checkpointing=True, callbacks=callbacks, accumulate_grad_batches=count)

    whole, again = Toy(), Toy()
    trainer, resumed = run(whole, None), run(again, tmp_path / "epoch=1.ckpt")
    assert resumed.global_step == trainer.global_step == 24 // count
    assert_same(values(again.net), values(whole.net))
    assert resumed.optimizers[0].stop_probability == trainer.optimizers[0].stop_probability


class Validated(Toy):
    """Without a number of steps, looking at the weights that it validates."""

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        optimizer = self.optimizers().optimizer
        assert optimizer.param_groups[0]["averaged"]
        for p in self.parameters():
            if p in optimizer.state:  # not while Lightning tries validation out, before the first step
                assert torch.equal(p, optimizer.state[p]["param_avg"])
        self.log("val_loss", functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return LearnedOptimizer(self.parameters())


def test_validation_and_checkpoints_have_the_averaged_weights(tmp_path: Path) -> None:
    def run(module: lightning.LightningModule, resume: Path | None = None) -> lightning.Trainer:
        keep = ModelCheckpoint(tmp_path, filename="{epoch}", monitor="val_loss", save_top_k=-1)
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=4,
            callbacks=[keep, LearnedOptimizerCallback()],
        )  # fmt: skip
        trainer.fit(module, loader(), loader(), ckpt_path=resume)
        return trainer

    whole, again = Validated(), Validated()
    trainer, resumed = run(whole), run(again, tmp_path / "epoch=1.ckpt")
    saved = torch.load(tmp_path / "epoch=3.ckpt", weights_only=True)["state_dict"]
    assert_same(list(saved.values()), [p.detach() for p in whole.parameters()])
    assert_same(values(again.net), values(whole.net))
    truth, optimizer = plain_loop(in_groups(1, 4), None)
    optimizer.eval()
    assert_same(values(whole.net), values(truth))
    for each in (trainer, resumed):
        each.optimizers[0].train()
    optimizer.train()
    assert_same(values(whole.net), values(truth))
    assert_same(values(again.net), values(truth))


def test_schedulers_multiply_the_learned_rate() -> None:
    class Scheduled(Toy):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]

    trainer = fit(Scheduled(), max_epochs=3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.125


class Manual(Toy):
    """Manual optimisation, with one optimizer for everything or one per half."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.count = count

    def training_step(self, batch: list[Tensor], _: int) -> None:
        loss = functional.mse_loss(self.net(batch[0]), batch[1])
        found = self.optimizers()
        for optimizer in found if isinstance(found, list) else [found]:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in found if isinstance(found, list) else [found]:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        own = list(self.parameters())
        parts = [own] if self.count == 1 else [own[:2], own[2:]]
        return [LearnedOptimizer(part, total_steps=24) for part in parts]


@pytest.mark.parametrize(("count", "told"), [(1, 24), (2, 0)])
def test_manual_optimisation(count: int, told: int) -> None:
    module = Manual(count)
    trainer = fit(module, log_every_n_steps=6, callbacks=[LearnedOptimizerCallback()])
    assert [losses_told(o) for o in trainer.optimizers] == [told] * count
    schedules = [k for k in trainer.logged_metrics if k.endswith("/schedule")]
    assert schedules == (["learnopt/schedule"] if count == 1 else ["learnopt/0/schedule", "learnopt/1/schedule"])
    if count == 1:
        assert_same(values(module.net), values(plain_loop(in_groups(1, 4), 24)[0]))


def test_the_optimizer_is_left_as_it_was() -> None:
    module = Toy()
    trainer = fit(module, callbacks=[LearnedOptimizerCallback()])
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks
