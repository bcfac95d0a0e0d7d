"""Columns of inputs of very different scales."""

from __future__ import annotations

import math

import pytest
import torch

from learnopt import equalise
from learnopt.layout import Layout


def test_the_first_matrix_is_equalised_by_the_inputs_its_gradients_tell_of() -> None:
    inputs = torch.tensor([1e-2, 1.0, 100.0])
    square = (torch.rand(2, 50, 1, generator=torch.Generator().manual_seed(0)) * inputs**2).expand(2, 50, 3)
    factor = equalise.equaliser(square)
    torch.testing.assert_close(factor, (inputs**-0.5).expand(2, 3), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        equalise.equaliser(1e-20 * square), factor, rtol=1e-4, atol=0
    )  # whatever the loss's unit
    half = equalise.equaliser(square ** (1.05 / 3.7603))  # a spread of 1.05 instead of 3.76
    torch.testing.assert_close(half[0], inputs ** (-0.25 * 1.05 / 3.7603), rtol=0.1, atol=0)
    assert torch.equal(equalise.equaliser(square**0.1), torch.ones(2, 3))  # as standardised inputs


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_columns_without_a_usual_gradient_are_left_as_they_are(value: float) -> None:
    square = torch.ones(1, 4, 5)
    square[:, :, 0] = value
    assert torch.equal(equalise.equaliser(square), torch.ones(1, 5))
    assert torch.equal(equalise.equaliser(torch.full((1, 4, 5), value)), torch.ones(1, 5))


@pytest.mark.parametrize(
    ("shapes", "first"),
    [
        ([(4,), (4, 3), (4,), (2, 4)], 1), ([(8, 3, 3, 3), (8,), (5, 8)], None), ([(3,), ()], None),
        ([(1, 9), (4, 9)], 1), ([(8, 3, 1), (5, 8)], 0),
    ],
)  # fmt: skip
def test_only_the_first_matrix_is_equalised_and_no_convolution(
    shapes: list[tuple[int, ...]], first: int | None
) -> None:
    layout = Layout.of(shapes)
    assert layout.equalised == first
    params = [torch.rand(1, *s) for s in shapes]
    assert (equalise.column_factors(layout, params) is None) == (first is None)
