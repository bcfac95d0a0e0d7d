"""The `stress` suite: held-out data far outside of what was met in meta-training.

The longest run there has 2,000 steps, the widest usual layer 64 units, the deepest network 6 blocks or layers; here
runs are 10 times as long, layers 16 times as wide, networks 5 times as deep, and weights held in units of 0.01 to 100.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from learnopt.task import Task
from learnopt.tasks import benchmark_data as data
from learnopt.tasks import benchmark_networks as nets
from learnopt.tasks.augmentations import Reparametrised
from learnopt.tasks.fixed import TaskMaker, fixed_task, flat
from learnopt.tasks.held_out import DIGITS, OFFLINE
from learnopt.tasks.networks import mlp, residual_mlp
from learnopt.tasks.rows import cross_entropy, squared_error

LONG, WIDE, DEEP = 10 * 2000, 16 * 64, 5 * 6


def _digits(
    name: str, kind: str, module: Callable[[], nn.Module], steps: int, train_rows: int = 1200, images: bool = False
) -> Task:
    pictures, label = data.digits()
    rows = (pictures if images else flat(pictures), label)
    return fixed_task(name, kind, DIGITS, rows, module, train_rows=train_rows, steps=steps, objective=cross_entropy)


def _long_autoencoder() -> Task:
    x, module = data.digit_pixels(), partial(mlp, [64, 24, 8, 24, 64])
    return fixed_task(
        "long-autoencoder", "autoencoder", DIGITS, (x, x), module, train_rows=1200, steps=LONG, objective=squared_error
    )


def _scaled(name: str, inner: str, scale: float) -> Task:
    task = Reparametrised(OFFLINE[inner](), scale)
    task.name = name
    return task


STRESS: dict[str, TaskMaker] = {
    "long-mlp": partial(_digits, "long-mlp", "mlp", partial(mlp, [64, 24, 10], "silu"), LONG, 150),
    "long-autoencoder": _long_autoencoder,
    "wide-mlp": partial(_digits, "wide-mlp", "mlp", partial(mlp, [64, WIDE, WIDE, 10]), 300),
    "wide-resnet": partial(
        _digits, "wide-resnet", "resnet", partial(nets.small_resnet, 10, 128, 1, 2), 200, images=True
    ),
    "deep-residual": partial(
        _digits, "deep-residual", "residual-mlp", partial(residual_mlp, 64, 24, 10, DEEP, "relu", "layer"), 300
    ),
    "deep-tanh": partial(_digits, "deep-tanh", "deep-mlp", partial(mlp, [64, *[24] * DEEP, 10], "tanh"), 300),
    "small-unit-cnn": partial(_scaled, "small-unit-cnn", "digits-cnn", 0.01),
    "large-unit-cnn": partial(_scaled, "large-unit-cnn", "digits-cnn", 100.0),
    "small-unit-lstm": partial(_scaled, "small-unit-lstm", "digits-lstm", 0.01),
    "large-unit-resnet": partial(_scaled, "large-unit-resnet", "digits-resnet", 100.0),
}
