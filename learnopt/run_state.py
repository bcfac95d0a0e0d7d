"""What holds for a whole run of an optimizer: one tensor, kept in the state of a parameter that trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from learnopt import memory


class RunState(Optimizer):
    """An optimizer with a run's state (`memory.Run`, packed), which goes with `state_dict` as parameters' states do."""

    _latest: Tensor | None = None
    """The run's state after the last step here: it outlives the parameter that keeps it."""

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _run_keeper(self) -> Tensor | None:
        """The parameter whose state holds the run's, None before the first step or where it has been taken out."""
        return next((p for p in self._params() if "run" in self.state.get(p, {})), None)

    def _has_stepped(self) -> bool:
        return any("memory" in self.state.get(p, {}) for p in self._params())

    def _run(self, device: torch.device | None = None) -> Tensor:
        keeper = self._run_keeper()
        if keeper is not None:
            run: Tensor = self.state[keeper]["run"]
            return run
        if self._latest is not None and self._has_stepped():
            return self._latest
        return memory.new_run(device)

    def _keep_run(self, packed: Tensor) -> None:
        keeper = self._run_keeper()
        if keeper is None or not keeper.requires_grad:  # distributed checkpoints leave frozen parameters' state out
            params = self._params()
            new = next((p for p in params if p.requires_grad), params[0] if keeper is None else keeper)
            if keeper is not None and keeper is not new:
                del self.state[keeper]["run"]
            keeper = new
        self.state[keeper]["run"] = self._latest = packed

    def state_dict(self) -> dict[str, Any]:
        """As torch's; what holds for the whole run is with a parameter that trains."""
        if self._has_stepped():
            self._keep_run(self._run())
        found: dict[str, Any] = super().state_dict()
        return found
