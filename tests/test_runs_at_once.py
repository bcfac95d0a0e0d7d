"""Models that `vmap` cannot take run one after the other, by themselves; what runs would share is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from toy import Recurrent, ToyTask

from learnopt import meta_network
from learnopt.estimators import ESTIMATORS
from learnopt.estimators.base import Episode
from learnopt.unroll import RECORD_FROM, Problem, Telling, unroll

THETA = meta_network.initial_theta(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [8, RECORD_FROM], ids=["plain", "recorded"])
def test_what_vmap_cannot_take_runs_in_a_loop(steps: int) -> None:
    found = []
    for vectorise in (None, False):
        problem = Problem(Recurrent(dropout=0.3), [1, 2], copies=2, vectorise=vectorise)
        _, trajectory = unroll(problem, THETA, problem.begin(), 0, steps, Telling(steps), valid_at=(steps,))
        assert problem.run.vectorise is False
        assert not any(problem._recordings.values())
        found.append(trajectory)
        if vectorise is None:
            assert "lstm" in problem.run.reason
    assert torch.equal(found[0].losses, found[1].losses)  # also of the first step, whose dropout was drawn twice
    assert torch.equal(found[0].valid, found[1].valid)


@pytest.mark.parametrize("name", ["es", "nodes"])
def test_estimators_take_what_vmap_cannot(name: str) -> None:
    episode = Episode(Recurrent(), 3, RECORD_FROM, Telling(RECORD_FROM))
    estimate = ESTIMATORS[name](2, 0.05).estimate(THETA, episode, None)
    assert torch.isfinite(estimate.differences).all()
    assert estimate.differences.abs().sum() > 0


@pytest.mark.parametrize("recorded", [True, False])
def test_what_vmap_takes_is_known_after_the_first_call(recorded: bool) -> None:
    problem = Problem(ToyTask("mlp"), [1, 2])
    assert problem.run.vectorise is None
    problem.gradients_at([p.requires_grad_() for p in problem.start], 0, recorded=recorded)
    assert problem.run.vectorise is True
    assert bool(problem._recordings) == recorded


class _Statistics(ToyTask):
    def _module(self) -> nn.Module:
        return nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3))


@pytest.mark.parametrize("recorded", [True, False])
def test_runs_never_share_running_statistics(recorded: bool) -> None:
    problem = Problem(_Statistics(), [1, 2])
    with pytest.raises(RuntimeError, match=r"share the buffer 'model\.1\.running_mean'"):
        problem.gradients_at(problem.start, 0, recorded=recorded)
    assert problem.run.vectorise is None


class _Broken(ToyTask):
    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        raise RuntimeError("no such loss")


def test_what_is_wrong_with_a_model_is_said_by_the_model() -> None:
    problem = Problem(_Broken(), [1])
    with pytest.raises(RuntimeError, match=r"^no such loss$"):
        problem.losses(problem.start, problem.batch(0))


class _Attentive(ToyTask):
    """Attention by torch's fused kernel, which `vmap` would call once for each run."""

    def _module(self) -> nn.Module:
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        return nn.Sequential(nn.Unflatten(1, (4, 4)), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False),
                             nn.Flatten(), nn.Linear(16, 3))  # fmt: skip


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def _operations(problem: Problem) -> list[Any]:
    with _Operations() as mode:
        problem.losses(problem.start, problem.batch(0))
    return mode.seen


def test_fused_attention_runs_at_once() -> None:
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    assert fused in _operations(Problem(_Attentive(), [1, 2], vectorise=False))
    assert fused not in _operations(Problem(_Attentive(), [1, 2]))
    fast, slow = (Problem(_Attentive(), [1, 2], vectorise=v) for v in (None, False))
    params = [p.requires_grad_() for p in fast.start]
    for a, b in zip(fast.gradients(params, fast.batch(0)), slow.gradients(params, slow.batch(0)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert fast.run.vectorise is True
