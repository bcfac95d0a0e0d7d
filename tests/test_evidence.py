"""Why `should_stop` is true: what is added up is exact, and what is said is what happened."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
from optimizer_toy import busy_weights, network, train
from torch import Tensor

from learnopt import LearnedOptimizer, artifact, evidence, features, meta_network, stop_head
from learnopt.features import GLOBAL


def head_for(bias: float = 6.0, **columns: float) -> dict[str, Tensor]:
    """A stop head that adds up `columns` in its first hidden unit, with a log-odds of about `bias` by itself."""
    head = {name: torch.zeros(shape) for name, shape in stop_head.SHAPES.items()}
    for name, weight in columns.items():
        head["in"][GLOBAL.index(name), 0] = weight
    head["out"][0, 0], head["out_bias"][0, 0] = 3.0, bias
    return head


def weights_with(folder: Path, head: dict[str, Tensor] | None, threshold: float = 0.9) -> str:
    theta = meta_network.initial_theta(torch.Generator().manual_seed(0))
    return str(artifact.save(folder / "made.safetensors", theta, head, {"name": "made", "stop_threshold": threshold}))


def test_attribution_adds_up_to_the_log_odds() -> None:
    g = torch.Generator().manual_seed(0)
    head = {k: torch.randn(s, generator=g) for k, s in stop_head.SHAPES.items()}
    x, usual = torch.randn(len(GLOBAL), generator=g), 0.3 * torch.randn(len(GLOBAL), generator=g)
    found = evidence.attribution(head, x, usual)
    whole = stop_head.logit(head, x) - stop_head.logit(head, usual)
    assert float(found.sum()) == pytest.approx(float(whole), abs=1e-3)
    # in closed form: along a straight line each unit's tanh is a function of one number
    start, change = usual @ head["in"] + head["bias"][0], (x - usual) @ head["in"]
    slope = (torch.tanh(start + change) - torch.tanh(start)) / change * head["out"][:, 0]
    torch.testing.assert_close(found, (x - usual) * (head["in"] @ slope), atol=1e-3, rtol=1e-3)


def test_the_columns_are_those_that_the_head_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNOPT_KERNEL", "torch")
    monkeypatch.setattr("learnopt.kernels.library.load", lambda: None)
    seen: list[Tensor] = []
    follow = stop_head.follow

    def watched(weights: dict[str, Tensor], columns: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(columns[0].clone())
        return follow(weights, columns, *rest)

    monkeypatch.setattr(stop_head, "follow", watched)
    worked_out: list[Tensor] = []
    columns = evidence._columns
    monkeypatch.setattr(evidence, "_columns", lambda *a: worked_out.append(columns(*a)) or worked_out[-1])
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), total_steps=50, weights=busy_weights(tmp_path))
    for t in range(30):
        train(model, optimizer, range(t, t + 1))
        optimizer.stop_evidence()
    run = len(GLOBAL) - len(features.SUMMARISED)
    for t in range(30):
        torch.testing.assert_close(worked_out[t][:run], seen[t][:run])
    for t in range(29):  # the gradients' readings are those of the step after, where they only wait for its loss
        still = [GLOBAL.index(f"mean_{name}") for name in features.SUMMARISED if name != "elasticity"]
        torch.testing.assert_close(worked_out[t][still], seen[t + 1][still])


def test_every_column_is_read_once() -> None:
    read = [name for names, _ in evidence._READINGS for name in names]
    assert sorted([*read, *evidence._FLAGS]) == sorted(GLOBAL)


def test_the_reason_names_what_speaks_most(tmp_path: Path) -> None:
    model = network()
    head = head_for(progress=4.0, loss_noise=-4.0)
    optimizer = LearnedOptimizer(model.parameters(), total_steps=30, weights=weights_with(tmp_path, head))
    assert optimizer.stop_reason is None
    assert optimizer.stop_evidence() == []
    train(model, optimizer, range(15))
    assert not optimizer.should_stop  # too few losses
    assert optimizer.stop_reason is None
    assert optimizer.stop_evidence()
    train(model, optimizer, range(15, 30))
    assert optimizer.should_stop
    reason = optimizer.stop_reason
    assert reason is not None
    assert "\n" not in reason
    assert reason.startswith(f"step 30: {100 * optimizer.stop_probability:.0f} % sure")
    assert "threshold 90 %" in reason
    assert "100 % of the planned steps are taken" in reason
    assert "scatter" not in reason
    found = optimizer.stop_evidence()
    assert found == sorted(found, key=lambda e: -e.log_odds)
    assert sum(e.log_odds != 0 for e in found) == 2


def test_the_reason_outlives_saving_and_copying(tmp_path: Path) -> None:
    weights = weights_with(tmp_path, head_for(loss_slope=1.0, mean_snr_fast=-1.0))
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(25))
    reason = optimizer.stop_reason
    assert reason is not None
    assert pickle.loads(pickle.dumps(optimizer)).stop_reason == reason
    assert copy.deepcopy(optimizer).stop_reason == reason
    fresh = LearnedOptimizer(network(1).parameters(), weights=weights)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.stop_reason == reason
    with torch.inference_mode():
        assert optimizer.stop_reason == reason


def test_nothing_stands_out_and_no_head(tmp_path: Path) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights_with(tmp_path, head_for()))
    train(model, optimizer, range(25))
    assert "no single reading stands out" in str(optimizer.stop_reason)
    optimizer = LearnedOptimizer(model.parameters(), weights=weights_with(tmp_path, None))
    train(model, optimizer, range(25))
    assert optimizer.stop_reason is None
    assert optimizer.stop_evidence() == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_other_precisions(tmp_path: Path, dtype: torch.dtype) -> None:
    p = torch.nn.Parameter(torch.ones(4, 3, dtype=dtype))
    optimizer = LearnedOptimizer([p, torch.nn.Parameter(torch.ones(2))], weights=busy_weights(tmp_path))
    p.grad = torch.ones_like(p)
    optimizer.step(loss=1.0)
    assert all(math.isfinite(e.log_odds) for e in optimizer.stop_evidence())


def test_without_losses_nothing_is_said_of_them(tmp_path: Path) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), total_steps=9, weights=busy_weights(tmp_path))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    said = " ".join(e.what for e in optimizer.stop_evidence())
    assert "loss is" not in said
    assert "losses" not in said
    assert "11 % of the planned steps are taken" in said


def seen(positive: bool = True, step: int = 40, horizon: int = 0, **values: float) -> evidence._Seen:
    return evidence._Seen(dict.fromkeys(GLOBAL, 0.0) | values, positive, step, horizon)


SAID = [
    (evidence._trend, seen(loss_log_slope=0.01), "losses have stopped falling"),
    (evidence._trend, seen(loss_log_slope=-0.5), "losses are 39 % below their slow average"),
    (evidence._trend, seen(loss_log_slope=0.5), "losses are 65 % above their slow average"),
    (evidence._trend, seen(False, loss_slope=-0.5), "losses are 50 % of their fall below their slow average"),
    (evidence._drop, seen(loss_log_drop=math.log(0.25) / 3), "the loss is at 25 % of where it began"),
    (evidence._drop, seen(False), "losses are not positive"),
    (evidence._rebound, seen(loss_log_rebound=0.0), "the loss is at its best"),
    (evidence._rebound, seen(loss_log_rebound=math.log(1.5)), "the loss is 50 % above its best"),
    (evidence._rebound, seen(False, loss_rebound=0.2), "the loss is 20 % of its fall above its best"),
    (evidence._time, seen(), "40 steps were taken"),
    (evidence._time, seen(horizon=80), "50 % of the planned steps are taken"),
    (evidence._time, seen(horizon=30), "the 30 planned steps are over"),
    (evidence._agreement, seen(mean_cos_gradient_fast=0.4), "agree from batch to batch"),
    (evidence._agreement, seen(mean_cos_gradient_fast=-0.3), "turn back and forth"),
    (evidence._away, seen(mean_cos_gradient_away=0.2), "back to the averaged weights"),
    (evidence._away, seen(mean_cos_gradient_away=-0.2), "further on"),
    (evidence._radial, seen(mean_radial=-0.2), "wants to grow"),
    (evidence._radial, seen(mean_radial=0.2), "wants to shrink"),
    (evidence._decline, seen(mean_gradient_decline=math.log(0.5) / 4), "50 % of their largest"),
    (evidence._elasticity, seen(mean_elasticity=1.0), "reacts strongly"),
    (evidence._elasticity, seen(mean_elasticity=-1.0), "reacts weakly"),
]


@pytest.mark.parametrize(("phrase", "run", "words"), SAID, ids=range(len(SAID)))
def test_words(phrase: object, run: evidence._Seen, words: str) -> None:
    assert words in phrase(run)  # type: ignore[operator]


def test_words_of_a_run_that_has_stopped_falling(tmp_path: Path) -> None:
    """From the losses themselves: a flat loss after a fall, and one that still falls."""
    for last, words in ((0.5, "losses have stopped falling"), (0.0, "below their slow average")):
        p = torch.nn.Parameter(torch.ones(3, 3))
        optimizer = LearnedOptimizer([p], weights=weights_with(tmp_path, head_for(loss_log_slope=-1.0)))
        for t in range(400):
            p.grad = torch.ones_like(p)
            optimizer.step(loss=max(last, 2.0 * 0.98**t))
        assert any(words in e.what for e in optimizer.stop_evidence())


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.993, "99.3 %"), (0.99999, "99.999 %"), (1.0, "100 %"),
     (0.996, "99.6 %"), (0.9999999999, "99.99999999 %")],
)  # fmt: skip
def test_percent(p: float, text: str) -> None:
    assert evidence._percent(p) == text
