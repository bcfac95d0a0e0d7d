"""Lightning: scikit-learn's digits with no learning rate; the callback logs what was decided and stops when told to."""

from __future__ import annotations

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from learnopt import LearnedOptimizer
from learnopt.integrations.lightning import LearnedOptimizerCallback


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> LearnedOptimizer:
        return LearnedOptimizer(self.parameters(), total_steps=self.trainer.estimated_stepping_batches)


def main(steps: int = 300) -> float:
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    lightning.seed_everything(0, verbose=False)
    module = Digits()
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=20, callbacks=[LearnedOptimizerCallback()],
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x[:1200], y[:1200]), batch_size=64, shuffle=True))
    print("schedule, stop probability and learning rate of every tensor, as logged:")
    for name, value in trainer.logged_metrics.items():
        print(f"{name:42} {value:.5f}")
    accuracy = (module.net(x[1200:]).argmax(1) == y[1200:]).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
