"""SGD with momentum."""

from __future__ import annotations

import torch

from learnopt.baselines.base import Baseline, torch_stepper

BASELINES = [Baseline("sgd", "SGD momentum tuned", torch_stepper(torch.optim.SGD, momentum=0.9), None)]
