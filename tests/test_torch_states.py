"""What torch's tests ask of every optimizer's states, copies and hooks (`TestOptimRenewed`): 23 of the 42."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.testing._internal.common_optimizers import OptimizerInfo
from torch_checks import Line, assert_equal, cases, run, seeded

__all__ = ["seeded"]

named = pytest.mark.parametrize("names", [True, False], ids=["named", "unnamed"])
named_after = pytest.mark.parametrize("names_after", [True, False], ids=["to-named", "to-unnamed"])


def saved(optimizer: Optimizer) -> dict[str, Any]:
    return copy.deepcopy(optimizer.state_dict())


def without_names(state: dict[str, Any]) -> dict[str, Any]:
    for group in state["param_groups"]:
        group.pop("param_names", None)
    return state


@named
@named_after
def test_state_dicts_are_deterministic(info: OptimizerInfo, names: bool, names_after: bool) -> None:
    for _, kwargs in cases(info):
        line = Line()
        optimizer = info.optim_cls(line.given(names), **kwargs)
        run(line, optimizer, 10)
        twin = line.twin()
        other = info.optim_cls(twin.given(names_after), **kwargs)
        other.load_state_dict(saved(optimizer))
        for _ in range(10):
            run(line, optimizer, 1)
            run(twin, other, 1)
            assert_equal(line.params, twin.params)
        assert_equal(without_names(saved(optimizer)), without_names(saved(other)))
        other.param_groups.extend(other.param_groups)
        last = [without_names(saved(o))["param_groups"][-1] for o in (optimizer, other)]
        assert_equal(*last)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 2, 1, stride=2), nn.BatchNorm2d(2))


def pass_back(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    x = torch.rand(1, 4, 16, 16)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()


def test_states_of_older_versions_can_be_loaded(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        model = network()
        optimizer = info.optim_cls(model.parameters(), **kwargs)
        pass_back(model, optimizer, 3)
        state = saved(optimizer)
        for group in state["param_groups"]:
            for flag in info.not_og_supported_flags:
                group.pop(flag, None)
        optimizer.load_state_dict(state)
        before = [p.detach().clone() for p in model.parameters()]
        pass_back(model, optimizer, 1)
        assert all(p.isfinite().all() for p in model.parameters())
        assert any(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@named
@named_after
def test_state_dicts_with_and_without_names(info: OptimizerInfo, names: bool, names_after: bool) -> None:
    for _, kwargs in cases(info):
        model = network()
        a, b = (
            info.optim_cls(model.named_parameters() if by_name else model.parameters(), **kwargs)
            for by_name in (names, names_after)
        )
        pass_back(model, a, 3)
        b.load_state_dict(saved(a))
        pass_back(model, b, 1)
        if names or names_after:
            assert b.state_dict()["param_groups"][0]["param_names"] == ["0.weight", "0.bias", "1.weight", "1.bias"]


@named
def test_state_dicts_are_saved_without_code(info: OptimizerInfo, names: bool) -> None:
    for _, kwargs in cases(info):
        line = Line()
        optimizer = info.optim_cls(line.given(names), **kwargs)
        for _ in range(3):
            optimizer.step(line.closure(optimizer))
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        for safe in (False, True):
            file.seek(0)
            assert_equal(torch.load(file, weights_only=safe), optimizer.state_dict())


def test_states_with_a_number_for_their_step_can_be_loaded(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        line = Line()
        optimizer = info.optim_cls(line.params, **kwargs)
        run(line, optimizer, 3)
        twin, state = line.twin(), saved(optimizer)
        plain = info.optim_cls(twin.params, **kwargs)
        plain.load_state_dict(saved(optimizer))
        for entry in state["state"].values():
            if isinstance(entry, dict) and torch.is_tensor(entry.get("step")):
                entry["step"] = entry["step"].item()
        optimizer.load_state_dict(state)
        assert_equal(run(line, optimizer, 1), run(twin, plain, 1))
        assert_equal(line.params, twin.params)


def mark(optimizer: Optimizer) -> None:
    optimizer.state["test"] = 1  # type: ignore[index]


def unmark(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "ran": state["state"].pop("test", 0) == 1}


@pytest.mark.parametrize("hooks", ["before", "after", "both"])
def test_state_dict_hooks(info: OptimizerInfo, hooks: str) -> None:
    for _, kwargs in cases(info):
        optimizer = info.optim_cls([nn.Parameter(torch.rand(2, 3))], **kwargs)
        if hooks != "after":
            optimizer.register_state_dict_pre_hook(mark)
        if hooks != "before":
            optimizer.register_state_dict_post_hook(unmark)
        state = optimizer.state_dict()
        assert ("test" in state["state"]) == (hooks == "before")
        assert state.get("ran") == {"before": None, "after": False, "both": True}[hooks]


def set_rate(_: Optimizer, state: dict[str, Any]) -> None:
    state["param_groups"][0]["lr"] = 0.002


def another_rate(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    state = copy.deepcopy(state)
    state["param_groups"][0]["lr"] = 0.003
    return state


def look(optimizer: Optimizer) -> None:
    optimizer.state["rate"] = optimizer.param_groups[0]["lr"]  # type: ignore[index]


@pytest.mark.parametrize("hooks", ["before", "after", "both"])
def test_load_state_dict_hooks(info: OptimizerInfo, hooks: str) -> None:
    for _, kwargs in cases(info):
        optimizer = info.optim_cls([nn.Parameter(torch.rand(2, 3))], **kwargs)
        rate = optimizer.param_groups[0]["lr"]
        if hooks == "before":
            optimizer.register_load_state_dict_pre_hook(set_rate)
            optimizer.register_load_state_dict_pre_hook(another_rate, prepend=True)
        if hooks == "both":
            optimizer.register_load_state_dict_pre_hook(another_rate)
        if hooks != "before":
            optimizer.register_load_state_dict_post_hook(look)
        optimizer.load_state_dict(optimizer.state_dict())
        found = optimizer.param_groups[0]["lr"] if hooks == "before" else optimizer.state["rate"]  # type: ignore[index]
        assert found == {"before": 0.002, "after": rate, "both": 0.003}[hooks]


@pytest.mark.parametrize("hooks", ["before", "after", "all"])
def test_step_hooks(info: OptimizerInfo, hooks: str) -> None:
    calls: list[str] = []
    for _, kwargs in cases(info):
        calls.clear()
        params = [torch.ones(2)]
        optimizer, second = info.optim_cls(params, **kwargs), torch.optim.SGD(params)
        handles = [
            *(o.register_step_pre_hook(lambda *_: calls.append("before")) for o in (optimizer, second)),
            *(o.register_step_post_hook(lambda *_: calls.append("after")) for o in (optimizer, second)),
        ]
        if hooks == "all":
            handles.append(register_optimizer_step_pre_hook(lambda *_: calls.append("global before")))
            handles.append(register_optimizer_step_post_hook(lambda *_: calls.append("global after")))
        try:
            for o in (optimizer, second, optimizer):
                o.step()
        finally:
            for handle in handles:
                handle.remove()
        once = ["global before", "before", "after", "global after"] if hooks == "all" else ["before", "after"]
        assert calls == 3 * once if hooks == "all" else calls.count(hooks) == 3
        optimizer.step()
        assert len(calls) == 3 * len(once)


def test_copies_have_all_public_attributes(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        line = Line()
        optimizer = info.optim_cls(line.params, **kwargs)
        run(line, optimizer, 3)
        a, b = ({k for k in o.__dict__ if not k.startswith("_")} for o in (optimizer, copy.deepcopy(optimizer)))
        assert a == b


def test_a_step_leaves_state(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        line = Line()
        optimizer = info.optim_cls(line.params, **kwargs)
        run(line, optimizer, 1)
        assert all(len(state) > 0 for state in optimizer.state.values())
