"""The report of a score: all rules on the same curves and places, as values and as tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..plain_rules import PLAIN_RULES
from .curves import Curve
from .our_rules import own_rule
from .public_rules import PUBLIC_RULES, LossRule
from .recorded import Recorded, RecordedFinding, label, score_recorded
from .roc import Point, operating_points
from .score import (
    SAME_EVENT_STEPS,
    SETTLED_STEPS,
    WARM_UP_STEPS,
    Detection,
    FalseEvents,
    choose_places,
    score_rule,
)
from .shapes import SHAPES, SMALL_SPIKE

OURS = "moescope"
_LONGEST_STEPS = max(shape.factor.size for shape in SHAPES)
TOO_SHORT_STEPS = SETTLED_STEPS + _LONGEST_STEPS
"""Nothing is planted in a curve of so many steps: it has no place where a shape would fit."""
Table = tuple[str, list[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Report:
    part: str
    num_curves: int
    groups: tuple[str, ...]
    orders: tuple[str, ...]
    warm_up_steps: int
    same_event_steps: int
    seed: int
    false_events: tuple[FalseEvents, ...]
    detections: tuple[Detection, ...]
    recorded: tuple[RecordedFinding, ...]
    roc: tuple[Point, ...]

    def tables(self) -> list[Table]:
        """(title, rows) of each table."""
        healthy = (
            f"False events on {self.num_curves} healthy curves ({self.part}) of "
            f"{len(self.groups)} groups and {len(self.orders)} orders of data, judged after "
            f"{self.warm_up_steps} steps; alarms {self.same_event_steps} steps apart or less are "
            "one event"
        )
        planted = [
            (found.rule, found.shape + ("" if found.is_wanted else " *"), _cell(found))
            for found in self.detections
        ]
        faults = [(f.rule, label(f.event), _recorded_cell(f)) for f in self.recorded]
        return [
            (healthy, [_false_row(found) for found in self.false_events]),
            (
                "Found of what was planted: share (95% interval) @ median delay in steps",
                _by_rule(planted, "planted (* must not be found)"),
            ),
            (
                "Recorded faults behind a healthy curve of each group: found of those @ delay",
                _by_rule(faults, "event"),
            ),
            (
                f"As thresholds move: false events against '{SMALL_SPIKE}'",
                [_point_row(point) for point in self.roc],
            ),
        ]


def make_report(
    curves: Sequence[Curve],
    events: Sequence[Recorded],
    part: str,
    *,
    num_places: int = 300,
    seed: int = 0,
) -> Report:
    """Scores our rules and the public ones. Curves too short to plant in still count for false
    events."""
    places = choose_places(curves, num_places, _LONGEST_STEPS, np.random.default_rng(seed))
    makers: Mapping[str, Callable[[int], LossRule]] = {OURS: own_rule(PLAIN_RULES), **PUBLIC_RULES}
    false: list[FalseEvents] = []
    detections: list[Detection] = []
    recorded: list[RecordedFinding] = []
    for name, make_rule in makers.items():
        of_healthy, of_shapes = score_rule(name, make_rule, curves, SHAPES, places)
        false.append(of_healthy)
        detections += of_shapes
        recorded += score_recorded(name, make_rule, events, curves)
    return Report(
        part,
        len(curves),
        tuple(sorted({curve.group for curve in curves})),
        tuple(sorted({curve.order for curve in curves})),
        WARM_UP_STEPS,
        SAME_EVENT_STEPS,
        seed,
        tuple(false),
        tuple(detections),
        tuple(recorded),
        tuple(operating_points(curves, places)) if places.settled else (),
    )


def _false_row(found: FalseEvents) -> dict[str, str]:
    return {
        "rule": found.rule,
        "events": str(found.num_events),
        "steps": str(found.num_steps),
        "per 100k": f"{found.per_100k:.1f}",
        "95% at most": f"{found.upper_per_100k:.1f}",
        "longest run: events": str(found.num_distinct_events),
        "its steps": str(found.num_distinct_steps),
        "its 95% at most": f"{found.upper_per_100k_distinct:.1f}",
        "curves hit": f"{found.num_curves_hit} of {found.num_curves}",
    }


def _point_row(point: Point) -> dict[str, str]:
    return {
        "rule": point.family,
        "at": point.at,
        "false events": str(point.num_false_events),
        "per 100k": f"{point.false_per_100k:.1f}",
        "found": f"{point.detection:.2f}",
    }


def _by_rule(cells: Sequence[tuple[str, str, str]], head: str) -> list[dict[str, str]]:
    """A row for each thing, a column for each rule, from (rule, thing, cell)."""
    rows: dict[str, dict[str, str]] = {}
    for rule, thing, cell in cells:
        rows.setdefault(thing, {head: thing})[rule] = cell
    return list(rows.values())


def _cell(found: Detection) -> str:
    delay = "" if found.median_delay_steps is None else f" @{found.median_delay_steps:g}"
    return f"{found.share:.3f} ({found.low:.3f}-{found.high:.3f}){delay}"


def _recorded_cell(found: RecordedFinding) -> str:
    delay = "" if found.median_delay_steps is None else f" @{found.median_delay_steps:g}"
    return f"{found.num_found} of {found.num_histories}{delay}"
