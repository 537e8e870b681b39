"""What a study would run and cost: every trial, before a second is spent."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..platform.errors import MoescopeError
from ..platform.frozen import changed, leaves
from ..trainer.config import RunConfig
from .costs import Cost, cost_of
from .points import Point, Rate, flops_per_s, points
from .spec import StudySpec

WITHOUT_EFFECT = ("recipe", "project", "data.folder", "data.workers", "watch.", "checkpoint.")
"""Keys, or their beginnings, that change how a run is looked after and not what it computes."""
SECONDS_PER_HOUR = 3600
GIB = 2**30


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """One run that the study wants."""

    key: str
    """Hash of what it computes: equal keys, equal results."""
    label: str
    coordinates: Mapping[str, Any]
    config: RunConfig
    cost: Cost
    hours: float | None
    """On this machine; None where nothing was calibrated."""
    trunk: str = ""
    """Key of the trial that it branches off."""
    branch_at: int = 0
    """The trunk's step at which it does."""


class Totals(NamedTuple):
    num_trials: int
    flops: float
    hours: float | None
    disk_gib: float
    expert_bytes: float
    head_bytes: float


@dataclass(frozen=True, slots=True)
class Plan:
    spec: StudySpec
    trials: tuple[PlannedTrial, ...]

    @property
    def totals(self) -> Totals:
        costs = [trial.cost for trial in self.trials]
        hours = [trial.hours for trial in self.trials if trial.hours is not None]
        return Totals(
            len(self.trials),
            sum(cost.flops for cost in costs),
            sum(hours) if len(hours) == len(self.trials) else None,
            sum(cost.disk_bytes for cost in costs) / GIB,
            sum(cost.expert_bytes for cost in costs),
            sum(cost.head_bytes for cost in costs),
        )

    def refuse_over_limit(self) -> None:
        """Raises MoescopeError where the study takes more than its limit."""
        limit, totals = self.spec.limit, self.totals
        over = [
            f"{totals_of:.4g} {name} of {most:.4g}"
            for name, totals_of, most in (
                ("FLOPs", totals.flops, limit.flops),
                ("hours", totals.hours or 0.0, limit.hours),
                ("GiB of checkpoints", totals.disk_gib, limit.disk_gib),
            )
            if most and totals_of > most
        ]
        if limit.hours and totals.hours is None:
            raise MoescopeError(
                "limit.hours needs a calibration: leave --no-calibration out, and give data"
            )
        if over:
            raise MoescopeError(
                f"study {self.spec.name} is over its limit ({'; '.join(over)}): take trials or "
                "budget away, or raise the limit"
            )


def plan(spec: StudySpec, rate: Rate) -> Plan:
    """Plans a study; nothing is started or written.

    rate: FLOPs per second by active parameters, {} where nothing was calibrated. Raises
    MoescopeError as `points` does, where data is named and not there, and where two trials would
    compute the same.
    """
    data = fingerprint_of_data(spec.data)
    trials: dict[str, PlannedTrial] = {}
    for point, trunk in _with_trunks(spec, list(points(spec, rate))):
        config = point.config
        at = 0 if trunk is None else config.steps - config.optim.decay_steps
        of = "" if trunk is None else key_of(trunk.config, data, "", 0)
        cost = cost_of(config, spec.parallel, config.steps - at)
        seconds = cost.flops / flops_per_s(rate, cost.active_params) if rate else None
        key = key_of(config, data, of, at)
        trial = PlannedTrial(
            key,
            label_of(point.coordinates),
            point.coordinates,
            config,
            cost,
            None if seconds is None else seconds / SECONDS_PER_HOUR,
            of,
            at,
        )
        if key in trials:
            raise MoescopeError(
                f"{trials[key].label} and {trial.label} compute the same: take one away"
            )
        trials[key] = trial
    return Plan(spec, tuple(trials.values()))


def _with_trunks(spec: StudySpec, all_points: list[Point]) -> Iterator[tuple[Point, Point | None]]:
    """Yields each point and the one that it branches off; trunks come first."""
    if not spec.has_branches:
        for point in all_points:
            yield point, None
        return
    unit = spec.budget.unit
    families: dict[str, list[Point]] = {}
    for point in all_points:
        rest = {key: value for key, value in point.coordinates.items() if key != unit}
        families.setdefault(repr(rest), []).append(point)
    for family in families.values():
        *branches, trunk = sorted(family, key=lambda point: point.config.steps)
        trunk = _branchable(trunk, branches)
        yield trunk, None
        for point in branches:
            yield _aligned(point, branches[0]), trunk


def _stride(shortest: Point) -> int:
    """Steps between the states that branches leave from: the shortest's before its decay."""
    config = shortest.config
    return max(1, config.steps - config.optim.decay_steps)


def _aligned(point: Point, shortest: Point) -> Point:
    """A branch whose decay begins where the trunk keeps a state."""
    stride, config = _stride(shortest), point.config
    start = max(1, round((config.steps - config.optim.decay_steps) / stride)) * stride
    if start >= config.steps:
        start -= stride
    decay = {"optim.decay_steps": config.steps - start}
    return replace(point, config=changed(config, decay))


def _branchable(trunk: Point, branches: list[Point]) -> Point:
    """The trunk, which keeps the states that branches leave from."""
    stride = _stride(branches[0])
    kept = {
        "checkpoint.disk_every_steps": stride,
        "checkpoint.keep": math.ceil(trunk.config.steps / stride) + 1,
    }
    return replace(trunk, config=changed(trunk.config, kept))


def key_of(config: RunConfig, data: str, trunk: str, branch_at: int) -> str:
    """Returns the hash of what a trial computes.

    Of all keys of the configuration but those that only look after the run, the data's fingerprint,
    and where it branches off. Equal on every machine.
    """
    what = {
        key: value
        for key, value in leaves(config)
        if not any(
            key == name or (name[-1] == "." and key.startswith(name)) for name in WITHOUT_EFFECT
        )
    }
    said = json.dumps([what, data, trunk, branch_at], sort_keys=True, default=str)
    return hashlib.blake2b(said.encode(), digest_size=10).hexdigest()


def fingerprint_of_data(folder: str) -> str:
    """Returns a hash of the names and sizes of all files below; empty for none.

    Raises MoescopeError where the folder is not there.
    """
    if not folder:
        return ""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise MoescopeError(f"data {folder} is no folder: name one with clips")
    told = hashlib.blake2b(digest_size=10)
    for place, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            path = Path(place) / name
            told.update(
                f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode(errors="replace")
            )
    return told.hexdigest()


def label_of(coordinates: Mapping[str, Any]) -> str:
    """Returns a trial's place in words that fit a line."""

    def told(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return " ".join(f"{key.rsplit('.', 1)[-1]}={told(value)}" for key, value in coordinates.items())
