"""The page that compares, in its good state and the others: empty, unmeasured, silent, broken."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from moescope.dashboard.views.compare_steering import span_of, text_of_span
from moescope.platform.records import Run, Segment
from moescope.platform.saved_views import saved_views
from moescope.platform.store import Store


def _compare(store: "Store") -> None:
    import streamlit as st

    from moescope.dashboard.views import compare

    compare.render(store, lambda label, run_id: st.text(f"link {label} {run_id}"))


def seen(store: Store, **asked: str) -> AppTest:
    page = AppTest.from_function(_compare, args=(store,), default_timeout=20)
    for name, value in asked.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception, page.exception
    return page


def words(page: AppTest) -> str:
    kinds = (page.markdown, page.caption, page.text, page.header, page.info, page.warning)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def figures(page: AppTest) -> list[dict[str, Any]]:
    charts = [json.loads(element.proto.bytes) for element in page.get("bidi_component")]
    return [chart["figure"] for chart in charts if "figure" in chart]


def named(figure: dict[str, Any]) -> list[str]:
    return [t["name"] for t in figure["data"] if t.get("showlegend", True) and t.get("name")]


@pytest.fixture
def seeds(store: Store, make: Callable[..., Any]) -> Sequence[Run]:
    """Two runs of one configuration but for the seed, and one with another rate."""
    runs = []
    for name, seed, rate in (("one", 0, 0.1), ("two", 1, 0.1), ("fast", 0, 0.2)):
        config = {"steps": 600, "seed": seed, "optim": {"lr": rate}}
        run = make.run(name, config=config, status="finished", finished_s=time.time())
        store.add_run(run)
        store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
        store.write_frames([make.frame(run.id, 0, step, 1 + seed + rate) for step in range(30)])
        runs.append(run)
    return runs


def test_without_a_run_it_says_how_to_start_one(store: Store) -> None:
    assert "moescope train" in words(seen(store))


def test_runs_of_the_address_are_laid_over_each_other(store: Store, seeds: Sequence[Run]) -> None:
    page = seen(store, runs="id-one,fast")
    loss, *others = figures(page)
    assert named(loss) == ["one", "fast"]
    assert len(others) == 2
    assert "link one id-one" in words(page)
    assert "link two" not in words(page)
    assert page.query_params["runs"] == "id-one,id-fast"


def test_without_an_address_the_newest_are_chosen_and_the_address_says_so(
    store: Store, seeds: Sequence[Run]
) -> None:
    page = seen(store)
    assert page.query_params["runs"].count(",") == 2
    assert len(named(figures(page)[0])) == 3


def test_what_is_seen_is_in_the_address(store: Store, seeds: Sequence[Run]) -> None:
    page = seen(store, runs="one,two", x="hours", span="0..0.1", smooth="10", logx="1", log="1")
    assert page.text_input(key="compare_span").value == "0..0.1"
    assert page.selectbox(key="compare_smoothing").value == 10
    assert page.toggle(key="compare_log").value
    page.multiselect(key="compare_signals").set_value(["loss/video"]).run()
    assert not page.exception
    assert page.query_params["signals"] == "loss/video"
    assert page.query_params["x"] == "hours"
    assert len(figures(page)) == 1


def test_seeds_are_one_line_with_a_band_and_a_row_of_the_table(
    store: Store, seeds: Sequence[Run]
) -> None:
    page = seen(store, runs="one,two,fast", group="seed")
    assert named(figures(page)[0]) == ["optim.lr = 0.1 (n = 2)", "optim.lr = 0.2 (n = 1)"]
    tables_shown = [frame.value for frame in page.dataframe]
    by_run, over_seeds, differences = tables_shown
    assert by_run["run"].tolist() == ["one", "two", "fast"]
    assert over_seeds["n"].tolist() == [2, 1]
    # 1.1 and 2.1
    assert over_seeds["last"].tolist() == ["1.6 ± 0.71", "1.2"]
    assert differences["key"].tolist() == ["seed", "optim.lr"]
    assert differences["fast"].tolist() == ["0", "0.2"]


def test_a_key_of_the_configuration_groups_too(store: Store, seeds: Sequence[Run]) -> None:
    page = seen(store, runs="one,two,fast")
    page.selectbox(key="compare_group").set_value("optim.lr").run()
    assert page.query_params["group"] == "optim.lr"
    assert named(figures(page)[0]) == ["optim.lr = 0.1 (n = 2)", "optim.lr = 0.2 (n = 1)"]


def test_a_run_that_is_not_there_is_said_and_the_others_are_shown(
    store: Store, seeds: Sequence[Run]
) -> None:
    page = seen(store, runs="one,<b>gone")
    assert "\\<b\\>gone" in words(page)
    assert named(figures(page)[0]) == ["one"]
    assert "One run differs from nothing" in words(page)


def test_a_run_that_measured_nothing_and_one_without_tokens_are_said(
    store: Store, seeds: Sequence[Run], make: Any
) -> None:
    store.add_run(make.run("bare"))
    said = words(seen(store, runs="one,bare", x="tokens"))
    assert "No signal has arrived yet of bare" in said
    assert "since tokens were not measured: one" in said
    assert "None of these runs has measured it" in said


def test_a_silent_run_is_marked(store: Store, spiked_run: Run) -> None:
    store.update_run(spiked_run.id, heartbeat_s=time.time() - 3660)
    page = seen(store, runs=spiked_run.id)
    assert any("silent" in str(element.value) for element in page.markdown)


def test_a_damaged_configuration_is_said(store: Store, seeds: Sequence[Run]) -> None:
    damage = "UPDATE runs SET config = '{' WHERE id = 'id-one'"
    store.database.write(lambda c: c.exec_driver_sql(damage))
    assert "The configuration of one cannot be read" in words(seen(store, runs="one,two"))


def test_a_store_that_is_away_is_a_line(
    store: Store, seeds: Sequence[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from moescope.dashboard.views import compare
    from moescope.platform.errors import MoescopeError

    def away(*_: object) -> None:
        raise MoescopeError("store is away")

    monkeypatch.setattr(compare, "lines_of", away)
    assert "The store cannot be read at the moment" in words(seen(store, runs="one"))


def test_settings_and_results_have_dots_and_threads(store: Store, seeds: Sequence[Run]) -> None:
    page = seen(store, runs="one,two,fast")
    page.segmented_control(key="compare_results_of").set_value("of all runs").run()
    assert not page.exception
    dots, threads = figures(page)[-2:]
    assert dots["layout"]["xaxis"]["title"]["text"] == "optim.lr"
    assert [axis["label"] for axis in threads["data"][0]["dimensions"]] == [
        "lr",
        "seed",
        "loss/total",
    ]


def test_a_view_is_saved_opened_and_removed(store: Store, seeds: Sequence[Run]) -> None:
    page = seen(store, runs="one,fast", x="hours")
    page.text_input(key="view_name").input("<i>two</i> rates").run()
    page.button(key="view_save").click().run()
    (view,) = saved_views(store, "compare")
    assert (view.name, view.query) == ("<i>two</i> rates", "runs=id-one%2Cid-fast&x=hours")
    other = seen(store, runs="two")
    other.button(key="view_0").click().run()
    assert not other.exception
    assert other.query_params["runs"] == "id-one,id-fast"
    assert named(figures(other)[0]) == ["one", "fast"]
    other.button(key="view_remove_0").click().run()
    assert len(saved_views(store, "compare")) == 1
    other.button(key="view_remove_0").click().run()
    assert saved_views(store, "compare") == []


def test_a_view_without_a_name_is_refused_in_words(store: Store, seeds: Sequence[Run]) -> None:
    page = seen(store, runs="one")
    page.button(key="view_save").click().run()
    assert "1 to 80 characters" in page.toast[0].value


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("1000..2e6", (1000.0, 2e6)),
        ("5 - 1", (1.0, 5.0)),
        ("", None),
        ("7", None),
        ("3..3", None),
        ("1..1e999", None),
    ],
)
def test_a_range_is_read_or_all_is_shown(text: str, span: tuple[float, float] | None) -> None:
    assert span_of(text) == span
    assert span_of(text_of_span(span)) == span
