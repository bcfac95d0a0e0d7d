"""Watches a `LearnedOptimizer` at work; nothing in the training loop changes, and nothing in the training."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from learnopt import intake, recording, recording_figures
from learnopt.read_outs import ReadOuts
from learnopt.recording import MOST, Recording

_SECONDS = 60.0
"""Between two savings along the way."""

Names: TypeAlias = nn.Module | Iterable[tuple[str, Tensor]] | None
"""Where names of parameters come from: a module, `named_parameters()`, or the groups if they were made from those."""


class Writer(Protocol):
    """What `torch.utils.tensorboard.SummaryWriter` does, as far as it is needed here."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...


class Recorder:
    """Records what a learned optimizer decides, from its attachment to `close`.

    It hangs on the optimizer's own hook after each step. A row is read every `every` steps; when there are more than
    `most`, every second one goes and `every` doubles, so that memory and cost stay within bounds: by default at most
    500 rows for the first 500 steps, and 250 for each doubling from there. A recorded step waits for the device.

    Args:
        optimizer: a `LearnedOptimizer`, or a wrapper that holds one in `optimizer` or `optim`.
        every: steps from one row to the next, at first.
        names: the model or its `named_parameters()`, to call parameters by their names.
        most: rows kept.
        path: JSON file that the recording is written to once a minute and by `close`.
        resume: go on with the recording in `path`, if there is one, from the step that the optimizer is at.
        writer: gets every row at once, such as a TensorBoard `SummaryWriter`.

    Attributes:
        recording: the `Recording` so far.

    Raises:
        ValueError: something is out of its range, no learned optimizer, or no place to write to.

    Example:
        >>> with Recorder(optimizer, names=model, path="run.json"):  # doctest: +SKIP
        ...     train(model, optimizer)
    """

    def __init__(
        self,
        optimizer: Optimizer | Any,
        every: int = 1,
        *,
        names: Names = None,
        most: int = MOST,
        path: str | os.PathLike[str] | None = None,
        resume: bool = False,
        writer: Writer | None = None,
    ) -> None:
        self.optimizer = learned(optimizer)
        self._names = _by_id(names)
        self.path = None if path is None else _writable(Path(path))
        self._writer = writer
        total = self.optimizer.param_groups[0]["total_steps"]
        self.recording = Recording(
            *_labels(self.optimizer, self._names), self.optimizer.stop_threshold, total, every, most
        )
        if resume and self.path is not None and self.path.exists():
            self._go_on(recording.load(self.path))
        self._calls = _done(self.optimizer.explain_run())
        self._told: Tensor | float | None = None
        self._saved = time.monotonic()
        self._handle: Any = self.optimizer.register_step_post_hook(self._after_step)

    def _go_on(self, earlier: Recording) -> None:
        if earlier.names != self.recording.names[: len(earlier.names)]:
            raise ValueError(f"recording {self.path} is of other parameters than the optimizer's")
        earlier.forget_after(_done(self.optimizer.explain_run()))
        earlier.names, earlier.shapes = self.recording.names, self.recording.shapes
        earlier.total_steps, earlier.threshold = self.recording.total_steps, self.recording.threshold
        self.recording = earlier

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # reads numbers
    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        loss = kwargs.get("loss")
        self._told = loss.detach() if isinstance(loss, Tensor) else loss  # without its graph, which holds memory
        self._calls += 1
        if (self._calls - 1) % self.recording.every == 0:
            self.record()

    def record(self) -> bool:
        """Record the last step now; False if that has been done."""
        loss = None if self._told is None else float(intake.loss_tensor(self._told, torch.device("cpu")))
        if sum(len(group["params"]) for group in self.optimizer.param_groups) != len(self.recording.names):
            self.recording.names, self.recording.shapes = _labels(self.optimizer, self._names)
        if not self.recording.add(*_row(self.optimizer, loss)):
            return False
        if self.recording.stopped is None and (reason := self.optimizer.stop_reason) is not None:
            self.recording.stopped = self.recording.last_step, reason
        if self._writer is not None:
            _write(self._writer, self.latest(), self.recording.last_step)
        if self.path is not None and time.monotonic() - self._saved > _SECONDS:
            self.save(self.path)
        return True

    def latest(self) -> dict[str, float]:
        """The last row as `scalars` gives it; empty before the first."""
        return recording_figures.scalars(self.recording)

    def to_tensorboard(self, writer: Writer) -> None:
        """Write all rows so far; any object with `add_scalar(tag, value, step)` will do."""
        for i, row in enumerate(self.recording.rows):
            _write(writer, recording_figures.scalars(self.recording, i), int(row.run[0]))

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the recording as JSON, to `path` or to where it was to go from the beginning."""
        target = self.path if path is None else Path(path)
        if target is None:
            raise ValueError("recording needs a path, got None here and none at the beginning")
        self.recording.evidence = [(e.what, round(e.log_odds, 4)) for e in self.optimizer.stop_evidence()]
        self._saved = time.monotonic()
        return self.recording.save(target)

    def close(self) -> None:
        """Record the last step, save if there is a path, and let go of the optimizer's hook."""
        if self._handle is None:
            return
        self._handle.remove()
        self._handle = None
        self.record()
        if self.path is not None:
            self.save()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def scalars(optimizer: Optimizer | Any, names: Names = None) -> dict[str, float]:
    """What a learned optimizer decided in its last step as one flat dictionary, to hand to any logger.

    Keys: `loss_average`, `schedule`, `stop_probability`, `skipped`; over all parameters the means `decay` and `pull`
    and the shares `direction/gradient`, `direction/momentum` and `direction/orthogonal`; and `learning_rate/LAYER`
    with `learning_rate/LAYER/others` for its biases and normalisation, geometric means over the tensors of a layer,
    or of several layers where there are many (`layer_groups`). What is not known is left out: all before a step.
    """
    inner = learned(optimizer)
    kept = Recording(*_labels(inner, _by_id(names)), inner.stop_threshold)
    kept.add(*_row(inner, None))
    return recording_figures.scalars(kept)


def learned(optimizer: Any) -> ReadOuts:
    """The learned optimizer itself, also out of wrappers that hold it in `optimizer` or `optim`.

    Raises:
        ValueError: there is none.
    """
    inner, seen = optimizer, 0
    while not isinstance(inner, ReadOuts) and inner is not None and seen < 5:
        inner, seen = getattr(inner, "optimizer", None) or getattr(inner, "optim", None), seen + 1
    if not isinstance(inner, ReadOuts):
        raise ValueError(f"optimizer must be a LearnedOptimizer, got {type(optimizer).__name__}")
    return inner


def _by_id(names: Names) -> dict[int, str]:
    """Names by the identity of the parameters, which the optimizer keeps alive."""
    pairs = names.named_parameters() if isinstance(names, nn.Module) else names or ()
    try:
        found = {id(p): name for name, p in pairs}
    except (TypeError, ValueError):
        raise ValueError(f"names must be a model or its named_parameters(), got {type(names).__name__}") from None
    if not all(isinstance(name, str) for name in found.values()):
        raise ValueError("names must be a model or its named_parameters(), got pairs that do not begin with a name")
    return found


def _labels(optimizer: ReadOuts, names: Mapping[int, str]) -> tuple[list[str], list[tuple[int, ...]]]:
    """Names and shapes of all parameter tensors, in the groups' order."""
    found: list[str] = []
    shapes: list[tuple[int, ...]] = []
    for group in optimizer.param_groups:
        own = group.get("param_names") or [None] * len(group["params"])
        for p, name in zip(group["params"], own, strict=True):
            found.append(names.get(id(p)) or name or f"tensor {len(found)}")
            shapes.append(tuple(p.shape))
    return found, shapes


def _row(optimizer: ReadOuts, loss: float | None) -> tuple[dict[str, float | None], dict[str, NDArray[np.float32]]]:
    """What `Recording.add` takes of the last step."""
    run = optimizer.explain_run()
    tensors = {name: values.numpy() for name, values in optimizer.decisions().items()}
    return {**run, "step": _done(run), "loss": loss}, tensors


def _done(run: Mapping[str, float | None]) -> int:
    """Steps, skipped ones included."""
    return int((run["step"] or 0) + (run["skipped"] or 0))


def _write(writer: Writer, values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        writer.add_scalar(f"learnopt/{name}", value, step)


def _writable(path: Path) -> Path:
    """The path wherever the process goes, if a file can be written there; to find out at the end would be late."""
    place = path.absolute()
    folder = next(p for p in place.parents if p.exists())
    if place.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"path must be a file that can be written, got {str(path)!r}")
    return place
