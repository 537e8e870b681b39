"""A store with a run as training leaves it: spike, alert, rollback, checkpoints of every health."""

import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from moescope.dashboard.sign_in import SHOWN_TOKEN
from moescope.platform import catalogue
from moescope.platform.records import Alert, Checkpoint, Event, Frame, Run, Segment
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store

NUM_LAYERS, NUM_MOE_LAYERS, NUM_EXPERTS, NUM_SAMPLES = 6, 3, 8, 4


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    """Module caches outlive a test: a second store must not get the first one's series."""
    yield
    st.cache_resource.clear()
    st.cache_data.clear()


@pytest.fixture(scope="session", autouse=True)
def _packages_are_searched_once() -> Iterator[None]:
    """Streamlit's AppTest looks through every installed package for components before each page:
    most of a second, and each time the same answer."""
    with pytest.MonkeyPatch.context() as patch:
        once = cache(manifest_scanner.scan_component_manifests)
        patch.setattr(manifest_scanner, "scan_component_manifests", once)
        yield


@pytest.fixture(autouse=True)
def _pages_are_an_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page made of a function is an operator's; a test that is about others says so."""
    made = AppTest.from_function

    def by_an_operator(*args: Any, **options: Any) -> AppTest:
        page = made(*args, **options)
        page.session_state[SHOWN_TOKEN] = Settings().read_token()
        return page

    monkeypatch.setattr(AppTest, "from_function", by_an_operator)


@pytest.fixture
def store_url(tmp_path: Path, put_store: Callable[[Path], str]) -> str:
    return put_store(tmp_path / "home" / "store.db")


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url)
    yield opened
    opened.close()


def make_run(name: str = "amber-finch", **changes: object) -> Run:
    now_s = time.time()
    values: dict[str, object] = {
        "id": f"id-{name}",
        "name": name,
        "project": "default",
        "config": {"steps": 600},
        "status": "running",
        "device": "cpu",
        "code_version": "0.1.0",
        "created_s": now_s - 300,
        "heartbeat_s": now_s,
    }
    return Run(**(values | changes))  # type: ignore[arg-type]


def make_alert(run_id: str, **changes: object) -> Alert:
    values: dict[str, object] = {
        "id": f"alert-{run_id}",
        "run_id": run_id,
        "segment": 0,
        "rule": "loss_spike",
        "severity": "critical",
        "onset_step": 60,
        "fired_step": 63,
        "value": 9.5,
        "threshold": 4.0,
        "message": "the loss of all samples is far above its usual course",
        "created_s": time.time() - 60,
        "dedupe_key": f"loss_spike-{run_id}",
        "evidence": {"signal": catalogue.LOSS_SPIKE_SCORE},
    }
    return Alert(**(values | changes))  # type: ignore[arg-type]


def make_frame(run_id: str, segment: int, step: int, loss: float) -> Frame:
    """Returns what a trainer measures at a step; layer and expert signals at each tenth."""
    chance = np.random.default_rng((segment, step))
    values: dict[str, float | np.ndarray] = {
        catalogue.LOSS_TOTAL: loss,
        catalogue.LOSS_VIDEO: loss * 0.7,
        catalogue.LOSS_AUDIO: loss * 0.6,
        catalogue.LOSS_SPIKE_SCORE: (loss - 1) * 4,
        catalogue.LOSS_DRIFT_SCORE: 0.1,
        catalogue.GRAD_NORM: 0.5 + loss,
        catalogue.GRAD_NORM_SCORE: loss,
        catalogue.GUARD_HELD: float(step == 62 and segment == 0),
        catalogue.STEP_TIME_S: 0.2,
        catalogue.DATA_WAIT_S: 0.01,
        catalogue.FORWARD_S: 0.06,
        catalogue.BACKWARD_S: 0.1,
        catalogue.OPTIMIZER_S: 0.02,
        catalogue.MONITOR_S: 0.001,
        catalogue.TOKENS_PER_S: 12_345.0,
        catalogue.LOSS_PER_SAMPLE: np.full((2, NUM_SAMPLES), loss),
        catalogue.LOSS_SIGMA: chance.uniform(0, 1, (2, NUM_SAMPLES)),
        catalogue.LEARNING_RATE: 1e-3,
        catalogue.DATA_BATCH: float(step),
        catalogue.BAD_CLIPS: 2.0,
        catalogue.EXPERT_TOKENS: chance.integers(1, 99, (NUM_MOE_LAYERS, NUM_EXPERTS)),
    }
    if step % 10 == 0:
        values |= {
            catalogue.EXPERT_LOAD: chance.uniform(0.5, 1.5, (NUM_MOE_LAYERS, NUM_EXPERTS)),
            catalogue.ROUTER_ENTROPY_NATS: chance.uniform(1.2, 1.6, NUM_MOE_LAYERS),
            catalogue.LOAD_ENTROPY_NATS: np.full(NUM_MOE_LAYERS, 2.0),
            catalogue.MAX_VIOLATION: np.full(NUM_MOE_LAYERS, 0.4),
            catalogue.DEAD_EXPERTS: np.zeros(NUM_MOE_LAYERS),
            catalogue.BIAS_RANGE: np.full(NUM_MOE_LAYERS, 0.01),
            catalogue.ACTIVATION_RMS: np.linspace(1, 2, NUM_LAYERS),
            catalogue.ACTIVATION_ABSMAX: np.linspace(4, 9, NUM_LAYERS),
            catalogue.ACTIVATION_OUTLIER_RATIO: np.linspace(4, 5, NUM_LAYERS),
            catalogue.CPU_SHARE: 0.9,
            catalogue.MEMORY_GIB: 1.5,
            catalogue.SINK_COALESCED: 3.0,
            catalogue.SINK_LAG_S: 0.4,
            catalogue.SINK_LOST: 2.0,
            catalogue.SINK_REFUSED: 1.0,
        }
    if step % 50 == 0:
        values |= {catalogue.PROBE_LOSS: 1.1, catalogue.PROBE_LOSS_BIN: np.full(4, 1.1)}
    arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return Frame(run_id, segment, step, time.time(), arrays)


@pytest.fixture
def make() -> SimpleNamespace:
    """The makers of records, for tests that need their own."""
    return SimpleNamespace(run=make_run, alert=make_alert, frame=make_frame)


@pytest.fixture
def spiked_run(store: Store) -> Run:
    """80 steps with a spike from 60 on, then a rollback to 50 and 40 good steps more."""
    run = make_run()
    store.add_run(run)
    store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
    losses = [5.0 if step >= 60 else 1.0 for step in range(64)]
    store.write_frames([make_frame(run.id, 0, step, loss) for step, loss in enumerate(losses)])
    alert = make_alert(run.id)
    store.put_alert(alert)
    for step, health in ((0, "certified"), (50, "certified"), (60, "tainted"), (90, "fresh")):
        segment = int(step > 60)
        store.put_checkpoint(
            Checkpoint(run.id, segment, step, "x", step, 12_000_000, time.time(), health)  # type: ignore[arg-type]
        )
    store.add_segment(Segment(run.id, 1, 50, "rollback", time.time(), 0, 49, alert.id))
    store.add_event(
        Event(run.id, 1, 50, time.time(), "rollback", "back to step 50 for <b>loss_spike</b>")
    )
    store.write_frames([make_frame(run.id, 1, step, 0.9) for step in range(50, 91)])
    return run
