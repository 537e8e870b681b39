"""The score of a rule on curves: false events on what is healthy, and what is found of what is
planted."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .curves import Curve
from .intervals import poisson_upper, wilson
from .public_rules import LossRule
from .shapes import Shape

WARM_UP_STEPS = 500
"""Alarms before this step of a healthy curve are not counted: the loss still falls by whole
percents a step there."""
SAME_EVENT_STEPS = 50
"""Alarms that lie no further apart are one event."""
SETTLED_STEPS = 600
"""First step that a shape is planted at."""
EARLY_STEPS = (3, 40)
"""Steps between which early shapes are planted."""


@dataclass(frozen=True, slots=True)
class FalseEvents:
    rule: str
    num_events: int
    num_steps: int
    """Judged steps of all curves, after their warm-ups."""
    num_distinct_events: int
    num_distinct_steps: int
    """Of these, those of the longest curve of each order of data: what is independent at best."""
    num_curves_hit: int
    num_curves: int
    per_100k: float
    upper_per_100k: float
    """95% upper bound, exact for independent steps (Poisson)."""
    upper_per_100k_distinct: float
    """The bound by the longest curve of each order alone."""


@dataclass(frozen=True, slots=True)
class Detection:
    rule: str
    shape: str
    is_wanted: bool
    num_found: int
    num_places: int
    share: float
    low: float
    high: float
    """Ends of the 95% interval of the share (Wilson)."""
    median_delay_steps: float | None
    """From the first planted step; None where nothing was found."""
    delays_steps: tuple[int, ...]
    """All of them, shortest first."""

    def share_within(self, num_steps: int) -> float:
        """Share of all places at which it was found so many steps after it began, or earlier."""
        return sum(delay <= num_steps for delay in self.delays_steps) / self.num_places


@dataclass(frozen=True, slots=True)
class Places:
    """Where shapes are planted: indices of steps, by the name of the curve."""

    settled: Mapping[str, tuple[int, ...]]
    early: Mapping[str, tuple[int, ...]]


def choose_places(
    curves: Sequence[Curve], num_places: int, longest: int, chance: np.random.Generator
) -> Places:
    """Draws about `num_places` places of either kind, as many from each group, whose curves are
    drawn anew for each place. `longest`: steps that must follow."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        if curve.loss.size > SETTLED_STEPS + longest:
            groups.setdefault(curve.group, []).append(curve)
    settled: dict[str, list[int]] = {}
    early: dict[str, list[int]] = {}
    for members in groups.values():
        for _ in range(math.ceil(num_places / len(groups))):
            curve = members[chance.integers(len(members))]
            place = int(chance.integers(SETTLED_STEPS, curve.loss.size - longest))
            settled.setdefault(curve.name, []).append(place)
            early.setdefault(curve.name, []).append(int(chance.integers(*EARLY_STEPS)))
    return Places(
        {name: tuple(sorted(places)) for name, places in settled.items()},
        {name: tuple(sorted(places)) for name, places in early.items()},
    )


def score_rule(
    rule_name: str,
    make_rule: Callable[[int], LossRule],
    curves: Sequence[Curve],
    shapes: Sequence[Shape],
    places: Places,
) -> tuple[FalseEvents, list[Detection]]:
    """Runs a rule once over every curve; at each place a fork of it sees each shape instead."""
    flagged: list[list[int]] = []
    found: dict[str, list[int | None]] = {shape.name: [] for shape in shapes}
    for curve in curves:
        rule, flags = make_rule(curve.loss.size), list[int]()
        settled, early = places.settled.get(curve.name, ()), places.early.get(curve.name, ())
        for index, (loss, grad_norm) in enumerate(zip(curve.loss, curve.grad_norm, strict=True)):
            for shape in shapes if index in settled or index in early else ():
                for _ in range((early if shape.is_early else settled).count(index)):
                    found[shape.name].append(_delay(rule.fork(), curve, index, shape))
            if rule.update(float(loss), float(grad_norm)) and index >= WARM_UP_STEPS:
                flags.append(index)
        flagged.append(flags)
    return (
        false_events(rule_name, curves, flagged),
        [detection(rule_name, shape, found[shape.name]) for shape in shapes if found[shape.name]],
    )


def num_events(flags: Sequence[int]) -> int:
    """Events among flagged steps, which rise."""
    return sum(
        index == 0 or step - flags[index - 1] > SAME_EVENT_STEPS for index, step in enumerate(flags)
    )


def false_events(
    rule_name: str, curves: Sequence[Curve], flagged: Sequence[Sequence[int]]
) -> FalseEvents:
    """Counts the events of healthy curves. `flagged`: steps of each, after the warm-up."""
    judged = [max(0, curve.loss.size - WARM_UP_STEPS) for curve in curves]
    events = [num_events(flags) for flags in flagged]
    longest: dict[str, tuple[int, int]] = {}
    for curve, steps, count in zip(curves, judged, events, strict=True):
        if steps > longest.get(curve.order, (-1, 0))[0]:
            longest[curve.order] = steps, count
    num_distinct_steps = sum(steps for steps, _ in longest.values())
    num_distinct_events = sum(count for _, count in longest.values())
    # a curve within its warm-up has nothing to count
    all_steps, distinct_steps = max(1, sum(judged)), max(1, num_distinct_steps)
    return FalseEvents(
        rule_name,
        sum(events),
        sum(judged),
        num_distinct_events,
        num_distinct_steps,
        sum(count > 0 for count in events),
        len(curves),
        1e5 * sum(events) / all_steps,
        1e5 * poisson_upper(sum(events)) / all_steps,
        1e5 * poisson_upper(num_distinct_events) / distinct_steps,
    )


def detection(rule_name: str, shape: Shape, delays: Sequence[int | None]) -> Detection:
    """Counts what was found; `delays`: one for each place, None where it was not."""
    found = sorted(delay for delay in delays if delay is not None)
    low, high = wilson(len(found), len(delays))
    return Detection(
        rule_name,
        shape.name,
        shape.is_wanted,
        len(found),
        len(delays),
        len(found) / len(delays),
        low,
        high,
        float(np.median(found)) if found else None,
        tuple(found),
    )


def _delay(rule: LossRule, curve: Curve, start: int, shape: Shape) -> int | None:
    """Steps from the first planted one to the first flag."""
    ends = start + shape.factor.size
    loss, grad_norm = curve.loss[start:ends] * shape.factor, curve.grad_norm[start:ends]
    for delay, (value, norm) in enumerate(zip(loss, grad_norm, strict=True)):
        if rule.update(float(value), float(norm)):
            return delay
    return None
