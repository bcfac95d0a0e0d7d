"""Accelerate: a prepared `LearnedOptimizer` moves as in a plain loop, and its state is saved and loaded exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState
from optimizer_toy import assert_same, network, values
from torch import nn
from torch.nn import functional
from trainer_toy import data, in_groups, loader, losses_told, plain_loop

from learnopt import LearnedOptimizer


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def prepared(accelerator: Accelerator, steps: int) -> tuple[nn.Module, AcceleratedOptimizer, LearnedOptimizer]:
    model = network()
    learned = LearnedOptimizer(model.parameters(), total_steps=steps)
    model, optimizer = accelerator.prepare(model, learned)
    return model, optimizer, learned


def epoch(accelerator: Accelerator, model: nn.Module, optimizer: AcceleratedOptimizer, clip: float | None) -> None:
    for x, y in accelerator.prepare(loader()):
        with accelerator.accumulate(model):
            loss = functional.mse_loss(model(x), y)
            accelerator.backward(loss)
            if clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step(lambda loss=loss: loss)
            optimizer.zero_grad()


@pytest.mark.parametrize("clip", [None, 0.1], ids=["free", "clipped"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_prepared_optimizer_moves_as_in_a_plain_loop(precision: str, clip: float | None) -> None:
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    model, optimizer, learned = prepared(accelerator, 12)
    for _ in range(2):
        epoch(accelerator, model, optimizer, clip)
    cast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else None
    truth, plain = plain_loop(in_groups(1, 2), 12, clip=clip, cast=cast)
    assert_same(values(model), values(truth))
    assert losses_told(learned) == 12
    assert learned.stop_probability == plain.stop_probability


@pytest.mark.parametrize("count", [2, 4])  # 4: the last step of an epoch of 6 batches has only two
def test_accumulated_gradients_step_once_and_hear_the_last_loss(count: int) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=count)
    model, optimizer, learned = prepared(accelerator, 6)
    epoch(accelerator, model, optimizer, None)
    assert losses_told(learned) == len(in_groups(count))
    truth = network()
    plain = LearnedOptimizer(truth.parameters(), total_steps=6)
    for micro_batches in in_groups(count):
        plain.zero_grad()
        for x, y in micro_batches:
            loss = functional.mse_loss(truth(x), y)
            (loss / count).backward()
        plain.step(loss=loss)
    assert_same(values(model), values(truth))


def test_a_step_without_the_loss_works() -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizer, learned = prepared(accelerator, 6)
    for x, y in accelerator.prepare(loader()):
        optimizer.zero_grad()
        accelerator.backward(functional.mse_loss(model(x), y))
        optimizer.step()
    assert losses_told(learned) == 0
    assert_same(values(model), values(plain_loop(in_groups(1), 6, tell=False)[0]))


def test_half_precision_with_a_scaler_hears_the_loss() -> None:
    Accelerator(cpu=True)  # fp16 on a CPU is refused there, so the wrapper is made by hand as on a GPU
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    model = network()
    learned = LearnedOptimizer(model.parameters(), total_steps=6)
    optimizer = AcceleratedOptimizer(learned, scaler=scaler)
    for x, y in in_groups(1)[0] * 6:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        optimizer.step(lambda loss=loss: loss)
    assert losses_told(learned) == 6
    truth, _ = plain_loop(
        in_groups(1)[:1] * 6, 6, cast=torch.autocast("cpu", torch.float16),
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10),
    )  # fmt: skip
    assert_same(values(model), values(truth))


def test_saved_state_goes_on_exactly(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizer, learned = prepared(accelerator, 18)
    epoch(accelerator, model, optimizer, None)
    accelerator.save_state(str(tmp_path))
    for _ in range(2):
        epoch(accelerator, model, optimizer, None)

    AcceleratorState._reset_state(reset_partial_state=True)
    later = Accelerator(cpu=True)
    other, again, resumed = prepared(later, 1)  # the state brings its own total_steps
    later.load_state(str(tmp_path))
    for _ in range(2):
        epoch(later, other, again, None)
    assert_same(values(model), values(other))
    assert resumed.stop_probability == learned.stop_probability
    assert resumed.param_groups[0]["total_steps"] == 18


def test_a_prepared_scheduler_multiplies_the_learned_rate() -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizer, learned = prepared(accelerator, 6)
    scheduler = accelerator.prepare(torch.optim.lr_scheduler.StepLR(learned, step_size=3, gamma=0.5))
    for x, y in torch.utils.data.DataLoader(data(), batch_size=8):
        accelerator.backward(functional.mse_loss(model(x), y))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert learned.param_groups[0]["lr"] == 0.25
