"""Orthogonalisation: what it does to singular values, and the kernel's against torch's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from learnopt.kernels import library
from learnopt.orthogonal import BLOCK, NEAR_SQUARE, POLYNOMIALS, block_rows, orthogonalise

BLOCKS = [
    (1, 1),
    (1, 9),
    (9, 1),
    (2, 3),
    (16, 16),
    (17, 16),
    (33, 49),
    (33, 50),
    (50, 33),
    (64, 64),
    (64, 96),
    (96, 64),
]
BLOCKS += [(64, 97), (97, 64), (5, 300), (300, 5), (64, 130), (130, 64), (31, 1000), (1000, 31)]


@pytest.fixture(params=["float32", "amx"])
def precision(request: pytest.FixtureRequest) -> Iterator[float]:
    """How far the kernel may be off, with its products taken in float32 and on the AMX unit; relative to the size of
    what small singular values are multiplied by, some 500 times."""
    loaded = library.load()
    if loaded is None:
        pytest.skip("no C compiler, or LEARNOPT_KERNEL=torch")
    before = loaded.amx_used()
    loaded.amx_allow(request.param == "amx")
    if request.param == "amx" and not loaded.amx_used():
        pytest.skip("no AMX unit that the system lends")
    yield {"float32": 1e-3, "amx": 2e-2}[request.param]
    loaded.amx_allow(before)


def in_the_kernel(x: Tensor) -> Tensor:
    """One block, orthogonalised by the C code."""
    loaded = library.load()
    assert loaded is not None
    rows, columns = x.shape
    stride = loaded.orthogonalise_stride(columns)
    room = torch.full((loaded.orthogonalise_room(rows, columns),), float("nan"))  # padding must not be read
    place = room[: rows * stride].view(rows, stride)[:, :columns]
    place.copy_(x)
    loaded.orthogonalise(room.data_ptr(), rows, columns, rows > columns)
    return place.clone()


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", BLOCKS)
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e15, 1e25])
@pytest.mark.usefixtures("precision")
def test_kernel_equals_torch(shape: tuple[int, int], scale: float) -> None:
    x = scale * matrix(*shape)
    slow = orthogonalise(x.double()[None])[0].float()
    torch.testing.assert_close(in_the_kernel(x), slow, rtol=0, atol=5e-4)
    assert (in_the_kernel(x) - slow).norm() < 1e-3 * slow.norm()


@pytest.mark.parametrize("shape", [(40, 40), (40, 200), (200, 40), (64, 128)])
@pytest.mark.parametrize("rank", [1, 2, 20])
def test_kernel_on_few_directions_and_on_none(shape: tuple[int, int], rank: int, precision: float) -> None:
    x = matrix(shape[0], rank) @ matrix(rank, shape[1], seed=1)
    slow = orthogonalise(x.double()[None])[0].float()
    assert (in_the_kernel(x) - slow).norm() < precision * slow.norm()
    assert not in_the_kernel(torch.zeros(shape)).any()


def test_on_the_gram_matrix_as_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x = matrix(40, 70).double()[None]
    composed = orthogonalise(x)
    monkeypatch.setattr("learnopt.orthogonal.NEAR_SQUARE", 2.0)
    assert NEAR_SQUARE * 40 < 70
    torch.testing.assert_close(orthogonalise(x), composed, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(BLOCK, 200), (200, BLOCK), (10, 10), (7, 300)])
def test_singular_values_follow_the_polynomials(shape: tuple[int, int]) -> None:
    x = matrix(*shape).double()
    u, s, v = torch.linalg.svd(x / x.norm(), full_matrices=False)
    for first, third, fifth in POLYNOMIALS:
        s = first * s + third * s**3 + fifth * s**5
    torch.testing.assert_close(orthogonalise(x[None])[0], (u * s) @ v, rtol=1e-5, atol=1e-6)


def test_blocks_are_independent() -> None:
    x = matrix(150, 400)
    each = block_rows(150)
    assert each == 50
    apart = torch.cat([orthogonalise(x[None, i : i + each])[0] for i in range(0, 150, each)])
    torch.testing.assert_close(orthogonalise(x[None])[0], apart, rtol=1e-5, atol=1e-6)
    scaled = x.clone()
    scaled[:each] *= 1e-9  # no block is measured by another's size
    torch.testing.assert_close(orthogonalise(scaled[None])[0], apart, rtol=1e-5, atol=1e-6)


def test_block_rows() -> None:
    assert [block_rows(n) for n in (1, 63, 64, 65, 130, 1024)] == [1, 63, 64, 33, 44, 64]
