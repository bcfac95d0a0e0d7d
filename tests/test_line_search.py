"""Line search: candidates move one output of the rule and nothing else, and the suite decides by its mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import ToySource, ToyTask

from learnopt import artifact, cli_line_search, export, meta_network, objective
from learnopt.cli import run
from learnopt.line_search import LineSearch, scores
from learnopt.unroll import Problem, Telling, unroll
from learnopt.workers import Pool

STEPS = 30
SHIFTS = (0.0, 0.5, -0.7)


def theta() -> torch.Tensor:
    g = torch.Generator().manual_seed(4)
    return meta_network.initial_theta(g) + 0.1 * torch.randn(meta_network.SIZE, generator=g)


@pytest.mark.parametrize("output", meta_network.OUTPUTS)
def test_a_shift_is_a_constant_nudge_of_one_output(output: str) -> None:
    task, line = ToyTask("mlp"), LineSearch(theta(), output, SHIFTS, seeds=2)
    got = line.losses(task, STEPS)
    problem = Problem(task, [cli_seed(i) for i in range(2)])
    for shift, loss in zip(SHIFTS, got, strict=True):
        nudge = torch.zeros(STEPS, 2, len(problem.layout.tensors), len(meta_network.OUTPUTS))
        nudge[..., meta_network.OUTPUTS.index(output)] = shift
        _, t = unroll(problem, theta(), problem.begin(), 0, STEPS, Telling(STEPS), valid_at=(STEPS,), nudges=nudge)
        expected = objective.log_loss(t.valid[-1], t.losses[0].median()).mean()
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)
    assert (got[1:] - got[0]).abs().min() > 1e-4, "a shift that does nothing"


def cli_seed(i: int) -> int:
    from learnopt.task import seed_of

    return seed_of("line search", i)


def test_theta_itself_is_left_alone() -> None:
    kept = theta()
    line = LineSearch(kept, "pull", SHIFTS)
    rows = line.candidates()
    assert torch.equal(rows[0], theta())
    assert torch.equal(kept, theta())
    assert ((rows[1:] - rows[:1]) != 0).sum(1).tolist() == [1, 1]


def test_no_task_decides_alone() -> None:
    found = scores(torch.tensor([[0.0, -9.0, 0.1], [1.0, 1.5, 0.6], [2.0, 2.6, 1.4], [3.0, float("inf"), 2.9]]))
    torch.testing.assert_close(found.mean, torch.tensor([0.0, (-1 + 0.5 + 0.6 + 1) / 4, (0.1 - 0.4 - 0.6 - 0.1) / 4]))
    assert found.better.tolist() == [0.0, 0.25, 0.75]
    torch.testing.assert_close(found.error[2], torch.tensor([0.1, -0.4, -0.6, -0.1]).std() / 2)


def test_the_reference_comes_first() -> None:
    with pytest.raises(ValueError, match="must be 0, got"):
        LineSearch(theta(), "pull", (0.1, 0.0))


def test_the_command_writes_the_best_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = artifact.save(tmp_path / "start.safetensors", theta(), None, {"name": "start", "suite": "toy"})

    class ToyPool(Pool):
        def __init__(self, source: object, workers: int) -> None:
            super().__init__(ToySource(), workers)

    monkeypatch.setattr(cli_line_search, "Pool", ToyPool)
    out = tmp_path / "out.safetensors"
    arguments = ["line-search", str(start), "--out", str(out), "--output", "log_step", "--shifts=-3,0.2"]
    assert run([*arguments, "--lengths", "0,12", "--seeds", "2", "--workers", "1"]) == 0
    made = artifact.load(out)
    rows = made.card["line_search"]
    assert [r["shift"] for r in rows] == [0.0, -3.0, 0.2]
    best = min(rows, key=lambda r: r["mean"])
    assert made.card["line_search_shift"] == best["shift"]
    assert rows[1]["mean"] > 0.05, "steps of a four-hundredth should do harm"
    line = LineSearch(theta(), "log_step", (0.0, best["shift"]))
    assert torch.equal(made.theta, line.candidates()[1])
    assert made.card["suite"] == "toy"
    assert made.card["name"] == "out"


def test_a_stop_head_is_not_kept(tmp_path: Path) -> None:
    loaded = artifact.load("default")
    assert loaded.stop is not None
    made = artifact.load(export.shifted(loaded, tmp_path / "x.safetensors", loaded.theta, {}))
    assert made.stop is None
    assert not [name for name in made.card if name.startswith("stop_")]
