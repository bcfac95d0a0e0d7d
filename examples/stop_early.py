"""Stop a plain training loop, and compare with scikit-learn: `python examples/stop_early.py`."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from learnopt.sklearn import LearnedMLPClassifier
from learnopt.stopping import LearnedStopper, Patience


def main(steps: int = 300) -> float:
    """Train on digits for at most `steps` passes with Adam; returns the accuracy on the rows held out to stop by."""
    X, y = load_digits(return_X_y=True)
    train_X, test_X, train_y, test_y = train_test_split(X / 16, y, random_state=0)
    x, held_out = (torch.from_numpy(part).float() for part in (train_X, test_X))
    labels, truth = torch.from_numpy(train_y), torch.from_numpy(test_y)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    patience = Patience(5, restore_best=model)
    stopper = patience & LearnedStopper(total_steps=steps)
    for epoch in range(steps):
        for rows in torch.randperm(len(x)).split(200):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), labels[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            verdict = stopper.update(functional.cross_entropy(model(held_out), truth), epoch)
        if verdict.stop:
            print(f"stopped after pass {epoch}: {verdict.reason}")
            break
    patience.restore()
    accuracy = float((model(held_out).argmax(1) == truth).float().mean())
    print(f"best validation loss {verdict.best:.4f} in pass {verdict.best_step:.0f}, accuracy {accuracy:.3f}")

    learned = LearnedMLPClassifier(max_iter=min(steps, 100), random_state=0).fit(train_X, train_y)
    print(f"LearnedMLPClassifier, with no learning rate to set: accuracy {learned.score(test_X, test_y):.3f}")
    return accuracy


if __name__ == "__main__":
    main()
