"""Reads what `moescope export --format jsonl` wrote: the same run, by its own id, bit for bit."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ..errors import MoescopeError
from ..records import Event, Run, Segment
from .export_files import END
from .exporting import VERSION
from .number_words import number_of
from .points import Point, Source, Told

HEAD = "moescope_export"
Record = TypeVar("Record", Run, Segment, Event)


def own_source(head: Mapping[str, Any], place: str, lines: Any) -> Source:
    """The run of an export. head: its first line. lines: a function that opens the file and yields
    its lines. Raises MoescopeError where a newer program wrote it, or it is damaged.
    """
    if head.get(HEAD) != VERSION:
        raise MoescopeError(
            f"{place} is an export of version {head.get(HEAD)}, and this program reads {VERSION}: "
            "upgrade it"
        )
    try:
        run = _record(Run, head["run"])
        segments = [_record(Segment, told) for told in head["segments"]]
        events = [_record(Event, told) for told in head.get("events", [])]
    except (KeyError, TypeError, AttributeError) as error:
        raise MoescopeError(f"the head of {place} is damaged ({error}): export it again") from None

    def points(told: Told) -> Iterator[Point]:
        if head.get("is_thinned"):
            most = head.get("thinned_to")
            told.notes.append(f"the file was thinned to {most} points a signal: detectors see gaps")
        yield from _points(place, lines)

    return Source(
        "jsonl",
        run.id,
        run.name,
        run.project,
        place,
        points,
        is_of_one_place=False,
        own_run=run,
        own_segments=segments,
        own_events=events,
    )


def _points(place: str, lines: Any) -> Iterator[Point]:
    for number, line in enumerate(lines(), 1):
        if number == 1:
            continue
        try:
            row = json.loads(line)
            if END in row:
                return
            yield Point(
                row["signal"],
                row["step"],
                _numbers(row["time_s"]),
                _numbers(row["value"]),
                row["segment"],
            )
        except (ValueError, KeyError, TypeError):
            raise MoescopeError(
                f"line {number} of {place} is damaged: what was before it is imported, and a "
                "whole file adds the rest"
            ) from None
    raise MoescopeError(f"{place} was cut off: what it has is imported, a whole one adds the rest")


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if isinstance(value, str):
        found = number_of(value)
        if found is None:
            raise ValueError(value)
        return found
    return float(value)


def _record(kind: type[Record], told: Mapping[str, Any]) -> Record:
    known = {field.name for field in fields(kind)}
    values = {name: value for name, value in told.items() if name in known}
    if kind is Run:
        values["tags"] = tuple(values["tags"])
        # nobody trains it here, wherever it was then
        values["mode"] = "off"
        if values["status"] == "running":
            values["status"] = "stopped"
    return kind(**values)
