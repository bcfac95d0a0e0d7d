"""A user's data as streams of batches."""

from __future__ import annotations

from itertools import islice

import torch

from learnopt.tuner.data import source


def test_streams_of_a_shuffled_loader_are_all_the_same() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(40)), batch_size=4, shuffle=True)
    data, seen = source(loader, loader, None, 3), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        seen.append([batch[0].tolist() for batch in islice(data.stream(), 25)])
    assert seen[0] == seen[1]
    assert seen[0][:10] != seen[0][10:20]  # epochs differ
