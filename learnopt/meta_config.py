"""Settings of a meta-training run, read from a small TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from learnopt import meta_network
from learnopt.estimators import ESTIMATORS

Share = Annotated[float, Field(ge=0, le=1)]


class MetaTrainConfig(BaseModel):
    """Everything that decides the resulting meta-weights; two runs with equal settings give equal weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    suite: str = Field("meta_train", description="suite whose families are sampled")
    valid_suite: str = Field("meta_valid", description="suite that checkpoints are selected on")
    seed: int = Field(0, ge=0)
    meta_steps: int = Field(1000, ge=1)
    episodes: int = Field(16, ge=1, description="episodes (tasks) per meta-step")
    estimator: str = "es"
    pairs: int = Field(16, ge=1, description="antithetic pairs per episode")
    sigma: float = Field(0.05, gt=0, description="standard deviation of the perturbations of theta")
    sigma_outputs: float = Field(
        0.2, gt=0, description="spread of the noise on the meta-network's outputs (estimator nodes)"
    )
    damping: float = Field(0.0, ge=0, description="of the natural meta-gradient; 0: plain (estimator nodes)")
    frozen: tuple[str, ...] = Field(
        (),
        description="parts of theta (names of meta_network.SHAPES), or whole levels (global, tensor, parameter), that "
        "stay as they are",
    )
    window: int = Field(50, ge=1, description="steps per meta-step of the estimators that truncate")
    meta_lr: float = Field(0.02, gt=0, description="learning rate of the meta-Adam")
    meta_lr_final: Share = Field(0.1, description="share of it that is left at the end (cosine)")
    average: float = Field(
        0.95, ge=0, lt=1, description="memory of the mean theta, which is validated and kept; 0: none"
    )
    steps_min: int = Field(50, ge=2, description="shortest inner run")
    steps_max: int = Field(400, ge=2, description="longest inner run; lengths are log-uniform in between")
    horizon_unknown: Share = Field(0.1, description="share of episodes whose horizon is not told")
    horizon_wrong: Share = Field(0.1, description="share of episodes whose horizon is told wrong, by a factor 0.5 to 2")
    loss_withheld: Share = Field(0.1, description="share of episodes that see gradients only")
    training_share: Share = Field(0.0, description="share of the late training loss in the meta-loss")
    augment: bool = Field(True, description="wrap the sampled tasks in random augmentations")
    valid_every: int = Field(25, ge=1, description="meta-steps between evaluations on the validation suite")
    valid_steps: int = Field(300, ge=2, description="longest inner run on the validation suite")
    kernel: bool = Field(
        True, description="compiled kernel and recorded passes where there can be; false: torch's arithmetic throughout"
    )
    checkpoint_minutes: float = Field(3.0, ge=0, description="0 saves after every meta-step")
    start_from: str | None = Field(None, description="name or path of an artifact to go on from")

    @field_validator("estimator")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ESTIMATORS:
            raise ValueError(f"unknown estimator {value!r}; choose from {', '.join(sorted(ESTIMATORS))}")
        return value

    @field_validator("frozen", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        names = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return value
        parts = [part for name in names for part in meta_network.LEVELS.get(str(name), (name,))]
        return tuple(part for i, part in enumerate(parts) if part not in parts[:i])

    @field_validator("frozen")
    @classmethod
    def _parts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in meta_network.SHAPES]:
            choices = ", ".join([*meta_network.LEVELS, *meta_network.SHAPES])
            raise ValueError(f"unknown part {unknown[0]!r}; choose from {choices}")
        if len(set(value)) == len(meta_network.SHAPES):
            raise ValueError("nothing is left to learn")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> MetaTrainConfig:
        if self.steps_min > self.steps_max:
            raise ValueError(f"steps_min {self.steps_min} is above steps_max {self.steps_max}")
        return self


def read_config(path: Path) -> MetaTrainConfig:
    """Read a TOML file.

    Raises:
        ValueError: one line that names the file and the offending value.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path} is not valid TOML: {error}") from error
    return parse_config(table, str(path))


def parse_config(table: dict[str, object], source: str) -> MetaTrainConfig:
    """Validate settings; `source` names their origin in errors."""
    try:
        return MetaTrainConfig.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # of several settings, which the message names
            raise ValueError(f"{source}: {message}") from error
        where = ".".join(map(str, first["loc"]))
        choices = (
            f" (settings: {', '.join(MetaTrainConfig.model_fields)})" if first["type"] == "extra_forbidden" else ""
        )
        raise ValueError(f"{source}: {where} = {first['input']!r}: {message}{choices}") from error
