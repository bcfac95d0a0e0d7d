"""A user's data as streams of batches."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from learnopt.tuner.data import source, usual_loss


def test_streams_of_a_shuffled_loader_are_all_the_same() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(40)), batch_size=4, shuffle=True)
    data, seen = source(loader, loader, None, 3), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        seen.append([batch[0].tolist() for batch in islice(data.stream(), 25)])
    assert seen[0] == seen[1]
    assert seen[0][:10] != seen[0][10:20]  # epochs differ


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.uint8])
def test_classes_of_any_whole_type(kind: torch.dtype) -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    model = torch.nn.Linear(3, 2)
    losses = [usual_loss(s)(model, s.valid[0]) for s in (source((x, labels), None, 8, 0) for labels in (y, y.to(kind)))]
    assert torch.equal(*losses)
