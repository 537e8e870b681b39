"""An open page never holds a reading transaction for long: SQLite could not write its log back."""

import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from moescope.platform.records import Frame, Run
from moescope.platform.store import Store

# Streamlit copies the text of these functions: their imports go inside


def _fleet(store: "Store") -> None:
    from moescope.dashboard.views import fleet

    fleet.render(store, lambda run_id: None)


def _system(store: "Store") -> None:
    from moescope.dashboard.views import system_page
    from moescope.platform.settings import Settings

    system_page.render(store, Settings())


def _run(store: "Store", wanted: str) -> None:
    from moescope.dashboard.views import run

    run.render(store, run.picked(store, wanted))


def _alerts(store: "Store") -> None:
    import streamlit as st

    from moescope.dashboard.views import alerts

    alerts.render(store, lambda label, run_id: st.text(f"link {label} {run_id}"))


@pytest.fixture
def long_run(store: Store, spiked_run: Run, make: SimpleNamespace) -> Run:
    """20,000 steps more, and a matrix of 12 layers at 2,000 of them."""
    for first in range(100, 20_100, 2000):
        store.write_frames(
            [make.frame(spiked_run.id, 1, s, 0.9) for s in range(first, first + 2000)]
        )
    load = np.full((12, 48), 1 / 48, np.float32)
    loads = [
        Frame(spiked_run.id, 1, step, 1.0, {"router/expert_load": load})
        for step in range(2700, 3000)
    ]
    store.write_frames(loads)
    return spiked_run


def test_a_page_reads_in_short_transactions_and_leaves_none_open(
    store: Store, long_run: Run
) -> None:
    for page in (_fleet, _system, _run, _alerts):
        _assert_reads_shortly(store, long_run, page)


def _assert_reads_shortly(store: Store, long_run: Run, page: Callable[..., None]) -> None:
    store.update_run(long_run.id, heartbeat_s=time.time())  # so that the log holds something
    store.database.times_s["read"].clear()
    wanted: tuple[Any, ...] = (store, long_run.id) if page is _run else (store,)
    shown = AppTest.from_function(page, args=wanted, default_timeout=60).run()
    assert not shown.exception, shown.exception
    took_s = store.database.times_s["read"]
    assert len(took_s) >= 2
    assert median(took_s) < 0.05
    assert max(took_s) < 1.0
    # the page is still open, and the log can be cut to nothing
    assert store.database.wal_bytes() > 0
    assert store.database.cut_wal()
    assert store.database.wal_bytes() == 0
