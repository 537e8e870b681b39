"""Note and tags, log, export, distributions: where there is something, and where there is not."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from moescope.dashboard import asks
from moescope.dashboard.asker import Asker
from moescope.dashboard.reads_of_exports import exported, num_numbers
from moescope.dashboard.reads_of_logs import OWN, logs_of
from moescope.platform import catalogue, trials
from moescope.platform.records import Run, Study, Trial
from moescope.platform.run_log import LOG, RunLog
from moescope.platform.store import Store


def _run(store: "Store", wanted: str) -> None:
    import streamlit as st

    from moescope.dashboard.views import run

    def link(label: str, run_id: str) -> None:
        st.text(f"link {label} {run_id}")

    run.render(store, wanted, link_to_compare=link)


def seen(store: Store, wanted: str) -> AppTest:
    page = AppTest.from_function(_run, args=(store, wanted), default_timeout=30).run()
    assert not page.exception, page.exception
    return page


def words(page: AppTest) -> str:
    kinds = (page.markdown, page.caption, page.text, page.info, page.warning)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def logged(store: Store, run: Run, folder: Path, *lines: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for line in lines:
        RunLog(folder / LOG).write(line, 0.0)
    store.update_run(run.id, folder=str(folder))


def test_a_note_and_tags_are_written_and_shown(store: Store, spiked_run: Run) -> None:
    page = seen(store, spiked_run.id)
    page.text_area(key=f"note_of_{spiked_run.id}").input("  first line\n**second** line ").run()
    page.multiselect(key=f"tags_of_{spiked_run.id}").set_value([]).run()
    page.button(key="note_save").click().run()
    assert not page.exception
    assert store.find_run(spiked_run.id).note == "first line\n**second** line"
    said = words(page)
    assert "first line" in said
    assert "\\*\\*second\\*\\* line" in said


def test_tags_are_kept_once_and_without_odd_blanks(store: Store, spiked_run: Run) -> None:
    tags = [" night  shift ", "night shift", " "]
    asks.note_run(store, Asker("Ann", "operator"), spiked_run.id, "", tags)
    assert store.find_run(spiked_run.id).tags == ("night shift",)


def test_a_run_links_to_its_comparison(store: Store, spiked_run: Run) -> None:
    assert f"link Compare {spiked_run.id}" in words(seen(store, spiked_run.id))


def test_the_log_shows_its_end_and_finds_words(
    store: Store, spiked_run: Run, tmp_path: Path
) -> None:
    logged(store, spiked_run, tmp_path / "runs" / "r", "ALERT <b>up</b>", *["step"] * 600)
    page = seen(store, spiked_run.id)
    assert not page.code
    page.toggle(key="log_of_run").set_value(True).run()
    assert page.code[0].value.count("step") == 500
    page.text_input(key="log_words").input("alert").run()
    assert page.code[0].value == "1970-01-01 00:00:00 ALERT <b>up</b>"
    assert "Lines with these words: 1" in words(page)


def test_a_run_of_another_machine_says_where_its_log_is(store: Store, spiked_run: Run) -> None:
    page = seen(store, spiked_run.id)
    page.toggle(key="log_of_run").set_value(True).run()
    assert "No log of this run is on this machine" in words(page)


def test_a_run_that_measured_nothing_has_its_log_all_the_same(
    store: Store, make: Any, tmp_path: Path
) -> None:
    run = make.run("bare", status="crashed", finished_s=1.0)
    store.add_run(run)
    logged(store, run, tmp_path / "runs" / "bare", "MemoryError")
    page = seen(store, run.id)
    page.toggle(key="log_of_run").set_value(True).run()
    assert "MemoryError" in page.code[0].value


def test_a_trial_has_what_its_process_printed_and_the_ends_of_its_attempts(
    store: Store, spiked_run: Run, tmp_path: Path
) -> None:
    trials.ask(store, Study("s", {}, "running", 1.0), [Trial("s", "k", 0, "one", {}, {}, {})])
    for end in ("out of memory", "ended by signal 9"):
        trial = trials.claim(store, "s", "w", spiked_run.id, 1e6, 30.0)
        assert trial is not None
        trials.fail(store, trial, end, f"Traceback: {end}", 10.0)
    logged(store, spiked_run, tmp_path / "runs" / spiked_run.id, "begun")
    printed = tmp_path / "studies" / "s" / "k.log"
    printed.parent.mkdir(parents=True)
    printed.write_text("all of it")
    found = logs_of(store, store.find_run(spiked_run.id))
    assert found == {
        OWN: tmp_path / "runs" / spiked_run.id / LOG,
        "All that its process printed": printed,
        "End of attempt 2 (ended by signal 9)": "Traceback: ended by signal 9",
        "End of attempt 1 (out of memory)": "Traceback: out of memory",
    }


def test_distributions_are_drawn_when_they_are_asked_for(store: Store, spiked_run: Run) -> None:
    page = seen(store, spiked_run.id)
    before = len(page.get("bidi_component"))
    page.toggle(key="distributions").set_value(True).run()
    assert len(page.get("bidi_component")) == before + 1
    page.selectbox(key="distribution").set_value("load of experts").run()
    assert not page.exception
    told = [json.loads(element.proto.bytes) for element in page.get("bidi_component")]
    assert any(one["says"].startswith("load of experts") for one in told)


def test_the_export_is_offered_and_refused_where_it_is_too_large(
    store: Store, spiked_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moescope.dashboard.views import export

    page = seen(store, spiked_run.id)
    assert len(page.get("download_button")) == 1
    assert "Every point, not thinned: up to 105 numbers" in words(page)
    monkeypatch.setitem(export.MOST_NUMBERS, "csv", 10)
    page.run()
    assert len(page.get("download_button")) == 0
    assert "moescope export" in words(page)


def test_a_file_has_every_point_of_the_range_and_says_that_it_is_not_thinned(
    store: Store, spiked_run: Run, tmp_path: Path
) -> None:
    signals = [catalogue.LOSS_TOTAL, catalogue.LOSS_PER_SAMPLE]
    assert num_numbers(store, spiked_run.id, signals, (60, 63)) == 2 * 4 * (1 + 8)
    text = exported(store, spiked_run, signals, "csv", (60, 63), False).decode()
    head, *rows = text.splitlines()
    assert head.split(",")[:3] == ["signal", "segment", "step"]
    assert "is_thinned" not in head
    assert len(rows) == 2 * 4 * 9
    living = exported(store, spiked_run, signals, "csv", (60, 63), True).decode()
    assert len(living.splitlines()) == 1 + 4 * 9
    file = tmp_path / "x.parquet"
    file.write_bytes(exported(store, spiked_run, signals[:1], "parquet", None, False))
    table = pq.read_table(file)
    assert table.num_rows == 64 + 41
    assert json.loads(table.schema.metadata[b"moescope"])["is_thinned"] is False
