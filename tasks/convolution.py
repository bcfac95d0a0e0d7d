"""Small convolutional networks: plain, with BatchNorm or GroupNorm, residual, depthwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from learnopt.tasks.networks import ACTIVATIONS, Residual

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "batch": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "group": lambda channels: nn.GroupNorm(2 if channels % 2 == 0 else 1, channels),
}


class GlobalMean(nn.Module):
    """Mean over height and width."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


def _unit(fan_in: int, fan_out: int, stride: int, activation: str, norm: str, depthwise: bool) -> list[nn.Module]:
    bias = norm != "batch"
    if depthwise and fan_in > 1:
        convolution: list[nn.Module] = [
            nn.Conv2d(fan_in, fan_in, 3, stride, 1, groups=fan_in, bias=False),
            nn.Conv2d(fan_in, fan_out, 1, bias=bias),
        ]
    else:
        convolution = [nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=bias)]
    return [*convolution, *([NORMS[norm](fan_out)] if norm != "none" else []), ACTIVATIONS[activation]()]


def _branch(channels: int, activation: str, norm: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        NORMS[norm](channels),
        ACTIVATIONS[activation](),
        nn.Conv2d(channels, channels, 3, padding=1),
        NORMS[norm](channels),
    )


def cnn(
    channels: Sequence[int],
    size: int,
    outputs: int,
    *,
    activation: str = "relu",
    norm: str = "none",
    residual: int = 0,
    depthwise: bool = False,
    pool: bool = False,
    dropout: float = 0.0,
    hidden: int = 0,
) -> nn.Sequential:
    """3x3 convolutions along `channels` (input first), every one halving the image after the first keeps it or not.

    Args:
        size: height and width of the images.
        residual: residual branches after the convolutions.
        pool: global mean instead of flattening before the head.
        hidden: width of a hidden layer in the head, 0 for none.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(channels):
        layers += _unit(fan_in, fan_out, 2, activation, norm, depthwise)
        size = (size + 1) // 2
    for _ in range(residual):
        layers += [Residual(_branch(channels[-1], activation, norm)), ACTIVATIONS[activation]()]
    features = channels[-1] * (1 if pool else size * size)
    layers.append(GlobalMean() if pool else nn.Flatten())
    if dropout:
        layers.append(nn.Dropout(dropout))
    if hidden:
        layers += [nn.Linear(features, hidden), ACTIVATIONS[activation]()]
        features = hidden
    return nn.Sequential(*layers, nn.Linear(features, outputs))
