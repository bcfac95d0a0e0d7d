"""A corpus of made-up curves, for the tests that teach from one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from learnopt.corpus import Corpus


def make_corpus(folder: Path, tasks: int = 6, runs: int = 16, points: int = 21) -> Path:
    """Runs whose best value comes at a moment that a kink gives away."""
    corpus, t = Corpus(folder), np.linspace(0, 1, points)
    for i in range(tasks):
        rng = np.random.default_rng(i)
        rows = []
        for j in range(runs):
            turn, level = rng.uniform(0.2, 0.9), rng.uniform(0.5, 2)
            valid = level + np.where(t < turn, 2 * (turn - t), 0.5 * (t - turn)) + 0.005 * rng.standard_normal(points)
            if j == 0:
                valid[points // 2 :] = np.inf
            rows.append({"schedule": ("constant", "cosine")[j % 2], "lr": level, "weight_decay": 0.01 * (j % 3),
                         "optimizer": "adamw", "valid_steps": list(range(0, 10 * points, 10)),
                         "valid": valid.tolist()})  # fmt: skip
        frame = pd.DataFrame(rows).assign(task=f"task{i}", datasets=f"data{i}" if i else "data0,data1")
        corpus.put(f"task{i}", "adamw", frame)
    return folder
