"""Compiles the C source at first use and keeps it in the user's cache; without a compiler there is no library."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from learnopt import course, equalise, features, memory, meta_network, orthogonal, rule, stop_head

FOLDER = Path(__file__).parent
SOURCES = ("step.c", "decide.c", "elements.c", "orthogonalise.c", "amx.c")
HEADERS = ("net.h", "elements.h", "orthogonalise.h", "products.h", "lanes.h", "newton_schulz.h", "amx.h", "factors.h")
SWITCH = "LEARNOPT_KERNEL"
"""Environment variable: `torch` turns the compiled kernels off, those of Triton too; `float32` leaves Intel's AMX unit
alone, which is faster and rounds a little more."""
NATIVE = "-march=native"
FLAGS = (
    "-O3", NATIVE, "-std=c11", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
    "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math", "-ffp-contract=fast",
)  # fmt: skip
WIDE = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
OPENMP = "-fopenmp"
"""Threads of the runtime that torch has loaded; where the compiler has no such thing, Python's share the work."""
_LOG = logging.getLogger("learnopt")
_TIME_LIMIT = 120.0
_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "decide": (None, [_ADDRESS, _ADDRESS, ctypes.c_float]),
    "follow": (None, [_ADDRESS] * 5),
    "all_jobs": (None, [_ADDRESS, _NUMBER, _NUMBER, _ADDRESS, _NUMBER]),
    "take_jobs": (None, [_ADDRESS, _NUMBER, _NUMBER, _ADDRESS, _ADDRESS]),
    "largest": (ctypes.c_float, [_ADDRESS]),
    "equalise": (None, [_ADDRESS]),
    "end_step": (None, [_ADDRESS]),
    "has_openmp": (_NUMBER, []),
    "orthogonalise": (None, [_ADDRESS, _NUMBER, _NUMBER, _NUMBER]),
    "orthogonalise_room": (_NUMBER, [_NUMBER, _NUMBER]),
    "orthogonalise_stride": (_NUMBER, [_NUMBER]),
    "amx_used": (_NUMBER, []),
    "amx_allow": (None, [_NUMBER]),
}
"""What the library offers: type of the result, types of the arguments."""


def constants() -> dict[str, float]:
    """What the C source takes from the Python modules that own it."""
    return {
        "GLOBAL": len(features.GLOBAL), "TENSOR": len(features.TENSOR), "SHAPE": len(features.SHAPE_COLUMNS),
        "SUMMARISED": len(features.SUMMARISED),
        "STATISTICS": len(features.STATISTICS), "SMOOTHED": features.SMOOTHED,
        "HIDDEN": meta_network.HIDDEN, "CONTEXT": meta_network.CONTEXT, "WIDTH": meta_network.WIDTH,
        "SMOOTHING": features.SMOOTHING, "LOSS_FAST": features.LOSS_FAST, "LOSS_SLOW": features.LOSS_SLOW,
        "LOSS_FIRST": float(features.LOSS_FIRST), "BETA_FAST": features.BETA_FAST, "AVERAGE": features.AVERAGE,
        "AWAY": features.AWAY,
        "BETA_SQUARE": features.BETA_SQUARE, "STEP": rule.STEP, "DECAY": rule.DECAY, "CAUTION": rule.CAUTION,
        "CLIP": rule.CLIP, "CLIP_FROM": rule.CLIP_FROM, "WARMUP": course.WARMUP,
        "LONGEST": course.LONGEST, "FARTHEST": course.FARTHEST, "AGREED_FROM": course.AGREED_FROM,
        "SCHEDULE_FLOOR": course.FLOOR, "UNTOLD": course.UNTOLD, "UNTOLD_STEPS": course.UNTOLD_STEPS, "PULL": rule.PULL,
        "PULL_LOW": course.PULL_LOGIT[0], "PULL_HIGH": course.PULL_LOGIT[1], "ENDING": course.ENDING,
        "EQUALISED": equalise.EQUALISED, "NEVER": equalise.NEVER,
        "SPREAD_LOW": equalise.SPREAD[0], "SPREAD_HIGH": equalise.SPREAD[1],
        "NEAR_SQUARE": orthogonal.NEAR_SQUARE, "STOP_HIDDEN": stop_head.HIDDEN, "STOP_MEMORY": stop_head.MEMORY,
        "MEMORY": memory.MEMORY_SIZE, "RUN": memory.RUN_SIZE,
        **{f"AT_{name.upper()}": start for name, start in memory.PLACES.items()},
        **{f"RUN_{name.upper()}": i for i, name in enumerate(memory.RUN_FIELDS)},
    }  # fmt: skip


def _standard(names: tuple[str, ...]) -> str:
    return _braces([features.STANDARD.get(name, (0.0, 1.0)) for name in names])


def _braces(rows: Sequence[Sequence[float]]) -> str:
    return "{" + ",".join("{" + ",".join(f"{x!r}f" for x in row) + "}" for row in rows) + "}"


def _command(compiler: str) -> list[str]:
    values = [f"-D{k}={v}" if isinstance(v, int) else f"-D{k}={v!r}f" for k, v in constants().items()]
    values.append(f"-DNEWTON_SCHULZ={_braces(orthogonal.POLYNOMIALS)}")
    values += [f"-D{k}_STANDARD={_standard(v)}" for k, v in (("GLOBAL", features.GLOBAL), ("TENSOR", features.TENSOR))]
    return [compiler, *FLAGS, *WIDE, *values]


_PROCESSOR = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")


def _machine(compiler: str) -> str:
    """The processor and its abilities: code for `-march=native` must not wander to another one in a shared folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:  # no Linux
        lines = []
    lines = [line for line in lines if line.startswith(_PROCESSOR)]
    if not lines:
        command = [compiler, NATIVE, "-dM", "-E", "-x", "c", os.devnull]  # what it takes the processor for
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False)
            lines = done.stdout.splitlines()
    return "\n".join([platform.system(), platform.machine(), platform.processor(), *lines])


def cache() -> Path | None:
    """Where compiled libraries are kept; None for users without a home."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(home) / "learnopt"


def build(folder: Path) -> Path | None:
    """The shared library in `folder`, compiled unless it is there; None without a compiler that takes the source, or
    where files cannot be read, written or run."""
    try:
        return _build(folder)
    except OSError:  # a folder of somebody else's, sources inside an archive
        return None


def _build(folder: Path) -> Path | None:
    compiler = shutil.which(os.environ.get("CC", "")) or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    texts = [(FOLDER / name).read_text(encoding="utf-8") for name in SOURCES + HEADERS]
    command, machine = _command(compiler), _machine(compiler)
    portable = [flag for flag in command if flag != NATIVE]  # not every compiler knows its own processor
    for tried in ([*command, OPENMP], command, portable):
        key = hashlib.sha256("\0".join([*tried, machine, *texts]).encode()).hexdigest()
        path = folder / f"step-{key[:16]}.so"
        if (path.exists() and _opened(path) is not None) or _compiled(tried, path):
            return path
    return None


def _compiled(command: list[str], path: Path) -> bool:
    sources = [str(FOLDER / name) for name in SOURCES]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / "step.so"
            subprocess.run(
                [*command, *sources, "-o", str(made), "-lm"], check=True, capture_output=True, timeout=_TIME_LIMIT
            )
            if _opened(made) is None:  # some compilers take -fopenmp and have no library for it
                return False
            os.replace(made, path)  # at once: other processes may be at the same
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _opened(path: Path) -> ctypes.CDLL | None:
    """The library with its functions declared; None for a damaged file, or on a mount that forbids execution."""
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library


def _found() -> ctypes.CDLL | None:
    kept = cache()
    path = None if kept is None else build(kept)
    if path is not None:
        return _opened(path)
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as folder:  # for this process alone
        path = build(Path(folder))
        if path is not None:
            return _opened(path)
    return None


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """The library, or None where it is off or cannot be built, which is said once: steps take far longer then."""
    switch = os.environ.get(SWITCH, "").lower()
    if switch == "torch":
        return None
    library = _found()
    if library is not None:
        library.amx_allow(switch != "float32")
        return library
    _LOG.warning(
        "learnopt found no C compiler (cc, gcc or $CC) that works: steps on the CPU take several times as long; "
        "LEARNOPT_KERNEL=torch silences this"
    )
    return None
