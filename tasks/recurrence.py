"""Recurrent networks with explicit gates, since torch's own cannot be vmapped; and a fixed-window neural model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# A cell: (input part, recurrent part, state) -> new state; the first `width` columns of a state are the output.
Cell = Callable[[Tensor, Tensor, Tensor], Tensor]


def _elman(x: Tensor, h: Tensor, state: Tensor) -> Tensor:
    return torch.tanh(x + h)


def _gru(x: Tensor, h: Tensor, state: Tensor) -> Tensor:
    xr, xz, xn = x.chunk(3, -1)
    hr, hz, hn = h.chunk(3, -1)
    z = torch.sigmoid(xz + hz)
    return (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + z * state


def _lstm(x: Tensor, h: Tensor, state: Tensor) -> Tensor:
    i, f, g, o = (x + h).chunk(4, -1)
    cell = torch.sigmoid(f) * state.chunk(2, -1)[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.cat([torch.sigmoid(o) * torch.tanh(cell), cell], -1)


CELLS: dict[str, tuple[int, int, Cell]] = {"rnn": (1, 1, _elman), "gru": (3, 1, _gru), "lstm": (4, 2, _lstm)}


class Recurrent(nn.Module):
    """Embedding (or vectors when `inputs`), one recurrent layer, linear head.

    Output `(B, T, outputs)`, or `(B, outputs)` from the last position when `last`. Weights start uniform within
    `1/sqrt(width)`, as torch's recurrent layers do.
    """

    def __init__(
        self, cell: str, width: int, outputs: int, *, vocabulary: int = 0, inputs: int = 0, last: bool = False
    ) -> None:
        super().__init__()
        gates, self.parts, self.cell = CELLS[cell]
        self.width, self.last = width, last
        self.embed = nn.Identity() if inputs else nn.Embedding(vocabulary, width)
        self.input = nn.Linear(inputs or width, gates * width)
        self.recurrent = nn.Linear(width, gates * width)
        for parameter in (*self.input.parameters(), *self.recurrent.parameters()):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(self.embed(x))
        state = torch.zeros(x.shape[0], self.parts * self.width, device=x.device)
        outputs = []
        for now in x.unbind(1):
            state = self.cell(now, self.recurrent(state[..., : self.width]), state)
            outputs.append(state[..., : self.width])
        return self.head(outputs[-1] if self.last else torch.stack(outputs, 1))


class WindowModel(nn.Module):
    """Bengio's neural language model: the embeddings of the last `context` tokens through a hidden layer.

    Tokens `(B, T)` to logits `(B, T, outputs)`; positions before the start count as token 0.
    """

    def __init__(self, vocabulary: int, outputs: int, width: int, hidden: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.embed = nn.Embedding(vocabulary, width)
        self.hidden = nn.Linear(context * width, hidden)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x, (self.context - 1, 0))
        h = self.embed(padded.unfold(-1, self.context, 1)).flatten(-2)
        return self.head(torch.tanh(self.hidden(h)))
