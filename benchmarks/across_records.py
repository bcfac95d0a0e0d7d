"""Today's learned runs beside baselines of an earlier record, when both had the same learned runs before.

    git show COMMIT:results/held-out-v1/compare.json > before.json
    python benchmarks/across_records.py results/held-out-grid/compare.json before.json results/held-out-v1/compare.json

A task's ratio to the earlier record's AdamW is the old one times the learned loss now over the learned loss before; it
refuses records whose learned runs differ. Speed-ups cannot be had that way. Writes `across.json` beside the first.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from learnopt.provenance import write_record


def rows(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """`optimizer -> task -> row` of a comparison."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in json.loads(path.read_text(encoding="utf-8"))["tasks"]:
        found.setdefault(row["optimizer"], {})[row["task"]] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("earlier", "before", "now"):
        parser.add_argument(name, type=Path)
    chosen = parser.parse_args()
    earlier, before, now = (rows(path) for path in (chosen.earlier, chosen.before, chosen.now))
    same, old, new = earlier["learnopt"], before["learnopt"], now["learnopt"]
    differ = [t for t in same if not math.isclose(same[t]["validation"], old[t]["validation"], rel_tol=1e-6)]
    if differ:
        raise SystemExit(f"the learned runs of the two earlier records differ: {', '.join(differ)}")
    table = []
    for optimizer, theirs in earlier.items():
        if optimizer == "learnopt":
            continue
        row: dict[str, Any] = {"against": optimizer}
        for key in ("validation_ratio", "train_ratio"):
            ratios = {t: same[t][key] * new[t][key] / old[t][key] / theirs[t][key] for t in same if theirs[t][key]}
            row[key] = math.exp(statistics.mean(map(math.log, ratios.values())))
            if key == "validation_ratio":
                worst = max(ratios, key=lambda t: ratios[t])
                row |= {"won": statistics.mean(r <= 1 for r in ratios.values()), "worst": [worst, ratios[worst]]}
        table.append(row)
        print(row)
    print(f"wrote {write_record(chosen.earlier.parent / 'across.json', rows=table)}")


if __name__ == "__main__":
    main()
