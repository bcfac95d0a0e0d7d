"""The learned optimizer on networks that were trained before, against AdamW with the best of 20 settings each.

    LEARNOPT_DATA=... OMP_NUM_THREADS=1 python benchmarks/fine_tuning.py --out results/fine-tuning

A network learns one problem with AdamW and goes on with another one of its kind: other alphabets of drawings, other
photographs, another text; classifiers get a new head. Few or many rows, 100 to 500 steps. As in `second_opinion.py`:
`LearnedOptimizer(parameters, steps, lr=...)` with the loss told, AdamW's setting chosen by the very losses it is
reported with, same initialisations and batches for all.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import by_kind
import numpy as np
import torch
from second_data import PHOTOGRAPHS, Pair, length, photograph
from second_networks import Recurrent, Transformer, cnn, resnet
from second_opinion import Step, adamw, batches, log_mean, train
from second_tasks import Work
from torch import Tensor, nn
from torch.nn import functional

from learnopt import LearnedOptimizer
from learnopt.provenance import write_record
from learnopt.task import seed_of
from learnopt.tasks import data_folder
from learnopt.tasks.corpora import ALPHABET, characters

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
FACTORS = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Values of `LearnedOptimizer`'s `lr` that are tried."""
SEEDS = (1, 2)
SIZE, WINDOW = 16, 32
BEFORE = 1500
"""Steps of the training before."""


class Problem(NamedTuple):
    """A problem to have learned before, and one to go on with."""

    make: Callable[[int], nn.Module]  # of the number of classes
    before: tuple[Pair, int]  # rows and classes
    after: tuple[Pair, int]
    loss: Callable[[Tensor, Tensor], Tensor]
    new_head: bool


def _shuffled(x: Tensor, y: Tensor, seed: int) -> Pair:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order].contiguous(), y[order]


def _drawings(rng: np.random.Generator) -> tuple[tuple[Pair, int], tuple[Pair, int]]:
    """Drawings by alphabet: those of one background set, then of the other."""
    sets = []
    for name in ("omniglot:small1", "omniglot:small2"):
        x, y, _ = data_folder.omniglot(name, SIZE)
        sets.append((_shuffled((x - x.mean()) / x.std(), y, int(rng.integers(1 << 30))), int(y.max()) + 1))
    return sets[0], sets[1]


def _photographs(rng: np.random.Generator) -> tuple[tuple[Pair, int], tuple[Pair, int]]:
    """Patches by photograph: eight photographs, then other ones."""
    names = list(rng.permutation(PHOTOGRAPHS))
    sets = []
    for chosen in (names[:8], names[8 : 8 + int(rng.integers(2, 7))]):
        corners = rng.integers(0, 256 - SIZE, (4000 // len(chosen), 2))
        views = [photograph(name, 256) for name in chosen]
        x = torch.stack([v[i : i + SIZE, j : j + SIZE] for v in views for i, j in corners]).permute(0, 3, 1, 2)
        y = torch.arange(len(chosen)).repeat_interleave(len(corners))
        sets.append((_shuffled((x - 0.5) / 0.25, y, int(rng.integers(1 << 30))), len(chosen)))
    return sets[0], sets[1]


def _images(rng: np.random.Generator, network: Callable[..., nn.Module], patches: bool = False) -> Problem:
    before, after = (_drawings if rng.random() < 0.5 else _photographs)(rng)
    channels = before[0][0].shape[1]
    if patches:
        before, after = ((_patches(rows), classes) for rows, classes in (before, after))
        return Problem(
            partial(Transformer, 0, 16, before[0][0].shape[-1]), before, after, functional.cross_entropy, True
        )
    return Problem(partial(network, channels, 12), before, after, functional.cross_entropy, True)


def _patches(rows: Pair) -> Pair:
    x = rows[0].unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
    return x.reshape(len(x), 16, -1).contiguous(), rows[1]


def _cnn(channels: int, width: int, classes: int) -> nn.Module:
    return cnn(channels, width, classes, False)


def _next(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


def _text(rng: np.random.Generator, make: Callable[[int], nn.Module]) -> Problem:
    """Next symbol of one text, then of another."""
    names = list(rng.permutation(["text:movie-reviews", "text:library-sources", "text:numpy-docstrings"])[:2])
    sets = []
    for name in names:
        rows = characters(str(name)).unfold(0, WINDOW + 1, WINDOW // 2)
        sets.append((_shuffled(rows[:, :-1], rows[:, 1:], int(rng.integers(1 << 30))), len(ALPHABET)))
    return Problem(make, sets[0], sets[1], _next, False)


def _transformer(classes: int) -> nn.Module:
    return Transformer(classes, WINDOW)


def _lstm(classes: int) -> nn.Module:
    return Recurrent(nn.LSTM, classes, 48, 1, classes, True)


KINDS: dict[str, Callable[[np.random.Generator], Problem]] = {
    "cnn": lambda rng: _images(rng, _cnn),
    "resnet": lambda rng: _images(rng, resnet),
    "vision transformer": lambda rng: _images(rng, cnn, patches=True),
    "character transformer": lambda rng: _text(rng, _transformer),
    "character lstm": lambda rng: _text(rng, _lstm),
}


def learned_before(kind: str, problem: Problem, rng: np.random.Generator) -> nn.Module:
    """The network as it leaves its first problem."""
    rows, classes = problem.before
    work = Work(rows, rows, partial(problem.make, classes), problem.loss, 32, BEFORE)
    torch.manual_seed(int(rng.integers(1 << 30)))
    network = work.make()
    optimizer, draw = adamw(work, 3e-3, "cosine")(network), batches(work, 0)
    for t in range(BEFORE):
        x, y = draw()
        network.zero_grad()
        loss = problem.loss(network(x), y)
        loss.backward()
        optimizer(t, loss.detach())
    return network


def going_on(problem: Problem, network: nn.Module) -> nn.Module:
    """A copy of the network with a new last layer for other classes."""
    fresh = copy.deepcopy(network)
    if problem.new_head:
        name, last = [(n, m) for n, m in fresh.named_modules() if isinstance(m, nn.Linear)][-1]
        owner = fresh.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], nn.Linear(last.in_features, problem.after[1]))
    return fresh


def draw_work(kind: str, index: int) -> Work:
    """A network that has learned something, and what it goes on with."""
    rng = np.random.default_rng([seed_of("fine-tuning", kind), index])
    problem = KINDS[kind](rng)
    network = learned_before(kind, problem, rng)
    (x, y), _ = problem.after
    rows = min(length(rng, 50, 1500), int(0.7 * len(x)))
    return Work(
        (x[:rows], y[:rows]), (x[rows : rows + 600], y[rows : rows + 600]), partial(going_on, problem, network),
        problem.loss, min(32, rows), length(rng, 100, 500),
    )  # fmt: skip


def learned(work: Work, lr: float) -> Callable[[nn.Module], Step]:
    def make(network: nn.Module) -> Step:
        optimizer = LearnedOptimizer(network.parameters(), work.steps, lr=lr)
        return lambda t, loss: optimizer.step(loss=loss)

    return make


def measure(kind: str, index: int) -> dict[str, Any]:
    """One task: every setting's losses, and the logarithms of ratios to AdamW's best one."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    work = draw_work(kind, index)
    mine = {f"{lr:g}": [train(work, seed, learned(work, lr)) for seed in SEEDS] for lr in FACTORS}
    theirs = {
        f"{rate:g} {schedule}": [train(work, seed, adamw(work, rate, schedule)) for seed in SEEDS]
        for rate in RATES
        for schedule in ("constant", "cosine")
    }
    best = min(theirs, key=lambda name: log_mean(theirs[name], "valid"))
    ratios = {
        part: {lr: log_mean(runs, part) - log_mean(theirs[best], part) for lr, runs in mine.items()}
        for part in ("valid", "train")
    }
    plain = {name: log_mean(runs, "valid") - log_mean(theirs[best], "valid") for name, runs in theirs.items()}
    return {"kind": kind, "index": index, "steps": work.steps, "rows": len(work.train[0]), "adamw": best,
            "learned_runs": mine, "adamw_runs": theirs, "adamw_ratios": plain, **ratios}  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By `lr`: geometric mean of the ratios, standard error of its logarithm, median, share of tasks won."""
    table = {}
    for lr in rows[0]["valid"]:
        logs = [row["valid"][lr] for row in rows]
        table[lr] = {
            "tasks": len(rows), "validation ratio": by_kind.ratio(logs), **by_kind.spread(logs),
            "worst": math.exp(by_kind.cut(max(logs))), "won": statistics.mean(x <= 0 for x in logs),
            "training ratio": by_kind.ratio(row["train"][lr] for row in rows),
        }  # fmt: skip
    return table


def fixed(rows: list[dict[str, Any]]) -> dict[str, float]:
    """AdamW's settings, each for all tasks: geometric mean of the ratios to the best one of each task."""
    return {name: by_kind.ratio(row["adamw_ratios"][name] for row in rows) for name in rows[0]["adamw_ratios"]}


def main() -> None:
    chosen = by_kind.options(__doc__, "results/fine-tuning", tasks=6)
    rows = by_kind.run(measure, KINDS, chosen)
    table = {name: summary(part) for name, part in by_kind.parts(rows, KINDS).items()}
    for name, lines in table.items():
        for lr, line in lines.items():
            print(f"{name:24} lr {lr:5}", *[f"{key} {value:.2f}" for key, value in line.items()])
    everywhere = fixed(rows)
    for name, ratio in sorted(everywhere.items(), key=lambda item: item[1])[:5]:
        print(f"AdamW everywhere at {name}: {ratio:.2f}")
    path = write_record(
        chosen.out / "fine-tuning.json", seeds=list(SEEDS), summary=table, adamw_everywhere=everywhere, rows=rows
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
