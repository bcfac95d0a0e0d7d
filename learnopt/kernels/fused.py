"""Triton kernels for what a step of the learned rule does to every parameter: learnopt/rule.py's `advance`, which they
are tested against, for all tensors of a network in one launch each.

Importing this module needs triton. A program takes one chunk, a row of `(tensor, start, end, place)`: elements of one
tensor, and where their momentum lies, -1 for what is no matrix. `pointers` has a row per tensor, `POINTERS`, and `rows`
what was decided of it, `ROW` and then the context of the per-parameter MLP: nothing of that goes through the host.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def element(pointers, at, number: tl.constexpr):
    """Addresses of elements `at` of a tensor's array `number`."""
    return tl.load(pointers + number).to(tl.pointer_type(tl.float32)) + at


@triton.jit
def lerp(a, b, weight):
    """As torch's: exactly `b` where `weight` is 1."""
    return tl.where(weight < 0.5, a + weight * (b - a), b - (b - a) * (1.0 - weight))


@triton.jit
def factor(own, at, end):
    """What elements `at` up to `end` are multiplied by: their column's factor where the tensor has such, else 1."""
    columns = tl.load(own + 6)
    weighed = at < tl.where(columns > 0, end, 0)
    return tl.load(element(own, at % tl.maximum(columns, 1), 5), mask=weighed, other=1.0)


@triton.jit
def moments(
    chunks, pointers, rows, momentum,
    CLIP: tl.constexpr, TINY: tl.constexpr, ROW: tl.constexpr, POINTERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Bring both moments up to date, and write the momenta of matrices end to end."""
    chunk = chunks + tl.program_id(0) * 4
    tensor, place = tl.load(chunk), tl.load(chunk + 3)
    lane = tl.arange(0, BLOCK)
    at = tl.load(chunk + 1) + lane
    end = tl.load(chunk + 2)
    inside, matrix = at < end, at < tl.where(place >= 0, end, 0)
    own, row = pointers + tensor * POINTERS, rows + tensor * ROW
    fast_at, square_at = element(own, at, 2), element(own, at, 4)
    grad = tl.load(element(own, at, 0), mask=inside, other=0.0)
    fast = tl.load(fast_at, mask=inside, other=0.0)
    square = tl.load(square_at, mask=inside, other=0.0)
    limit = CLIP * tl.sqrt(tl.maximum(square, tl.load(row + 3)) + TINY)
    cut = tl.clamp(grad, -limit, limit)
    fast = lerp(fast, cut, tl.load(row))
    square = lerp(square, cut * cut, tl.load(row + 2))
    tl.store(fast_at, fast, mask=inside)
    tl.store(square_at, square, mask=inside)
    mixed = tl.load(row + 10) * cut + tl.load(row + 11) * fast
    tl.store(momentum + place + lane, mixed * factor(own, at, end), mask=matrix)


@triton.jit
def move(
    chunks, pointers, rows, whole, mlp_in, mlp_out, mlp_out_bias, sums,
    total, AWAY: tl.constexpr, CAUTION: tl.constexpr, LARGEST: tl.constexpr, TINY: tl.constexpr,
    ROW: tl.constexpr, POINTERS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Move parameters and their averages; `whole` are the momenta, orthogonal by now.

    Sums of `STATISTICS` over each chunk go to `sums`, whose rows are `total` apart.
    """
    chunk = chunks + tl.program_id(0) * 4
    tensor, place = tl.load(chunk), tl.load(chunk + 3)
    lane = tl.arange(0, BLOCK)
    at = tl.load(chunk + 1) + lane
    end = tl.load(chunk + 2)
    inside, matrix = at < end, at < tl.where(place >= 0, end, 0)
    own, row = pointers + tensor * POINTERS, rows + tensor * ROW
    param_at, average_at = element(own, at, 1), element(own, at, 3)
    grad = tl.load(element(own, at, 0), mask=inside, other=0.0)
    param = tl.load(param_at, mask=inside, other=0.0)
    fast = tl.load(element(own, at, 2), mask=inside, other=0.0)
    average = tl.load(average_at, mask=inside, other=0.0)
    square = tl.load(element(own, at, 4), mask=inside, other=0.0)

    scale, size_of_weights, away = tl.rsqrt(square + TINY), tl.load(row + 4), param - average
    a0, a1 = tl.clamp(grad * scale, -4.0, 4.0), fast * scale
    relative = tl.clamp(param / size_of_weights, -3.0, 3.0)
    b = tl.clamp(AWAY * away / size_of_weights, -3.0, 3.0)
    y0, y1 = tl.load(mlp_out_bias), tl.load(mlp_out_bias + 1)
    for j in tl.static_range(WIDTH):
        unit = mlp_in + j
        inner = tl.load(row + 12 + j) + a0 * tl.load(unit) + a1 * tl.load(unit + WIDTH) + b * tl.load(unit + 2 * WIDTH)
        inner += a0 * a1 * tl.load(unit + 3 * WIDTH) + a1 * b * tl.load(unit + 4 * WIDTH)
        inner = tl.maximum(inner + relative * tl.load(unit + 5 * WIDTH), 0.0)
        y0 += inner * tl.load(mlp_out + 2 * j)
        y1 += inner * tl.load(mlp_out + 2 * j + 1)
    s = 0.76 * y0 / (1.0 + tl.abs(y0))
    mixed = (tl.load(row + 10) * a0 + tl.load(row + 11) * a1) * ((1.0 + s) / (1.0 - s))
    direction = mixed + tl.where(square > 0.0, 0.3 * y1, 0.0)
    orthogonal = tl.load(whole + place + lane, mask=matrix, other=0.0)
    direction = lerp(direction, orthogonal, tl.load(row + 9))  # the gate of what is no matrix is 0
    direction *= factor(own, at, end)

    led = tl.where(param > 0.0, direction, tl.where(param < 0.0, -direction, 0.0))
    cautious = tl.clamp(led / CAUTION, 0.0, 1.0)
    shrunk = tl.load(row + 6) * cautious + tl.load(row + 7)
    new = param * (1.0 - shrunk) - tl.load(row + 5) * direction - tl.load(row + 8) * away
    tl.store(param_at, new, mask=inside)
    tl.store(average_at, lerp(average, new, tl.load(row + 1)), mask=inside)

    seen = sums + tl.program_id(0)  # beyond the end everything is 0, `new` too
    tl.store(seen, tl.sum(a0 * a0))
    tl.store(seen + total, tl.sum(a1 * a1))
    tl.store(seen + 2 * total, tl.sum(b * b))
    tl.store(seen + 3 * total, tl.sum(a0 * a1))
    tl.store(seen + 4 * total, tl.sum(a0 * b))
    tl.store(seen + 5 * total, tl.sum(a1 * b))
    tl.store(seen + 6 * total, tl.sum(a1 * relative))
    tl.store(seen + 7 * total, tl.sum(tl.minimum(new * new, LARGEST)))
    tl.store(seen + 8 * total, tl.sum(square))


@triton.jit
def gather(
    sums, total, spans, result, STATISTICS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum a tensor's chunks, always in the same order; a program for every tensor and statistic. `spans` has a row of
    (first chunk, end) per tensor."""
    tensor, statistic = tl.program_id(0), tl.program_id(1)
    own, lane = sums + statistic * total, tl.arange(0, BLOCK)
    first, end = tl.load(spans + 2 * tensor), tl.load(spans + 2 * tensor + 1)
    found = tl.load(own + first + lane, mask=first + lane < end, other=0.0)
    for at in range(first + BLOCK, end, BLOCK):
        found += tl.load(own + at + lane, mask=at + lane < end, other=0.0)
    tl.store(result + tensor * STATISTICS + statistic, tl.sum(found))
