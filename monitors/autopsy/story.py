"""The account of an incident, as plain values that the store keeps and the dashboard draws.

onset, alarm        steps, batch, segment
movers              what left its range, in order of time: kind, what, signal, step, score
clips, num_clips    the clips whose losses stand out, the oddest first, and how many there are
course              steps with the score of the alert's signal and the loss, of the record and arms
verdict             causes, words, whether it is firm, evidence with what it speaks for
across              what other runs made of the same clips or batches
next                what a person should do
notes               what could not be done, and why
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...platform import catalogue
from ...platform.records import Incident
from .gauges import Gauge
from .movers import LOOK_BACK_STEPS, MOST_CLIPS, first_movers, odd_clips
from .onset import onset_of
from .record import Entry, FlightRecord
from .verdict import NO_CAUSE, UNEXAMINED, Verdict

SHOWN_BEFORE = 40
"""Steps before the onset that the course begins with."""
MOST_MOVERS = 24
WORDS: Mapping[str, str] = {
    "data": "the data",
    "state": "the state of the training",
    "precision": "precision",
    "not_reproducible": "not reproducible",
    NO_CAUSE: "no cause found",
    UNEXAMINED: "not examined yet",
}
_NEXT: Mapping[str, str] = {
    "data": "Look at the clips that stand out. Take broken ones out of the data folder, and find "
    "out how they came into it. Where the run has passed them over there is nothing else to do.",
    "state": "Where the learning rate is named, lower it or find out who raised it. Else go on "
    "from a certified checkpoint from before the onset (`moescope rollback RUN --to STEP`), unless "
    "the run has done so by itself; if it comes back from there, lower the learning rate.",
    "precision": "Train the same stretch with `compute.precision=fp32`, or with "
    "`compute.has_exact_router=true` where routers are named; look for code that casts weights.",
    "not_reproducible": "Suspect the machine: run its memory and GPU tests, look at its logs, and "
    "train on on another one. Look for hooks or callbacks that change activations or gradients.",
    NO_CAUSE: "Nothing has to be done. If alerts of this rule keep coming without a cause, raise "
    "its threshold or patience (`moescope rules set`).",
    UNEXAMINED: "`moescope incident ALERT` replays it and says what it was: data, state, "
    "precision, the machine, or chance.",
}


def first_account(record: FlightRecord, now_s: float) -> Incident:
    """What the record alone tells: everything but the verdict."""
    return account(record, Verdict(), now_s)


def account(
    record: FlightRecord,
    verdict: Verdict,
    now_s: float,
    *,
    across: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Incident:
    """Returns the account of an alert. across: see `across.py`."""
    alert, branch = record.alert, record.branch()
    onset, fired = onset_of(alert, branch), alert.fired_step
    movers = first_movers(branch, onset, fired)
    clips = odd_clips(branch, onset, fired)
    at_onset = next((e for e in branch if e.step == onset), None)
    content = {
        "onset": {
            "step": onset,
            "batch": None if at_onset is None else at_onset.batch,
            "segment": alert.segment,
            "told_by_the_rule": alert.onset_step,
        },
        "alarm": {"step": fired, "segment": alert.segment},
        "num_steps": len(record.entries),
        "movers": [asdict(mover) for mover in movers[:MOST_MOVERS]],
        "num_movers": len(movers),
        "clips": [asdict(clip) for clip in clips[:MOST_CLIPS]],
        "num_clips": len(clips),
        "course": _course(record, branch, verdict),
        "verdict": {
            "causes": list(verdict.causes),
            "words": words_of_verdict(verdict),
            "is_firm": verdict.is_firm,
            "evidence": [asdict(evidence) for evidence in verdict.evidence],
            "arms": [
                {"name": arm.name, "words": arm.words, "shows": arm.shows, "score": arm.excursion}
                for arm in verdict.arms
            ],
            "fidelity": None if verdict.faithful is None else asdict(verdict.faithful),
        },
        "across": dict(across or {}),
        "next": [_NEXT[cause] for cause in (*verdict.causes,) or (verdict.name,)],
        "notes": list(notes),
    }
    return Incident(
        alert.id, alert.run_id, now_s, verdict.name, verdict.is_replayed, finite(content)
    )


def words_of_verdict(verdict: Verdict) -> str:
    """The verdict in words, with its doubt."""
    named = " and ".join(WORDS[cause] for cause in verdict.causes) or WORDS[verdict.name]
    return named if verdict.is_firm or not verdict.is_replayed else f"probably {named}"


def _course(record: FlightRecord, branch: Sequence[Entry], verdict: Verdict) -> dict[str, Any]:
    alert = record.alert
    onset, fired = onset_of(alert, branch), alert.fired_step
    gauge = Gauge(
        str(alert.evidence.get("signal", "")),
        [e for e in branch if e.step < onset - LOOK_BACK_STEPS // 2],
    )
    shown = [e for e in branch if onset - SHOWN_BEFORE <= e.step <= fired]
    lines = {"record": _line(gauge, shown)}
    for arm in verdict.arms:
        lines[arm.name] = _line(gauge, [e for e in arm.course if e.step >= onset - SHOWN_BEFORE])
    return lines


def _line(gauge: Gauge, entries: Sequence[Entry]) -> dict[str, list[Any]]:
    return {
        "steps": [e.step for e in entries],
        "score": [gauge.score(e) for e in entries],
        "loss": [float(e.values.get(catalogue.LOSS_TOTAL, np.nan)) for e in entries],
    }


def finite(value: Any) -> Any:
    """The same with None for numbers that are not finite: JSON in PostgreSQL has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(twin) for key, twin in value.items()}
    if isinstance(value, list | tuple):
        return [finite(twin) for twin in value]
    return value
