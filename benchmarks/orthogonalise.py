"""What the kernel takes to orthogonalise one block, in float32 and on Intel's AMX unit, and how far it is off.

    OMP_NUM_THREADS=1 python benchmarks/orthogonalise.py --out results/step-cost

One thread; the two take turns. Errors are relative to the same iterations in double precision (Frobenius norm), for a
block of independent numbers, one of rank 2, and one whose singular values fall from 1 to 1e-4.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from ctypes import CDLL
from pathlib import Path

import torch
from torch import Tensor

from learnopt.kernels import library
from learnopt.orthogonal import orthogonalise
from learnopt.provenance import write_record

SHAPES = ((16, 144), (32, 64), (32, 288), (48, 300), (64, 64), (64, 128), (64, 512), (512, 64), (64, 1024))
CALLS = 20
"""Between two looks at the clock."""


class Block:
    """A block in the room that the kernel wants."""

    def __init__(self, loaded: CDLL, rows: int, columns: int) -> None:
        self.loaded, self.shape = loaded, (rows, columns)
        stride = loaded.orthogonalise_stride(columns)
        self.room = torch.zeros(loaded.orthogonalise_room(rows, columns))
        self.place = self.room[: rows * stride].view(rows, stride)[:, :columns]

    def work(self) -> None:
        rows, columns = self.shape
        self.loaded.orthogonalise(self.room.data_ptr(), rows, columns, rows > columns)

    def error(self, x: Tensor) -> float:
        """For the block `x`."""
        self.place.copy_(x)
        self.work()
        slow = orthogonalise(x.double()[None])[0]
        return float((self.place - slow).norm() / slow.norm())


def blocks(rows: int, columns: int) -> dict[str, Tensor]:
    """The three that errors are given for."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=g)
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    falling = (u * torch.logspace(0, -4, len(s), dtype=torch.float64)) @ v
    few = torch.randn(rows, 2, generator=g) @ torch.randn(2, columns, generator=g)
    return {"independent": x, "rank 2": few, "falling": falling.float()}


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        work()
    return (time.perf_counter() - start) / CALLS


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/step-cost"))
    parser.add_argument("--repeats", type=int, default=25)
    chosen = parser.parse_args()
    loaded = library.load()
    if loaded is None:
        raise SystemExit("there is no C compiler, or LEARNOPT_KERNEL=torch is set")
    modes = ["float32"] + ["amx"] * bool(loaded.amx_used())
    rows = []
    for shape in SHAPES:
        block, row = Block(loaded, *shape), {"shape": list(shape)}
        times: dict[str, list[float]] = {mode: [] for mode in modes}
        for _ in range(chosen.repeats):
            for mode in modes:
                loaded.amx_allow(mode == "amx")
                block.place.copy_(blocks(*shape)["independent"])
                times[mode].append(1e6 * seconds(block.work))
        for mode in modes:
            loaded.amx_allow(mode == "amx")
            errors = {name: block.error(x) for name, x in blocks(*shape).items()}
            row[mode] = {"microseconds": statistics.median(times[mode]), "range": [min(times[mode]), max(times[mode])],
                         "errors": errors}  # fmt: skip
            said = "  ".join(f"{name} {error:.0e}" for name, error in errors.items())
            print(f"{shape!s:12s} {mode:8s} {statistics.median(times[mode]):7.1f} microseconds   off by: {said}")
        rows.append(row)
    print(f"wrote {write_record(chosen.out / 'orthogonalise.json', repeats=chosen.repeats, rows=rows)}")


if __name__ == "__main__":
    main()
