"""The tuner's probes: what they train, when they end, what time there is for them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from tune_toy import arrays, make

from learnopt.baselines import multiplier
from learnopt.tuner.probing import Prober
from learnopt.tuner.tune import tune


def test_the_probes_are_whole_short_trainings() -> None:
    from learnopt.tuner.data import source, usual_loss

    x, y = arrays()
    data = source((x, y), (x[:50], y[:50]), 16, 0)
    torch.manual_seed(0)
    model, reference = make(), make()
    reference.load_state_dict(model.state_dict())
    loss, steps = usual_loss(data), []
    prober = Prober(lambda: model, "sgd", 1e-3, loss, data, 0.7, math.inf, 0, lambda: steps.append(1))
    probe = prober.run(0.1, 0.25, 16)
    optimizer, stream, losses = torch.optim.SGD(reference.parameters(), 1.0, 0.9, weight_decay=1e-3), data.stream(), []
    for t in range(16):
        if t == 8:
            half = loss(reference, (x[:50], y[:50])).item()
        optimizer.param_groups[0]["lr"] = 0.1 * multiplier("cosine", t, 16)
        value = loss(reference, next(stream))
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert (probe.lr, probe.share, probe.steps, probe.start) == (0.1, 0.25, 16, 0.7)
    assert len(steps) == 16
    assert probe.train == pytest.approx([np.mean(losses[i : i + 2]) for i in range(0, 16, 2)])
    assert probe.half == pytest.approx(half)
    assert probe.valid == pytest.approx(loss(reference, (x[:50], y[:50])).item())
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(prober.weights[name], tensor)


def test_the_best_probe_is_kept() -> None:
    result = tune(make, arrays(), steps=100, progress=False)
    assert result.best_probe is not None
    least = result.best_probe.valid
    assert least == min(p.valid for p in result.probes)
    assert "weights" not in result.entry()
    model, spare = make(), make()
    assert result.keep_better(model, least - 0.01) == least - 0.01
    for loss in (least + 0.01, math.inf, math.nan):
        spare.load_state_dict(model.state_dict())
        assert result.keep_better(spare, loss) == least
        assert torch.equal(spare[0].weight, result.weights["0.weight"])  # type: ignore[index]
    assert not torch.equal(model[0].weight, spare[0].weight)  # type: ignore[index]
    x, y = arrays()
    judged = tune(lambda: make(), (x, y), (x[:50], y[:50]), steps=100, progress=False)
    judged.keep_better(spare, math.inf)
    with torch.no_grad():
        found = functional.cross_entropy(spare(x[:50]), y[:50]).item()
    assert judged.best_probe is not None
    assert found == pytest.approx(judged.best_probe.valid, rel=1e-5)


def test_a_function_judges_both() -> None:
    x, y = arrays(4500)
    result, model = tune(make, (x[:300], y[:300]), (x, y), steps=100, progress=False), make()
    probed, calls = make(), list[nn.Module]()
    probed.load_state_dict(result.weights)

    def judged(judge_of: nn.Module) -> float:
        calls.append(judge_of)
        with torch.no_grad():
            return functional.cross_entropy(judge_of(x), y).item()

    assert not result.judged_by_all
    assert result.best_probe is not None
    with pytest.warns(UserWarning, match=r"loss 9 cannot be compared .* only a part of the data, so the model is kept"):
        assert result.keep_better(model, 9) == 9
    worse, better = judged(model), judged(probed)
    assert better != pytest.approx(result.best_probe.valid, rel=1e-6)
    assert worse > better == result.keep_better(model, judged)
    assert torch.equal(model[0].weight, probed[0].weight)  # type: ignore[index]
    assert calls[2] is model is not calls[3]
    with torch.no_grad():
        model[2].bias += 1e-3  # type: ignore[index]
    kept = copy.deepcopy(model.state_dict())
    for sign in (1, -1, math.nan):  # NaN: neither is known to be better
        before = -1.0 if sign == 1 else 1.0
        values = iter([before, before + sign])
        found = result.keep_better(model, lambda _: next(values))  # noqa: B023
        assert found == (0.0 if sign == -1 else before)
        expected = result.weights if sign == -1 else kept
        assert all(torch.equal(a, expected[k]) for k, a in model.state_dict().items())
        model.load_state_dict(kept)


def test_without_a_probe_nothing_is_kept() -> None:
    result, model = tune(make, arrays(), steps=100, budget=0, progress=False), make()
    before = model[0].weight.clone()  # type: ignore[index]
    assert result.best_probe is None
    assert result.weights == {}
    assert result.keep_better(model, 3.0) == 3.0
    assert result.keep_better(model, lambda _: 2.0) == 2.0
    assert torch.equal(model[0].weight, before)  # type: ignore[index]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_factory_that_builds_nothing_new_is_refused(wrapped: bool) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="returned a Sequential with parameters that it had returned before"):
        tune(lambda: nn.Sequential(model) if wrapped else model, arrays(), steps=20, progress=False)
    assert all(torch.equal(a, before[k]) for k, a in model.state_dict().items())


def test_frozen_parts_may_be_shared() -> None:
    body = nn.Linear(6, 16).requires_grad_(False)
    result = tune(lambda: nn.Sequential(body, nn.ReLU(), nn.Linear(16, 2)), arrays(), steps=40, progress=False)
    assert len(result.probes) > 1


def test_a_probe_ends_at_a_loss_that_is_not_finite() -> None:
    from learnopt.tuner.data import source

    x, y = arrays()
    data, steps = source((x, y), (x[:50], y[:50]), 16, 0), []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value: Tensor = model(batch[0]).square().mean()
        return value / 0 if len(steps) == 10 else value

    prober = Prober(make, "adamw", 0.0, loss, data, 0.7, math.inf, 0, lambda: steps.append(1))
    probe = prober.run(0.01, 0.25, 40)
    assert probe.failed
    assert len(steps) == 11
    assert len(probe.train) == 3
    assert math.isinf(probe.valid)
    assert prober.weights == {}


def test_seconds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]  # a clock on which nothing but the loss takes time
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        now[0] += 0.01
        return functional.cross_entropy(model(batch[0]), batch[1])

    result = tune(make, arrays(), steps=1000, seconds=2, loss=slow, progress=False)
    assert result.interrupted
    assert result.probes, "probes must be short enough to end in time"
    assert 1 < now[0] < 2.1
    assert result.seconds_used == pytest.approx(now[0])


def test_time_enough_changes_nothing() -> None:
    one, two = (tune(make, arrays(), steps=100, seconds=s, progress=False) for s in (None, 60))
    assert one.curve == two.curve
    assert one.steps_used == two.steps_used == 100
    assert not two.interrupted


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode: Callable[[], Any]) -> None:
    usual = tune(make, arrays(), steps=100, budget=60, progress=False)
    with mode():
        result = tune(make, arrays(), steps=100, budget=60, progress=False)
        assert not torch.is_grad_enabled()
    assert result.probes == usual.probes


def test_double_precision_by_default() -> None:
    x, y = (part.numpy() for part in arrays())
    torch.set_default_dtype(torch.float64)
    try:
        result = tune(make, (x, y), steps=100, budget=60, progress=False)
        targets = tune(lambda: nn.Linear(6, 1), (x, x[:, 0]), steps=100, budget=60, progress=False)
    finally:
        torch.set_default_dtype(torch.float32)
    assert result.decided
    assert targets.decided
    assert result.weights["0.weight"].dtype == torch.float64
