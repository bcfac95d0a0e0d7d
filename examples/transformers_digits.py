"""Transformers' Trainer: a tiny vision Transformer on scikit-learn's digits with no learning rate, no download."""

from __future__ import annotations

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from learnopt import LearnedOptimizer
from learnopt.integrations.transformers import LearnedOptimizerCallback


def main(steps: int = 150) -> float:
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, num_labels=10, hidden_size=48, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=96, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=128, lr_scheduler_type="constant",
            logging_steps=20, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        rows = [{"pixel_values": image, "labels": label} for image, label in zip(x[:1200], y[:1200], strict=True)]
        trainer = Trainer(model, args, train_dataset=rows, optimizers=(LearnedOptimizer(model.parameters()), None))
        trainer.add_callback(LearnedOptimizerCallback(trainer, layers=False))
        trainer.train()
    optimizer = trainer.optimizer.optimizer  # inside Accelerate's wrapper
    print(f"{optimizer.param_groups[0]['total_steps']} steps planned, learning rates by tensor:")
    for (name, _), rate in zip(model.named_parameters(), optimizer.learning_rates(), strict=True):
        print(f"{name:60} {rate:.5f}")
    model.eval()
    with torch.no_grad():
        accuracy = (model(x[1200:]).logits.argmax(1) == y[1200:]).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
