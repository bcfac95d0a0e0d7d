"""The meta-learners by name."""

from __future__ import annotations

from learnopt.fewshot.learner import Learner
from learnopt.fewshot.maml import ANIL, FOMAML, MAML, MetaSGD
from learnopt.fewshot.meta_lstm import MetaLSTM
from learnopt.fewshot.metric import Prototypical, Siamese
from learnopt.fewshot.reptile import Reptile

METHODS: dict[str, type[Learner]] = {
    m.name: m for m in (MAML, FOMAML, ANIL, MetaSGD, MetaLSTM, Reptile, Siamese, Prototypical)
}
