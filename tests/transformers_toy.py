"""What tests of Transformers' Trainer share: a network as it wants it, arguments, a Trainer of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimizer_toy import network
from torch import Tensor, nn
from torch.nn import functional
from trainer_toy import data
from transformers import Trainer, TrainingArguments

from learnopt import LearnedOptimizer
from learnopt.integrations import decisions
from learnopt.integrations.transformers import LearnedOptimizerCallback


class Toy(nn.Module):
    """The network of the other tests as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": functional.mse_loss(self.net(x), labels)}


ROWS = [{"x": x, "labels": y} for x, y in data()]


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    usual = {
        "lr_scheduler_type": "constant", "max_grad_norm": 0, "per_device_train_batch_size": 8, "num_train_epochs": 4,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 6,
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    return TrainingArguments(str(folder), **(usual | options))


def trainer_for(folder: Path, *, weights: str = "default", **options: Any) -> Trainer:
    model = Toy()
    made = (LearnedOptimizer(model.parameters(), weights=weights), None)
    return Trainer(model, arguments(folder, **options), train_dataset=ROWS, eval_dataset=ROWS, optimizers=made)


def with_callback(trainer: Trainer, **options: Any) -> LearnedOptimizerCallback:
    callback = LearnedOptimizerCallback(trainer, **options)
    trainer.add_callback(callback)
    return callback


def learned(trainer: Trainer) -> LearnedOptimizer:
    return decisions.find(trainer.optimizer)
