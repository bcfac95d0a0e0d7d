"""Scripts that others have published, read where they were installed, and stand-ins for what they download."""

from __future__ import annotations

import re
import sys
from importlib.metadata import metadata
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

HERE = Path(__file__).parent / "scripts"


def readme_block(package: str, having: str) -> str:
    """The first code block with these words in an installed package's README."""
    text = str(metadata(package).json["description"])
    blocks = re.findall(r"```(?:python|Python|diff)\n(.*?)\n```", text, flags=re.DOTALL)
    blocks += [dedent(b) for b in re.findall(r"\.\. code:: python\n\n((?:    .*\n|\n)+)", text)]
    return next(block for block in blocks if having in block)


def docstring_part(of: Any, start: str, end: str) -> str:
    """What stands between two lines of a docstring, prompts taken away."""
    text = str(of.__doc__).split(start, 1)[1].split(end, 1)[0]
    return dedent(re.sub(r"(?m)^(\s*)>>> ?", r"\1", text)).strip("\n")


def side(diff: str, sign: str) -> str:
    """One side of a diff: `+` after, `-` before; some lines are indented by one column, not two."""
    kept = [line for line in diff.splitlines() if line[:1] in (sign, " ", "")]
    return "\n".join(line[2:] if line[1:2] == " " else line[1:] for line in kept)


def with_optimizer(script: str, line: str, optimizer: str) -> str:
    """The script with the one expression that makes its optimizer replaced."""
    assert script.count(line) == 1, f"{line!r} stands {script.count(line)} times in the script"
    return script.replace(line, optimizer)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Ten kinds of generated pictures, made when asked for."""

    def __init__(self, shape: tuple[int, int, int], count: int) -> None:
        g = torch.Generator().manual_seed(0)
        coarse = torch.rand(10, shape[0], 7, 7, generator=g)
        self.kinds = nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if not 0 <= i < self.count:
            raise IndexError(i)
        noise = torch.rand(self.kinds.shape[1:], generator=torch.Generator().manual_seed(i))
        return 0.8 * self.kinds[i % 10] + 0.2 * noise, i % 10


def torchvision(count: int) -> dict[str, ModuleType]:
    """Stands for torchvision: `count` generated pictures instead of a download, a small network instead of a ResNet."""
    whole, datasets, transforms, models = (
        ModuleType(name)
        for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.models")
    )

    def small() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, 10)
        )  # fmt: skip

    made: list[tuple[ModuleType, dict[str, Any]]] = [
        (datasets, {name: lambda *_, **__: Pictures((1, 28, 28), count) for name in ("MNIST", "FashionMNIST")}),
        (datasets, {"CIFAR10": lambda *_, **__: Pictures((3, 32, 32), count)}),
        (transforms, {"ToTensor": lambda: None}),
        (models, {"resnet18": small}),
        (whole, {"datasets": datasets, "transforms": transforms, "models": models}),
    ]
    for module, names in made:
        vars(module).update(names)
    return {m.__name__: m for m in (whole, datasets, transforms, models)}


def execute(script: str, **given: Any) -> dict[str, Any]:
    """Run a script as its author would, in the current folder; returns its names."""
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__", **given}
    exec(compile(script, "script", "exec"), names)
    return names


def stand_in(modules: dict[str, ModuleType], monkeypatch: Any) -> None:
    """Let scripts import these modules."""
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
