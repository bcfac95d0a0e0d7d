"""skorch: a scikit-learn classifier around a network, in a pipeline, with no learning rate."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch import NeuralNetClassifier
from torch import nn

from learnopt import LearnedOptimizer
from learnopt.integrations.skorch import LearnedOptimizerCallback


def scaled(x: np.ndarray) -> np.ndarray:
    return (x / 16).astype(np.float32)


def main(steps: int = 300) -> float:
    digits = load_digits()
    torch.manual_seed(0)
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        criterion=nn.CrossEntropyLoss,
        optimizer=LearnedOptimizer,
        lr=1,  # skorch's 0.01 would multiply the learned rates
        max_epochs=math.ceil(steps / 15),  # 15 batches of 64 make an epoch of 960 rows, 240 are for validation
        batch_size=64,
        iterator_train__shuffle=True,
        callbacks=[LearnedOptimizerCallback()],  # tells total_steps; schedule and stop probability go to the history
    )
    model = make_pipeline(FunctionTransformer(scaled), net)
    model.fit(digits.data[:1200], digits.target[:1200])
    rates = ", ".join(f"{rate:.5f}" for rate in net.optimizer_.learning_rates())
    print(f"{net.optimizer_.param_groups[0]['total_steps']} steps planned, learning rates {rates}")
    accuracy = float(model.score(digits.data[1200:], digits.target[1200:]))
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
