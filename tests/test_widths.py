"""Meta-networks of other widths, in a process of their own: the kernel, optimizers, artifacts, checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from learnopt import artifact, meta_network
from learnopt.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from learnopt.meta_config import MetaTrainConfig

CODE = """
import sys, torch
from pathlib import Path
from torch import nn
from learnopt import LearnedOptimizer, artifact, meta_network
from learnopt.checkpoint import Checkpoint, save_checkpoint
from learnopt.kernels import library
from learnopt.meta_config import MetaTrainConfig
from learnopt.unroll import Problem, Telling, unroll
from toy import ToyTask

torch.set_num_threads(1)
library.FLAGS = ("-O1", "-std=c11", "-shared", "-fPIC")  # quickly compiled
library.cache = lambda: Path(sys.argv[1]) / "cache"
out, g = Path(sys.argv[1]), torch.Generator().manual_seed(0)
assert (meta_network.HIDDEN, meta_network.CONTEXT, meta_network.WIDTH) == (19, 3, 6)
theta = meta_network.initial_theta(g) + 0.05 * torch.randn(meta_network.SIZE, generator=g)
problems = [Problem(ToyTask("cnn"), [1, 2], kernel=k) for k in (False, True)]
runs = [unroll(p, theta, p.begin(), 0, 8, Telling(8))[0] for p in problems]
for a, b in zip(runs[0].params, runs[1].params, strict=True):
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
torch.testing.assert_close(runs[0].state.hidden, runs[1].state.hidden, rtol=1e-3, atol=1e-4)
assert runs[0].state.hidden.shape[-1] == 19
path = artifact.save(out / "wide.safetensors", theta, None, {})
model = nn.Linear(16, 3)
optimizer = LearnedOptimizer(model.parameters(), total_steps=5, weights=str(path))
for t in range(5):
    optimizer.zero_grad()
    loss = ToyTask("bare").loss(model, ToyTask("bare").batch(0, t))
    loss.backward()
    optimizer.step(loss=loss)
assert all(p.isfinite().all() for p in model.parameters())
config = MetaTrainConfig()
save_checkpoint(out, Checkpoint.fresh(theta, config), config)
try:
    artifact.load("default")
except artifact.ArtifactError as error:
    print(error)
"""


def test_other_widths_in_a_process_of_their_own(tmp_path: Path) -> None:
    environment = {**os.environ, meta_network.WIDTHS: "19, 3,6", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "widths 12,8,2, this process one of 19,3,6; start it with LEARNOPT_WIDTHS=12,8,2" in done.stdout
    with pytest.raises(artifact.ArtifactError, match=r"widths 19,3,6, this process one of 12,8,2; .*WIDTHS=19,3,6"):
        artifact.load(tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=rf"meta-weights, this process {meta_network.SIZE}; see LEARNOPT_WIDTHS"):
        load_checkpoint(tmp_path, MetaTrainConfig())


def test_checkpoints_of_these_widths_are_taken(tmp_path: Path) -> None:
    config, theta = MetaTrainConfig(), torch.ones(meta_network.SIZE)
    save_checkpoint(tmp_path, Checkpoint.fresh(theta, config), config)
    found = load_checkpoint(tmp_path, config)
    assert found is not None
    assert torch.equal(found.theta, theta)


@pytest.mark.parametrize("text", ["12,8", "12,8,0", "a,b,c", "12,8,4,2", "1.5,2,3", "-1,2,3"])
def test_bad_widths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="three numbers of at least 1, such as 32,16,8, got") as error:
        meta_network.parse_widths(text)
    assert repr(text) in str(error.value)


def test_standard_widths_without_the_variable() -> None:
    assert meta_network.parse_widths(None) == meta_network.parse_widths("") == (12, 8, 2)
    assert meta_network.parse_widths("32, 16,8") == (32, 16, 8)
