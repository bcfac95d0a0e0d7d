"""Meta-learners that start from few examples, on one inner loop: `fit` on many tasks, `adapt` to a new one."""

from __future__ import annotations

from learnopt.fewshot.episode import Episode, EpisodeSource
from learnopt.fewshot.l2l import L2L
from learnopt.fewshot.learner import Learner
from learnopt.fewshot.lstm_rule import LSTMRule
from learnopt.fewshot.maml import ANIL, FOMAML, MAML, MetaSGD
from learnopt.fewshot.meta_lstm import MetaLSTM
from learnopt.fewshot.metric import Prototypical, Siamese
from learnopt.fewshot.reptile import Reptile
from learnopt.fewshot.rl2 import RL2

__all__ = [
    "ANIL",
    "FOMAML",
    "L2L",
    "MAML",
    "RL2",
    "Episode",
    "EpisodeSource",
    "LSTMRule",
    "Learner",
    "MetaLSTM",
    "MetaSGD",
    "Prototypical",
    "Reptile",
    "Siamese",
]
