"""`learnopt meta-train` and `learnopt stop-train`: what cannot be run is refused in one line, with exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from learnopt.cli import run
from learnopt.meta_config import MetaTrainConfig, read_config

ROOT = Path(__file__).parents[1]

BAD: list[tuple[list[str], str]] = [
    (["meta-train", "nowhere.toml"], "cannot read config nowhere.toml"),
    (["meta-train", "--set", "pairs=0"], "pairs = '0'"),
    (["meta-train", "--set", "sigma=inf"], "sigma = 'inf': Input should be a finite number"),
    (["meta-train", "--set", "meta_lr=nan"], "meta_lr = 'nan'"),
    (["meta-train", "--set", "steps_min=9000"], "learnopt: error: --set: steps_min 9000 is above steps_max"),
    (["meta-train", "--set", "pairs"], "--set takes name=value, got 'pairs'"),
    (
        ["meta-train", "--set", "estimator=adam"],
        "unknown estimator 'adam'; choose from backprop, es, imitation, nodes, nres, pes",
    ),
    (["meta-train", "--set", "suite=mnist"], "'mnist'"),
    (["meta-train", "--set", "valid_suite=mnist"], "unknown suite 'mnist'; choose from"),
    (["meta-train", "--set", "start_from=v99"], "unknown weights 'v99'; choose from"),
    (["meta-train", "--workers", "-2"], "--workers must be 0 or more, got -2"),
    (["meta-train", "--device", "tpu9"], "unknown device 'tpu9'; choose cpu, cuda or cuda:NUMBER"),
    (["stop-train", "default", "--out", "x.safetensors", "--device", "meta"], "device 'meta' is not supported"),
    (["stop-train", "v99", "--out", "x.safetensors"], "unknown weights 'v99'"),
    (["stop-train", "default", "--out", "x.bin"], "must end in .safetensors, got 'x.bin'"),
    (["stop-train", "default", "--out", f"{__file__}/x.safetensors"], "is no folder that can be written to"),
    (["stopper-train", "none", "--out", f"{__file__}/x.safetensors"], "is no folder that can be written to"),
    (["tune-train", "none", "--out", f"{__file__}/x.safetensors"], "is no folder that can be written to"),
    (["stop-train", "default", "--out", "x.safetensors", "--episodes", "0"], "--episodes is too small: 0"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_bad_input(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.toml")) + sorted(ROOT.glob("results/*/*.toml")), ids=str)
def test_configs_in_the_repository_are_valid(path: Path) -> None:
    assert isinstance(read_config(path), MetaTrainConfig)
