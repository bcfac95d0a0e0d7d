"""The weights at the best value, kept aside until they are wanted."""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol


class HasState(Protocol):
    """A model, or anything else that `state_dict` and `load_state_dict` copy."""

    def state_dict(self) -> dict[str, Any]:
        """All of its state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take on a state."""


class BestWeights:
    """Copies of a model's state.

    Args:
        model: has `state_dict` and `load_state_dict`.

    Raises:
        ValueError: it has not.
    """

    def __init__(self, model: HasState) -> None:
        if not (hasattr(model, "state_dict") and hasattr(model, "load_state_dict")):
            raise ValueError(f"restore_best must be a model with state_dict and load_state_dict, got {model!r:.80}")
        self._model = model
        self.kept: dict[str, Any] | None = None
        self.step: float | None = None
        self.value = math.inf

    def keep(self, step: float, value: float) -> None:
        """Copy the model's state as that of `step`, where the value was `value`."""
        self.kept, self.step, self.value = copy.deepcopy(self._model.state_dict()), step, value

    def forget(self) -> None:
        """Give up what is kept."""
        self.kept, self.step, self.value = None, None, math.inf

    def restore(self) -> float | None:
        """Put the copy back; returns its step, None where nothing has been kept."""
        if self.kept is not None:
            self._model.load_state_dict(self.kept)
        return self.step
