"""Graph networks for meta-training: node classification with few labelled nodes, whole-graph regression."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from sklearn.neighbors import kneighbors_graph
from torch import Tensor, nn

from learnopt.task import Task, TaskFamily
from learnopt.tasks import package_data
from learnopt.tasks.draws import chance, log_integer, pick, torch_generator
from learnopt.tasks.initialisation import drawn
from learnopt.tasks.networks import ACTIVATIONS, mlp
from learnopt.tasks.rows import ACCURACY, RowTask, cross_entropy, split, squared_error
from learnopt.tasks.tables import GENERATORS, Table, standardised
from learnopt.tasks.tabular import horizon


def normalised_adjacency(edges: Tensor) -> Tensor:
    """`D^-1/2 (A + I) D^-1/2` of `(..., n, n)` 0/1 adjacency. Source: Kipf and Welling 2017."""
    a = (edges + torch.eye(edges.shape[-1])).clamp(max=1.0)
    scale = a.sum(-1).rsqrt()
    return scale[..., None] * a * scale[..., None, :]


class NodeClassifier(nn.Module):
    """Graph convolutions over one fixed graph, held as buffers; node numbers `(B,)` to logits `(B, classes)`."""

    def __init__(
        self, features: Tensor, adjacency: Tensor, width: int, classes: int, depth: int, activation: str, dropout: float
    ) -> None:
        super().__init__()
        self.register_buffer("features", features)
        self.register_buffer("adjacency", adjacency)
        sizes = [features.shape[1], *[width] * (depth - 1), classes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.between = nn.Sequential(ACTIVATIONS[activation](), nn.Dropout(dropout) if dropout else nn.Identity())

    def forward(self, nodes: Tensor) -> Tensor:
        h, adjacency = self.get_buffer("features"), self.get_buffer("adjacency")
        for i, layer in enumerate(self.layers):
            h = adjacency @ layer(self.between(h) if i else h)
        return h[nodes]


class GraphRegressor(nn.Module):
    """Messages over small dense graphs: `(B, n, features + n)`, features beside adjacency, to `(B, outputs)`."""

    def __init__(self, features: int, width: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.features = features
        self.embed = nn.Linear(features, width)
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.message = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.head = mlp([width, width, outputs])

    def forward(self, x: Tensor) -> Tensor:
        h, adjacency = self.embed(x[..., : self.features]), x[..., self.features :]
        for own, message in zip(self.own, self.message, strict=True):
            h = torch.relu(own(h) + adjacency @ message(h))
        return self.head(h.mean(-2))


def block_graph(rng: np.random.Generator, nodes: int, classes: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """A stochastic block model: features `(nodes, columns)`, normalised adjacency, classes; both are weak evidence."""
    label = rng.integers(classes, size=nodes)
    same = label[:, None] == label[None]
    inside, outside = rng.uniform(4, 12) * classes / nodes, rng.uniform(0.5, 4) / nodes
    edges = np.triu(rng.random((nodes, nodes)) < np.where(same, inside, outside), 1)
    features = rng.standard_normal((classes, columns))[label] * rng.uniform(0.2, 1) + rng.standard_normal(
        (nodes, columns)
    )
    adjacency = normalised_adjacency(torch.tensor(edges | edges.T, dtype=torch.float32))
    return torch.tensor(features, dtype=torch.float32), adjacency, torch.tensor(label, dtype=torch.int64)


def near_graph(rng: np.random.Generator, nodes: int) -> tuple[str, tuple[Tensor, Tensor, Tensor]]:
    """Rows of a table, a real one in half of the draws where there are any, joined to their nearest neighbours; useless
    columns are added in half of the draws. Returns the data set's name beside what `block_graph` returns."""
    real = package_data.tables()
    sources = real if real and chance(rng, 0.5) else GENERATORS
    while True:
        table = pick(rng, list(sources.values()))(rng, nodes)
        nodes = min(nodes, len(table.target))
        table = Table(table.dataset, table.features[:nodes], table.target[:nodes])
        if table.target.dtype == torch.int64 and int(table.target.max()) > 0:
            break
    columns = standardised(table.features.numpy()).numpy()
    near = kneighbors_graph(columns, int(rng.integers(3, 9))).toarray()
    if chance(rng, 0.3):  # edges that mean nothing
        near = np.maximum(near, rng.random(near.shape) < rng.uniform(0.5, 3) / nodes)
    noise = rng.standard_normal((nodes, int(rng.integers(2, 30)) if chance(rng, 0.5) else 0))
    features = standardised(np.concatenate([columns, noise], 1))
    near = torch.tensor(near, dtype=torch.float32)
    dataset = table.dataset if sources is real else "gen:near-graphs"
    return dataset, (features, normalised_adjacency(torch.maximum(near, near.T)), table.target)


class NodeFamily(TaskFamily):
    """Node classification with 10 to 60 % of the nodes labelled: the classic small-data overfitter."""

    name = "nodes"

    def __init__(self) -> None:
        self.datasets = frozenset(["gen:block-graphs", "gen:near-graphs", *package_data.tables()])

    def sample(self, rng: np.random.Generator) -> Task:
        nodes = log_integer(rng, 48, 320)
        if chance(rng, 0.5):
            dataset, (features, adjacency, label) = near_graph(rng, nodes)
            nodes = len(label)
        else:
            classes, columns = int(rng.integers(2, 8)), log_integer(rng, 8, 64)
            dataset, (features, adjacency, label) = "gen:block-graphs", block_graph(rng, nodes, classes, columns)
        classes = int(label.max()) + 1
        width, depth = log_integer(rng, 8, 64), pick(rng, [1, 2, 2, 2, 3])
        activation, dropout = pick(rng, ["relu", "relu", "tanh", "elu"]), pick(rng, [0.0, 0.0, 0.5])
        make = partial(NodeClassifier, features, adjacency, width, classes, depth, activation, dropout)
        labelled = max(12, int(nodes * rng.uniform(0.1, 0.6)))
        train, valid = split((torch.arange(nodes), label), labelled, torch_generator(rng))
        return RowTask(
            f"nodes-graph-{int(rng.integers(10**9))}",
            "graph",
            dataset,
            steps=horizon(rng),
            module=drawn(rng, make),
            train=train,
            valid=valid,
            batch_size=min(labelled, log_integer(rng, 8, 64)),
            objective=cross_entropy,
            metric=ACCURACY,
        )


class GraphFamily(TaskFamily):
    """A number or class of a small random graph: triangles, paths, spectral radius."""

    name = "graphs"
    datasets = frozenset(["gen:small-graphs"])

    def sample(self, rng: np.random.Generator) -> Task:
        nodes, columns, train_rows = int(rng.integers(5, 11)), int(rng.integers(2, 7)), log_integer(rng, 150, 2000)
        rows = train_rows + 256
        density = rng.uniform(0.2, 0.8, (rows, 1, 1))
        edges = np.triu(rng.random((rows, nodes, nodes)) < density, 1)
        edges = (edges | edges.transpose(0, 2, 1)).astype(float)
        x = rng.standard_normal((rows, nodes, columns))
        hidden = np.tanh(x @ rng.standard_normal((columns, 4)))
        smooth = edges @ hidden / (edges.sum(-1, keepdims=True) + 1)
        score = (edges @ smooth).mean(1) @ rng.standard_normal((4, 1)) + 0.05 * np.trace(
            edges @ edges @ edges, axis1=1, axis2=2
        )[:, None]
        score = (score - score.mean()) / score.std()
        inputs = torch.tensor(np.concatenate([x, edges], -1), dtype=torch.float32)
        classes = chance(rng, 0.5)
        target = torch.tensor(score[:, 0] > 0).long() if classes else torch.tensor(score, dtype=torch.float32)
        make = partial(GraphRegressor, columns, log_integer(rng, 8, 40), 2 if classes else 1, int(rng.integers(1, 3)))
        train, valid = split((inputs, target), train_rows, torch_generator(rng), 256)
        return RowTask(
            f"graphs-graph-{int(rng.integers(10**9))}",
            "graph",
            "gen:small-graphs",
            steps=horizon(rng),
            module=drawn(rng, make),
            train=train,
            valid=valid,
            batch_size=log_integer(rng, 8, 32),
            objective=cross_entropy if classes else squared_error,
        )
