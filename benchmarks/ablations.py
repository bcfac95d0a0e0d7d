"""Weights with one ability switched off each, to be compared with the whole.

    python benchmarks/ablations.py --out runs/ablations
    learnopt compare --tasks meta_valid --optimizers learnopt,adamw --weights runs/ablations/without-pull.safetensors

What is left is not trained again: the figure says what the ability does in these weights, not what it is worth at best.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from learnopt import artifact, meta_network

Weights = dict[str, Tensor]
NEVER = -30.0
"""Logit of a share that is not to be used."""


def _silence(*names: str) -> Callable[[Weights], None]:
    """Parts of theta set to zero."""

    def change(w: Weights) -> None:
        for name in names:
            w[name].zero_()

    return change


def _never(output: str) -> Callable[[Weights], None]:
    """An output that is a logit held at `NEVER`."""

    def change(w: Weights) -> None:
        column = meta_network.OUTPUTS.index(output)
        for name in ("tensor_out", "tensor_skip"):
            w[name][..., column] = 0.0
        w["tensor_bias"][..., column] = NEVER

    return change


ABLATIONS: dict[str, Callable[[Weights], None]] = {
    "orthogonalisation": _never("gate"),
    "pull": _never("pull"),
    "mlp": _silence("mlp_out", "mlp_out_bias"),
    "lstm": _silence("tensor_out"),
    "schedule": _silence("global_out", "global_skip"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", default="default")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    chosen = parser.parse_args()
    theta = artifact.load(chosen.weights).theta
    hand = meta_network.initial_theta(torch.Generator().manual_seed(0))
    print(f"wrote {artifact.save(chosen.out / 'untrained.safetensors', hand, None, {'name': 'untrained'})}")
    for name, change in ABLATIONS.items():
        w = meta_network.unpack(theta.clone())
        change(w)
        path, left = chosen.out / f"without-{name}.safetensors", torch.cat([part.flatten() for part in w.values()])
        print(f"wrote {artifact.save(path, left, None, {'name': f'{chosen.weights} without {name}'})}")


if __name__ == "__main__":
    main()
