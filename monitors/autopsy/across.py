"""Across runs: whether the same clips or batches were odd in other runs, too, which says that it is
the data, unless the replay has shown something else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...platform import catalogue
from ...platform.incidents import incidents
from ...platform.records import Run
from ...platform.series import read_series
from ...platform.store import Store
from .gauges import LEAST_SPREADS_OF_A_BATCH, LossGauge
from .movers import LOOK_BACK_STEPS, odd_clips
from .onset import onset_of
from .record import Entry, FlightRecord
from .verdict import Verdict

MOST_RUNS = 20
"""Newest runs of a project that are looked at."""
LEARNT_STEPS = 60
"""Steps before a batch that say what was usual in another run."""
FEWEST_SHARED = 2
"""Clips that two incidents must share: one may be hard."""
_ORDER_KEYS = ("order", "windows_per_clip", "batch", "validation_share", "folder")


def across_runs(store: Store, run: Run, record: FlightRecord, verdict: Verdict) -> dict[str, Any]:
    """Looks at the other runs of the project (a study's runs are of one), and adds to the verdict
    what they say.

    {"incidents": runs whose incidents name the same clips, "odd_in": runs with the same order of
    data in which these batches were odd, "fine_in": in which they were not, "said": in words}
    """
    alert = record.alert
    onset = onset_of(alert, record.branch())
    odd = {c.name for c in odd_clips(record.branch(), onset, alert.fired_step)}
    stretch = sorted({e.batch for e in record.branch() if onset <= e.step <= alert.fired_step})
    others = [o for o in store.runs() if o.project == run.project and o.id != run.id][:MOST_RUNS]
    found: dict[str, Any] = {"incidents": [], "odd_in": [], "fine_in": [], "said": []}
    for other in others:
        if _data(other).get("folder") != _data(run).get("folder"):
            continue
        shared = max(
            (len(odd & {c["name"] for c in known.content.get("clips", ())}) for known in
             incidents(store, other.id)),
            default=0,
        )  # fmt: skip
        if shared >= FEWEST_SHARED:
            found["incidents"].append({"run": other.name, "run_id": other.id, "clips": shared})
        if _is_same_order(run, other) and stretch:
            score = _score_there(store, other, stretch)
            if score is not None:
                name = "odd_in" if score >= LEAST_SPREADS_OF_A_BATCH else "fine_in"
                found[name].append({"run": other.name, "run_id": other.id, "score": score})
    _say(found, verdict)
    return found


def _say(found: dict[str, Any], verdict: Verdict) -> None:
    odd, fine = found["odd_in"], found["fine_in"]
    named = sorted({row["run"] for row in (*found["incidents"], *odd)})
    if named:
        which = "clips" if found["incidents"] else "batches"
        text = f"the same {which} are odd in {', '.join(named)}, too"
        against = _shown_against_data(verdict)
        if against:
            text = f"{text}, but {against}"
            found["said"].append(f"Across runs: {text}.")
            verdict.note(text)
            return
        text = f"{text}: it is the data"
        found["said"].append(f"Across runs: {text}.")
        verdict.add("data", text)
        if "not_reproducible" in verdict.causes:
            # what another run saw as well did not come from this machine
            verdict.causes.remove("not_reproducible")
    elif fine:
        names = ", ".join(row["run"] for row in fine)
        text = f"the same batches were nothing odd in {names}"
        found["said"].append(f"Across runs: {text}.")
        verdict.note(text)


def _shown_against_data(verdict: Verdict) -> str:
    """What the replay has shown that other runs cannot make the data's, in words; else empty. The
    same spoiled start or code makes two runs odd at the same place as well."""
    if "data" in verdict.causes:
        return ""
    if any(arm.name == "other_data" and arm.shows == "yes" for arm in verdict.arms):
        return "the replay shows it with batches from before the onset, too"
    proven = [cause for cause in verdict.causes if cause in ("state", "precision")]
    return f"the replay names {' and '.join(proven)}" if proven else ""


def _data(run: Run) -> Mapping[str, Any]:
    told = run.config.get("data")
    return told if isinstance(told, Mapping) else {}


def _is_same_order(run: Run, other: Run) -> bool:
    mine, theirs = _data(run), _data(other)
    return run.config.get("seed") == other.config.get("seed") and all(
        mine.get(key) == theirs.get(key) for key in _ORDER_KEYS
    )


def _score_there(store: Store, other: Run, batches: Sequence[int]) -> float | None:
    """How odd the batches were in another run, as a mean over its steps with them; None where it
    has not trained on most of them, or too little before."""
    numbers = read_series(store, other.id, catalogue.DATA_BATCH)
    wanted = np.isin(numbers.values.astype(np.int64), batches)
    if wanted.sum() < (len(batches) + 1) // 2:
        return None
    first = int(numbers.steps[wanted].min())
    from_step = max(0, first - LEARNT_STEPS - LOOK_BACK_STEPS)
    to_step = int(numbers.steps[wanted].max())
    read = {
        name: read_series(store, other.id, name, from_step=from_step, to_step=to_step)
        for name in (catalogue.LOSS_PER_SAMPLE, catalogue.LOSS_SIGMA)
    }
    losses, sigmas = read[catalogue.LOSS_PER_SAMPLE], read[catalogue.LOSS_SIGMA]
    sigma_at = {
        (int(s), int(g)): v
        for s, g, v in zip(sigmas.steps, sigmas.segments, sigmas.values, strict=True)
    }
    batch_at = {
        (int(s), int(g)): int(v)
        for s, g, v in zip(numbers.steps, numbers.segments, numbers.values, strict=True)
    }
    entries = [
        Entry(int(g), int(s), batch_at.get((int(s), int(g)), -1), (), (), {
            catalogue.LOSS_PER_SAMPLE: value, catalogue.LOSS_SIGMA: sigma_at[int(s), int(g)]
        })
        for s, g, value in zip(losses.steps, losses.segments, losses.values, strict=True)
        if (int(s), int(g)) in sigma_at
    ]  # fmt: skip
    usual = [e for e in entries if e.step < first - LOOK_BACK_STEPS // 2]
    if len(usual) < LEARNT_STEPS // 3:
        return None
    gauge = LossGauge(usual)
    scores = [gauge.score(e) for e in entries if e.batch in set(batches)]
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None
