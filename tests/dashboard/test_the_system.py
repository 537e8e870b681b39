"""The page of the system: who serves, what is lost on the way, and a server that keeps quiet."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from moescope.dashboard import reads_of_the_system as reads
from moescope.dashboard.views.system_page import _size
from moescope.platform import catalogue, leases, tables
from moescope.platform.announcement import Announcement, announce, own_process
from moescope.platform.engines import StoreAway
from moescope.platform.errors import MoescopeError
from moescope.platform.journal import NOWHERE, Journal, pack_entry
from moescope.platform.records import Frame, Run, Schedule
from moescope.platform.store import Store
from moescope.platform.store_sizes import StoreSize
from moescope.platform.upserts import columns_of

# Streamlit copies the text of this function: its imports go inside


def _system(store: "Store") -> None:
    from moescope.dashboard.views import system_page
    from moescope.platform.settings import Settings

    system_page.render(store, Settings())


def _seen(store: Store) -> AppTest:
    page = AppTest.from_function(_system, args=(store,), default_timeout=30).run()
    assert not page.exception, page.exception
    return page


def _words(page: AppTest) -> str:
    kinds = (page.markdown, page.caption, page.text, page.header, page.warning, page.code)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Of the run `spiked`, in its folder: 100 bytes that MLflow has not taken."""
    journal = Journal(tmp_path / "home" / "runs" / "id-amber-finch" / "journal")
    journal.append([pack_entry(b"x" * 80, 1.0)])
    journal.acknowledge("sql", journal.end)
    journal.acknowledge("mlflow", NOWHERE)
    yield journal
    journal.close()


class TestWhoServes:
    def test_without_a_service_the_page_says_what_nobody_does(self, store: Store) -> None:
        words = _words(_seen(store))
        assert "No service leads this store" in words
        assert "moescope up" in words
        assert "No run trains at the moment" in words
        assert "No run has samples yet" in words

    def test_a_service_that_leads_is_named_with_its_last_beat(self, store: Store) -> None:
        leases.claim(store, leases.SERVICE, "host:17:abc", time.time() - 2, 7.0)
        words = _words(_seen(store))
        assert "host:17:abc" in words.replace("\\", "")
        assert "Last beat" in words
        assert "2 s ago" in words
        assert "No service leads" not in words

    def test_a_leader_that_has_died_is_said_to_be_gone(self, store: Store) -> None:
        leases.claim(store, leases.SERVICE, "host:17:abc", time.time() - 3700, 7.0)
        assert "has not been heard of for 1 h 1 min" in _words(_seen(store))

    def test_the_service_of_this_home_tells_how_many_of_its_children_live(
        self, store: Store, tmp_path: Path
    ) -> None:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        me = own_process()
        dead = (me[0], me[1] - 9999)
        announce(home, Announcement("http://x", "http://mlflow", *me, (me, dead)))
        leases.claim(store, leases.SERVICE, "h", time.time(), 7.0)
        assert "1 of 2 children alive" in _words(_seen(store))


class TestSinks:
    def test_each_run_that_trains_tells_what_is_behind_lost_and_waiting(
        self, store: Store, spiked_run: Run, journal: Journal, tmp_path: Path
    ) -> None:
        store.update_run(spiked_run.id, folder=str(tmp_path / "home" / "runs" / spiked_run.id))
        page = _seen(store)
        (row,) = page.dataframe[0].value.to_dict("records")
        assert row["run"] == spiked_run.name
        assert row["behind, s"] == pytest.approx(0.4)
        assert (row["left out"], row["lost steps"], row["refused"]) == (3, 2, 1)
        assert row["waits in the journal"].startswith("mlflow")
        words = _words(page)
        assert "2 steps lost, as its disk took nothing" in words
        assert "1 record that no store could hold" in words

    def test_a_folder_on_another_machine_is_not_seen_from_here(
        self, store: Store, make: Any
    ) -> None:
        store.add_run(make.run("far", folder="/no/such/folder"))
        (row,) = _seen(store).dataframe[0].value.to_dict("records")
        assert row["waits in the journal"] == "not seen from here"
        assert row["behind, s"] is None

    def test_a_sink_that_hangs_is_said(self, store: Store, make: Any) -> None:
        store.add_run(make.run("slow"))
        values = {catalogue.SINK_LAG_S: np.float32(400)}
        store.write_frames([Frame("id-slow", 0, 1, 1.0, values)])
        assert "the slowest sink is 6 min 40 s behind" in _words(_seen(store)).replace("\\", "")


class TestTheStore:
    def test_it_says_where_it_is_how_large_and_what_takes_the_room(
        self, store: Store, spiked_run: Run
    ) -> None:
        page = _seen(store)
        words = _words(page)
        assert store.url in words
        assert "SQLite" in words
        assert "MiB" in words
        sizes, runs = (frame.value for frame in page.dataframe[1:3])
        rows = dict(zip(sizes["table"], sizes["rows"], strict=True))
        assert rows["runs"] == 1
        assert rows["segments"] == 2
        assert list(runs["run"]) == [spiked_run.name]
        assert list(runs["steps"]) == [64 + 41]

    def test_a_password_is_shown_nowhere(self) -> None:
        size = StoreSize("postgresql://ann:***@h/d", "PostgreSQL 15.4", "0006", 5, 0, None, None)
        assert "of the whole database the server does not tell" in _size_of(size)

    def test_a_server_that_tells_no_size_is_no_fault(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = StoreSize("postgresql://ann@h/d", "PostgreSQL 15.4", "0006", None, 0, None, None)
        monkeypatch.setattr(reads, "store_size", lambda _: size)
        words = _words(_seen(store))
        assert "the server does not tell this user" in words
        assert "+" not in words.partition("Growth")[2].partition("\n")[0]

    def test_tables_of_an_older_program_ask_for_an_upgrade(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = StoreSize("sqlite:///x", "SQLite 3", "0004", 5, 0, None, 2**40)
        monkeypatch.setattr(reads, "store_size", lambda _: size)
        assert "moescope db upgrade" in _words(_seen(store))

    def test_a_disk_that_is_nearly_full_is_said(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = StoreSize("sqlite:///x", "SQLite 3", "0006", 5, 0, None, 2**30)
        monkeypatch.setattr(reads, "store_size", lambda _: size)
        assert "Only 1 GiB are left" in _words(_seen(store))

    def test_while_it_is_away_the_page_says_so(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: Any, **__: Any) -> None:
            raise StoreAway("store x is gone: put the file back")

        monkeypatch.setattr(type(store.database), "read", away)
        words = _words(_seen(store))
        assert "cannot be read at the moment" in words
        assert "put the file back" in words
        assert "Versions" in words


def _size_of(size: StoreSize) -> str:
    return _size(reads.StoreNow(size, reads.Growth(None, 0.0, None), is_newest=True))


class TestGrowth:
    def test_it_is_said_once_the_store_was_watched_for_some_minutes(self) -> None:
        log = reads.SizeLog()
        assert log.per_day() == (None, 0.0)
        log.add(0.0, 1000)
        log.add(10.0, 9000)  # too soon after the one before to be kept
        log.add(60.0, 1000)
        assert log.per_day() == (None, 60.0)
        log.add(864.0, 3000)
        # 2,000 bytes in a hundredth of a day
        assert log.per_day() == (pytest.approx(200_000), 864.0)

    def test_what_was_seen_long_ago_is_forgotten(self) -> None:
        log = reads.SizeLog()
        for hour in range(60):
            log.add(3600.0 * hour, hour)
        assert log.per_day() == (pytest.approx(24), reads.REMEMBERED_S)

    def test_since_the_first_run_it_is_a_mean(self, store: Store, make: Any) -> None:
        now_s = time.time()
        assert reads.store_now(store, now_s).growth.mean_per_day is None
        store.add_run(make.run("old", created_s=now_s - 10 * 86400))
        found = reads.store_now(store, now_s)
        assert found.size.num_bytes is not None
        assert found.growth.mean_per_day == pytest.approx(found.size.num_bytes / 10)


class TestHousekeeping:
    def test_a_journal_that_was_left_behind_is_told_of_runs_that_have_ended(
        self, store: Store, spiked_run: Run, journal: Journal
    ) -> None:
        # it lives: its own threads do that
        assert "of ended runs" not in _words(_seen(store))
        store.update_run(spiked_run.id, status="crashed")
        words = _words(_seen(store))
        assert "1 journal of ended runs with something that a sink has not taken" in words
        assert "mlflow" in words

    def test_what_is_forgotten_is_told_in_words(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "nothing is forgotten" in _words(_seen(store))
        monkeypatch.setenv("MOESCOPE_KEEP_VECTORS_DAYS", "30")
        monkeypatch.setenv("MOESCOPE_KEEP_VECTORS_RUNS", "20")
        said = "vectors older than 30 days and not of the newest 20 runs are forgotten"
        assert said in _words(_seen(store))


class TestDelivery:
    def test_an_alert_that_was_not_sent_is_told_with_the_reason(
        self, store: Store, spiked_run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MOESCOPE_NOTIFY", "slack://secret/token json://u:hush@host")
        store.mark_delivered(f"alert-{spiked_run.id}", time.time(), "Slack: refused")
        words = _words(_seen(store))
        assert "slack, json" in words
        assert "hush" not in words
        assert "secret" not in words
        assert "1 alert of the last week could not be sent" in words
        assert "Slack" in words


class TestSchedules:
    @pytest.mark.story  # the command line takes seconds to start
    def test_each_says_when_it_is_due_and_what_came_of_it(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "moescope study schedule" in _words(_seen(store))
        values = columns_of(Schedule("nightly", {"name": "x"}, "cron", "0 5 * * *", "UTC", 1.0))
        store.database.write(lambda c: c.execute(tables.schedules.insert(), values))
        # asked of the command line, in a process of its own
        assert [one["schedule"] for one in reads.schedules_now(store)] == ["nightly"]
        words = _words(_seen(store))
        assert "nightly" in words
        assert "fired 0 times" in words

    @pytest.mark.story  # the command line takes seconds to start
    def test_a_command_line_that_refuses_is_told_on_one_line(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = columns_of(Schedule("nightly", {}, "cron", "no time", "UTC", 1.0))
        store.database.write(lambda c: c.execute(tables.schedules.insert(), values))
        with pytest.raises(MoescopeError):
            reads.schedules_now(store)


def test_versions_are_told_without_importing_anything() -> None:
    found = reads.installed()
    assert {"python", "moescope", "streamlit", "plotly", "torch", "mlflow"} <= found.keys()
    assert json.dumps(found)
