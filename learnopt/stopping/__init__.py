"""When to stop: a learned stopper and the classical rules, in one interface."""

from learnopt.stopping.improvement import RelativeImprovement
from learnopt.stopping.learned import LearnedStopper
from learnopt.stopping.patience import Patience
from learnopt.stopping.plateau import DecayOnPlateau
from learnopt.stopping.stopper import Both, Either, Stopper, Verdict

__all__ = [
    "Both",
    "DecayOnPlateau",
    "Either",
    "LearnedStopper",
    "Patience",
    "RelativeImprovement",
    "Stopper",
    "Verdict",
]
