"""Training scripts of someone else's making train after nothing but their optimizer has been replaced.

They are read from the installed packages' READMEs and docstrings, so that they are as published. Two, which no package
brings, follow the published ones step by step (`scripts/`). Their downloads are replaced by generated data.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning
import published
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from learnopt import LearnedOptimizer

OURS, FROZEN = "LearnedOptimizer({0})", "torch.optim.SGD({0}, lr=0.0)"

pytestmark = [
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no"),  # the published script does
    pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers"),  # advice
]


@pytest.fixture(autouse=True)
def empty_folder_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def both(script: str, line: str, params: str = "model.parameters()", **given: Any) -> list[dict[str, Any]]:
    """The script's names with its optimizer replaced by ours, and by one that leaves everything as it is."""
    given = {"torch": torch, "LearnedOptimizer": LearnedOptimizer, **given}
    return [
        published.execute(published.with_optimizer(script, line, new.format(params)), **given) for new in (OURS, FROZEN)
    ]


def loss_on(model: nn.Module, rows: Any, loss_fn: Any = functional.cross_entropy) -> float:
    """Loss of a model over rows of `(input, target)`."""
    x, y = next(iter(DataLoader(rows, batch_size=len(rows))))
    with torch.no_grad():
        return float(loss_fn(model.eval()(x), y))


def test_torchs_quickstart(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://docs.pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html"""
    published.stand_in(published.torchvision(640), monkeypatch)
    script = (published.HERE / "torch_quickstart.py").read_text()
    ours, frozen = both(script, "torch.optim.SGD(model.parameters(), lr=1e-3)")
    assert ours["test_loss"] < 0.1 * frozen["test_loss"]


def regression() -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(20, 16, 5, generator=torch.Generator().manual_seed(0))
    return [(a, torch.sin(2 * a[:, :2])) for a in x]


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 2))


def mean_loss(model: nn.Module, batches: int = 20) -> float:
    was, _ = model.training, model.eval()
    with torch.no_grad():
        losses = [float(functional.mse_loss(model(x), y)) for x, y in regression()[:batches]]
    model.train(was)
    return sum(losses) / batches


def test_torchs_example_of_autocast() -> None:
    """https://docs.pytorch.org/docs/stable/amp.html#torch.autocast, the CPU training example."""
    script = published.docstring_part(torch.autocast, "CPU Training Example::", "CPU Inference Example::")
    ours, frozen = both(
        script, "optim.SGD(model.parameters(), ...)",
        Net=perceptron, data=regression(), epochs=range(10), loss_fn=functional.mse_loss,
    )  # fmt: skip
    assert mean_loss(ours["model"]) < 0.3 * mean_loss(frozen["model"])


def test_torchs_example_of_averaged_weights() -> None:
    """https://docs.pytorch.org/docs/stable/optim.html, `AveragedModel`: cosine schedule, then SWALR.

    Its `swa_lr=0.05` is a multiplier here as well: from then on steps are a twentieth of the learned ones.
    """
    script = published.docstring_part(torch.optim.swa_utils.AveragedModel, 'undefined variables")', "You can also")
    torch.manual_seed(0)
    model = perceptron()
    before = mean_loss(model, 4)
    names = published.execute(
        published.with_optimizer(script, "loss_fn = ...", "loss_fn = given"),
        given=(regression()[:4], LearnedOptimizer(model.parameters()), model, functional.mse_loss),
        torch=torch, SWALR=torch.optim.swa_utils.SWALR,
    )  # fmt: skip
    assert mean_loss(names["swa_model"], 4) < 0.3 * before
    assert names["optimizer"].param_groups[0]["lr"] == pytest.approx(0.05)


def test_lightnings_autoencoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://github.com/Lightning-AI/pytorch-lightning, README: `LitAutoEncoder`; cut short after 100 steps."""
    published.stand_in(published.torchvision(60000), monkeypatch)
    short = {
        "max_steps": 100, "limit_val_batches": 2, "logger": False, "enable_checkpointing": False,
        "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    monkeypatch.setattr(lightning, "Trainer", functools.partial(lightning.Trainer, **short))
    script = published.readme_block("lightning", "class LitAutoEncoder(L.LightningModule)")
    ours, frozen = both(script, "torch.optim.Adam(self.parameters(), lr=1e-3)", "self.parameters()")

    def error(names: dict[str, Any]) -> float:
        module = names["autoencoder"]
        x = torch.stack([names["val"][i][0] for i in range(100)]).flatten(1)
        with torch.no_grad():
            return float(functional.mse_loss(module.decoder(module.encoder(x)), x))

    assert error(ours) < 0.2 * error(frozen)


@pytest.mark.parametrize("which", ["fabric", "plain torch"])
def test_lightning_fabrics_example(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """https://github.com/Lightning-AI/pytorch-lightning, README: `Convert PyTorch to Fabric`, both sides."""
    published.stand_in(published.torchvision(64), monkeypatch)
    monkeypatch.setattr(lightning, "Fabric", functools.partial(lightning.Fabric, accelerator="cpu"))
    script = published.readme_block("lightning", "\nfabric = L.Fabric()\nfabric.launch()")
    if which == "plain torch":
        script = published.side(published.readme_block("lightning", "+ fabric = L.Fabric()"), "-")
    ours, frozen = both(script, "torch.optim.SGD(model.parameters(), lr=0.001)")
    pictures = published.Pictures((3, 32, 32), 64)
    assert loss_on(ours["model"], pictures) < 0.2 * loss_on(frozen["model"], pictures)


@pytest.mark.parametrize("which", ["accelerate", "plain torch"])
def test_accelerates_example(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """https://github.com/huggingface/accelerate, README: `Easy to integrate`, both sides."""
    rows = [(x, y) for x, y in published.Pictures((1, 28, 28), 40)]
    datasets = ModuleType("datasets")
    vars(datasets)["load_dataset"] = lambda _: rows
    published.stand_in({"datasets": datasets}, monkeypatch)
    monkeypatch.setattr(nn, "Transformer", lambda: nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)))
    diff = published.readme_block("accelerate", "+ from accelerate import Accelerator")
    script = published.side(diff, "+" if which == "accelerate" else "-")
    ours, frozen = both(script, "torch.optim.Adam(model.parameters())")
    assert loss_on(ours["model"], rows) < 0.2 * loss_on(frozen["model"], rows)


def test_skorchs_example() -> None:
    """https://github.com/skorch-dev/skorch, README; there the optimizer is `lr=0.1` of the default SGD."""
    script = published.readme_block("skorch", "net = NeuralNetClassifier(\n    MyModule")
    losses = []
    for new in ("lr=1, optimizer=LearnedOptimizer,", "lr=0.0,"):
        names = published.execute(published.with_optimizer(script, "lr=0.1,", new), LearnedOptimizer=LearnedOptimizer)
        losses.append(names["net"].history[-1, "valid_loss"])
    ours, frozen = losses
    assert ours < 0.7 * frozen


def test_transformers_native_loop() -> None:
    """https://huggingface.co/docs/transformers/v4.57.1/training#train-in-native-pytorch, with its linear schedule."""
    script = (published.HERE / "transformers_native_loop.py").read_text()
    ours, frozen = both(script, "AdamW(model.parameters(), lr=5e-5)")
    assert ours["optimizer"].param_groups[0]["lr"] == 0  # a multiplier, at the end of the script's own schedule

    def loss(names: dict[str, Any]) -> float:
        batch = next(iter(DataLoader(names["rows"], batch_size=256)))
        with torch.no_grad():
            return float(names["model"].eval()(**batch).loss)

    assert loss(ours) < 0.8 * loss(frozen)
