"""Adam and its relatives from torch."""

from __future__ import annotations

import torch

from learnopt.baselines.base import Baseline, Settings, Space, torch_stepper

BASELINES = [
    Baseline("adam", "Adam 1e-3", torch_stepper(torch.optim.Adam), Settings(1e-3)),
    Baseline("adamw", "AdamW tuned", torch_stepper(torch.optim.AdamW), None),
    Baseline(
        "adam_constant", "Adam tuned, constant", torch_stepper(torch.optim.Adam), None, Space(("constant",)), slow=True
    ),
    Baseline("adamw_cosine", "AdamW 1e-3 cosine", torch_stepper(torch.optim.AdamW), Settings(1e-3, "cosine")),
    Baseline("nadam", "NAdam default", torch_stepper(torch.optim.NAdam), Settings(2e-3)),
]
