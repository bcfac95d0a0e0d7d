"""L2L: an LSTM learns to optimize quadratics, and meets Adam with its best rate on new ones."""

from __future__ import annotations

from learnopt.fewshot import L2L, LSTMRule
from learnopt.fewshot.l2l import losses
from learnopt.fewshot.optimizees import Quadratics
from learnopt.fewshot.rules import Adam


def main(meta_steps: int = 60) -> dict[str, float]:
    problems = Quadratics()
    learner = L2L(LSTMRule(), problems, horizon=100, objective="log-mean", meta_lr=5e-3)
    learner.fit(meta_steps, meta_batch=64)

    def after(rule, theta, seed: int) -> float:
        return float(losses(rule, theta, problems, seed, 200, 101)[:, -1].mean())

    rate = min((10 ** (k / 4) for k in range(-8, 5)), key=lambda rate: after(Adam(rate), {}, seed=1))
    found = {"lstm": after(learner.rule, learner.theta, seed=2), "adam": after(Adam(rate), {}, seed=2)}
    print(f"loss after 100 steps: LSTM {found['lstm']:.3f}, Adam at its best rate ({rate:.2g}) {found['adam']:.3f}")
    return found


if __name__ == "__main__":
    main()
