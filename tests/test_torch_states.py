"""What torch's tests ask of every optimizer's states, copies and hooks, asked of ours and of AdamW."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.testing._internal.common_optimizers import OptimizerInfo
from torch_checks import Line, both, cases, seeded

__all__ = ["seeded"]


@both
def test_state_dicts_are_deterministic(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        line = Line()
        optimizer = info.optim_cls(line.params, **kwargs)
        for _ in range(3):
            optimizer.step(line.closure(optimizer))
        twin = line.twin()
        other = info.optim_cls(twin.params, **kwargs)
        saved, kept = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
        other.load_state_dict(copy.deepcopy(saved))
        for _ in range(3):
            optimizer.step(line.closure(optimizer))
            other.step(twin.closure(other))
            assert all(torch.equal(p, q) for p, q in zip(line.params, twin.params, strict=True))
        torch.testing.assert_close(saved["state"], kept["state"], rtol=0, atol=0)
        torch.testing.assert_close(optimizer.state_dict()["state"], other.state_dict()["state"], rtol=0, atol=0)
        other.param_groups.extend(other.param_groups)
        assert str(optimizer.state_dict()["param_groups"][-1]) == str(other.state_dict()["param_groups"][-1])


@both
def test_states_of_older_versions_can_be_loaded(info: OptimizerInfo) -> None:
    for flag in info.not_og_supported_flags:
        line = Line()
        optimizer = info.optim_cls(line.params)
        optimizer.step(line.closure(optimizer))
        saved = optimizer.state_dict()
        assert all(flag in group for group in saved["param_groups"])
        for group in saved["param_groups"]:
            del group[flag]
        optimizer.load_state_dict(saved)
        optimizer.step(line.closure(optimizer))


@both
@pytest.mark.parametrize("named", [(True, False), (False, True), (True, True)], ids=str)
def test_state_dicts_with_and_without_names(info: OptimizerInfo, named: tuple[bool, bool]) -> None:
    line = Line()
    twin = line.twin()
    a, b = (
        info.optim_cls([("weight", own.weight), ("bias", own.bias)] if names else own.params)
        for own, names in zip((line, twin), named, strict=True)
    )
    a.step(line.closure(a))
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    twin.weight.data.copy_(line.weight), twin.bias.data.copy_(line.bias)
    for _ in range(3):
        a.step(line.closure(a))
        b.step(twin.closure(b))
    assert all(torch.equal(p, q) for p, q in zip(line.params, twin.params, strict=True))
    assert "param_names" in b.state_dict()["param_groups"][0]


@both
def test_state_dicts_are_saved_without_code(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        line = Line()
        optimizer = info.optim_cls(line.params, **kwargs)
        optimizer.step(line.closure(optimizer))
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        again = torch.load(file, weights_only=True)
        torch.testing.assert_close(again["state"], optimizer.state_dict()["state"], rtol=0, atol=0)


@both
def test_a_step_leaves_state(info: OptimizerInfo) -> None:
    line = Line()
    optimizer = info.optim_cls(line.params)
    optimizer.step(line.closure(optimizer))
    assert all(len(optimizer.state[p]) > 0 for p in line.params)


@both
def test_copies_have_all_public_attributes(info: OptimizerInfo) -> None:
    optimizer = info.optim_cls(Line().params)
    for own in (optimizer, copy.deepcopy(optimizer)):
        assert {k for k in own.__dict__ if not k.startswith("_")} == {"defaults", "state", "param_groups"}


@both
def test_step_hooks(info: OptimizerInfo) -> None:
    line, calls = Line(), []  # type: ignore[var-annotated]
    optimizer = info.optim_cls(line.params)
    closure = line.closure(optimizer)
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("global before")),
        optimizer.register_step_pre_hook(lambda *_: calls.append("before")),
        optimizer.register_step_post_hook(lambda *_: calls.append("after")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global after")),
    ]
    optimizer.step(closure)
    assert calls == ["global before", "before", "after", "global after"]
    for handle in handles:
        handle.remove()
    optimizer.step(closure)
    assert len(calls) == 4


@both
@pytest.mark.parametrize("returns", [True, False])
def test_state_dict_hooks(info: OptimizerInfo, returns: bool) -> None:
    line, calls = Line(), []  # type: ignore[var-annotated]
    optimizer = info.optim_cls(line.params)

    def mark(_: Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
        calls.append("after")
        own = dict(state) if returns else state
        own["ran"] = True
        return own if returns else None

    optimizer.register_state_dict_pre_hook(lambda _: calls.append("before"))
    optimizer.register_state_dict_post_hook(mark)
    assert optimizer.state_dict()["ran"]
    assert calls == ["before", "after"]


@both
@pytest.mark.parametrize("returns", [True, False])
def test_load_state_dict_hooks(info: OptimizerInfo, returns: bool) -> None:
    line, calls = Line(), []  # type: ignore[var-annotated]
    optimizer = info.optim_cls(line.params)
    saved = optimizer.state_dict()

    def change(_: Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
        calls.append("before")
        own = copy.deepcopy(state) if returns else state
        own["param_groups"][0]["lr"] = 0.002
        return own if returns else None

    optimizer.register_load_state_dict_pre_hook(change)
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append(o.param_groups[0]["lr"]))
    optimizer.load_state_dict(saved)
    assert calls == ["before", 0.002]
    assert optimizer.param_groups[0]["lr"] == 0.002


@both
def test_states_follow_parameters_to_another_precision(info: OptimizerInfo) -> None:
    line = Line()
    optimizer = info.optim_cls(line.params)
    for _ in range(3):
        optimizer.step(line.closure(optimizer))
    saved = copy.deepcopy(optimizer.state_dict())
    for dtype in (torch.float64, torch.bfloat16):
        twin = Line(dtype=dtype)
        other = info.optim_cls(twin.params)
        other.load_state_dict(copy.deepcopy(saved))
        for _ in range(3):
            other.step(twin.closure(other))
        assert all(torch.isfinite(p).all() for p in twin.params)
    torch.testing.assert_close(saved["state"], optimizer.state_dict()["state"], rtol=0, atol=0)
