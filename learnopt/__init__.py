"""learnopt: learned optimization for PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from learnopt import differentiable as _differentiable  # noqa: F401  # registers with higher
from learnopt.optimizer import LearnedOptimizer
from learnopt.recorder import Recorder

if TYPE_CHECKING:
    from learnopt.stopping import LearnedStopper, Patience
    from learnopt.tuner.diagnose import diagnose
    from learnopt.tuner.selection import select_model
    from learnopt.tuner.tune import tune

__version__ = "0.1.0"
__all__ = [
    "LearnedOptimizer",
    "LearnedStopper",
    "Patience",
    "Recorder",
    "__version__",
    "diagnose",
    "select_model",
    "tune",
]

_LATER = {
    "LearnedStopper": "learnopt.stopping",
    "Patience": "learnopt.stopping",
    "diagnose": "learnopt.tuner.diagnose",
    "select_model": "learnopt.tuner.selection",
    "tune": "learnopt.tuner.tune",
}
"""Where the names are that are loaded when first asked for: those who only optimize need not wait for them."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
