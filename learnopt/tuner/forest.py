"""A forest of regression trees as tensors: learned by scikit-learn, read without it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

LEAF = -1


class Forest(NamedTuple):
    """`T` trees of `N` nodes in all, whose outputs are averaged; `L` of the nodes are leaves.

    Attributes:
        roots: first node of every tree, `(T,)`.
        feature: column that a node looks at, `LEAF` at a leaf, `(N,)`.
        threshold: rows at or below it go to the next node, `(N,)`.
        right: where the others go, counted from the node; 0 at a leaf, `(N,)`.
        value: outputs of the leaves in their order, `(L, K)`.
    """

    roots: Tensor
    feature: Tensor
    threshold: Tensor
    right: Tensor
    value: Tensor

    def predict(self, rows: Tensor) -> Tensor:
        """Mean over the trees, `(B, columns) -> (B, K)`."""
        row = (self.feature == LEAF).cumsum(0) - 1
        node = self.roots.long().expand(len(rows), -1)
        while bool((inner := self.feature[node] != LEAF).any()):
            seen = rows.gather(1, self.feature[node].long().clamp_min(0))
            step = torch.where(seen <= self.threshold[node], 1, self.right[node].long())
            node = torch.where(inner, node + step, node)
        return self.value[row[node]].float().mean(1)

    def fits(self, columns: int, outputs: int) -> bool:
        """Whether it reads rows of so many columns, gives so many outputs, and every walk ends in a leaf."""
        size, leaf = len(self.feature), self.feature == LEAF
        if not (len(self.threshold) == len(self.right) == size and size and len(self.roots)):
            return False
        right = self.right.long()
        inside = (right > 1) & (torch.arange(size) + right < size)
        return bool(
            (leaf | inside).all() and leaf[-1] and tuple(self.value.shape) == (int(leaf.sum()), outputs)
            and int(self.feature.min()) >= LEAF and int(self.feature.max()) < columns
            and int(self.roots.min()) >= 0 and int(self.roots.max()) < size
        )  # fmt: skip


def forest(trees: Any) -> Forest:
    """The fitted trees of a scikit-learn forest. Outputs are kept in half precision, to be small on disk."""
    roots, features, thresholds, rights, values, nodes = [], [], [], [], [], 0
    for tree in (estimator.tree_ for estimator in trees.estimators_):
        feature = torch.from_numpy(tree.feature.astype("int16"))
        leaf = torch.from_numpy(tree.children_left) < 0
        at = torch.arange(len(feature))
        right = torch.from_numpy(tree.children_right) - at  # the left child is the next node: grown depth first
        roots.append(nodes)
        features.append(torch.where(leaf, LEAF, feature).to(torch.int16))
        thresholds.append(torch.where(leaf, 0.0, torch.from_numpy(tree.threshold)).float())
        rights.append(torch.where(leaf, 0, right))
        values.append(torch.from_numpy(tree.value[:, :, 0])[leaf].to(torch.float16))
        nodes += len(feature)
    steps = torch.cat(rights)
    small = torch.int16 if int(steps.max()) < 2**15 else torch.int32
    return Forest(
        torch.tensor(roots, dtype=torch.int32), torch.cat(features), torch.cat(thresholds), steps.to(small),
        torch.cat(values),
    )  # fmt: skip
