"""Meta-learners that start from few examples, on one inner loop: `fit` on many tasks, `adapt` to a new one."""

from __future__ import annotations

from learnopt.fewshot.episode import Episode, EpisodeSource
from learnopt.fewshot.learner import Learner
from learnopt.fewshot.maml import ANIL, FOMAML, MAML, MetaSGD
from learnopt.fewshot.metric import Prototypical, Siamese
from learnopt.fewshot.reptile import Reptile

__all__ = [
    "ANIL",
    "FOMAML",
    "MAML",
    "Episode",
    "EpisodeSource",
    "Learner",
    "MetaSGD",
    "Prototypical",
    "Reptile",
    "Siamese",
]
