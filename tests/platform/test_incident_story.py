"""What followed an alert, and whether and after how many steps the loss was back."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from moescope.monitors.policy import ADVISED
from moescope.platform import catalogue, incident_story
from moescope.platform.incident_story import recovery_of, what_followed
from moescope.platform.records import Alert, Event, Frame, Run, Segment
from moescope.platform.store import Store, open_store

ALERT = Alert(
    "a", "r", 0, "loss_spike", "critical", 60, 63, 9.0, 4.0, "high", time.time(), "key",
    evidence={"signal": catalogue.LOSS_TOTAL},
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, put_store: Callable[[Path], str]) -> Iterator[Store]:
    with open_store(put_store(tmp_path / "store.db")) as opened:
        now_s = time.time()
        opened.add_run(Run("r", "r", "p", {}, "running", "cpu", "0", now_s, now_s))
        opened.add_segment(Segment("r", 0, 0, "start", now_s))
        opened.put_alert(ALERT)
        yield opened


def _train(store: Store, segment: int, first: int, losses: list[float]) -> None:
    frames = [
        Frame("r", segment, first + i, time.time(), {catalogue.LOSS_TOTAL: np.float32(loss)})  # type: ignore[dict-item]
        for i, loss in enumerate(losses)
    ]
    store.write_frames(frames)


def _note(store: Store, step: int, text: str, **details: str) -> None:
    store.add_event(Event("r", 0, step, time.time(), "note", text, details))


def test_a_run_that_comes_back_by_itself_is_healthy_after_so_many_steps(store: Store) -> None:
    # high from step 60 to 79; of the ten steps to 85 the lower half is back, and so their median
    _train(store, 0, 0, [1.0] * 60 + [5.0] * 20 + [1.0] * 40)
    found = recovery_of(store, ALERT)
    assert found is not None
    assert (found.step, found.segment, found.loss_before) == (85, 0, 1.0)
    # 63 is the alarm: 64 to 85
    assert found.num_steps == 22
    (told,) = what_followed(store, ALERT)
    assert told.text == (
        "healthy again after 22 steps: the loss is back at 1, before the onset it was 1"
    )


def test_after_a_rollback_the_abandoned_steps_count_too(store: Store) -> None:
    _train(store, 0, 0, [1.0] * 60 + [5.0] * 10)
    store.add_segment(Segment("r", 1, 50, "rollback", time.time(), 0, 49, "a"))
    _train(store, 1, 50, [1.0] * 30)
    found = recovery_of(store, ALERT)
    assert found is not None
    # six steps after the alarm before it went back, then the first ten from step 50 on
    assert (found.step, found.segment, found.num_steps) == (59, 1, 16)


def test_a_run_that_is_not_back_says_how_far_it_is(store: Store) -> None:
    _train(store, 0, 0, [1.0] * 60 + [5.0] * 40)
    found = recovery_of(store, ALERT)
    assert found is not None
    assert (found.step, found.num_steps, found.loss, found.loss_before) == (None, 36, 5.0, 1.0)
    assert what_followed(store, ALERT) == []


def test_with_too_little_measured_nothing_is_said(store: Store) -> None:
    _train(store, 0, 0, [1.0] * 60 + [5.0] * 8)
    assert recovery_of(store, ALERT) is None


def test_notes_are_told_where_they_name_the_alert(store: Store) -> None:
    for step in (64, 65):
        _note(store, step, f"{ADVISED}roll back to step 50", alert_id="a")
    _note(store, 66, "one batch has an unusually high loss")
    _note(store, 70, "loss_spike has learnt a new baseline: nothing has healed", alert_id="a")
    _note(store, 71, f"{ADVISED}damp", alert_id="another")
    assert [(f.what, f.step) for f in what_followed(store, ALERT)] == [("advice", 64), ("note", 70)]


def test_advice_begins_with_the_words_of_the_policy() -> None:
    assert ADVISED.startswith(incident_story._ADVISED)
