"""The same batches or clips odd in several runs are said to be the data."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moescope.monitors.autopsy.across import across_runs
from moescope.monitors.autopsy.record import Entry, FlightRecord
from moescope.monitors.autopsy.story import first_account
from moescope.monitors.autopsy.verdict import Arm, Cause, Verdict
from moescope.platform import catalogue
from moescope.platform.incidents import put_incident
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.store import Store, open_store

MakeEntry = Callable[..., Entry]
DATA = {
    "folder": "/data/clips",
    "order": "shuffled",
    "batch": 8,
    "windows_per_clip": 1,
    "validation_share": 0.05,
}
KEPT = (catalogue.LOSS_PER_SAMPLE, catalogue.LOSS_SIGMA, catalogue.DATA_BATCH)


@pytest.fixture
def store(tmp_path: Path, put_store: Callable[[Path], str]) -> Iterator[Store]:
    opened = open_store(put_store(tmp_path / "store.db"))
    yield opened
    opened.close()


def add_run(store: Store, name: str, seed: int = 0, data: Mapping[str, Any] = DATA) -> Run:
    config = {"seed": seed, "data": dict(data)}
    run = Run(name, name, "study-1", config, "finished", "cpu", "0.1", 1.0, 1.0)
    store.add_run(run)
    store.add_segment(Segment(run.id, 0, 0, "start", 1.0))
    return run


def write(store: Store, run: Run, entries: list[Entry]) -> None:
    frames = [
        Frame(run.id, 0, e.step, 1.0, {name: np.asarray(e.values[name]) for name in KEPT})
        for e in entries
    ]
    store.write_frames(frames)


def test_batches_that_are_odd_in_another_run_are_the_data(
    store: Store, spike: FlightRecord, entry: MakeEntry
) -> None:
    mine, other = add_run(store, "r"), add_run(store, "other")
    # it came to the same batches three steps later, as it was resumed
    write(store, other, [entry(s + 3, batch=s, chance=1, factor=4.0 if s >= 100 else 1.0)
                         for s in range(110)])  # fmt: skip
    verdict = Verdict(causes=["not_reproducible"], is_replayed=True)
    found = across_runs(store, mine, spike, verdict)
    assert [row["run"] for row in found["odd_in"]] == ["other"]
    assert verdict.causes == ["data"]
    assert any("it is the data" in line for line in found["said"])


def test_batches_that_were_nothing_odd_elsewhere_are_no_evidence_of_data(
    store: Store, spike: FlightRecord, entry: MakeEntry
) -> None:
    mine, other = add_run(store, "r"), add_run(store, "other")
    write(store, other, [entry(s, chance=1) for s in range(110)])
    verdict = Verdict(causes=["state"], is_replayed=True)
    found = across_runs(store, mine, spike, verdict)
    assert [row["run"] for row in found["fine_in"]] == ["other"]
    assert verdict.causes == ["state"]
    assert any("nothing odd in other" in e.text for e in verdict.evidence)


def test_the_same_clips_in_incidents_of_two_runs_are_the_data_whatever_their_order(
    store: Store, spike: FlightRecord
) -> None:
    mine, other = add_run(store, "r"), add_run(store, "other", seed=7)
    account = first_account(spike, 1.0)
    put_incident(store, replace(account, alert_id="theirs", run_id=other.id))
    verdict = Verdict()
    found = across_runs(store, mine, spike, verdict)
    assert [row["run"] for row in found["incidents"]] == ["other"]
    assert verdict.causes == ["data"]


WITH_OTHER_DATA = Arm("other_data", "with batches from before the onset", "yes", 9.0)


@pytest.mark.parametrize("which", ["clips", "batches"])
@pytest.mark.parametrize(
    "proven",
    [
        Verdict(causes=["state"], is_replayed=True),
        Verdict(causes=["precision"], is_replayed=True),
        Verdict(arms=[WITH_OTHER_DATA], is_replayed=True),
        Verdict(causes=["not_reproducible"], arms=[WITH_OTHER_DATA], is_replayed=True),
    ],
    ids=["state", "precision", "shown with other data", "gone, shown with other data"],
)
def test_what_other_runs_found_is_only_noted_where_the_replay_shows_another_cause(
    store: Store, spike: FlightRecord, entry: MakeEntry, which: str, proven: Verdict
) -> None:
    mine, other = add_run(store, "r"), add_run(store, "other")
    if which == "clips":
        put_incident(store, replace(first_account(spike, 1.0), alert_id="a", run_id=other.id))
    else:
        write(store, other, [entry(s, chance=1, factor=4.0 if s >= 100 else 1.0)
                             for s in range(110)])  # fmt: skip
    verdict = deepcopy(proven)
    found = across_runs(store, mine, spike, verdict)
    assert found["incidents" if which == "clips" else "odd_in"]
    assert verdict.causes == proven.causes
    [told] = verdict.evidence
    assert told.speaks_for == "-"
    assert told.text.startswith(f"the same {which} are odd in other, too, but the replay ")
    assert "it is the data" not in found["said"][0]


@pytest.mark.parametrize("causes", [["data"], ["data", "state"]])
def test_other_runs_confirm_the_data_that_the_replay_names(
    store: Store, spike: FlightRecord, causes: list[Cause]
) -> None:
    mine, other = add_run(store, "r"), add_run(store, "other")
    put_incident(store, replace(first_account(spike, 1.0), alert_id="a", run_id=other.id))
    verdict = Verdict(causes=list(causes), is_replayed=True)
    found = across_runs(store, mine, spike, verdict)
    assert verdict.causes == causes
    assert "it is the data" in found["said"][0]
    assert [e.speaks_for for e in verdict.evidence] == ["data"]


@pytest.mark.parametrize("what", ["another folder", "another seed", "too short"])
def test_runs_that_did_not_train_on_the_same_tell_nothing(
    store: Store, spike: FlightRecord, entry: MakeEntry, what: str
) -> None:
    mine = add_run(store, "r")
    data = {**DATA, "folder": "/data/others"} if what == "another folder" else DATA
    other = add_run(store, "other", seed=1 if what == "another seed" else 0, data=data)
    num = 60 if what == "too short" else 110
    write(store, other, [entry(s, factor=4.0 if s >= 100 else 1.0) for s in range(num)])
    verdict = Verdict()
    found = across_runs(store, mine, spike, verdict)
    assert (found["odd_in"], found["fine_in"], verdict.causes) == ([], [], [])
