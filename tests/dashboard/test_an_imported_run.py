"""The pages of a run that came from another tracker: its curves, its ghost, what is of its own."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from moescope.platform.history.intake import bring_in
from moescope.platform.history.jsonl_source import jsonl_sources
from moescope.platform.store import Store


@pytest.fixture
def run_id(store: Store, tmp_path: Path) -> str:
    """A log that was resumed once, whose configuration has keys that runs of our own have too."""
    file = tmp_path / "theirs.jsonl"
    config = {"steps": "many", "compute": {"precision": "bf16-mixed"}, "policy": {"mode": 3}}
    rows: list[dict[str, object]] = [{"config": config}]
    for first, last in ((0, 60), (40, 90)):
        rows += [
            {"step": s, "loss": 1.0, "grad_norm": 2.0, "lr": 1e-3, "reward/mean": 0.5}
            for s in range(first, last)
        ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (source,) = jsonl_sources([file], "imported", "")
    return bring_in(store, source, {}, 1.76e9).run_id


def _run(store: "Store", run_id: "str") -> None:
    from moescope.dashboard.views import run

    run.render(store, run_id)


def _runs(store: "Store") -> None:
    from moescope.dashboard.views import fleet

    fleet.render(store, lambda run_id: None)


def _text(page: AppTest) -> str:
    kinds = (page.markdown, page.caption, page.header, page.subheader, page.info, page.metric)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def test_its_page_draws_what_it_has_and_the_branch_that_was_left(store: Store, run_id: str) -> None:
    page = AppTest.from_function(_run, args=(store, run_id), default_timeout=30).run()
    assert not page.exception, page.exception
    charts = "\n".join(part.proto.bytes.decode() for part in page.get("bidi_component"))
    text = _text(page) + charts
    for name in ("theirs", "finished", "Loss", "Gradient norm", "reward/mean"):
        assert name in text, name
    assert "resume" in text
    assert "imported from jsonl" in text


def test_it_stands_in_the_list_of_runs(store: Store, run_id: str) -> None:
    page = AppTest.from_function(_runs, args=(store,), default_timeout=30).run()
    assert not page.exception, page.exception
    (table,) = page.get("bidi_component")
    (row,) = json.loads(table.proto.json)["rows"]
    assert row["doing"]["text"] == "finished"
    assert row["step"]["text"] == "90"
