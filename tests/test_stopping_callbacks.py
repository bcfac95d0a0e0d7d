"""Stoppers in Lightning, in Transformers and in a plain loop stop at the same evaluation."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from learnopt.stopping import LearnedStopper, Patience, Stopper

VALUES = [3.0, 2.0, 1.5, 1.4, 1.45, 1.5, 1.55, 1.6, 1.65, 1.7, 1.8, 1.9]
"""Metric after every epoch."""
STEPS = 4
"""Optimizer steps per epoch."""


def expected(stopper: Stopper, values: list[float] = VALUES) -> int:
    """Number of evaluations of a plain loop."""
    return next(i for i, v in enumerate(values, 1) if stopper.update(v, STEPS * i).stop)


MAKERS = {"patience": lambda: Patience(3), "learned": lambda: LearnedStopper(STEPS * len(VALUES)),
          "both": lambda: Patience(2) & LearnedStopper(STEPS * len(VALUES))}  # fmt: skip


def lightning_parts() -> tuple[Any, type]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed: pip install lightning")

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.seen = 0

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            return self.layer(batch[0]).square().mean()

        def validation_step(self, batch: torch.Tensor) -> None:
            if not self.trainer.sanity_checking:
                self.log("val_loss", VALUES[self.trainer.current_epoch])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01)

    return pl, Module


def fit(pl: Any, module: Any, callback: Any, folder: Path, epochs: int = len(VALUES), **options: Any) -> Any:
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(STEPS, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and loggers
        trainer = pl.Trainer(
            max_epochs=epochs, callbacks=[callback], accelerator="cpu", logger=False, default_root_dir=folder,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(module, data, data, **options)
    return trainer


@pytest.mark.parametrize("name", MAKERS)
def test_lightning(name: str, tmp_path: Path) -> None:
    pl, module = lightning_parts()
    from learnopt.integrations.stopping_lightning import StopperCallback

    callback = StopperCallback(MAKERS[name]())
    trainer = fit(pl, module(), callback, tmp_path)
    assert trainer.current_epoch == expected(MAKERS[name]())
    assert callback.verdict.stop
    assert callback.verdict.best == pytest.approx(1.4)
    assert callback.verdict.best_step == STEPS * 4


def test_lightning_resumes_from_a_checkpoint(tmp_path: Path) -> None:
    pl, module = lightning_parts()
    from learnopt.integrations.stopping_lightning import StopperCallback

    first = fit(pl, module(), StopperCallback(MAKERS["learned"]()), tmp_path, epochs=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first.save_checkpoint(tmp_path / "run.ckpt")
    callback = StopperCallback(MAKERS["learned"]())
    trainer = fit(pl, module(), callback, tmp_path, ckpt_path=tmp_path / "run.ckpt")
    assert trainer.current_epoch == expected(MAKERS["learned"]())
    assert callback.verdict.best_step == STEPS * 4


def test_lightning_keeps_two_metrics_apart() -> None:
    lightning_parts()
    from learnopt.integrations.stopping_lightning import StopperCallback

    one, other = StopperCallback(Patience(), "val_loss"), StopperCallback(Patience(), "val_f1")
    assert one.state_key != other.state_key


def test_lightning_bad_input(tmp_path: Path) -> None:
    pl, module = lightning_parts()
    from learnopt.integrations.stopping_lightning import StopperCallback

    with pytest.raises(ValueError, match="stopper must be a Stopper"):
        StopperCallback(3)
    with pytest.raises(ValueError, match="monitor 'loss' has not been logged; logged: val_loss"):
        fit(pl, module(), StopperCallback(Patience(), monitor="loss"), tmp_path)


def transformers_fit(callback: Any, folder: Path, resume: str | None = None, **options: Any) -> Any:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install transformers accelerate"
    )
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")

    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.layer(x) - labels).square().mean()}

    class Told(transformers.Trainer):  # type: ignore[misc, name-defined]
        def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
            found = super().evaluation_loop(*args, **kwargs)
            found.metrics["eval_loss"] = VALUES[round(self.state.epoch) - 1]
            return found

    rows = [{"x": torch.ones(1), "labels": torch.zeros(1)} for _ in range(STEPS)]
    arguments = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=1, num_train_epochs=len(VALUES), use_cpu=True, report_to="none",
        disable_tqdm=True, eval_strategy="epoch", save_strategy="epoch", logging_strategy="no", **options,
    )  # fmt: skip
    trainer = Told(Toy(), arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("name", ["patience", "both"])
def test_transformers_stops_and_resumes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers accelerate")
    from learnopt.integrations.stopping_transformers import StopperCallback

    callback = StopperCallback(MAKERS[name](), monitor="loss")
    trainer = transformers_fit(callback, tmp_path)
    epochs = expected(MAKERS[name]())
    assert trainer.state.global_step == STEPS * epochs
    assert callback.verdict.best == 1.4
    checkpoint = tmp_path / f"checkpoint-{STEPS * (epochs - 2)}"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == STEPS * (epochs - 2)
    resumed = transformers_fit(StopperCallback(MAKERS[name]()), tmp_path, resume=str(checkpoint))
    assert resumed.state.global_step == STEPS * epochs


def test_transformers_bad_input(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers accelerate")
    from learnopt.integrations.stopping_transformers import StopperCallback

    with pytest.raises(ValueError, match="stopper must be a Stopper"):
        StopperCallback("patience")
    with pytest.raises(ValueError, match="monitor 'eval_f1' is not among the metrics"):
        transformers_fit(StopperCallback(Patience(), monitor="f1"), tmp_path)


def test_transformers_other_evaluations_are_let_by(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers accelerate")
    from learnopt.integrations.stopping_transformers import StopperCallback

    def told(callback: Any, *names: str) -> None:
        for name in names:
            callback.on_evaluate(None, State, None, {name: 1.0})
        callback.on_step_begin(None, State, None)

    class State:
        global_step = 3

    callback = StopperCallback(Patience(), monitor="a_loss")  # eval_dataset={"a": ..., "b": ...}
    told(callback, "eval_a_loss", "eval_b_loss")
    told(callback, "eval_b_loss", "eval_a_loss")
    assert callback.verdict.best == 1.0
    callback.on_evaluate(None, State, None, {"test_loss": 1.0})  # trainer.evaluate(test, metric_key_prefix="test")
    with pytest.raises(ValueError, match="monitor 'eval_a_loss' is not among the metrics: eval_b_loss"):
        told(callback, "eval_b_loss")
