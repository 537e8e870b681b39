"""Schedules: due when the clock says so, once whoever ticks, made up once after a silence."""

import threading
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from moescope.platform import trials
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Schedule
from moescope.platform.store import Store, open_store
from moescope.studies import schedules

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def told(time_s: float | None, zone: str = BERLIN) -> str:
    assert time_s is not None
    return datetime.fromtimestamp(time_s, ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M:%S")


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    """A study of two trials that can be planned."""
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"1")
    return {
        "name": "s",
        "kind": "seeds",
        "data": str(folder),
        "budget": {"tokens": [1e6]},
        "seeds": [0, 1],
    }


def kept(store: Store, spec: dict[str, Any], kind: Any, when: str, now_s: float) -> Schedule:
    schedule = schedules.made("nightly", spec, kind, when, BERLIN, now_s)
    schedules.keep(store, schedule)
    return schedule


@pytest.mark.parametrize(
    ("line", "next_one"),
    [
        pytest.param("0 22 * * *", "Sun 2026-11-29 22:00:00", id="every evening"),
        pytest.param("30 6 * * 1-5", "Mon 2026-11-30 06:30:00", id="cron's Monday is 1"),
        pytest.param("0 0 * * 0", "Sun 2026-12-06 00:00:00", id="cron's Sunday is 0"),
        pytest.param("0 0 * * 7", "Sun 2026-12-06 00:00:00", id="and 7"),
        pytest.param("0 0 * * sat", "Sat 2026-12-05 00:00:00", id="by name"),
        pytest.param("0 0 * * fri-mon", "Mon 2026-11-30 00:00:00", id="over the week's end"),
        pytest.param("0 0 * * 2-6/2", "Tue 2026-12-01 00:00:00", id="in steps"),
        pytest.param("*/15 * * * *", "Sun 2026-11-29 12:15:00", id="every quarter"),
        pytest.param("0 0 29 2 *", "Tue 2028-02-29 00:00:00", id="a leap day"),
    ],
)
def test_a_cron_line_comes_due_as_cron_reads_it(line: str, next_one: str) -> None:
    schedule = Schedule("n", {}, "cron", line, BERLIN, 0.0)
    assert told(schedules.next_due(schedule, at("2026-11-29T12:00:00"))) == next_one


def test_the_evening_is_the_zone_s_on_both_sides_of_summer_time() -> None:
    schedule = Schedule("n", {}, "cron", "0 22 * * *", BERLIN, 0.0)
    before = schedules.next_due(schedule, at("2026-10-24T12:00:00"))
    after = schedules.next_due(schedule, at("2026-10-25T12:00:00"))
    assert before is not None
    assert after is not None
    # that night has an hour more
    assert after - before == 25 * 3600


@pytest.mark.parametrize(
    ("kind", "when", "zone", "says"),
    [
        ("cron", "0 22 * *", BERLIN, "five fields"),
        ("cron", "0 0 1 * mon", BERLIN, "give one of them"),
        ("cron", "0 0 * * 8", BERLIN, "8 is no day of the week"),
        ("cron", "99 0 * * *", BERLIN, "is no time"),
        ("cron", "0 0 30 2 *", BERLIN, "never comes"),
        ("interval", "soon", BERLIN, "give 90s, 30m, 6h or 2d"),
        ("interval", "0s", BERLIN, "give 90s, 30m, 6h or 2d"),
        ("interval", "999999999999d", BERLIN, "give 90s, 30m, 6h or 2d"),
        ("cron", "0 0 * * mon-", BERLIN, "mon- has no end"),
        ("once", "2020-01-01T00:00", BERLIN, "never comes"),
        ("once", "tomorrow", BERLIN, "is no time"),
        ("cron", "0 22 * * *", "Berlin", "unknown time zone Berlin"),
    ],
)
def test_what_is_no_time_is_one_line(kind: Any, when: str, zone: str, says: str) -> None:
    with pytest.raises(MoescopeError, match=says) as caught:
        schedules.made("n", {}, kind, when, zone, at("2026-11-29T12:00:00"))
    assert "\n" not in str(caught.value)


def test_an_interval_counts_from_when_it_was_made() -> None:
    schedule = Schedule("n", {}, "interval", "6h", BERLIN, 1000.0)
    assert schedules.next_due(schedule, 1000.0) == 1000.0 + 6 * 3600
    assert schedules.last_due(schedule, 1000.0, 1000.0 + 20 * 3600) == 1000.0 + 18 * 3600


def test_it_asks_for_the_trials_once_when_it_is_due(store: Store, spec: dict[str, Any]) -> None:
    kept(store, spec, "cron", "0 22 * * *", at("2026-11-29T12:00:00"))
    assert schedules.tick(store, "me", at("2026-11-29T21:59:59")) == []
    assert trials.studies(store) == []
    (firing,) = schedules.tick(store, "me", at("2026-11-29T22:00:01"))
    assert firing.due_s == at("2026-11-29T22:00:00")
    assert firing.outcome == "2 trials, 2 new, 0 retired, 0 tried anew"
    assert [one.name for one in trials.studies(store) if one.is_served] == ["s"]
    assert len(trials.trials(store, "s")) == 2
    assert schedules.tick(store, "me", at("2026-11-29T22:00:02")) == []
    assert len(schedules.firings(store, "nightly")) == 1


def test_nights_that_were_missed_are_made_up_once(store: Store, spec: dict[str, Any]) -> None:
    kept(store, spec, "cron", "0 22 * * *", at("2026-01-01T12:00:00"))
    (firing,) = schedules.tick(store, "me", at("2026-11-29T12:00:00"))
    assert told(firing.due_s) == "Sat 2026-11-28 22:00:00"
    assert schedules.tick(store, "me", at("2026-11-29T12:00:01")) == []


def test_a_schedule_of_every_second_that_slept_for_a_year_is_soon_awake(
    store: Store, spec: dict[str, Any]
) -> None:
    kept(store, spec, "interval", "1s", at("2025-11-29T12:00:00"))
    (firing,) = schedules.tick(store, "me", at("2026-11-29T12:00:00"))
    assert firing.due_s == at("2026-11-29T12:00:00")


def test_once_is_once(store: Store, spec: dict[str, Any]) -> None:
    schedule = kept(store, spec, "once", "2026-11-29T13:00", at("2026-11-29T12:00:00"))
    assert len(schedules.tick(store, "me", at("2026-12-24T12:00:00"))) == 1
    assert schedules.tick(store, "me", at("2027-12-24T12:00:00")) == []
    assert schedules.next_due(schedule, at("2026-11-29T13:00:00")) is None


def test_two_services_that_tick_at_once_do_it_once(
    store: Store, store_url: str, spec: dict[str, Any]
) -> None:
    kept(store, spec, "interval", "60s", 1000.0)
    found: list[float] = []
    together = threading.Barrier(4)

    def tick(by: str) -> None:
        with open_store(store_url) as own:
            for minute in range(1, 6):
                together.wait()
                done = schedules.tick(own, by, 1000.0 + 60 * minute)
                found.extend(firing.due_s for firing in done)

    threads = [threading.Thread(target=tick, args=(f"s{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [1000.0 + 60 * minute for minute in range(1, 6)]
    assert len(schedules.firings(store, "nightly")) == 5
    assert len(trials.trials(store, "s")) == 2


def test_a_service_that_dies_in_the_middle_has_not_done_it(
    store: Store, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(store, spec, "interval", "60s", 1000.0)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trials, "ask_within", dies)
        with pytest.raises(KeyboardInterrupt):
            schedules.tick(store, "first", 1061.0)
    assert schedules.firings(store, "nightly") == []
    (firing,) = schedules.tick(store, "second", 1062.0)
    assert (firing.due_s, firing.by) == (1060.0, "second")


def test_what_failed_is_tried_anew_and_what_is_done_stays_done(
    store: Store, spec: dict[str, Any]
) -> None:
    kept(store, spec, "interval", "60s", 1000.0)
    schedules.tick(store, "me", 1060.0)
    done = trials.claim(store, "s", "w", "r0", 1060.0, 30.0)
    failed = trials.claim(store, "s", "w", "r1", 1060.0, 30.0)
    assert done is not None
    assert failed is not None
    trials.finish(store, done, {"loss": 1.0}, 1061.0)
    trials.fail(store, failed, "no", "", 1061.0, is_final=True)
    assert trials.is_over(store, "s")
    (firing,) = schedules.tick(store, "me", 1120.0)
    assert firing.outcome == "2 trials, 0 new, 0 retired, 1 tried anew"
    assert [trial.state for trial in trials.trials(store, "s")] == ["done", "waiting"]


def test_a_study_that_cannot_be_planned_or_rests_is_an_outcome(
    store: Store, spec: dict[str, Any]
) -> None:
    folder = Path(spec["data"])
    kept(store, spec, "interval", "60s", 1000.0)
    folder.rename(folder.with_name("elsewhere"))
    (firing,) = schedules.tick(store, "me", 1060.0)
    assert "is no folder" in firing.outcome
    assert trials.studies(store) == []
    folder.with_name("elsewhere").rename(folder)
    schedules.tick(store, "me", 1120.0)
    trials.set_state(store, "s", "paused")
    (firing,) = schedules.tick(store, "me", 1180.0)
    assert firing.outcome == "study s is paused: nothing was asked for"


def test_one_that_rests_makes_nothing_up(store: Store, spec: dict[str, Any]) -> None:
    kept(store, spec, "interval", "60s", 1000.0)
    schedules.set_paused(store, "nightly", is_paused=True)
    assert schedules.tick(store, "me", 2000.0) == []
    schedules.set_paused(store, "nightly", is_paused=False)
    assert schedules.tick(store, "me", 2000.0) == []
    schedules.remove(store, "nightly")
    with pytest.raises(MoescopeError, match="unknown schedule nightly"):
        schedules.remove(store, "nightly")


def test_a_budget_in_hours_needs_this_machine_to_be_calibrated_before(
    store: Store, spec: dict[str, Any]
) -> None:
    kept(store, {**spec, "budget": {"hours": [0.1]}}, "interval", "60s", 1000.0)
    (firing,) = schedules.tick(store, "me", 1060.0)
    assert "has not been calibrated for this study" in firing.outcome
