"""What a training of an estimator owes to those around it: all of it or nothing, in whatever mode torch is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from sklearn.base import BaseEstimator


@contextmanager
def in_full_or_not_at_all(estimator: BaseEstimator) -> Iterator[None]:
    """Train in here: an error or Ctrl-C gives the estimator its former attributes back, and gradients are on.

    Attributes must be replaced, not changed in place.
    """
    before = dict(vars(estimator))
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    except BaseException:  # KeyboardInterrupt too
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
