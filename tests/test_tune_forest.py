"""The tuner's forest, beside scikit-learn's; rates counted from the best probe."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from sklearn.ensemble import ExtraTreesRegressor

from learnopt import carded
from learnopt.tuner import aligned
from learnopt.tuner.forest import LEAF, Forest, forest
from learnopt.tuner.knowledge import MOST_REGRET, load, save
from learnopt.tuner.meta_features import NAMES
from learnopt.tuner.probes import CHANNELS


def grown(rows: int = 200, trees: int = 5, leaf: int = 3) -> tuple[ExtraTreesRegressor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 4, generator=g)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].sign()], 1)
    return ExtraTreesRegressor(trees, min_samples_leaf=leaf, random_state=0).fit(x.numpy(), y.numpy()), x


@pytest.mark.parametrize(("trees", "leaf"), [(1, 1), (5, 3), (2, 150)])
def test_predictions_are_those_of_scikit_learn(trees: int, leaf: int) -> None:
    theirs, x = grown(trees=trees, leaf=leaf)
    ours = forest(theirs)
    rows = torch.cat([x, 3 * torch.randn(100, 4, generator=torch.Generator().manual_seed(1))])
    wanted = torch.from_numpy(theirs.predict(rows.numpy())).float()
    torch.testing.assert_close(ours.predict(rows), wanted, rtol=1e-3, atol=1e-3)  # half precision on disk
    assert ours.fits(4, 2)


def test_trees_may_be_large() -> None:
    x = torch.arange(120_000.0)[:, None]
    y = (x[:, 0] % 7).double()
    theirs = ExtraTreesRegressor(1, random_state=0).fit(x.numpy(), torch.stack([y, -y], 1).numpy())
    ours = forest(theirs)
    assert int(ours.right.max()) >= 2**15
    assert torch.equal(ours.predict(x[::997])[:, 0], y[::997].float())


def test_trees_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    ours = forest(grown()[0])
    assert not ours.fits(2, 2)
    assert not ours.fits(4, 3)
    inner = int((ours.feature != LEAF).nonzero()[0])
    for step in (0, 1, -1, len(ours.feature)):
        right = ours.right.clone()
        right[inner] = step
        assert not ours._replace(right=right).fits(4, 2)
    assert not ours._replace(value=ours.value[1:]).fits(4, 2)
    assert not ours._replace(roots=ours.roots + len(ours.feature)).fits(4, 2)
    assert not ours._replace(threshold=ours.threshold[1:]).fits(4, 2)
    assert not Forest(*(x[:0] for x in ours)).fits(4, 2)
    path = save(tmp_path / "mine.safetensors", load("adamw"), {})
    data, card = carded.read_bytes(path)
    tensors = carded.tensors_of(path, data)
    carded.write(path, tensors | {"forest.right": torch.zeros_like(tensors["forest.right"])}, card)
    with pytest.raises(ValueError, match="forest is no forest from 99 columns to 11 outputs"):
        load(path)
    carded.write(path, {k: v for k, v in tensors.items() if k != "prior.roots"}, card)
    with pytest.raises(ValueError, match=r"not an artifact of the tuner: 'prior.roots' is missing"):
        load(path)


def test_rows_move_with_the_rates() -> None:
    g = torch.Generator().manual_seed(0)
    found, probed = torch.randn(1, 4, 13, generator=g), torch.zeros(1, 13, dtype=torch.bool)
    found[0, 0, 5] = -3.0
    probed[0, [3, 5, 6]] = True
    meta, log_share = torch.randn(1, len(NAMES), generator=g), torch.tensor([-2.0])
    rows, best = aligned.rows(found, log_share, probed, meta)
    again, moved = aligned.rows(found.roll(2, 2), log_share, probed.roll(2, 1), meta)
    assert (int(best), int(moved)) == (5, 7)
    where = len(aligned.KEPT) * aligned.WIDTH
    assert rows[0, where : where + 5].tolist() == [5, -2, 1, 3, -2]
    different = (rows != again)[0].nonzero()[:, 0].tolist()
    assert different == [where]  # the place of the best alone
    seen = rows[0, :where].view(-1, aligned.WIDTH)
    assert seen[0].nonzero()[:, 0].tolist() == [aligned.REACH - 2, aligned.REACH, aligned.REACH + 1]
    valid = [CHANNELS[i] for i in aligned.KEPT].index("valid")
    assert float(seen[valid, aligned.REACH]) == -3.0


def test_what_failed_everywhere_has_rows_too() -> None:
    found, probed = torch.full((1, 4, 13), 4.0), torch.zeros(1, 13, dtype=torch.bool)
    probed[0, 10:] = True
    rows, best = aligned.rows(found, torch.tensor([-2.0]), probed, torch.zeros(1, len(NAMES)))
    assert int(best) == 10
    assert torch.isfinite(rows).all()


@pytest.mark.parametrize("best", [0, 5, 12])
def test_cut_and_spread(best: int) -> None:
    values = torch.arange(13.0)[None]
    cut = aligned.cut(values, torch.tensor([best]), -1.0)
    back = aligned.spread(cut, torch.tensor([best]), 13, -1.0)
    near = (torch.arange(13) - best).abs() <= aligned.REACH
    assert torch.equal(back[0], torch.where(near, values[0], -1.0))
    assert int((cut == -1.0).sum()) == aligned.WIDTH - int(near.sum())


def test_rates_out_of_reach_are_hopeless() -> None:
    from learnopt.tuner.probes import Probe

    known = load("adamw")
    expected = known.expect(None, [Probe(known.rates[0], 0.25, 10, 1.0, 0.9, 0.8, (0.9, 0.8))])
    assert expected[aligned.REACH + 1 :].tolist() == [MOST_REGRET] * (len(known.rates) - aligned.REACH - 1)
    assert math.isfinite(float(expected.sum()))
    assert int(expected.argmin()) > 0  # falls at the least rate: larger ones are better
