"""The page of all runs in its good state and the designed others: empty, silent, no match, away."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import moescope.dashboard
from moescope.dashboard.reads_of_the_fleet import Fleet
from moescope.dashboard.views.fleet import LISTS, View, from_address, from_browser
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Run
from moescope.platform.store import Store

# Streamlit copies the text of this function: its imports go inside


def _fleet(store: "Store", has_comparison: bool = False) -> None:
    import streamlit as st

    from moescope.dashboard.views import fleet

    fleet.render(
        store,
        lambda run_id: st.text(f"opens {run_id}"),
        (lambda ids: st.text(f"compares {ids}")) if has_comparison else None,
    )


def _seen(store: Store, has_comparison: bool = False, **address: str) -> AppTest:
    page = AppTest.from_function(_fleet, args=(store, has_comparison), default_timeout=20)
    for name, value in address.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception, page.exception
    return page


def _sent(page: AppTest) -> dict[str, Any]:
    """What the browser's table was sent."""
    (table,) = page.get("bidi_component")
    sent: dict[str, Any] = json.loads(table.proto.json)
    return sent


def _words(page: AppTest) -> str:
    kinds = (page.info, page.warning, page.text, page.header)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def _found(page: AppTest) -> list[str]:
    """Names of the runs that the table shows, in the order of the rows."""
    sent = _sent(page)
    ids = sent["found"]["ids"]
    return [row["name"] for row in sent["rows"] if ids is None or row["id"] in ids]


class TestTheRows:
    def test_they_say_how_a_run_is_what_it_does_and_what_it_measured_last(
        self, store: Store, spiked_run: Run
    ) -> None:
        (row,) = _sent(_seen(store))["rows"]
        assert (row["name"], row["lamp"]) == (spiked_run.name, "critical")
        assert row["doing"]["text"] == "training"
        assert row["doing"]["more"] == "rolled back at step 50"
        assert (row["step"]["text"], row["step"]["of"]) == ("91", "600")
        assert row["loss"]["text"] == "0.9"
        assert row["speed"]["text"] == "12.3k"
        assert row["alerts"]["text"] == "1 critical"
        assert row["groups"] == ["live", "trouble"]
        assert row["spark"][0].startswith("M")

    def test_without_a_run_the_page_says_how_to_start_one(self, store: Store) -> None:
        page = _seen(store)
        assert "moescope train" in _words(page)
        assert not page.get("bidi_component")

    def test_a_run_without_signals_is_starting(self, store: Store, make: Any) -> None:
        store.add_run(make.run("bare"))
        (row,) = _sent(_seen(store))["rows"]
        assert (row["lamp"], row["doing"]["text"]) == ("healthy", "starting")
        assert row["spark"] is None
        assert row["loss"] == {"value": None, "text": ""}

    def test_a_run_that_fell_silent_says_since_when(self, store: Store, spiked_run: Run) -> None:
        beat_s = time.time() - 3660
        store.update_run(spiked_run.id, heartbeat_s=beat_s)
        (row,) = _sent(_seen(store))["rows"]
        assert (row["lamp"], row["doing"]["text"]) == ("silent", "silent")
        assert row["doing"]["since_s"] == row["beat_s"] == pytest.approx(beat_s)

    def test_two_hundred_runs_are_sent_at_once(self, store: Store, make: Any) -> None:
        for i in range(200):
            store.add_run(make.run(f"run-{i}", created_s=1000.0 + i))
        rows = _sent(_seen(store))["rows"]
        assert len(rows) == 200
        assert rows[0]["name"] == "run-199"

    def test_what_a_run_calls_itself_stays_text(self, store: Store, make: Any) -> None:
        store.add_run(make.run("<img src=x onerror=alert(1)>", tags=("[x](y)",)))
        (row,) = _sent(_seen(store))["rows"]
        assert row["name"] == "<img src=x onerror=alert(1)>"
        # the table's script has no way to make an element of a text
        folder = Path(moescope.dashboard.__file__).parent / "browser"
        for name in ("fleet_cells.js", "fleet_table.js"):
            script = (folder / name).read_text()
            for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
                assert way not in script


class TestArchivedRuns:
    def test_they_are_a_list_of_their_own(self, store: Store, make: Any) -> None:
        for name in ("old", "new"):
            store.add_run(make.run(name))
        store.update_run("id-old", is_archived=True)
        page = _seen(store)
        assert _found(page) == ["new"]
        assert _sent(page)["num_archived"] == 1
        page = _seen(store, show="archived")
        assert _found(page) == ["old"]
        assert _sent(page)["is_archived"]

    def test_they_can_be_seen_where_there_are_no_others(self, store: Store, make: Any) -> None:
        store.add_run(make.run("old"))
        store.update_run("id-old", is_archived=True)
        sent = _sent(_seen(store))
        assert (sent["rows"], sent["num_archived"]) == ([], 1)


class TestSearching:
    def test_the_address_says_what_is_looked_for(self, store: Store, make: Any) -> None:
        for name in ("red-fox", "blue-fox"):
            store.add_run(make.run(name))
        assert _found(_seen(store, find="red")) == ["red-fox"]
        assert _found(_seen(store, find="green")) == []

    def test_runs_are_found_by_their_configuration(self, store: Store, make: Any) -> None:
        for name, rate in (("slow", 1e-4), ("fast", 1e-3)):
            store.add_run(make.run(name, config={"optim": {"learning_rate": rate}}))
        assert _found(_seen(store, find="optim.learning_rate=0.001")) == ["fast"]
        assert _found(_seen(store, find="learning_rate<5e-4")) == ["slow"]
        said = _sent(_seen(store, find="learning_rat=1"))["found"]
        assert said["ids"] == []
        assert "did you mean" in said["problem"]

    def test_what_the_table_tells_goes_into_the_address(self, store: Store, make: Any) -> None:
        for name in ("red-fox", "blue-fox"):
            store.add_run(make.run(name))
        page = _seen(store)
        told = {"find": "red", "sort": "loss", "is_down": True, "show": "all", "is_settled": True}
        _tell(page, "view", told)
        assert _found(page) == ["red-fox"]
        assert page.query_params["find"] == "red"
        assert page.query_params["sort"] == "-loss"
        _tell(page, "view", {"find": "", "sort": "start", "is_down": True, "is_settled": True})
        assert "find" not in page.query_params
        assert "sort" not in page.query_params

    def test_half_typed_words_stay_out_of_the_address(self, store: Store, make: Any) -> None:
        store.add_run(make.run("red-fox"))
        page = _seen(store)
        told = {"find": "gre", "sort": "start", "is_down": True, "show": "all", "is_settled": False}
        _tell(page, "view", told)
        assert _found(page) == []
        assert "find" not in page.query_params


def _tell(page: AppTest, name: str, value: Any, *, is_trigger: bool = False) -> None:
    """Plays the browser's table, which AppTest does not: sets what it tells, and runs the page."""
    (table,) = page.get("bidi_component")
    states = page._tree.get_widget_states()
    state = states.widgets.add()
    if is_trigger:
        state.id = f"$$STREAMLIT_INTERNAL_KEY_{table.proto.id}__events"
        state.json_trigger_value = json.dumps([{"event": name, "value": value}])
    else:
        state.id = table.proto.id
        state.json_value = json.dumps({name: value})
    page._run(states)
    assert not page.exception, page.exception


class TestOpeningAndComparing:
    def test_a_click_on_a_row_leads_to_the_run(self, store: Store, make: Any) -> None:
        store.add_run(make.run("red-fox"))
        page = _seen(store)
        assert "opens" not in _words(page)
        _tell(page, "open", "id-red-fox", is_trigger=True)
        assert "opens id-red-fox" in _words(page)

    def test_runs_are_chosen_only_where_they_can_be_compared(self, store: Store, make: Any) -> None:
        store.add_run(make.run("red-fox"))
        assert _sent(_seen(store))["most_chosen"] == 0
        page = _seen(store, has_comparison=True)
        assert _sent(page)["most_chosen"] == 10
        _tell(page, "compare", [f"id-{i}" for i in range(12)], is_trigger=True)
        assert f"compares {[f'id-{i}' for i in range(10)]}" in _words(page)


class TestWhatTheTableMisses:
    def test_it_asks_for_all_and_says_what_it_has_drawn(self, store: Store, make: Any) -> None:
        store.add_run(make.run("red-fox"))
        page = _seen(store)
        number = _sent(page)["number"]
        # AppTest runs the whole page, which sends everything: what is left is that nothing breaks
        for asked in ("all", number, number - 1, "more", None, {"a": 1}):
            _tell(page, "ask", asked, is_trigger=True)
            assert _found(page) == ["red-fox"]


class TestAStoreThatIsAway:
    def test_what_was_read_last_stays_with_its_age(
        self, store: Store, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.add_run(make.run("red-fox"))
        page = _seen(store)
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() + 60)
        monkeypatch.setattr(type(store.database), "read", _is_away)
        page.run()
        assert not page.exception, page.exception
        assert _found(page) == ["red-fox"]
        assert "cannot be read at the moment; this is how it was 1 min ago" in _words(page)
        assert "locked" in _words(page)

    def test_before_anything_was_read_the_page_says_so(
        self, store: Store, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.add_run(make.run("red-fox"))
        monkeypatch.setattr(type(store.database), "read", _is_away)
        page = _seen(store)
        assert "cannot be read" in _words(page)
        assert not page.get("bidi_component")


def _is_away(*_: Any, **__: Any) -> None:
    raise MoescopeError("database is locked")


class TestTheView:
    @pytest.mark.parametrize(
        "view",
        [
            View(),
            View("red", "loss", False, "trouble"),
            View("", "loss", True, "archived"),
            View("a b", "start", False, "all"),
            View("", "name", True, "live"),
        ],
    )
    def test_an_address_leads_back_to_its_view(self, view: View) -> None:
        assert from_address(view.address()) == view

    def test_the_view_of_every_day_has_an_empty_address(self) -> None:
        assert View().address() == {}

    @pytest.mark.parametrize(
        "params", [{"sort": "nothing"}, {"show": "x"}, {"sort": "-", "a": "b"}]
    )
    def test_an_address_that_is_none_of_ours_shows_all(self, params: dict[str, str]) -> None:
        assert from_address(params) == View()

    @pytest.mark.parametrize("said", [None, "x", 3, [], {}, {"sort": "id; drop"}, {"sort": ["a"]}])
    def test_what_is_no_view_of_ours_is_passed_over(self, said: Any) -> None:
        assert from_browser(said) is None

    def test_a_replayed_view_is_held_to_what_there_is(self) -> None:
        said = {"sort": "loss", "is_down": "yes", "show": "secret", "find": "x" * 9999}
        view = from_browser(said)
        assert view is not None
        assert (view.show, view.is_down, len(view.find)) == ("all", False, 200)
        assert view.show in LISTS


class TestLinesOfManyRuns:
    def test_they_are_read_a_few_at_a_time_and_then_kept(
        self, store: Store, spiked_run: Run, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for i in range(3):
            run = make.run(f"run-{i}")
            store.add_run(run)
            store.write_frames([make.frame(run.id, 0, step, 1.0) for step in range(4)])
        monkeypatch.setattr("moescope.dashboard.reads_of_the_fleet.LINES_S", -1.0)
        fleet, now_s = Fleet(is_archived=False), time.time()
        now = fleet.now(store, now_s)
        assert not now.is_whole
        assert [one.spark for one in now.runs] == [None] * 4
        monkeypatch.setattr("moescope.dashboard.reads_of_the_fleet.LINES_S", 10.0)
        now = fleet.now(store, now_s + 0.1)
        assert now.is_whole
        assert all(one.spark for one in now.runs)
        # nothing new: the store is asked for no line, and within a second for nothing
        store.database.times_s["read"].clear()
        assert fleet.now(store, now_s + 0.2) is now
        assert not store.database.times_s["read"]
        fleet.now(store, now_s + 10)
        assert len(store.database.times_s["read"]) < 8
