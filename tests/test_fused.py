"""The Triton kernels where there is no GPU: interpreted, and compiled for GPUs that are elsewhere."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from learnopt import features, meta_network, rule
from learnopt.kernels import fused_guard, fused_step

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


@needs_triton
def test_interpreted() -> None:
    if tuple(map(int, version("triton").split(".")[:2])) < (3, 7):
        pytest.skip("the interpreter of triton before 3.7 fails with numpy 2.4")
    folder = Path(__file__).parent
    quick = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    environment = os.environ | {"TRITON_INTERPRET": "1"} | quick
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder / "fused_checks.py")]
    done = subprocess.run(
        command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def constants(**more: Any) -> dict[str, Any]:
    common = {"TINY": rule.TINY, "ROW": fused_step._ROW, "POINTERS": fused_step._POINTERS, "BLOCK": fused_step.BLOCK}
    return {**common, **more}


@needs_triton
@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("moments", constants(CLIP=rule.CLIP)),
        (
            "move",
            constants(AWAY=features.AWAY, CAUTION=rule.CAUTION, LARGEST=rule.LARGEST, WIDTH=meta_network.WIDTH),
        ),
        ("gather", {"STATISTICS": len(features.STATISTICS), "BLOCK": fused_step.BLOCK}),
    ],
)
def test_compiled_for_a_gpu(name: str, fixed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler refuses some of what the interpreter takes; it needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from learnopt.kernels import fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(fused, name)
    types = {"chunks": "*i64", "pointers": "*i64", "spans": "*i64", "total": "i32"}
    signature = {a: "constexpr" if a in fixed else types.get(a, "*fp32") for a in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(a),): value for a, value in fixed.items()})
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=fused_step.OPTIONS)
    assert "st.global" in made.asm["ptx"]
    assert ".f64" not in made.asm["ptx"]


def test_without_triton_nothing_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "learnopt.kernels.fused", raising=False)
    monkeypatch.delattr("learnopt.kernels.fused", raising=False)
    fused_guard._trusted.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not fused_guard._trusted(torch.device("cpu"))
    fused_guard._trusted.cache_clear()
    assert not caplog.records


def test_other_devices_and_precisions_are_left_to_torch() -> None:
    assert not fused_guard.available([torch.zeros(2)])
    assert not fused_guard.available([torch.zeros(2, device="meta")])
    assert not fused_guard.available([])
