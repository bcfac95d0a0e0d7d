"""RL²: advantages and losses against plain loops, what the policy may know, and that it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learnopt.fewshot import RL2
from learnopt.fewshot.bandit_policies import POLICIES
from learnopt.fewshot.bandits import Bandits, Play, play
from learnopt.fewshot.recurrent_policy import Agent, RecurrentPolicy
from learnopt.fewshot.rl2 import CLIP, VALUE, advantages


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaken(hidden: int = 6, seed: int = 0) -> RecurrentPolicy:
    """A policy whose heads are not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RecurrentPolicy(hidden)
        for head in (network.policy, network.value):
            torch.nn.init.normal_(head.weight)
    return network


def test_advantages_equal_their_definition() -> None:
    torch.manual_seed(0)
    rewards, values, discount, trace = torch.randn(7, 3).double(), torch.randn(7, 3).double(), 0.9, 0.8
    found = advantages(rewards, values, discount, trace)
    for n in range(3):
        for t in range(7):
            expected = 0.0
            for k in range(7 - t):
                after = float(values[t + k + 1, n]) if t + k + 1 < 7 else 0.0
                delta = float(rewards[t + k, n]) + discount * after - float(values[t + k, n])
                expected += (discount * trace) ** k * delta
            assert float(found[t, n]) == pytest.approx(expected, abs=1e-12)


def test_advantages_with_a_full_trace_are_returns_less_values() -> None:
    torch.manual_seed(1)
    rewards, values = torch.randn(5, 2), torch.randn(5, 2)
    to_go = rewards.flip(0).cumsum(0).flip(0)
    assert torch.allclose(advantages(rewards, values, 1.0, 1.0), to_go - values, atol=1e-6)


def test_a_whole_play_is_seen_as_pull_by_pull() -> None:
    network = shaken()
    agent, generator = Agent(network, greedy=False), seeded(3)
    bandits = Bandits.sample(9, 4, generator)
    agent.begin(9, 4, 6, generator)
    seen, logits, actions, rewards = [], [], [], []
    for _ in range(6):
        seen.append(agent.seen)
        logits.append(network(agent.seen[None], agent.state)[0][0])
        actions.append(agent.choose())
        rewards.append(bandits.pull(actions[-1], generator))
        agent.observe(actions[-1], rewards[-1])
    played = Play(torch.stack(actions), torch.stack(rewards))
    whole = network.inputs(played, 4)
    assert torch.equal(whole, torch.stack(seen))
    assert torch.allclose(network(whole)[0], torch.stack(logits), atol=1e-6)


def test_policy_sees_rewards_only() -> None:
    """Bandits that paid the same are played the same, whatever their probabilities."""
    learner = RL2(3, 5)
    learner.network = shaken()
    ones = play(learner.agent(), Bandits(torch.ones(4, 3)), 5, seeded(0))
    nearly = play(learner.agent(), Bandits(torch.full((4, 3), 1 - 1e-7)), 5, seeded(0))
    assert torch.equal(ones.actions, nearly.actions)


def test_order_and_number_of_arms_make_no_difference() -> None:
    network = shaken()
    torch.manual_seed(0)
    actions, rewards = torch.randint(4, (6, 5)), torch.randint(2, (6, 5)).float()
    order = torch.tensor([2, 0, 3, 1])  # new number of each old arm
    logits, values, _ = network(network.inputs(Play(actions, rewards), 4))
    turned, same, _ = network(network.inputs(Play(order[actions], rewards), 4))
    assert torch.allclose(turned[..., order], logits, atol=1e-6)
    assert torch.allclose(same, values, atol=1e-6)
    assert play(Agent(network), Bandits.sample(3, 9, seeded(0)), 4, seeded(0)).actions.shape == (4, 3)


def test_a_fresh_policy_is_uniform_and_values_nothing() -> None:
    network = RL2(5, 10).network
    logits, values, _ = network(torch.rand(3, 2, 5, 3))
    assert not logits.any()
    assert not values.any()


def test_batch_holds_regret_and_its_loss_is_that_of_a_plain_loop() -> None:
    learner = RL2(3, 4, discount=0.9, trace=0.7)
    learner.network = shaken()
    bandits = Bandits.sample(5, 3, seeded(1))
    played = play(learner.agent(greedy=False), bandits, 4, seeded(2))
    batch = learner.batch(played, bandits)
    seen = learner.network.inputs(played, 3)
    logits, values, _ = learner.network(seen)
    pay = torch.stack([
        torch.stack([bandits.probabilities[n, a] - bandits.probabilities[n].max() for n, a in enumerate(row)])
        for row in played.actions
    ])  # fmt: skip
    usual = torch.stack([sum(0.9**k * pay[t + k] for k in range(4 - t)).mean() for t in range(4)])  # type: ignore[union-attr]
    whole = usual[:, None] + 2 * values  # sqrt(4) a unit
    found = advantages(pay, whole, 0.9, 0.7)
    assert torch.allclose(batch.targets, (found + whole - usual[:, None]) / 2, atol=1e-5)
    assert torch.allclose(batch.advantages, (found - found.mean()) / (found.std() + 1e-8), atol=1e-5)
    learner.network = shaken(seed=1)  # another policy than the one that played, by far
    batch = batch._replace(log_probabilities=batch.log_probabilities + torch.linspace(-0.6, 0.6, 20).reshape(4, 5))
    expected, clipped = 0.0, 0
    logits, values = (x.detach() for x in learner.network(seen)[:2])
    for t in range(4):
        for n in range(5):
            p = logits[t, n].softmax(-1)
            ratio = float(p[played.actions[t, n]] / batch.log_probabilities[t, n].exp())
            a = float(batch.advantages[t, n])
            gain = min(ratio * a, min(max(ratio, 1 - CLIP), 1 + CLIP) * a)
            clipped += gain != ratio * a
            spread = -float((p * p.log()).sum())
            expected += VALUE * float(values[t, n] - batch.targets[t, n]) ** 2 - gain - 0.3 * spread
    assert 0 < clipped < 20
    assert learner.loss(batch, 0.3).item() == pytest.approx(expected / 20, rel=1e-4)


def test_every_weight_gets_a_gradient() -> None:
    learner = RL2(3, 4)
    learner.network = shaken()
    bandits = Bandits.sample(5, 3, seeded(1))
    batch = learner.batch(play(learner.agent(greedy=False), bandits, 4, seeded(2)), bandits)
    gradients = torch.autograd.grad(learner.loss(batch, 0.1), list(learner.slow().values()))
    assert all(bool(g.abs().sum() > 0) for g in gradients)


def test_it_learns_to_explore() -> None:
    """Between random play (5.0) and Gittins indices (6.66): well above Thompson sampling in a few seconds."""
    learner = RL2(5, 10, hidden=16, meta_lr=5e-3)
    learner.fit(12, bandits=250, progress=False)
    generator = seeded(0)
    bandits = Bandits.sample(5000, 5, generator)
    own = play(learner.agent(), bandits, 10, generator).returns.mean()
    assert own > play(POLICIES["thompson"](), bandits, 10, generator).returns.mean() + 0.3


def test_interrupted_training_goes_on_exactly(tmp_path: Path) -> None:
    fit = {"bandits": 20, "minibatches": 2, "epochs": 1, "progress": False}
    state = torch.random.get_rng_state()
    whole = RL2(2, 3, hidden=4, meta_schedule="constant")
    whole.fit(4, **fit)
    assert torch.equal(torch.random.get_rng_state(), state)
    part = RL2(2, 3, hidden=4, meta_schedule="constant")
    original, calls = part.batch, []

    def stops(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("pulled the plug")
        return original(*arguments)  # type: ignore[arg-type]

    part.batch = stops  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError):
        part.fit(4, **fit, out=tmp_path)
    rest = RL2(2, 3, hidden=4, meta_schedule="constant")
    rows = rest.fit(4, **fit, out=tmp_path)
    assert len(rows) == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.slow().values(), rest.slow().values(), strict=True))
    with pytest.raises(ValueError, match="other settings"):
        RL2(2, 4, hidden=4, meta_schedule="constant").fit(4, **fit, out=tmp_path)


def test_saved_and_loaded(tmp_path: Path) -> None:
    learner = RL2(2, 3, hidden=4, seed=1)
    path = learner.save(tmp_path / "policy.safetensors")
    other = RL2(2, 3, hidden=4, seed=2)
    other.load(path)
    assert all(torch.equal(a, b) for a, b in zip(learner.slow().values(), other.slow().values(), strict=True))
    with pytest.raises(ValueError, match="does not fit"):
        RL2(2, 3, hidden=5).load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": 1}, "at least 2 arms, got 1"),
        ({"pulls": 0}, "pulls must be a whole number of 1 or more, got 0"),
        ({"hidden": 2.5}, "hidden must be a whole number of 1 or more, got 2.5"),
        ({"discount": 1.5}, r"discount must be in \[0, 1\], got 1.5"),
        ({"trace": -0.1}, r"trace must be in \[0, 1\], got -0.1"),
        ({"clip": 0.0}, "clip must be above 0, got 0.0"),
        ({"meta_lr": 0}, "meta_lr must be above 0, got 0"),
    ],
)
def test_bad_settings(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RL2(**options)  # type: ignore[arg-type]
