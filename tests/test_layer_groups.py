"""Layers put together for people: every tensor once, in order, few enough to read."""

from __future__ import annotations

import pytest
from torch import nn

from learnopt.layer_groups import MOST, Group, group

MATRIX, VECTOR = (4, 4), (4,)


def grouped(names: list[str]) -> list[Group]:
    return group(names, [VECTOR if n.endswith(("bias", "norm.weight", "scale")) else MATRIX for n in names])


def named(found: list[Group]) -> list[str]:
    return [g.name for g in found]


def stack(prefix: str, count: int) -> list[str]:
    parts = ("attention.weight", "attention.bias", "norm.weight", "norm.bias")
    return [f"{prefix}.{i}.{part}" for i in range(count) for part in parts]


def test_a_layer_is_its_matrices_and_the_rest() -> None:
    found = grouped(["0.weight", "0.bias", "2.weight", "2.bias"])
    assert found == [Group("0", [0], [1]), Group("2", [2], [3])]
    shapes = [(32, 10), (32,), (1, 32), (1,)]
    assert [g.label(shapes) for g in group(["0.weight", "0.bias", "2.weight", "2.bias"], shapes)] == [
        "0 (32 x 10)",
        "2",  # one row: no matrix to the rule
    ]


def test_stacks_of_layers_become_ranges() -> None:
    names = ["embed.tokens.weight", *stack("encoder.layers", 12), "head.weight", "head.bias"]
    assert named(grouped(names)) == [
        "embed.tokens", "encoder.layers.0-2", "encoder.layers.3-5", "encoder.layers.6-8", "encoder.layers.9-11", "head",
    ]  # fmt: skip
    two = [*stack("encoder.layers", 6), *stack("decoder.layers", 6), "head.weight"]
    assert named(grouped(two)) == [
        "encoder.layers.0-1", "encoder.layers.2-3", "encoder.layers.4-5",
        "decoder.layers.0-1", "decoder.layers.2-3", "decoder.layers.4-5", "head",
    ]  # fmt: skip


def test_what_all_names_begin_with_is_left_out() -> None:
    names = [f"_orig_mod.module.{name}" for name in [*stack("h", 3), "head.weight"]]
    assert named(grouped(names)) == ["h.0", "h.1", "h.2", "head"]
    assert named(grouped(["0.weight", "0.bias"])) == ["0"]
    assert named(grouped(["weight", "bias"])) == ["weight", "bias"]
    assert named(grouped(["model.token", "model.h.0.weight"])) == ["token", "h.0"]


CROWDED = {
    "resnet": ["conv1.weight", "bn1.scale", *(f"layer{a}.{b}.conv.weight" for a in range(1, 5) for b in range(3)),
               "fc.weight", "fc.bias"],
    "nameless": [f"tensor {i}" for i in range(300)],
    "experts": [f"block{i}.weight" for i in range(40)],
    "many stacks": [name for i in range(20) for name in stack(f"stage{i}", 4)],
    "mlp": [f"{2 * i}.weight" for i in range(30)],
}  # fmt: skip


@pytest.mark.parametrize("kind", CROWDED)
def test_few_groups_with_every_tensor_once_in_order(kind: str) -> None:
    names = CROWDED[kind]
    found = grouped(names)
    assert 1 < len(found) <= MOST
    members = [sorted([*g.matrices, *g.others]) for g in found]
    assert [i for own in members for i in own] == list(range(len(names)))
    assert len(set(named(found))) == len(found)


def test_a_real_module() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 9, enable_nested_tensor=False)
    pairs = list(model.named_parameters())
    found = group([name for name, _ in pairs], [p.shape for _, p in pairs])
    assert named(found) == ["0-1", "2-3", "4-5", "6-8"]
    assert [len(g.matrices) for g in found] == [8, 8, 8, 12]
