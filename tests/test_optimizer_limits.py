"""`LearnedOptimizer` at the limits of numbers and shapes: what the property tests found, one plain test each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from optimizer_toy import assert_same, busy_weights, network, snapshot, train, values
from torch import Tensor, nn

from learnopt import LearnedOptimizer, intake


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


def test_the_state_of_other_shapes_is_refused(weights: str) -> None:
    """It was written to beyond its end by the kernel."""
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(2))
    other = nn.Sequential(nn.Linear(50, 70), nn.LayerNorm(70), nn.Tanh(), nn.Linear(70, 20))
    fresh = LearnedOptimizer(other.parameters(), lr=0.3, weights=weights)
    with pytest.raises(ValueError, match=r"state 'exp_avg' of parameter 0 must have shape \(70, 50\), got \(7, 5\)"):
        fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups[0]["lr"] == 0.3
    assert not fresh.state


@pytest.mark.parametrize("stale", ["state", "gradient"])
def test_parameters_that_are_given_another_shape(stale: str, weights: str) -> None:
    p = nn.Parameter(torch.ones(2, 3))
    optimizer = LearnedOptimizer([p], weights=weights)
    for _ in range(2):
        p.grad = torch.ones_like(p)
        optimizer.step()
    p.data = torch.ones(200, 300)
    if stale == "state":
        p.grad = torch.ones_like(p)
    else:
        optimizer.state.clear()
    with pytest.raises((ValueError, RuntimeError), match=r"must have shape|size"):
        optimizer.step()
    assert (p == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_recurrent_state_saved_in_another_precision_is_read_as_float32(dtype: torch.dtype, weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry.update({k: v.to(dtype) for k, v in entry.items()})
    optimizer.load_state_dict(state)
    train(model, optimizer, range(2, 5))
    kept = [v for s in optimizer.state.values() for k, v in s.items() if k in ("memory", "run")]
    assert {v.dtype for v in kept} == {torch.float32}
    assert all(v.isfinite().all() for v in [*values(model), *snapshot(optimizer)])


def test_losses_that_swing_from_end_to_end_of_float32(weights: str) -> None:
    """The difference of two of them is not finite."""
    p = nn.Parameter(torch.ones(3, 3))
    optimizer = LearnedOptimizer([p], weights=weights)
    for loss in (3e38, -3e38, 3e38, 1.0):
        p.grad = torch.ones_like(p)
        optimizer.step(loss=loss)
    assert optimizer.skipped_steps == 0
    assert all(x.isfinite().all() for x in [p, *optimizer.state[p].values()])


@pytest.mark.parametrize("loss", [
    torch.tensor(2.0, dtype=torch.float16), torch.tensor(2.0, dtype=torch.float64), torch.tensor(2), 2, True,
    torch.tensor([[2.0]], requires_grad=True), torch.tensor([2.0]).to_sparse(),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_losses_of_every_type(loss: Tensor | float, dtype: torch.dtype, weights: str) -> None:
    ends = []
    for told in (loss, 1.0 if loss is True else 2.0):
        p = nn.Parameter(torch.ones(3, 3, dtype=dtype))
        optimizer = LearnedOptimizer([p], weights=weights)
        for _ in range(2):
            p.grad = torch.ones_like(p)
            optimizer.step(loss=told)
        ends.append(p)
    assert torch.equal(*ends)


@pytest.mark.parametrize("loss", [1e39, 10**400, torch.tensor(1e39, dtype=torch.float64), torch.tensor(1e31)], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_losses_beyond_float32_count_as_the_largest(
    loss: Tensor | float, sign: int, dtype: torch.dtype, weights: str
) -> None:
    ends = []
    for told in (sign * loss, torch.tensor(sign * 1e30, dtype=getattr(loss, "dtype", torch.float32))):
        p = nn.Parameter(torch.ones(3, 3, dtype=dtype))
        optimizer = LearnedOptimizer([p], weights=weights)
        for _ in range(2):
            p.grad = torch.ones_like(p)
            optimizer.step(loss=told)
        assert optimizer.skipped_steps == 0
        ends.append(p)
    torch.testing.assert_close(*ends)


def test_complex_losses_are_refused(weights: str) -> None:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"loss must be one real number, got torch.complex64"):
        LearnedOptimizer([p], weights=weights).step(loss=torch.tensor(1j))
    assert (p == 1).all()


@pytest.mark.parametrize("others", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [1e20, 1e30])
def test_weights_whose_squares_are_not_finite(size: float, others: torch.dtype, weights: str) -> None:
    """One of them made all statistics NaN."""
    params = [nn.Parameter(torch.tensor(size)), nn.Parameter(torch.ones(4, dtype=others))]
    optimizer = LearnedOptimizer(params, weights=weights)
    for _ in range(4):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert all(p.isfinite().all() for p in params)
    assert not any(v.isnan().any() for p in params for v in optimizer.state[p].values())


def test_half_precision_weights_stop_at_their_limit(weights: str) -> None:
    p = nn.Parameter(torch.full((4,), 65_000.0, dtype=torch.float16))
    optimizer = LearnedOptimizer([p], 100, weights=weights)
    for _ in range(30):
        p.grad = -torch.ones_like(p)
        optimizer.step()
    assert (p == torch.finfo(torch.float16).max).all()


def test_complex_numbers_after_an_odd_number_of_real_ones(weights: str) -> None:
    """Joined in memory, the complex ones begin in the middle of a pair."""
    params = [nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0 + 2.0j))]
    optimizer = LearnedOptimizer(params, weights=weights)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert params[1].real < 1
    assert params[1].isfinite()


def test_conjugated_parameters_move(weights: str) -> None:
    start = torch.randn(3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    ends = []
    for p in (nn.Parameter(start.clone().conj()), nn.Parameter(start.conj().resolve_conj())):
        p.grad = torch.ones_like(p)
        LearnedOptimizer([p], weights=weights).step()
        ends.append(p.detach().resolve_conj())
    assert_same(*([x] for x in ends))
    assert not torch.equal(ends[0], start.conj())


@pytest.mark.parametrize(("name", "value"), [
    ("lr", "0.5"), ("lr", 10**400), ("lr", 1e39), ("lr", 1j), ("lr", torch.tensor(1j)), ("weight_decay", "0.5"),
    ("weight_decay", 1e39), ("total_steps", 10**400), ("total_steps", "9"),
], ids=str)  # fmt: skip
def test_settings_that_are_no_number_of_float32(name: str, value: Any, weights: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        LearnedOptimizer([nn.Parameter(torch.ones(2))], weights=weights, **{name: value})


def test_expanded_parameters_are_refused_by_torch(weights: str) -> None:
    """Several elements in one place of memory: AdamW's step fails in the same words."""
    for cls, extra in ((LearnedOptimizer, {"weights": weights}), (torch.optim.AdamW, {})):
        p = nn.Parameter(torch.ones(1).expand(3))
        p.grad = torch.ones(3)
        optimizer = cls([p], **extra)
        with pytest.raises(RuntimeError, match="single memory location"):
            optimizer.step()
        assert (p == 1).all()
        if isinstance(optimizer, LearnedOptimizer):
            assert not optimizer.state[p]["exp_avg"].any()
            assert optimizer.explain_run()["step"] == 0


def test_expanded_gradients_are_as_others(weights: str) -> None:
    ends = []
    for grad in (torch.full((1, 1), 0.5).expand(4, 3), torch.full((4, 3), 0.5)):
        p = nn.Parameter(torch.ones(4, 3))
        optimizer = LearnedOptimizer([p], weights=weights)
        for _ in range(3):
            p.grad = grad
            optimizer.step()
        ends.append(p)
    assert torch.equal(*ends)


def test_a_very_long_vector(weights: str) -> None:
    """Moved in parts, which threads may share; the same as by torch."""
    ends = []
    for double in (False, True):
        g = torch.Generator().manual_seed(0)
        p = nn.Parameter(torch.randn(1_500_000, generator=g).to(torch.float64 if double else torch.float32))
        optimizer = LearnedOptimizer([p], weights=weights)
        for _ in range(3):
            p.grad = torch.randn(p.shape, generator=g).to(p.dtype)
            optimizer.step(loss=1.0)
        ends.append(p.detach().float())
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_it_says_that_a_step_cannot_be_captured(monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    monkeypatch.setattr(intake, "one_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"cannot be captured in a CUDA graph.*make_graphed_callables"):
        LearnedOptimizer([p], weights=weights).step()


@pytest.mark.parametrize("decay", [None, 0.0])
def test_zero_gradients_at_first_leave_weights_to_the_bit(decay: float | None, weights: str) -> None:
    model = network()
    before = values(model)
    optimizer = LearnedOptimizer(model.parameters(), weight_decay=decay, weights=weights)
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert_same(before, values(model))


@pytest.mark.parametrize("sparse", [False, True])
def test_what_never_had_a_gradient_stays(sparse: bool, weights: str) -> None:
    embed = nn.Embedding(9, 4, sparse=sparse)
    before = embed.weight.detach().clone()
    optimizer = LearnedOptimizer(embed.parameters(), weight_decay=0.0, weights=weights)
    for t in range(10):
        optimizer.zero_grad()
        embed(torch.tensor([1, 2 + t % 3])).square().sum().backward()
        optimizer.step()
    moved = (embed.weight != before).any(1)
    assert moved.tolist() == [False, True, True, True, True, False, False, False, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_states_follow_parameters_to_another_precision(dtype: torch.dtype, weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(3))
    other = network(dtype=dtype)
    other.load_state_dict(model.state_dict())
    again = LearnedOptimizer(other.parameters(), weights=weights)
    again.load_state_dict(optimizer.state_dict())
    train(model, optimizer, range(3, 6))
    train(other, again, range(3, 6))
    for p, q in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p.float(), q, rtol=0.05, atol=0.02)
