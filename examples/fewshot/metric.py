"""Prototypical and Siamese networks on characters of random strokes: learn what to compare."""

from __future__ import annotations

import torch
from torch import nn

from learnopt.fewshot import Prototypical, Siamese
from learnopt.fewshot.sources.glyphs import glyphs
from learnopt.fewshot.sources.labelled import FewShot


def embedding() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(800, 64)
    )  # fmt: skip


def main(meta_steps: int = 1000, classes: int = 1200) -> float:
    train = FewShot(*glyphs(classes), ways=20, shots=1, queries=5)
    test = FewShot(*glyphs(classes // 4, split="test"), ways=5, shots=1, queries=5)
    accuracy = 0.0
    for kind in (Siamese, Prototypical):
        learner = kind(embedding(), meta_schedule="cosine")
        learner.fit(train, meta_steps, meta_batch=1)
        row = learner.evaluate(test, count=200).summary()[-1]
        accuracy = row["accuracy_mean"]
        print(f"{learner.name}: 5-way 1-shot accuracy {accuracy:.3f} ± {row['accuracy_half']:.3f}")

    task = test.draw(seed=1, count=1)
    classifier = learner.adapt(task.support_x[0], task.support_y[0])  # an nn.Module with a logit for each class
    print("queries of a new task:", classifier(task.query_x[0]).argmax(1).tolist())
    return accuracy


if __name__ == "__main__":
    main()
