"""Checkpoints made by others: distributed checkpoint's functions, hooks, averaged weights, trainers' habits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from optimizer_toy import assert_same, busy_weights, loss_of, network, train, values
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from learnopt import LearnedOptimizer, artifact, intake


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


def fresh(weights: str, frozen: bool = False) -> tuple[nn.Sequential, LearnedOptimizer]:
    model = network()
    model[0].requires_grad_(not frozen)
    return model, LearnedOptimizer(model.parameters(), total_steps=30, weights=weights)


@pytest.mark.filterwarnings("ignore")  # torch's own, about a process group of one
@pytest.mark.parametrize("read_before", [False, True], ids=["at-once", "after-read-outs"])
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("frozen", [False, True], ids=["all-train", "first-frozen"])
def test_distributed_checkpoint_goes_on_exactly(
    frozen: bool, flat: bool, read_before: bool, weights: str, tmp_path: Path
) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = fresh(weights, frozen)
    train(model, optimizer, range(6))
    optimizer.zero_grad()
    saved = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)

    other, again = fresh(weights, frozen)
    before = values(other)
    if read_before:
        assert (again.schedule, again.skipped_steps, again.should_stop) == (0.0, 0, False)
        assert again.learning_rates() == [0.0] * 6
    target: dict[str, Any] = {
        "model": other.state_dict(), "optimizer": get_optimizer_state_dict(other, again, options=options),
    }  # fmt: skip
    assert_same(before, values(other))  # torch has taken a step of zero gradients at lr 0
    dcp.load(target, checkpoint_id=tmp_path, no_dist=True)
    other.load_state_dict(target["model"])
    set_optimizer_state_dict(other, again, target["optimizer"], options=options)
    assert again.schedule == optimizer.schedule

    assert train(model, optimizer, range(6, 12)) == train(other, again, range(6, 12))
    assert_same(values(model), values(other))


def test_read_outs_create_no_state(weights: str) -> None:
    model, optimizer = fresh(weights, frozen=True)
    _ = optimizer.schedule, optimizer.stop_probability, optimizer.should_stop, optimizer.skipped_steps
    optimizer.explain()
    assert not optimizer.state
    train(model, optimizer, range(2))
    optimizer.explain()
    assert set(optimizer.state) == {p for p in model.parameters() if p.requires_grad}


def test_hooks_around_loading_see_and_change_the_state_dict(weights: str) -> None:
    model, optimizer = fresh(weights)
    train(model, optimizer, range(3))
    other = network(dtype=torch.bfloat16)
    again = LearnedOptimizer(other.parameters(), weights=weights)
    seen: list[torch.dtype] = []
    again.register_load_state_dict_pre_hook(lambda _, found: found["wrapped"])
    again.register_load_state_dict_post_hook(lambda o: seen.extend(s["memory"].dtype for s in o.state.values()))
    again.load_state_dict({"wrapped": copy.deepcopy(optimizer.state_dict())})
    assert seen == [torch.float32] * 6
    assert again.schedule == optimizer.schedule


def test_refused_state_leaves_the_optimizer_as_it_was(weights: str) -> None:
    model, optimizer = fresh(weights)
    train(model, optimizer, range(3))
    before = copy.deepcopy(optimizer.state_dict())
    foreign = torch.optim.AdamW(network().parameters()).state_dict()
    with pytest.raises(ValueError, match="an optimizer of another kind: it names no meta-weights"):
        optimizer.load_state_dict(foreign)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    assert all(torch.equal(before["state"][i][k], v) for i, s in after["state"].items() for k, v in s.items())
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


def test_averaged_weights(weights: str) -> None:
    model, optimizer = fresh(weights)
    average = torch.optim.swa_utils.AveragedModel(model)
    for t in range(3):
        train(model, optimizer, range(t, t + 1))
        average.update_parameters(model)
    assert torch.isfinite(loss_of(average, 0))


def test_conjugated_gradients(weights: str) -> None:
    start, grad = torch.randn(3, dtype=torch.complex64), torch.randn(3, dtype=torch.complex64)
    ends = []
    for g in (grad.conj(), grad.conj().resolve_conj()):
        p = nn.Parameter(start.clone())
        p.grad = g
        LearnedOptimizer([p], weights=weights).step()
        ends.append(p.detach())
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], start)


def test_an_optimizer_without_parameters_reads_as_not_started(weights: str) -> None:
    optimizer = LearnedOptimizer([{"params": []}], weights=weights)
    optimizer.step()
    assert (optimizer.schedule, optimizer.learning_rates()) == (0.0, [])


@pytest.mark.parametrize("lr", ["fast", None, [1.0]])
def test_options_of_another_kind_are_named(lr: Any, weights: str) -> None:
    with pytest.raises(ValueError, match="lr must be a finite number"):
        LearnedOptimizer(network().parameters(), lr=lr, weights=weights)


def test_other_things_of_another_kind(weights: str, tmp_path: Path) -> None:
    model, optimizer = fresh(weights)
    loss_of(model, 0).backward()
    with pytest.raises(ValueError, match="loss must be one number, got 'low'"):
        optimizer.step(loss="low")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="param_group must be a dict"):
        optimizer.add_param_group([])  # type: ignore[arg-type]
    with pytest.raises(artifact.ArtifactError, match="weights must be a name or a path, got None"):
        LearnedOptimizer(model.parameters(), weights=None)  # type: ignore[arg-type]
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    with pytest.raises(artifact.ArtifactError, match="cannot be read"):
        artifact.load(folder)
    with pytest.raises(ValueError, match="one device, got cpu, meta"):
        intake.one_device([torch.zeros(1), torch.zeros(1, device="meta")])
