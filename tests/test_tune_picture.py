"""The tuner's picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learnopt import canvas
from learnopt.tuner.picture import draw


@pytest.mark.parametrize(("losses", "scale"), [((0.43, 0.72), "linear"), ((0.01, 0.72), "log"), ((-0.1, 9), "linear")])
def test_narrow_ranges_are_shown_in_plain_numbers(
    losses: tuple[float, float], scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(canvas, "save", lambda figure, path, dpi: figures.append(figure) or path)
    curve = [
        {"lr": lr, "expected_loss": loss, "probe_loss": None, "probe_steps": None}
        for lr, loss in zip((1e-3, 1e-2), losses, strict=True)
    ]
    told = {"steps": 9, "interval": (1e-3, 1e-2), "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine"}
    assert draw({"curve": curve, "decided": True, **told}, tmp_path / "a.png") == tmp_path / "a.png"
    axes = figures[0].axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", scale)
    figures[0].draw_without_rendering()
    assert not any("10^" in tick.get_text() for tick in axes.get_yticklabels(which="both"))
