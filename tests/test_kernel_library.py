"""The kernel's library: compiled where it can be, kept where it can be kept, never another processor's."""

from __future__ import annotations

import ctypes
import logging
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from learnopt.kernels import library

needs_compiler = pytest.mark.skipif(library.load() is None, reason="no C compiler, or LEARNOPT_KERNEL=torch")


@pytest.fixture(autouse=True)
def quick_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FLAGS", ("-O0", *library.FLAGS[1:]))


@pytest.fixture
def afresh() -> Iterator[None]:
    """`load` looks again."""
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_without_a_compiler_there_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learnopt.kernels.library.shutil.which", lambda name: None)
    assert library.build(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learnopt.kernels.library.shutil.which", lambda name: sys.executable)
    assert library.build(tmp_path) is None
    assert not list(tmp_path.iterdir())


def without(flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the compiler is one that refuses `flag`."""
    compiler = tmp_path / "odd-cc"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *{flag}*) exit 1;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))


@needs_compiler
def test_a_compiler_without_openmp_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(library.OPENMP, tmp_path, monkeypatch)
    path = library.build(tmp_path)
    assert path is not None
    assert not ctypes.CDLL(str(path)).has_openmp()


@needs_compiler
def test_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = library.build(tmp_path)
    assert path is not None
    made = path.stat().st_mtime_ns
    assert library.build(tmp_path) == path
    assert path.stat().st_mtime_ns == made


def test_switch_turns_it_off() -> None:
    code = "from learnopt.kernels import library; print(library.load())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, env={"LEARNOPT_KERNEL": "torch"}, capture_output=True, text=True)
    assert done.stdout.strip() == "None"


@needs_compiler
def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    path = library.build(tmp_path)
    assert path is not None
    path.unlink()
    path.write_bytes(b"no library")
    assert library.build(tmp_path) == path
    assert ctypes.CDLL(str(path)).end_step


@needs_compiler
def test_a_compiler_that_does_not_know_its_processor_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(library.NATIVE, tmp_path, monkeypatch)
    assert library.build(tmp_path) is not None


@needs_compiler
def test_another_processor_gets_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = library.build(tmp_path)
    usual = library._machine("cc")
    assert "flags" in usual or "Features" in usual or "#define" in usual
    monkeypatch.setattr(library, "_machine", lambda compiler: usual.replace("avx2", ""))
    monkeypatch.setattr(library, "_compiled", lambda command, path: True)
    other = library.build(tmp_path)
    assert other is not None
    assert (other == path) == ("avx2" not in usual)


@needs_compiler
def test_without_a_list_of_processors_the_compiler_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", no_file)
    assert "#define" in library._machine("cc")


@pytest.mark.usefixtures("afresh")
def test_sources_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As inside an archive: there is no library, and no step fails."""
    monkeypatch.delenv(library.SWITCH, raising=False)
    monkeypatch.setattr(library, "FOLDER", tmp_path / "package.zip" / "kernels")
    assert library.load() is None


@needs_compiler
@pytest.mark.usefixtures("afresh")
def test_a_cache_that_belongs_to_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the home of root does to another user of the same container."""

    def refused(path: Path) -> bool:
        raise PermissionError

    monkeypatch.setenv("XDG_CACHE_HOME", "/root/.cache")
    usual = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: refused(path) if "/root/" in str(path) else usual(path))
    assert library.load() is not None


@needs_compiler
@pytest.mark.usefixtures("afresh")
def test_where_nothing_can_be_kept_a_process_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "learnopt").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library.load() is not None


@pytest.mark.usefixtures("afresh")
def test_without_a_home_or_a_compiler_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(library.SWITCH, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert library.load() is None
        assert library.load() is None
    assert [record.message[:29] for record in caplog.records] == ["learnopt found no C compiler "]


@needs_compiler
def test_many_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:  # nothing in `build` knows of threads: to the files they are processes
        paths = list(pool.map(library.build, [tmp_path] * 3))
    assert len(set(paths)) == 1
    assert list(tmp_path.iterdir()) == [paths[0]]
    assert ctypes.CDLL(str(paths[0])).end_step
