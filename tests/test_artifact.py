"""Artifacts: what does not fit is refused with the reason, and nothing in a file is executed."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes

from learnopt import artifact, atomic, features, meta_network, stop_head

THETA = meta_network.initial_theta(torch.Generator().manual_seed(4))
STOP = stop_head.initial_weights(torch.Generator().manual_seed(4))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return artifact.save(tmp_path / "mine.safetensors", THETA, STOP, {"name": "mine", "seeds": [1]})


def test_round_trip(saved: Path, tmp_path: Path) -> None:
    for name in (saved, str(saved), str(saved.with_suffix(""))):
        loaded = artifact.load(name)
        assert torch.equal(loaded.theta, THETA)
        assert loaded.stop is not None
        assert all(torch.equal(loaded.stop[k], STOP[k]) for k in stop_head.SHAPES)
        assert loaded.card["name"] == "mine"
        assert loaded.card["seeds"] == [1]
    without = artifact.load(artifact.save(tmp_path / "b.safetensors", THETA, None, {}))
    assert without.stop is None
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "b.json", "b.safetensors", "mine.json", "mine.safetensors",
    ]  # fmt: skip


def test_default_weights_ship() -> None:
    loaded = artifact.load("default")
    assert loaded.path.stem == artifact.DEFAULT
    assert artifact.DEFAULT in artifact.names()
    for key in ("features_version", "architecture", "suite", "command", "seeds", "commit", "date", "versions"):
        assert key in loaded.card, key


def change_card(path: Path, **values: Any) -> None:
    card = path.with_suffix(".json")
    card.write_text(json.dumps({**json.loads(card.read_text()), **values}))


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_tensors(path.read_bytes())
    change(tensors)
    data = tensors_to_bytes(tensors)
    path.write_bytes(data)
    change_card(path, sha256=hashlib.sha256(data).hexdigest())


def replace_data(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    change_card(path, sha256=hashlib.sha256(data).hexdigest())


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code was executed",))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "damaged"),
    "truncated with a matching card": (lambda p: replace_data(p, p.read_bytes()[:-100]), "not a safetensors file"),
    "flipped byte": (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\x7f"), "damaged"),
    "empty": (lambda p: replace_data(p, b""), "not a safetensors file"),
    "pickle": (lambda p: replace_data(p, pickle.dumps(Evil())), "not a safetensors file"),
    "no card": (lambda p: p.with_suffix(".json").unlink(), "cannot be read"),
    "card no JSON": (lambda p: p.with_suffix(".json").write_text("{"), "not valid JSON"),
    "card a list": (lambda p: p.with_suffix(".json").write_text("[1]"), "not a JSON object but list"),
    "other format": (lambda p: change_card(p, format=99), "artifact format 99"),
    "other features": (lambda p: change_card(p, features_version=0), "features version 0"),
    "missing tensor": (lambda p: change_tensors(p, lambda t: t.pop("rule.mlp_in")), "lacks rule.mlp_in"),
    "missing stop tensor": (lambda p: change_tensors(p, lambda t: t.pop("stop.out")), "lacks stop.out"),
    "foreign tensor": (lambda p: change_tensors(p, lambda t: t.update(x=torch.ones(1))), "unknown x"),
    "shape": (lambda p: change_tensors(p, lambda t: t.update({"rule.mlp_in": torch.ones(2, 2)})), r"is \(2, 2\)"),
    "dtype": (lambda p: change_tensors(p, lambda t: t.update({"rule.mlp_in": t["rule.mlp_in"].double()})), "float64"),
    "NaN": (lambda p: change_tensors(p, lambda t: t["rule.mlp_in"].fill_(float("nan"))), "not finite"),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_damaged_artifacts_are_refused(saved: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(saved)
    with pytest.raises(artifact.ArtifactError, match=message) as error:
        artifact.load(saved)
    assert "mine" in str(error.value)
    assert "\n" not in str(error.value)


def test_columns_added_since_get_weights_of_zero(saved: Path) -> None:
    """An artifact of the version before the newest columns decides as it did; an older one is refused."""
    added = features.ADDED[features.VERSION]
    theta = artifact.load(saved).theta

    def drop_newest(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("rule.lstm_in", "rule.tensor_skip"):
            tensors[name] = tensors[name][:-added].contiguous()

    change_tensors(saved, drop_newest)
    with pytest.raises(artifact.ArtifactError, match=r"tensor rule.lstm_in is"):
        artifact.load(saved)
    change_card(saved, features_version=features.VERSION - 1)
    widened = meta_network.unpack(artifact.load(saved).theta)
    for name, whole in meta_network.unpack(theta).items():
        kept = whole.shape[1] - added * (name in ("lstm_in", "tensor_skip"))
        assert torch.equal(widened[name][:, :kept], whole[:, :kept])
        assert not widened[name][:, kept:].any()
    change_card(saved, features_version=features.VERSION - 2)
    with pytest.raises(artifact.ArtifactError, match=f"version {features.VERSION - 2}, this version has"):
        artifact.load(saved)


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=rf"unknown weights 'v99'; choose from: default, {artifact.DEFAULT}"):
        artifact.load("v99")


def test_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic.write_bytes(saved, b"new")
    assert saved.read_bytes() == before
    assert len(list(saved.parent.iterdir())) == 2
