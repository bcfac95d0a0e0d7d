"""Language families for meta-training: transformers, recurrent nets and window models over text and grammars."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import nn

from learnopt.task import Batch, Task, TaskFamily
from learnopt.tasks import data_folder
from learnopt.tasks.attention import Transformer
from learnopt.tasks.corpora import ALPHABET, characters, words
from learnopt.tasks.draws import chance, log_integer, pick, torch_generator, weighted
from learnopt.tasks.grammars import GRAMMARS
from learnopt.tasks.initialisation import drawn
from learnopt.tasks.recurrence import Recurrent, WindowModel
from learnopt.tasks.rows import RowTask, cross_entropy, split, windows
from learnopt.tasks.tabular import horizon

VALIDATION_TOKENS = 1536
NETWORKS = {"transformer": 0.5, "embedding-mlp": 0.2, "lstm": 0.1, "gru": 0.1, "rnn": 0.1}
# Tokens in a batch at most: keeps a step of each network near a millisecond on one core.
BATCH_TOKENS = {"transformer": 192, "embedding-mlp": 384, "lstm": 192, "gru": 192, "rnn": 256}


def sequence_model(
    rng: np.random.Generator, kind: str, length: int, vocabulary: int, outputs: int, causal: bool
) -> Callable[[], nn.Module]:
    """Makes a network from tokens `(B, length)` to logits `(B, length, outputs)`."""
    if kind == "transformer":
        return partial(
            Transformer,
            length,
            pick(rng, [8, 16, 24, 32]) if vocabulary <= 100 else pick(rng, [8, 12, 16]),
            outputs,
            vocabulary=vocabulary,
            blocks=pick(rng, [1, 1, 2]),
            causal=causal,
            post_norm=chance(rng, 0.25),
            tied=outputs == vocabulary and chance(rng, 0.25),
            dropout=pick(rng, [0.0, 0.0, 0.0, 0.1]),
            gain=pick(rng, [2, 2, 4]),
        )
    width = log_integer(rng, 8, 40) if vocabulary <= 100 else log_integer(rng, 6, 20)
    if kind == "embedding-mlp":
        return partial(
            WindowModel, vocabulary, outputs, min(width, 12), log_integer(rng, 12, 64), int(rng.integers(2, 6))
        )
    return partial(Recurrent, kind, width, outputs, vocabulary=vocabulary)


def _task(
    rng: np.random.Generator,
    name: str,
    dataset: str,
    kind: str,
    make: Callable[[], nn.Module],
    train: Batch,
    valid: Batch,
) -> Task:
    length = train[0].shape[1]
    return RowTask(
        f"{name}-{kind}-{int(rng.integers(10**9))}",
        kind,
        dataset,
        steps=horizon(rng),
        module=drawn(rng, make),
        train=train,
        valid=valid,
        batch_size=log_integer(rng, 4, max(4, BATCH_TOKENS[kind] // length)),
        objective=cross_entropy,
    )


class TextFamily(TaskFamily):
    """Next character or next word of a text; small training excerpts in most draws, so that models can overfit."""

    def __init__(self) -> None:
        self.name = "text"
        corpora = ["text:numpy-docstrings", "text:library-sources"]
        if data_folder.available(data_folder.REVIEWS):
            corpora.append("text:movie-reviews")
        self.corpora, self.datasets = corpora, frozenset(corpora)

    def sample(self, rng: np.random.Generator) -> Task:
        corpus, kind = pick(rng, self.corpora), weighted(rng, NETWORKS)
        length = pick(rng, [8, 12, 16, 24, 32]) if kind in ("transformer", "embedding-mlp") else pick(rng, [6, 8, 12])
        by_word = chance(rng, 0.3)
        vocabulary = pick(rng, [50, 100, 200, 300]) if by_word else len(ALPHABET)
        stream = words(corpus, vocabulary) if by_word else characters(corpus)
        held = VALIDATION_TOKENS // (4 if by_word else 1)
        train_tokens = min(log_integer(rng, 2000, 100_000), len(stream) - 2 * held)
        start = int(rng.integers(len(stream) - train_tokens - held))
        end = start + train_tokens
        inputs, targets = windows(stream[end : end + held], length)
        make = sequence_model(rng, kind, length, vocabulary, vocabulary, causal=True)
        name = "words" if by_word else "characters"
        valid = (inputs[::length].contiguous(), targets[::length].contiguous())
        return _task(rng, name, corpus, kind, make, windows(stream[start:end], length), valid)


class GrammarFamily(TaskFamily):
    """Generated sequence problems."""

    name = "grammar"
    datasets = frozenset(GRAMMARS)

    def sample(self, rng: np.random.Generator) -> Task:
        kind = weighted(rng, NETWORKS)
        length = pick(rng, [8, 8, 12, 16]) if kind in ("transformer", "embedding-mlp") else pick(rng, [6, 8, 10])
        train_rows = log_integer(rng, 150, 5000)
        data = pick(rng, list(GRAMMARS.values()))(rng, train_rows + 128, length)
        # Sorting and adding look at the whole input; a causal mask would make sorting hopeless.
        causal = data.dataset != "gen:sort"
        make = sequence_model(rng, kind, data.inputs.shape[1], data.vocabulary, data.vocabulary, causal)
        train, valid = split((data.inputs, data.targets), train_rows, torch_generator(rng))
        return _task(rng, "grammar", data.dataset, kind, make, train, valid)
