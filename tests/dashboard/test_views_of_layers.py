"""Blocks, routers, experts and speed: each of their signals has its place on the page of a run."""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from moescope.dashboard.reads import RunReader
from moescope.dashboard.views.choices import BLOCKS, ROUTERS
from moescope.platform import catalogue
from moescope.platform.catalogue import CATALOGUE
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.store import Store

SIZES = {
    "layer": 6,
    "moe_layer": 3,
    "expert": 8,
    "other_expert": 8,
    "modality": 2,
    "sample": 4,
    "timestep_bin": 8,
    "noise_expert": 2,
    "token_kind": len(catalogue.TOKEN_KINDS),
    "motion_bin": len(catalogue.MOTION_BINS),
    "region": len(catalogue.REGIONS),
    "class": 5,
}


def _frame(run_id: str, segment: int, step: int) -> Frame:
    """Returns one value of every signal there is; those by expert differ between experts."""
    values = {}
    for name, spec in CATALOGUE.items():
        value = np.full([SIZES[d] for d in spec.dimensions], 0.5, np.float32)
        if spec.dimensions and spec.dimensions[-1] in ("expert", "other_expert"):
            value[...] = np.arange(8) / 28  # 0 + 1 + ... + 7 = 28: shares of a whole
        values[name] = value
    return Frame(run_id, segment, step, time.time(), values)


@pytest.fixture
def full_run(store: Store, make: Any) -> Run:
    """Every signal at steps 10 and 20; 20 was abandoned by a rollback to 15."""
    run: Run = make.run(status="finished", finished_s=time.time())
    store.add_run(run)
    store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
    store.write_frames([_frame(run.id, 0, step) for step in (10, 20)])
    store.add_segment(Segment(run.id, 1, 15, "rollback", time.time(), 0, 14))
    return run


# Streamlit copies the text of these functions: their imports go inside


def _every_statistic(store: "Store", run_id: str) -> None:
    from moescope.dashboard.reads import RunReader
    from moescope.dashboard.views.choices import BLOCKS, LOG_SIGNALS, ROUTERS, levels_of
    from moescope.dashboard.views.signal_charts import statistic
    from moescope.dashboard.window import Window

    reader = RunReader(store, run_id)
    for choices in (BLOCKS, ROUTERS):
        for group in choices.values():
            for name, signal in group.items():
                levels = levels_of(reader, signal)
                statistic(
                    reader, Window(), name, signal, levels=levels, is_log=signal in LOG_SIGNALS
                )


def _page(store: "Store", run_id: str) -> None:
    from moescope.dashboard.views import run

    run.render(store, run_id)


def _seen(script: Callable[..., None], *args: Any) -> AppTest:
    page = AppTest.from_function(script, args=args, default_timeout=20).run()
    assert not page.exception, page.exception
    return page


def _charts(page: AppTest) -> list[str]:
    told = [part.proto.bytes.decode() for part in page.get("bidi_component")]
    return [text for text in told if '"figure": ' in text]


def _under(page: AppTest, signal: str) -> Any:
    """Returns the figure under the heading of a signal."""
    parts = [e for e in page.main if e.type in ("markdown", "bidi_component")]
    (head,) = [
        i for i, e in enumerate(parts) if e.type == "markdown" and f":gray[`{signal}`]" in e.value
    ]
    return json.loads(parts[head + 1].proto.bytes)["figure"]


def test_every_statistic_has_a_chart_with_words_and_levels(store: Store, full_run: Run) -> None:
    page = _seen(_every_statistic, store, full_run.id)
    signals = [s for c in (BLOCKS, ROUTERS) for group in c.values() for s in group.values()]
    assert len(set(signals)) == len(signals) == len(_charts(page))
    said = [m.value for m in page.markdown]
    assert all(any(f"`{signal}`" in value for value in said) for signal in signals)
    drawn = "".join(_charts(page))
    for level in ("3: Gaussian", "1: settled", "8: balanced", "ln 8: undecided", "1e-3: usual"):
        assert f'"text":"{level}"' in drawn


def test_a_group_and_a_statistic_of_it_are_chosen(store: Store, full_run: Run) -> None:
    page = _seen(_page, store, full_run.id)
    before = len(_charts(page))
    page.button_group(key="block_group").set_value("Weights").run()
    page.button_group(key="router_group").set_value("Load").run()
    page.selectbox(key="router_Load").set_value("effective experts").run()
    page.button_group(key="speed").set_value("utilisation").run()
    assert not page.exception
    assert len(_charts(page)) == before
    words = "".join(m.value for m in page.markdown)
    for signal in (
        catalogue.UPDATE_WEIGHT_RATIO,
        catalogue.EFFECTIVE_EXPERTS,
        catalogue.UTILISATION,
    ):
        assert f"`{signal}`" in words


def test_who_goes_where_is_read_only_when_asked_for(store: Store, full_run: Run) -> None:
    page = _seen(_page, store, full_run.id)
    before = len(_charts(page))
    page.toggle(key="who").set_value(True).run()
    assert not page.exception
    assert len(_charts(page)) == before + 2
    heat = _under(page, catalogue.ROUTING_BY_TIMESTEP)
    assert heat["layout"]["yaxis"]["ticktext"][::7] == ["1, data", "8, noise"]
    for trait, names in (
        ("kind of token", catalogue.TOKEN_KINDS),
        ("motion", catalogue.MOTION_BINS),
        ("place in the picture", catalogue.REGIONS),
        ("class of the clip", [f"class {i}" for i in range(5)]),
    ):
        page.selectbox(key="who_trait").set_value(trait).run()
        assert not page.exception
        drawn = "".join(_charts(page))
        assert f'"ticktext":{json.dumps(list(names), separators=(",", ":"))}' in drawn


def test_a_run_without_a_probe_is_not_asked_who_goes_where(store: Store, spiked_run: Run) -> None:
    page = _seen(_page, store, spiked_run.id)
    assert not [toggle for toggle in page.toggle if toggle.key == "who"]


def test_the_probe_that_counts_is_the_last_living_one_in_the_range(
    store: Store, full_run: Run
) -> None:
    reader = RunReader(store, full_run.id)
    newest = reader.at_probe(catalogue.CO_ACTIVATION)
    assert newest is not None
    assert (newest[0], newest[1].shape) == (10, (3, 64))
    assert reader.at_probe(catalogue.CO_ACTIVATION, (11, 30)) is None
    store.write_frames([_frame(full_run.id, 1, 30)])
    reader = RunReader(store, full_run.id)
    assert [reader.at_probe(catalogue.CO_ACTIVATION, r)[0] for r in (None, (0, 29))] == [30, 10]  # type: ignore[index]


def test_losses_by_noise_level_begin_where_a_sample_was(store: Store, make: Any) -> None:
    run = make.run(status="finished", finished_s=time.time())
    store.add_run(run)
    store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
    for step in (10, 20):
        frame = _frame(run.id, 0, step)
        # no clip has sound, and none of a step's clips was near the noise before step 20
        frame.values[catalogue.LOSS_NOISE_BIN][:] = [[0.5] * 7 + [0.25 * (step == 20)], [0.0] * 8]
        store.write_frames([frame])
    page = AppTest.from_function(_page, args=(store, run.id), default_timeout=20)
    page.session_state["more"] = True
    page.run()
    assert not page.exception
    (video,) = [json.loads(c)["figure"] for c in _charts(page) if '"name":"from 0.875"' in c]
    # one point is a dot
    assert [trace["mode"] for trace in video["data"]] == ["lines"] * 7 + ["markers"]
