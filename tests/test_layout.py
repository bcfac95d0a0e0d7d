"""What follows from shapes alone: vectors that are moved together, units of networks without a scale."""

from __future__ import annotations

import math

import pytest
import torch

from learnopt import features
from learnopt.layout import JOIN_BELOW, Layout


def test_small_vectors_are_joined() -> None:
    layout = Layout.of([(3, 4), (3,), (), (JOIN_BELOW + 1,), (JOIN_BELOW,)])
    assert layout.joined == (1, 2, 4)
    assert layout.single == (0, 3)
    assert layout.joined_sizes == [3, 1, JOIN_BELOW]
    assert Layout.of([[3, 4]]) is Layout.of(((3, 4),))


@pytest.mark.parametrize("sizes", [[3], [3, 1, 3, 5, 1, 3], [4, 0, 4]])
def test_means_of_joined_vectors(sizes: list[int]) -> None:
    layout = Layout.of([(2, 2), *((size,) for size in sizes)])
    values = torch.randn(2, sum(sizes), 3)
    means = [part.mean(1) if part.numel() else torch.zeros(2, 3) for part in values.split(sizes, 1)]
    torch.testing.assert_close(layout.joined_means(values), torch.stack(means, 1))


def test_a_layout_of_thousands_of_vectors_is_small() -> None:
    layout = Layout.of([(1000,)] * 3000)
    numbers = sum(x.numel() for x in vars(layout).values() if isinstance(x, torch.Tensor))
    assert numbers < 1.1 * 3000 * 1000


@pytest.mark.parametrize("usual", [torch.float64, "meta"])
def test_a_layout_does_not_depend_on_the_process_s_defaults(usual: torch.dtype | str) -> None:
    set_it = torch.set_default_device if isinstance(usual, str) else torch.set_default_dtype
    try:
        set_it(usual)
        layout = Layout(((5, 3), (5,), (7,)))
    finally:
        set_it("cpu" if isinstance(usual, str) else torch.float32)
    for name, value in vars(Layout(((5, 3), (5,), (7,)))).items():
        found = vars(layout)[name]
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value


@pytest.mark.parametrize("shapes", [[(3,)], [(3, 4)], [(3,), (2, 2)]])
def test_units_of_networks_of_zeros_and_of_vectors(shapes: list[tuple[int, ...]]) -> None:
    units = Layout.of(shapes).units(torch.zeros(2, len(shapes)))
    assert units.isfinite().all()
    assert (units > 0).all()
    only_vectors = Layout.of([(3,), (4,)]).units(torch.tensor([[0.5, 0.0]]))
    torch.testing.assert_close(only_vectors, torch.full((1, 2), 0.5))


def test_columns_count_the_network_and_its_matrices() -> None:
    layout = Layout.of([(8, 4), (8,), (2, 8), (3, 3, 2, 2), ()])
    table = dict(zip(features.SHAPE_COLUMNS, layout.columns.unbind(1), strict=True))
    torch.testing.assert_close(table["log_network"], torch.full((5,), math.log(32 + 8 + 16 + 36 + 1) / 8))
    torch.testing.assert_close(table["log_depth"], torch.full((5,), math.log(3)))
    torch.testing.assert_close(table["network_convolutions"], torch.full((5,), 1 / 3))
    torch.testing.assert_close(table["network_vectors"], torch.full((5,), math.log(2 / 4)))
    torch.testing.assert_close(table["network_inputs"], torch.full((5,), math.log(4)))
    torch.testing.assert_close(table["network_outputs"], torch.full((5,), math.log(3)))
    lone = dict(zip(features.SHAPE_COLUMNS, Layout.of([(7,)]).columns[0].tolist(), strict=True))
    assert lone["log_depth"] == 0
    assert lone["network_inputs"] == lone["network_outputs"] == pytest.approx(math.log(10))  # the unknown fan


def test_columns_mark_the_first_and_the_last_matrix() -> None:
    def marked(*shapes: tuple[int, ...]) -> list[list[float]]:
        columns = Layout.of(shapes).columns
        return [columns[:, features.SHAPE_COLUMNS.index(name)].tolist() for name in ("is_first", "is_last")]

    assert marked((3,), (8, 4), (8,), (3, 3, 2, 2), (2, 8), (2,)) == [[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]]
    assert marked((8, 4), (8,)) == [[1, 0], [1, 0]]
    assert marked((8,), ()) == [[0, 0], [0, 0]]
