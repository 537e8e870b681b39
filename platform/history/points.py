"""What a reader of another tracker gives: its runs, and of each the points in the order in which
they were logged."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..records import Event, Run, RunStatus, Segment

Kind = Literal["mlflow", "tensorboard", "wandb-csv", "jsonl"]

_MICROSECONDS_FROM, _MILLISECONDS_FROM = 1e14, 1e11
"""Of times since the epoch: 1e11 s are the year 5138, 1e11 ms are 1973."""


class Point(NamedTuple):
    name: str
    """As the source calls it."""
    step: int
    time_s: float
    """NaN where the source does not tell."""
    value: Any
    """A number; nested lists of a vector that moescope itself exported."""
    segment: int | None = None
    """As the source tells it; None where it does not know of segments."""


@dataclass(slots=True)
class Told:
    """What a source tells beside its points; complete when the last point was read."""

    params: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    note: str = ""
    status: RunStatus = "finished"
    device: str = ""
    code_version: str = ""
    created_s: float | None = None
    finished_s: float | None = None
    made_s: float | None = None
    """When its file was written: the time of points that have none."""
    left: dict[str, str] = field(default_factory=dict)
    """{what was left out: why}"""
    notes: list[str] = field(default_factory=list)
    """Lines for whoever imports."""
    meet: Callable[[Sequence[str]], None] = lambda names: None
    """To be called with names that come together, in front of their points: of several that mean
    the same, the surest is then taken."""


@dataclass(frozen=True, slots=True)
class Source:
    """One run of a source. `points` may be called again and then starts anew.

    key: what the run is known by, of its kind: an import of the same adds to it.
    names: what will come, where it is known beforehand; else each name counts when it is first met.
    """

    kind: Kind
    key: str
    name: str
    project: str
    place: str
    """Where it lies, as a person may read it: without a password."""
    points: Callable[[Told], Iterator[Point]]
    names: Sequence[str] = ()
    is_of_one_place: bool = True
    """Whether another place with this key is most likely another run."""
    can_go_back: bool = True
    """Whether a step that comes again tells of a resume; else the last value counts."""
    own_run: Run | None = None
    """The run itself, where moescope exported it; with its segments."""
    own_segments: Sequence[Segment] = ()
    own_events: Sequence[Event] = ()


def seconds_of(value: float) -> float:
    """A time since the epoch in seconds, given in seconds, milli- or microseconds."""
    if abs(value) >= _MICROSECONDS_FROM:
        return value / 1e6
    return value / 1e3 if abs(value) >= _MILLISECONDS_FROM else value


def key_of(project: str, name: str) -> str:
    """What a run is known by that has nothing better."""
    return f"{project}\x00{name}"


def plain_of(text: str) -> Any:
    """A parameter that was written as text: what it says as JSON, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (name, value) of nested mappings, with `/` between the names."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}/")
        else:
            yield name, value
