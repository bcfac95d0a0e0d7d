"""Features: free of units, deaf to NaN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learnopt import features
from learnopt.layout import Layout, TensorShape

CURVE = torch.tensor([2.3, 2.2, 2.4, 2.0, 1.7, 1.8, 1.2, 1.3, 0.9, 0.95, 1.1, 0.7])


def columns(losses: Tensor, step: int = 20, horizon: float = 100.0) -> dict[str, float]:
    history = features.empty_history(1)
    for loss in losses:
        history = features.observe(history, loss[None])
    summary = torch.zeros(1, len(features.SUMMARISED))
    row = features.global_columns(history, torch.tensor(float(step)), torch.tensor(horizon), summary)
    assert row.shape == (1, len(features.GLOBAL))
    assert torch.isfinite(row).all()
    return dict(zip(features.GLOBAL, row[0].tolist(), strict=True))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_scale_of_the_loss_does_not_matter(scale: float) -> None:
    assert columns(CURVE * scale) == pytest.approx(columns(CURVE), rel=1e-3, abs=1e-4)


def test_shift_of_the_loss_changes_the_logarithms_only() -> None:
    shifted, plain = columns(CURVE - 10), columns(CURVE)
    for name in ("loss_slope", "loss_rebound", "loss_noise"):
        assert shifted[name] == pytest.approx(plain[name], abs=1e-4)
    assert shifted["loss_log_drop"] == 0  # negative losses have no logarithm


def test_directions() -> None:
    falling, rising = columns(CURVE), columns(CURVE.flip(0))
    assert falling["loss_slope"] < rising["loss_slope"]
    assert falling["loss_log_drop"] < rising["loss_log_drop"]
    assert falling["loss_rebound"] < rising["loss_rebound"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_losses_that_are_not_finite_are_not_seen(bad: float) -> None:
    with_bad = torch.cat([CURVE[:5], torch.tensor([bad]), CURVE[5:]])
    assert columns(with_bad) == columns(CURVE)


def test_no_loss_no_horizon() -> None:
    row = columns(torch.zeros(0), horizon=0.0)
    assert row["loss_known"] == row["horizon_known"] == row["progress"] == row["log_horizon"] == 0
    assert features.observe(features.empty_history(2), None).number.tolist() == [0, 0]
    centre, spread = features.STANDARD["progress"]
    assert columns(CURVE, step=500)["progress"] == pytest.approx((1 - centre) / spread)


def test_first_loss_is_the_average_and_the_reference() -> None:
    history = features.observe(features.empty_history(2), torch.tensor([3.0, 5.0]))
    for name in ("fast", "slow", "first", "best"):
        assert getattr(history, name).tolist() == [3.0, 5.0]


def test_roles_follow_from_shapes() -> None:
    roles = {
        (): "scalar", (1,): "scalar", (7,): "vector", (7, 1): "vector", (1, 7): "vector",
        (3, 4): "matrix", (3, 4, 1, 1): "matrix", (1, 5, 6): "matrix",
        (8, 3, 3, 3): "convolution", (8, 1, 3, 3): "convolution",
    }  # fmt: skip
    for shape, role in roles.items():
        assert TensorShape(shape).role == role, shape
    assert TensorShape((8, 3, 5, 5)).matrix == (8, 75)
    assert TensorShape((8, 1, 3, 3)).fan_in == 9


def test_units() -> None:
    layout = Layout.of([(8, 4), (8,), (2, 8), (5, 5)])
    rms0 = torch.tensor([[0.5, 0.3, 0.25, 0.0]])
    network = (0.5 * 4**0.5 * 0.25 * 8**0.5) ** 0.5
    expected = torch.tensor([[0.5, network / 10**0.5, 0.25, network / 5**0.5]])
    torch.testing.assert_close(layout.units(rms0), expected)
    torch.testing.assert_close(layout.units(100 * rms0), 100 * expected)
    torch.testing.assert_close(Layout.of([(3,)]).units(torch.zeros(1, 1)), torch.tensor([[10**-0.5]]))
    torch.testing.assert_close(Layout.of([(3,), (4,)]).units(torch.tensor([[2.0, 2.0]])), torch.tensor([[2.0, 2.0]]))


def test_layout_is_shared_by_equal_shapes() -> None:
    assert Layout.of([(3, 4), (3,)]) is Layout.of([[3, 4], torch.Size([3])])
