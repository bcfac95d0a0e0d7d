"""What stopping where `should_stop` says so would have cost and saved in a stored comparison.

    python benchmarks/stopping.py results/held-out-v1

Reads the learned optimizer's runs: validation losses at about 20 points, decisions at about 50. A run that stops keeps
the last validation loss measured up to then.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import mean


def outcome(run: dict) -> tuple[float, float, bool]:
    """`(log of the loss where it stops over the final loss, share of the steps taken, whether it stops)`."""
    steps = len(run["losses"])
    stop = next((o["step"] for o in run["observations"] if o["should_stop"]), None)
    if stop is None:
        return 0.0, 1.0, False
    points = [(step, loss) for step, loss, _ in run["validation"] if step <= stop]
    return math.log(points[-1][1] / run["validation_final"]), stop / steps, True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    runs = [json.loads(p.read_text())["run"] for p in parser.parse_args().folder.glob("runs/*--learnopt--*.json")]
    each = [outcome(run) for run in runs]
    print(f"{len(each)} runs, {sum(stopped for *_, stopped in each)} stopped")
    change, worst = (math.exp(f(e for e, *_ in each)) - 1 for f in (mean, max))
    print(f"validation loss {change:+.2%}, worst {worst:+.0%}")
    print(f"steps saved {1 - mean(share for _, share, _ in each):.1%}")


if __name__ == "__main__":
    main()
