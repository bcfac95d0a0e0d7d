"""learnopt: learned optimization for PyTorch."""

from __future__ import annotations

from learnopt import differentiable as _differentiable  # noqa: F401  # registers with higher
from learnopt.optimizer import LearnedOptimizer
from learnopt.recorder import Recorder

__version__ = "0.1.0"
__all__ = ["LearnedOptimizer", "Recorder", "__version__"]
