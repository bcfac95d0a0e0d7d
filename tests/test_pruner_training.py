"""Teaching the pruner: studies played against a slow truth, what decisions cost, thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from recorded_curves import make_corpus

from learnopt.stopping import calibrate, curves, peer_features, peer_network, peer_train, studies
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves
from learnopt.stopping.peer_features import Peers
from learnopt.stopping.session import Session


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    return curves.read(make_corpus(tmp_path_factory.mktemp("corpus")))


def test_simulated_studies(recorded: Curves) -> None:
    curve = CurveNetwork()
    task = studies.recorded(curve, recorded)[2]
    trials = studies.Trials(list(range(16)), task.settings)
    never = studies.simulate(curve, task, trials, lambda x: torch.ones(len(x)), 0.5)
    assert never.ends == [19] * 16
    assert studies.result(task, trials, never.ends) == (1.0, True, True)
    strict = studies.simulate(curve, task, trials, lambda x: torch.zeros(len(x)), 0.5, keep=True)
    reached = [task.best[0]]
    for j in range(1, 16):  # pruned as soon as it neither leads nor is ahead at the moment, of the best one or of all
        champion = min(reached, key=lambda best: float(best[-1]))
        own = task.best[j]
        others = [min(float(task.best[i, k]) for i in range(j) if strict.ends[i] >= k) for k in range(20)]
        behind = [own[k] > champion[-1] and own[k] >= champion[k] and own[k] > others[k] for k in range(19)]
        end = behind.index(True) if True in behind else 19
        assert strict.ends[j] == end
        reached.append(torch.cat([own[: end + 1], own[end].expand(19 - end)]))
    assert studies.result(task, trials, strict.ends).compute < 0.3
    for lesson in strict.lessons:
        assert lesson.inputs.shape == (20, peer_network.INPUTS)
        assert torch.isfinite(lesson.inputs).all()
    for first, second in zip(strict.lessons, studies.lessons(curve, task, trials, strict.ends), strict=True):
        assert first.number == second.number
        assert torch.equal(first.inputs, second.inputs)


def test_the_foremost_are_not_pruned() -> None:
    at = torch.arange(100.0)[:, None].expand(100, 3).clone()
    at[0] = 7.0  # the best one in the end, after a slow start
    final = at[:, -1].clone()
    final[0] = 0.0
    alive = torch.ones(100, 3, dtype=torch.bool)
    alive[1:50, 1] = False  # the best half did not get to the second moment
    alive[:, 2] = False
    peers = Peers(at, alive, final, torch.ones(100, dtype=torch.bool))

    def protected(value: float) -> list[bool]:
        return peer_features.ahead(torch.full((3,), value), peers).tolist()

    assert protected(6.9) == [True, True, True]  # before the best one at the same moment
    assert protected(7.1) == [False, True, False]
    assert protected(52.1) == [False, True, False]  # three and the best one before it at the second moment
    assert protected(53.1) == [False, False, False]
    few = Peers(at[:3], torch.ones(3, 3, dtype=torch.bool), final[:3], peers.done[:3])
    assert peer_features.ahead(torch.full((3,), 1.0), few).all()  # nobody was better
    assert not peer_features.ahead(torch.full((3,), 7.1), few).any()


def test_a_clairvoyant_runs_what_will_lead(recorded: Curves) -> None:
    task = studies.recorded(CurveNetwork(), recorded)[1]
    trials = studies.draw(task, 12, np.random.default_rng(0))
    ends, best = studies.clairvoyant(task, trials), math.inf
    for number, end in zip(trials.runs, ends, strict=True):
        final = float(task.best[number, -1])
        assert end == (19 if final < best else 0)
        best = min(best, final)
    found = studies.result(task, trials, ends)
    assert found.near
    assert found.completed_near
    assert found.compute == pytest.approx(np.mean([(e + 1) / 20 for e in ends]))


def test_the_price_of_decisions_against_a_slow_truth() -> None:
    random = np.random.default_rng(0)
    odds, leads = torch.from_numpy(random.normal(size=(4, 6))), torch.from_numpy(random.random((4, 6)) < 0.3)
    study = peer_train.Played(
        torch.zeros(4, 6, 1), leads, torch.zeros(4, 6), torch.tensor([2, 0]), torch.tensor([1, 3]), False, 40
    )
    steps, lost = 0.0, 1.0
    for trial in range(4):
        alive = [1.0]
        for t in range(6):
            on = 1.0 if leads[trial, t] else 1 / (1 + math.exp(-float(odds[trial, t]) / peer_train.SOFTNESS))
            alive.append(alive[-1] * on)
        steps += sum(alive[:6])
        if trial in (1, 3):
            lost *= 1 - min(alive[2 if trial == 1 else 0], 1 - 1e-6)
    expected = steps / 40 + peer_train.PRICE * lost
    assert float(peer_train.price(odds, study)) == pytest.approx(expected, rel=1e-4)
    assert float(peer_train.price(odds, study._replace(safe=True))) == pytest.approx(steps / 40)


def test_the_pruner_learns_which_trials_are_worth_their_steps(recorded: Curves) -> None:
    curve, said = CurveNetwork(), []
    peer_train.fit(curve, recorded, 0, 60, Session(say=lambda *what: said.append(what)))
    stages = {stage: float(note.removeprefix("loss ")) for stage, _, _, note in said if stage.startswith("pruner")}
    assert list(stages) == ["pruner 1", "pruner 2", "pruner 3", "pruner 4"]
    first = next(float(note.removeprefix("loss ")) for stage, _, _, note in said if stage == "pruner 2")
    assert stages["pruner 4"] < 0.8 * first


def test_nothing_to_prune(recorded: Curves) -> None:
    first = torch.tensor([int(torch.nonzero(recorded.task == i)[1, 0]) for i in recorded.numbers])
    with pytest.raises(ValueError, match="no recorded run could have been pruned"):
        peer_train.fit(CurveNetwork(), recorded.of(first), 0, 4)


def test_pruning_thresholds() -> None:
    def rows(*near: float) -> list[tuple[float, calibrate.PrunedOutcome]]:
        return [(t, calibrate.PrunedOutcome(0.5, n)) for t, n in zip(calibrate.PRUNING, near, strict=True)]

    high = rows(1, 1, 1, 1, 0.96, 0.96, 0.9, 0.8, 0.7)
    low = rows(1, 1, 1, 0.99, 0.95, 0.9, 0.99, 0.7, 0.6)
    assert calibrate.pruning_threshold({30: high}) == calibrate.PRUNING[5]
    assert calibrate.pruning_threshold({30: high, 120: low}) == calibrate.PRUNING[4]
    assert calibrate.pruning_threshold({30: rows(*[0.5] * 9)}) == calibrate.PRUNING[0]
