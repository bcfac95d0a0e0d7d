"""Task families and suites: what the meta-network is trained on, validated on and judged by.

`families("meta_train")` is a weighted list of task distributions; `suite(name)` a fixed list of tasks; `get_task(name)`
one of them. Suites share no data set. Optional real data joins in where the environment variable LEARNOPT_DATA points
to its folder.
"""

from __future__ import annotations

from learnopt.tasks.held_out import QUICK
from learnopt.tasks.suites import SUITES, families, get_task, suite

__all__ = ["QUICK", "SUITES", "families", "get_task", "suite"]
