"""The texts of the files that a mirrored run has in MLflow; pure."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records import Alert, Checkpoint, Incident
from ..terminal import plain

CONFIG = "config.json"
CHECKPOINTS = "checkpoints.json"
_MOST_ROWS = 8


def json_page(value: Any) -> str:
    return json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n"


def checkpoint_rows(text: str) -> dict[tuple[int, int], dict[str, Any]]:
    """{(segment, step): row} of a manifest; nothing where it is none."""
    try:
        return {(int(row["segment"]), int(row["step"])): dict(row) for row in json.loads(text)}
    except (ValueError, KeyError, TypeError):
        return {}


def checkpoint_row(checkpoint: Checkpoint) -> dict[str, Any]:
    row: dict[str, Any] = plain(checkpoint)
    del row["run_id"]
    return row


def checkpoint_page(rows: Mapping[tuple[int, int], Mapping[str, Any]]) -> str:
    """All checkpoints of a run, the newest last."""
    return json_page([rows[key] for key in sorted(rows)])


def load_page(step: int, load_LE: NDArray[np.float32]) -> str:
    """A table that MLflow's page shows as one: a row per layer with routers, a column per expert.

    load_LE: (layer, expert), each expert's load as a multiple of its layer's mean.
    """
    num_experts = load_LE.shape[1]
    lines = [",".join(["step", "layer", *(f"expert_{e}" for e in range(num_experts))])]
    for layer, load_E in enumerate(load_LE):
        lines.append(",".join([str(step), str(layer), *(f"{load:.4g}" for load in load_E)]))
    return "\n".join(lines) + "\n"


def incident_files(incident: Incident, alert: Alert | None) -> dict[str, str]:
    """{name: text} of its files: one to read and one for programs."""
    # readable, and safe as a path
    words = incident.alert_id.removeprefix(incident.run_id).lstrip("/-")
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in words)
    return {
        f"incidents/{safe}.md": incident_page(incident, alert),
        f"incidents/{safe}.json": json_page(incident),
    }


def incident_page(incident: Incident, alert: Alert | None) -> str:
    """The account of an incident in words, as `moescope incident` says it."""
    content = incident.content
    title = f"{alert.rule}: {alert.message}" if alert is not None else incident.alert_id
    lines = [f"# {title}", ""]
    for name in ("onset", "alarm"):
        place = content.get(name) or {}
        if "step" in place:
            lines.append(f"- {name}: step {place['step']} of segment {place.get('segment', 0)}")
    verdict = content.get("verdict") or {}
    lines += ["", "## Verdict", "", str(verdict.get("words", incident.verdict))]
    lines += _list(
        f"speaks for {evidence['speaks_for']}: {evidence['text']}"
        for evidence in verdict.get("evidence", ())
    )
    lines += ["", "## What moved first", ""]
    lines += _list(
        f"step {mover['step']}: {mover['what']}, {mover['score']:+.1f} spreads"
        for mover in content.get("movers", ())
    ) or ["nothing left its range"]
    lines += ["", "## Clips that stand out", ""]
    lines += _list(
        f"{clip['name']}, {clip['score']:.1f} spreads in {clip['modality']}"
        for clip in content.get("clips", ())
    ) or ["none"]
    lines += ["", "## What to do", ""]
    lines += _list([*content.get("next", ()), *content.get("notes", ())])
    return "\n".join(lines) + "\n"


def _list(items: Iterable[str]) -> list[str]:
    return [f"- {item}" for item in list(items)[:_MOST_ROWS]]
