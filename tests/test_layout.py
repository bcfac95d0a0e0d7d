"""What follows from shapes alone: vectors that are moved together, units of networks without a scale."""

from __future__ import annotations

import pytest
import torch

from learnopt.layout import JOIN_BELOW, Layout


def test_small_vectors_are_joined() -> None:
    layout = Layout.of([(3, 4), (3,), (), (JOIN_BELOW + 1,), (JOIN_BELOW,)])
    assert layout.joined == (1, 2, 4)
    assert layout.single == (0, 3)
    assert layout.joined_sizes == [3, 1, JOIN_BELOW]
    means = layout.joined_mean @ torch.cat(
        [torch.full((3,), 2.0), torch.full((1,), 5.0), torch.full((JOIN_BELOW,), 7.0)]
    )
    torch.testing.assert_close(means, torch.tensor([2.0, 5.0, 7.0]))
    assert Layout.of([[3, 4]]) is Layout.of(((3, 4),))


@pytest.mark.parametrize("shapes", [[(3,)], [(3, 4)], [(3,), (2, 2)]])
def test_units_of_networks_of_zeros_and_of_vectors(shapes: list[tuple[int, ...]]) -> None:
    units = Layout.of(shapes).units(torch.zeros(2, len(shapes)))
    assert units.isfinite().all()
    assert (units > 0).all()
    only_vectors = Layout.of([(3,), (4,)]).units(torch.tensor([[0.5, 0.0]]))
    torch.testing.assert_close(only_vectors, torch.full((1, 2), 0.5))
