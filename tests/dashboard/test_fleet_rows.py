"""A run as a row: what it does in words, its line of the loss, and what is sent at a refresh."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moescope.dashboard
from moescope.dashboard.doing import doing
from moescope.dashboard.fleet_changes import drawn, message
from moescope.dashboard.fleet_rows import WORST_FIRST, FleetRun, looks, row
from moescope.dashboard.reads import run_now
from moescope.dashboard.sparkline import HEIGHT, WIDTH, Sparkline, sparkline
from moescope.dashboard.theme import LAMPS
from moescope.dashboard.views.fleet import LISTS, SORTS
from moescope.platform import catalogue
from moescope.platform.fleet import Doings
from moescope.platform.records import Bands, Command, CommandKind, Event, Run, Segment
from moescope.platform.summaries import Summary

NOW_S = 10_000.0


def _run(**changes: Any) -> Run:
    values: dict[str, Any] = {
        "id": "id", "name": "amber", "project": "p", "config": {"steps": 100}, "status": "running",
        "device": "cpu", "code_version": "0", "created_s": NOW_S - 500, "heartbeat_s": NOW_S - 1,
    }  # fmt: skip
    return Run(**(values | changes))


def _summary(last: float, step: int = 40) -> Summary:
    return Summary(last, 0, step, 0.3, 0, 20, 2.0, 0, 0)


def _one(run: Run, about: Doings | None = None, **last: float) -> FleetRun:
    names = {
        "loss": catalogue.LOSS_TOTAL,
        "step_s": catalogue.STEP_TIME_S,
        "use": catalogue.UTILISATION,
    }
    summary = {names[name]: _summary(value) for name, value in last.items()}
    return FleetRun(run_now(run, summary, [], NOW_S), summary, (), about or Doings())


def _asked(kind: str, state: str, ago_s: float, answered: bool = False) -> Command:
    asked_s = NOW_S - ago_s
    return Command(kind, "id", kind, {}, "x", asked_s, state, "", asked_s if answered else None)  # type: ignore[arg-type]


def _event(kind: str, ago_s: float) -> Event:
    return Event("id", 0, 50, NOW_S - ago_s, kind, "text")  # type: ignore[arg-type]


class TestWhatARunDoes:
    @pytest.mark.parametrize(
        ("status", "text"),
        [
            ("finished", "finished"),
            ("stopped", "stopped"),
            ("crashed", "crashed"),
            ("halted", "halted: waits for a person"),
        ],
    )
    def test_one_that_has_ended_says_how(self, status: str, text: str) -> None:
        run = _run(status=status, finished_s=NOW_S - 60)
        found = doing(_one(run, loss=1.0).now, Doings(), NOW_S)
        assert (found.text, found.since_s) == (text, NOW_S - 60)
        assert found.is_over == (status != "halted")

    def test_one_that_fell_silent_says_since_when_whatever_was_asked(self) -> None:
        about = Doings([_asked("rollback", "taken", 300)])
        found = doing(_one(_run(heartbeat_s=NOW_S - 180), loss=1.0).now, about, NOW_S)
        assert (found.text, found.since_s) == ("silent", NOW_S - 180)

    @pytest.mark.parametrize(
        ("about", "text", "more"),
        [
            (Doings(), "training", ""),
            (Doings([_asked("rollback", "taken", 2)]), "rolling back", ""),
            (Doings([_asked("checkpoint", "taken", 2)]), "saving a checkpoint", ""),
            (Doings([_asked("checkpoint", "asked", 2)]), "training", "asked to save a checkpoint"),
            (Doings([_asked("pause", "done", 90, True)]), "paused", ""),
            (
                Doings([_asked("pause", "done", 90, True), _asked("rollback", "asked", 2)]),
                "paused",
                "asked to roll back",
            ),
            (
                Doings([_asked("pause", "done", 90, True), _asked("continue", "done", 9, True)]),
                "training",
                "",
            ),
            # a process that began after the pause trains
            (Doings([_asked("pause", "done", 90, True)], resumed_s=NOW_S - 30), "training", ""),
            (Doings(event=_event("rollback", 60)), "training", "rolled back at step 50"),
            (Doings(event=_event("rollback", 4000)), "training", ""),
        ],
    )
    def test_what_a_person_waits_for_comes_first(self, about: Doings, text: str, more: str) -> None:
        found = doing(_one(_run(), loss=1.0).now, about, NOW_S)
        assert (found.text, found.more) == (text, more)

    def test_one_without_a_step_is_starting(self) -> None:
        assert doing(_one(_run()).now, Doings(), NOW_S).text == "starting"

    def test_one_that_acts_not_by_itself_says_so(self) -> None:
        found = doing(_one(_run(mode="off"), loss=1.0).now, Doings(), NOW_S)
        assert found.more == "automatic action off"

    def test_every_kind_of_command_has_words(self) -> None:
        for kind in get_args(CommandKind):
            for state in ("asked", "taken"):
                found = doing(_one(_run(), loss=1.0).now, Doings([_asked(kind, state, 1)]), NOW_S)
                assert found.text
                assert found.more or state == "taken"


class TestARow:
    def test_it_is_json_whatever_was_measured(self) -> None:
        for value in (math.nan, math.inf, -math.inf, 0.0, 1e30):
            sent = row(_one(_run(), loss=value, use=value), NOW_S)
            json.dumps(sent, allow_nan=False)
            assert sent["loss"]["text"]
        assert row(_one(_run(), loss=math.nan), NOW_S)["loss"]["value"] is None

    def test_the_time_left_is_told_only_while_it_trains(self) -> None:
        step = row(_one(_run(), loss=1.0, step_s=2.0), NOW_S)["step"]
        assert (step["text"], step["share"], step["left"]) == ("41", 0.41, "1 min left")
        paused = Doings([_asked("pause", "done", 90, True)])
        assert row(_one(_run(), paused, loss=1.0, step_s=2.0), NOW_S)["step"]["left"] == ""

    def test_an_idle_run_is_the_same_row_at_every_refresh(self) -> None:
        one = _one(_run(status="finished", finished_s=NOW_S - 50), loss=1.0)
        assert row(one, NOW_S) == row(one, NOW_S + 3600)

    def test_long_words_are_cut_and_lines_joined(self) -> None:
        sent = row(_one(_run(note="a\nb " + "x" * 999, tags=tuple("abcdefgh"))), NOW_S)
        assert sent["note"].startswith("a b x")
        assert len(sent["note"]) == 160
        assert len(sent["tags"]) == 6

    def test_every_health_has_a_place_a_word_and_a_sign_of_its_own(self) -> None:
        assert sorted(WORST_FIRST) == sorted(LAMPS)
        assert all(look["word"] for look in looks().values())
        script = _script("fleet_cells.js")
        signs = script.partition("const SIGNS = {")[2].partition("};")[0]
        shapes = dict(line.strip().split(": ", 1) for line in signs.strip().splitlines())
        assert set(shapes) == set(LAMPS)
        assert len(set(shapes.values())) == len(LAMPS)

    def test_the_script_knows_the_same_columns_and_lists(self) -> None:
        cells, table = _script("fleet_cells.js"), _script("fleet_table.js")
        assert [key for key in SORTS if f'key: "{key}", title:' in cells] == list(SORTS)
        assert cells.count("title:") == len(SORTS)
        assert [key for key in LISTS if f'["{key}", ' in table] == list(LISTS)


def _script(name: str) -> str:
    return (Path(moescope.dashboard.__file__).parent / "browser" / name).read_text()


def _bands(means: list[float], segments: list[int] | None = None, **more: Any) -> Bands:
    mean = np.array(means, np.float32)[:, None]
    number = np.arange(len(means), dtype=np.int64)
    return Bands(
        catalogue.LOSS_TOTAL, 1, np.array(segments or [0] * len(means), np.int32),
        more.get("steps", number), np.ones_like(number), more.get("low", mean),
        more.get("high", mean), mean, np.isfinite(mean).astype(np.int64),
    )  # fmt: skip


class TestTheLineOfTheLoss:
    def test_it_goes_from_edge_to_edge(self) -> None:
        line = sparkline(_bands([1.0, 2.0, 4.0]))
        # ln 1, ln 2, ln 4 are evenly spaced: the scale is logarithmic
        assert line == Sparkline(f"M3 {HEIGHT - 3}l93-21 93-21", "")
        assert WIDTH - 3 == 3 + 93 + 93

    def test_a_loss_that_is_not_positive_has_an_even_scale(self) -> None:
        line = sparkline(_bands([-1.0, 0.0, 1.0]))
        assert line is not None
        assert line.line == f"M3 {HEIGHT - 3}l93-21 93-21"

    def test_a_step_that_stands_out_is_in_the_band(self) -> None:
        high = np.array([[1.0], [9.0], [1.0]], np.float32)
        line = sparkline(_bands([1.0, 1.2, 1.0], high=high))
        assert line is not None
        assert line.band.endswith("Z")
        assert f"l93-{HEIGHT - 6}" in line.band

    def test_where_nothing_is_finite_there_is_no_line(self) -> None:
        assert sparkline(_bands([math.nan, math.inf])) is None
        assert sparkline(_bands([])) is None

    def test_what_is_not_finite_parts_the_line(self) -> None:
        line = sparkline(_bands([1.0, 2.0, math.nan, 2.0]))
        assert line is not None
        assert line.line.count("M") == 2

    def test_one_point_is_a_dot_in_the_middle(self) -> None:
        line = sparkline(_bands([1.0]))
        assert line == Sparkline(f"M{WIDTH // 2} {HEIGHT // 2}l0 0", "")

    def test_an_abandoned_branch_is_left_out(self) -> None:
        segments = [Segment("id", 0, 0, "start", 0.0), Segment("id", 1, 2, "rollback", 0.0, 0, 1)]
        steps = np.array([0, 1, 2, 3, 2, 3])
        line = sparkline(_bands([1, 1, 50, 50, 1, 1], [0, 0, 0, 0, 1, 1], steps=steps), segments)
        assert line is not None
        assert set(line.line) <= set("Ml0123456789 -")
        assert f"{HEIGHT // 2}" in line.line  # flat: nothing of the spike is left

    @given(st.lists(st.floats(width=32), max_size=50))
    def test_its_paths_hold_nothing_but_places(self, values: list[float]) -> None:
        with np.errstate(all="ignore"):
            line = sparkline(_bands(values))
        if line is not None:
            assert set(line.line + line.band) <= set("MlZ0123456789 -")


class TestWhatIsSentAtARefresh:
    @staticmethod
    def _rows(*losses: float) -> list[dict[str, Any]]:
        return [{"id": f"{i}", "loss": loss, "name": "x"} for i, loss in enumerate(losses)]

    def test_at_first_all_rows_then_the_cells_that_differ(self) -> None:
        rows = self._rows(*range(100))
        first, sent = message(rows, None, 1)
        assert (first["base"], len(first["rows"])) == (1, 100)
        rows[3] = {**rows[3], "loss": -1}
        then, kept = message(rows, sent, 2)
        changed = [{"id": "3", "loss": -1}]
        assert then == {"number": 2, "base": 1, "changed": changed, "gone": []}
        assert (kept.base, kept.known) == (1, sent.known)

    def test_what_the_browser_said_it_drew_is_not_sent_again(self) -> None:
        rows = self._rows(*range(100))
        _, sent = message(rows, None, 1)
        rows[3] = {**rows[3], "loss": -1}
        _, sent = message(rows, sent, 2)
        assert drawn(sent, 1) == sent  # by then another was under way
        sent = drawn(sent, 2)
        told, sent = message(rows, sent, 3)
        assert told == {"number": 3, "base": 2, "changed": [], "gone": []}

    def test_a_message_that_was_never_drawn_is_missed_by_nobody(self) -> None:
        rows = self._rows(*range(100))
        _, sent = message(rows, None, 1)
        rows[3] = {**rows[3], "loss": -1}
        _, sent = message(rows, sent, 2)
        rows[4] = {**rows[4], "loss": -2}
        last, _ = message(rows, sent, 3)
        assert [row["id"] for row in last["changed"]] == ["3", "4"]

    def test_new_and_deleted_runs_are_told(self) -> None:
        _, sent = message(self._rows(*range(100)), None, 1)
        rows = [*self._rows(*range(100))[1:], {"id": "new", "loss": 0, "name": "y"}]
        told, _ = message(rows, sent, 2)
        assert told["gone"] == ["0"]
        assert told["changed"] == [{"id": "new", "loss": 0, "name": "y"}]

    def test_where_most_has_changed_all_is_sent_anew(self) -> None:
        _, sent = message(self._rows(*range(100)), None, 1)
        told, sent = message(self._rows(*range(100, 200)), sent, 2)
        assert (told["base"], len(told["rows"])) == (2, 100)
        assert (sent.base, sent.number) == (2, 2)
