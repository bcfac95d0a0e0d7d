"""`tune`: what it recommends, what it leaves alone, what it refuses."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from tune_toy import arrays, make

import learnopt
from learnopt.tuner import aligned
from learnopt.tuner.diagnose import diagnose
from learnopt.tuner.forest import LEAF, Forest
from learnopt.tuner.knowledge import Configuration, load
from learnopt.tuner.result import TuneResult
from learnopt.tuner.tune import tune


def quick(**more: Any) -> TuneResult:
    return tune(make, arrays(), steps=100, budget=60, progress=False, **more)


def test_a_recommendation_has_everything() -> None:
    result = quick()
    assert 1e-5 < result.lr < 1
    assert result.interval[0] <= result.lr <= result.interval[1]
    assert result.schedule in ("constant", "cosine")
    assert result.steps_used <= 60
    assert result.batch_size == 16
    assert len(result.curve) == 13
    probed = [row for row in result.curve if row["probe_loss"] is not None]
    assert len(probed) == len({p.lr for p in result.probes}) > 1
    assert result.decided
    assert "were probed, each by a whole run of 12 steps" in result.reason
    assert math.isfinite(result.expected_loss)
    assert f"{result.lr:.3g}" in str(result)


def test_the_same_seed_gives_the_same_and_nothing_outside_changes() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    model = make()
    before = [p.clone() for p in model.parameters()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first = tune(model, arrays(), steps=100, budget=40, progress=False)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert states[:2] == after[:2]
    assert torch.equal(states[2], after[2])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    torch.manual_seed(77)
    second = tune(model, arrays(), steps=100, budget=40, progress=False)
    assert first.curve == second.curve
    assert first.lr == second.lr


class Batches:
    """Dictionaries of noise and targets that draw from every generator."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in range(7):
            x = torch.randn(8, 6) + random.random() + np.random.rand()  # noqa: NPY002
            yield {"input": x, "words": ["a"] * 8, "target": x[:, 0]}


def test_any_batches_with_a_loss_of_ones_own() -> None:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return functional.mse_loss(model(batch["input"])[:, 0], batch["target"])

    result = tune(make, Batches(), loss=loss, steps=50, budget=30, progress=False)
    assert "No validation data was given" in result.reason
    assert result.batch_size == 8
    with pytest.raises(ValueError, match="pass loss="):
        tune(make, Batches(), steps=50, progress=False)


class Stream(torch.utils.data.IterableDataset[Any]):
    """Rows without a known number."""

    def __iter__(self) -> Iterator[Any]:
        return zip(*arrays(), strict=True)


def test_a_loader_without_a_length() -> None:
    loader = torch.utils.data.DataLoader(Stream(), batch_size=16)
    result = tune(make, loader, loader, steps=40, budget=20, progress=False)
    assert result.probes
    assert result.batch_size == 16


def test_a_loader_with_a_generator_gives_the_same_again() -> None:
    own = torch.Generator().manual_seed(5)
    data = torch.utils.data.TensorDataset(*arrays())
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True, generator=own)
    before = own.get_state()
    one, two = (tune(make, loader, loader, steps=40, budget=20, progress=False) for _ in range(2))
    assert one.probes == two.probes
    assert torch.equal(own.get_state(), before)


def test_a_data_loader_and_its_validation() -> None:
    data = torch.utils.data.TensorDataset(*arrays())
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    result = tune(make, loader, loader, steps=60, budget=30, progress=False)
    assert result.batch_size == 32
    assert "No validation data" not in result.reason


@pytest.mark.parametrize("target", ["column", "flat", "binary", "column of classes"])
def test_usual_losses(target: str) -> None:
    x, y = arrays()
    wanted = {"column": x[:, :1], "flat": x[:, 0], "binary": y, "column of classes": y[:, None]}[target]
    outputs = 2 if target == "column of classes" else 1
    result = tune(lambda: nn.Linear(6, outputs), (x, wanted), steps=40, budget=20, progress=False)
    assert result.expected_loss > 0


def test_numpy_and_pandas_are_taken() -> None:
    import pandas as pd

    x, y = (part.numpy() for part in arrays())
    one = tune(make, (x, y), steps=40, budget=20, progress=False)
    two = tune(make, (pd.DataFrame(x), pd.Series(y)), steps=40, budget=20, progress=False)
    assert one.curve == two.curve


def test_ctrl_c_gives_the_best_so_far() -> None:
    calls = 0

    def interrupt(done: int, of: int) -> None:
        nonlocal calls
        calls += 1
        if done == 61:
            raise KeyboardInterrupt

    state = torch.get_rng_state()
    result = tune(make, arrays(), steps=200, progress=interrupt)
    assert result.interrupted
    assert result.probes
    assert result.steps_used == calls == 61
    assert [p.steps for p in result.probes] == [50]
    assert "cut short" in result.reason
    assert torch.equal(state, torch.get_rng_state())


def test_no_budget_is_the_prior_alone() -> None:
    result = tune(make, arrays(), steps=100, budget=0, progress=False)
    assert not result.decided
    assert result.steps_used == 0
    assert "no probe was run" in result.reason
    assert "meta-features alone" in result.reason
    assert result.interval[0] < result.lr < result.interval[1]


class Exploding(nn.Module):
    """Its loss is not a number once any weight has moved."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] * self.w + torch.where(self.w == 1, 0.0, torch.nan)


class Useless(nn.Module):
    """Has a gradient, and no influence worth the name."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] * 0 + self.w * 1e-20


@pytest.mark.parametrize(("model", "doubt"), [(Exploding, "not finite"), (Useless, "lowered the validation loss")])
def test_it_says_when_it_cannot_decide(model: type[nn.Module], doubt: str) -> None:
    x, _ = arrays()
    y = torch.randn(len(x), 1, generator=torch.Generator().manual_seed(5))
    result = tune(model, (x, y), steps=100, budget=60, progress=False)
    assert not result.decided
    assert doubt in result.reason
    assert "Cannot decide" in result.reason
    assert "cannot decide" in str(result)
    assert result.interval[0] <= result.lr <= result.interval[1]
    assert "by the probes and meta-features" in result.reason


def test_the_optimizer_and_scheduler_are_ready() -> None:
    result = quick()
    model = make()
    optimizer, scheduler = result.build(model, steps=10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert max(rates) == pytest.approx(result.lr, rel=0.1)
    assert optimizer.param_groups[0]["weight_decay"] == result.weight_decay
    if result.schedule == "cosine":
        assert rates[-1] < 0.1 * result.lr
    with pytest.raises(ValueError, match="steps must be at least 1"):
        result.build(model, steps=0)


def test_files_are_written(tmp_path: Path) -> None:
    written = quick().save(tmp_path / "new")
    entry = json.loads(written[0].read_text())
    assert {"lr", "interval", "schedule", "batch_size", "weight_decay", "expected_loss"} <= entry.keys()
    assert written[1].read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; choose from: adamw, sgd"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 40.5}, "steps must be a whole number of at least 1, got 40.5"),
        ({"budget": -1}, "budget must be a whole number of at least 0, got -1"),
        ({"loss": 3}, "loss must be a function of .model, batch., got int"),
        ({"loss": lambda model, batch: model(batch[0])}, r"loss must return a tensor of one number, got shape \("),
        ({"loss": lambda model, batch: None}, "loss must return a tensor of one number, got None"),
        ({"loss": lambda model, batch: 0.5}, "loss must return a tensor of one number, got 0.5"),
        ({"make_model": lambda: nn.Sequential(nn.EmbeddingBag(9, 2, sparse=True)), "train_data": (
            torch.ones(50, 3).long(), torch.ones(50, 2))}, "the model has sparse gradients"),
        ({"knowledge": "mine"}, "knowledge must be what tuner.knowledge.load returns, got str"),
        ({"knowledge": replace(load("adamw"), optimizer="sgd")}, "is about 'sgd', the optimizer is 'adamw'"),
        ({"val_data": 7}, "val_data must be .X, y., or batches, such as a DataLoader; got int"),
        ({"train_data": (np.zeros((50, 6)), np.zeros(5))}, "X has 50 rows and y 5"),
        ({"batch_size": 16.5}, "batch_size must be a whole number of at least 1, got 16.5"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"train_data": 7}, "train_data must be"),
        ({"train_data": []}, "yields no batch"),
        ({"train_data": (np.full((50, 6), np.nan), np.zeros(50))}, "X holds values that are not finite"),
        ({"train_data": (np.array([["a"]] * 50), np.zeros(50))}, "X must be numbers"),
        ({"train_data": (np.zeros((3, 6)), np.zeros(3))}, "3 rows are too few"),
        ({"make_model": lambda: nn.Linear(6, 1), "train_data": (np.zeros((50, 6)), np.arange(50))}, "y .* one output"),
        ({"train_data": (np.zeros((50, 6)), np.arange(50) % 3)}, "y holds class 2 .* outputs for 0 to 1"),
        ({"make_model": 3}, "make_model must be a function"),
        ({"make_model": lambda: 3}, "make_model must return an nn.Module, got int"),
        ({"make_model": nn.ReLU}, "no trainable parameters"),
    ],
    ids=lambda v: "",
)  # fmt: skip
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"make_model": make, "train_data": arrays(), "progress": False, "steps": 20, "budget": 4}
    if arguments.get("make_model") is nn.ReLU:
        usual["train_data"] = (torch.zeros(50, 3), torch.zeros(50, 3))
    with pytest.raises(ValueError, match=message):
        tune(**(usual | arguments))


def leaf(values: Tensor) -> Forest:
    """One tree that says the same of everything."""
    return Forest(*(torch.tensor([n]) for n in (0, LEAF)), torch.zeros(1), torch.tensor([0]), values[None])


def test_the_forest_is_asked(tmp_path: Path) -> None:
    known = load("adamw")
    tilt = -1e-4 * torch.arange(len(known.rates))  # large rates first
    flat = replace(
        known, portfolio=(Configuration(known.rates[9], "cosine", 0.0),), prior=leaf(tilt),
        forest=leaf(torch.zeros(aligned.WIDTH)), card={},
    )  # fmt: skip
    result = tune(make, arrays(), steps=400, progress=False, knowledge=flat)
    assert not result.decided
    assert "look alike" in result.reason
    assert (result.lr, result.schedule, result.weight_decay) == (known.rates[9], "cosine", 0.0)


def test_names_are_loaded_when_asked_for() -> None:
    assert learnopt.tune is tune
    assert learnopt.diagnose is diagnose
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = learnopt.nothing
