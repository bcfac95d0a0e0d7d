"""learnopt: learned optimization for PyTorch."""

from __future__ import annotations

from learnopt.optimizer import LearnedOptimizer

__version__ = "0.1.0"
__all__ = ["LearnedOptimizer", "__version__"]
