"""What all learners share: fitting, resuming, interrupts, files, and what they refuse."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fewshot_toy import Blobs, Lines, classifier, network
from torch import Tensor, nn

from learnopt.fewshot import ANIL, FOMAML, MAML, Episode, Learner, MetaSGD, Prototypical, Reptile, Siamese
from learnopt.fewshot.episode import EpisodeList
from learnopt.fewshot.methods import METHODS
from learnopt.fewshot.rules import SGD, Adam

ALL: dict[str, Callable[[], Learner]] = {
    "maml": lambda: MAML(classifier(), 0.1, 2),
    "fomaml": lambda: FOMAML(classifier(), 0.1, 2, meta_schedule="cosine"),
    "anil": lambda: ANIL(classifier(), 0.1, 2),
    "metasgd": lambda: MetaSGD(classifier(), 0.1, 2, rates="tensor", schedule="shared"),
    "reptile": lambda: Reptile(classifier(), steps=4, inner_batch=5, rule=Adam(0.01, betas=(0.0, 0.99))),
    "siamese": lambda: Siamese(classifier(8)),
    "prototypical": lambda: Prototypical(classifier(8)),
}


def slow(learner: Learner) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in learner.slow().items()}


def test_this_is_every_method() -> None:
    assert set(ALL) <= set(METHODS)
    assert all(METHODS[name] is type(make()) for name, make in ALL.items())


@pytest.mark.parametrize("name", ALL)
def test_fit_learns_to_learn(name: str) -> None:
    learner = ALL[name]()
    told: dict[str, Any] = {} if name in ("siamese", "prototypical") else {"steps": 4 if name == "reptile" else 2}
    before = learner.evaluate(Blobs(), 60, **told).summary()[-1]
    learner.fit(Blobs(), 100, meta_batch=5, progress=False)
    after = learner.evaluate(Blobs(), 60, **told).summary()[-1]
    assert after["accuracy_mean"] >= before["accuracy_mean"]
    assert after["accuracy_mean"] > (0.6 if name == "reptile" else 0.7)
    assert learner.cpu_seconds > 0


@pytest.mark.parametrize("name", ALL)
def test_an_interrupted_fit_goes_on_exactly(name: str, tmp_path: Path) -> None:
    whole = ALL[name]()
    rows = whole.fit(Blobs(), 6, meta_batch=2, progress=False)

    class Interrupting(Blobs):
        calls = 0

        def draw(self, seed: int, count: int) -> Episode:
            self.calls += 1
            if self.calls == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return super().draw(seed, count)

    first, after = ALL[name](), Interrupting()
    with pytest.raises(KeyboardInterrupt, match="interrupted at meta-step 3 of 6"):
        first.fit(after, 6, meta_batch=2, out=tmp_path, progress=False)
    again = ALL[name]()
    with torch.no_grad():
        for p in again.slow().values():
            p.add_(1.0)  # the checkpoint holds the weights, whatever the model starts with
    assert again.fit(Blobs(), 6, meta_batch=2, out=tmp_path, progress=False) == rows
    for n, p in slow(again).items():
        assert torch.equal(p, slow(whole)[n]), n


def test_a_finished_fit_is_not_repeated(tmp_path: Path) -> None:
    learner = MAML(network(), 0.1, 1)
    learner.fit(Lines(), 3, out=tmp_path, progress=False)
    after, spent = slow(learner), learner.cpu_seconds
    again = MAML(network(), 0.1, 1)
    again.fit(Lines(), 3, out=tmp_path, progress=False)
    assert again.cpu_seconds == spent  # of all sessions
    assert len(learner.fit(Lines(), 3, out=tmp_path, progress=False)) == 3
    assert all(torch.equal(p, after[n]) for n, p in slow(learner).items())
    assert len(learner.fit(Lines(), 5, out=tmp_path, progress=False)) == 5  # but it can be made longer


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    MAML(network(), 0.1, 1).fit(Lines(), 2, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"other settings \(lr 0.1 -> 0.2\); choose another folder"):
        MAML(network(), 0.2, 1).fit(Lines(), 2, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="tasks 'lines, 5 shots"):
        MAML(network(), 0.1, 1).fit(Lines(6), 2, out=tmp_path, progress=False)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"not this")
    with pytest.raises(ValueError, match=f"{path} cannot be read as a learner"):
        MAML(network(), 0.1, 1).fit(Lines(), 2, out=tmp_path, progress=False)


def test_fit_is_a_function_of_the_seed_and_leaves_random_state() -> None:
    state = torch.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        learner = MAML(network(), 0.1, 1)
        torch.set_rng_state(state)
        learner.fit(Lines(), 3, seed=seed, progress=False)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(slow(learner)["model.0.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ALL)
def test_save_and_load(name: str, tmp_path: Path) -> None:
    learner = ALL[name]()
    learner.fit(Blobs(), 2, progress=False)
    other = ALL[name]()
    other.load(learner.save(tmp_path / "learner.safetensors"))
    assert all(torch.equal(p, slow(learner)[n]) for n, p in slow(other).items())


def test_load_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = MAML(classifier(), 0.1, 1).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="method 'maml', not 'anil'"):
        ANIL(classifier(), 0.1, 1).load(path)
    with pytest.raises(ValueError, match=r"does not fit this model: tensor 'model.2.weight'"):
        MAML(classifier(5), 0.1, 1).load(path)
    with pytest.raises(ValueError, match="cannot be read as a learner"):
        MAML(classifier(), 0.1, 1).load(tmp_path / "none.safetensors")


def test_reptile_moves_towards_the_mean_of_the_inner_ends() -> None:
    episodes = Lines(queries=5).draw(0, 3)
    learner = Reptile(network(), 0.05, 4, meta_lr=0.3)
    start, ends = slow(learner), []
    for sx, sy, qx, qy in zip(*episodes, strict=True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(torch.cat([sx, qx])), torch.cat([sy, qy])).backward()
            optimizer.step()
        ends.append({f"model.{n}": p.detach() for n, p in model.named_parameters()})
    learner.meta_step(episodes, learner.meta_optimizer())
    for n, p in slow(learner).items():
        mean = torch.stack([end[n] for end in ends]).mean(0)
        torch.testing.assert_close(p, start[n] + 0.3 * (mean - start[n]), rtol=1e-4, atol=1e-6)


def test_reptiles_batches_are_shuffled_passes_over_a_tasks_data() -> None:
    learner = Reptile(network(), steps=4, inner_batch=5)
    e = Lines(shots=5, queries=5).draw(0, 2)
    x, y = learner._batches(e)
    assert x.shape == y.shape == (2, 4, 5, 1)
    for task in range(2):
        data = torch.cat([e.support_x[task], e.query_x[task]]).flatten().sort()[0]
        for start in (0, 2):  # two batches of five make a pass over ten
            assert torch.equal(x[task, start : start + 2].flatten().sort()[0], data)
    assert not torch.equal(x[0, :2].flatten(), x[0, 2:].flatten())


def test_anil_adapts_the_head_alone() -> None:
    assert ANIL(classifier(), 0.1, 1).fast_names == ["2.weight", "2.bias"]
    assert ANIL(classifier(), 0.1, 1, head="0").fast_names == ["0.weight", "0.bias"]
    with pytest.raises(ValueError, match="no parameter's name begins with 'nose'; there are"):
        ANIL(classifier(), 0.1, 1, head="nose")


def test_updates_that_are_not_finite_are_left_out_and_told() -> None:
    learner = MAML(network(), 1e30, 5)
    before = slow(learner)
    with pytest.warns(RuntimeWarning, match="2 of 2 meta-steps were skipped"):
        learner.fit(Lines(), 2, progress=False)
    assert all(torch.equal(p, before[n]) for n, p in slow(learner).items())


def test_the_meta_gradient_is_clipped() -> None:
    short, long = Reptile(network(), meta_lr=1.0, clip=1e-3), Reptile(network(), meta_lr=1.0)
    moves = []
    for learner in (short, long):
        before = slow(learner)
        learner.meta_step(Lines().draw(0, 2), learner.meta_optimizer())
        moves.append(torch.cat([(p - before[n]).flatten() for n, p in slow(learner).items()]))
    assert float(moves[0].norm()) == pytest.approx(1e-3, rel=1e-2)
    torch.testing.assert_close(moves[0] / moves[0].norm(), moves[1] / moves[1].norm(), rtol=1e-2, atol=1e-3)


def test_overflow_is_told_with_mean_and_median() -> None:
    learner = MAML(network(), 3.0, 1)
    e = Lines().draw(0, 1)
    with pytest.warns(RuntimeWarning, match="20 inner steps took the support loss from"):
        learner.adapt(100 * e.support_x[0], 100 * e.support_y[0], steps=20)
    with pytest.warns(RuntimeWarning, match=r"on \d+ of 40 tasks after 8 steps: read the median beside the mean"):
        evaluation = learner.evaluate(Lines(), 40, steps=8)
    last = evaluation.summary()[-1]
    assert last["failed"] > 0
    assert {"loss_mean", "loss_median", "loss_half"} <= set(last)


def test_metasgd_warns_beyond_the_steps_it_was_trained_for() -> None:
    e = Lines().draw(0, 1)
    with pytest.warns(RuntimeWarning, match="metasgd learned its rates for 1 inner steps and is asked for 2"):
        MetaSGD(network(), 0.001, 1).adapt(e.support_x[0], e.support_y[0], steps=2)


def test_episodes_may_be_a_list() -> None:
    e = Lines().draw(0, 4)
    single = [Episode(*parts) for parts in zip(*e, strict=True)]
    assert len(MAML(network(), 0.1, 1).fit(single, 2, progress=False)) == 2
    drawn = EpisodeList(single).draw(0, 50)
    assert {float(x) for x in drawn.query_y[:, 0, 0]} == {float(x) for x in e.query_y[:, 0, 0]}


def test_batchnorm_without_running_statistics_is_called_transductive(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3))
    learner = MAML(model, 0.1, 1)
    assert learner.transductive
    assert not MAML(classifier(), 0.1, 1).transductive
    learner.fit(Blobs(), 1)
    assert "maml: transductive" in capsys.readouterr().out


def test_frozen_parameters_stay() -> None:
    model, e = classifier(), Blobs().draw(0, 2)
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    learner = MAML(model, 0.1, 1, rule=SGD(0.1))
    learner.fit(Blobs(), 2, progress=False)
    assert torch.equal(model[0].weight, before)
    assert torch.equal(learner.adapt(e.support_x[0], e.support_y[0]).get_parameter("0.weight"), before)
