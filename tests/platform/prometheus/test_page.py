"""The page as Prometheus' own parsers read it, and what it costs the store."""

import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from sqlalchemy import event

from moescope.platform import catalogue
from moescope.platform.catalogue import CATALOGUE
from moescope.platform.prometheus.metric_names import metric_name
from moescope.platform.prometheus.page import Page
from moescope.platform.prometheus.readings import (
    MOST_RUNS,
    MOST_USER_SIGNALS,
    SHOWN_S,
    Readings,
)
from moescope.platform.records import Alert, Frame, Run, Segment
from moescope.platform.store import Store, open_store

NOW_S = 1_760_000_000.0
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def page(store: Store, clock: Clock) -> Page:
    return Page(Readings(store, clock), "1.2.3", clock)


def a_run(run_id: str = "run-1", **fields: Any) -> Run:
    known: dict[str, Any] = {
        "id": run_id,
        "name": 'swift "otter"\\\n',
        "project": "clips",
        "config": {},
        "status": "running",
        "device": "cpu",
        "code_version": "0",
        "created_s": NOW_S - 1000,
        "heartbeat_s": NOW_S - 2.5,
    }
    return Run(**{**known, **fields})


def an_alert(name: str, **fields: Any) -> Alert:
    known: dict[str, Any] = {
        "id": name,
        "run_id": "run-1",
        "segment": 0,
        "rule": "loss_spike",
        "severity": "critical",
        "onset_step": 1,
        "fired_step": 2,
        "value": 1.0,
        "threshold": 0.5,
        "message": "m",
        "created_s": NOW_S,
        "dedupe_key": name,
    }
    return Alert(**{**known, **fields})


def log(store: Store, run_id: str, step: int, **values: Any) -> None:
    named = {name.replace("__", "/"): np.asarray(v, np.float32) for name, v in values.items()}
    store.write_frames([Frame(run_id, 0, step, NOW_S, named)])


def samples(page: Page) -> Samples:
    """What both of Prometheus' parsers read, which must be the same."""
    text = generate_latest(page).decode()  # type: ignore[arg-type]
    found = _samples(plain_text(text))
    other = _samples(open_metrics(generate_open_metrics(page).decode()))  # type: ignore[arg-type]
    assert found.keys() == other.keys()
    for key, value in found.items():
        np.testing.assert_equal(other[key], value)
    return found


def _samples(families: Any) -> Samples:
    found: Samples = {}
    for family in families:
        assert family.type in ("gauge", "info")
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, "a series twice"
            found[key] = sample.value
    return found


def of_run(name: str, run: Run, **more: str) -> tuple[str, frozenset[tuple[str, str]]]:
    labels = {"run": run.name, "run_id": run.id, "project": run.project, **more}
    return f"moescope_{name}", frozenset(labels.items())


def test_the_newest_values_are_there_in_base_units(store: Store, page: Page) -> None:
    run = a_run()
    store.add_run(run)
    store.add_segment(Segment(run.id, 0, 0, "start", 0.0))
    log(store, run.id, 6, loss__total=9.0)
    log(
        store,
        run.id,
        7,
        loss__total=2.5,
        time__step_s=0.25,
        system__memory_gib=1.5,
        speed__model_tflop_per_s=3.0,
        speed__tokens_per_s=1000.0,
        speed__utilisation=0.5,
        grad__norm=math.nan,
        optim__learning_rate=math.inf,
    )
    found = samples(page)
    assert found[of_run("loss", run)] == 2.5
    assert found[of_run("time_step_seconds", run)] == 0.25
    assert found[of_run("system_memory_bytes", run)] == 1_610_612_736  # 1.5 * 2**30
    assert found[of_run("speed_model_flops_per_second", run)] == 3e12
    assert found[of_run("speed_tokens_per_second", run)] == 1000
    assert found[of_run("speed_utilisation_ratio", run)] == 0.5
    assert math.isnan(found[of_run("grad_norm", run)])
    assert found[of_run("optim_learning_rate", run)] == math.inf
    assert found[of_run("run_step", run)] == 7
    assert found["moescope_build_info", frozenset({("version", "1.2.3")})] == 1
    assert found["moescope_store_up", frozenset()] == 1


def test_a_vector_is_its_least_greatest_and_mean_entry(store: Store, page: Page) -> None:
    run = a_run()
    store.add_run(run)
    load = [[1.0, 2.0, 6.0], [0.0, 0.5, 2.5]]
    log(store, run.id, 3, router__expert_load=load, grad__layer_norm=[1.0, math.nan])
    found = samples(page)
    got = {a: found[of_run("router_expert_load", run, aggregate=a)] for a in ("min", "max", "mean")}
    assert got == {"min": 0.0, "max": 6.0, "mean": 2.0}  # 12 / 6
    assert math.isnan(found[of_run("grad_layer_norm", run, aggregate="max")])


def test_a_users_own_signals_share_a_metric_and_are_bounded(store: Store, page: Page) -> None:
    run = a_run()
    store.add_run(run)
    many = {f"user/x{i:03}": np.float32(i) for i in range(MOST_USER_SIGNALS + 20)}
    store.write_frames([Frame(run.id, 0, 1, NOW_S, {**many, 'user/a "b"\\c': np.float32(5)})])
    found = samples(page)
    assert found[of_run("user", run, signal='a "b"\\c')] == 5
    assert sum(name == "moescope_user" for name, _ in found) == MOST_USER_SIGNALS
    assert found[of_run("run_signals_left_out", run)] == 21


def test_the_pulse_is_that_of_now_though_reads_are_kept(
    store: Store, page: Page, clock: Clock
) -> None:
    run = a_run()
    store.add_run(run)
    store.add_run(a_run("run-2", status="crashed", finished_s=NOW_S - 60))
    assert samples(page)[of_run("run_heartbeat_age_seconds", run)] == 2.5
    clock.now_s += 4
    found = samples(page)
    assert found[of_run("run_heartbeat_age_seconds", run)] == 6.5
    assert found[of_run("run_heartbeat_timestamp_seconds", run)] == NOW_S - 2.5
    other = a_run("run-2")
    # whoever has ended need not beat
    assert of_run("run_heartbeat_age_seconds", other) not in found
    assert found[of_run("run_status", other, status="crashed")] == 1
    assert found[of_run("run_status", other, status="running")] == 0
    assert found["moescope_runs", frozenset({("status", "running")})] == 1


def test_alerts_are_counted_by_severity_and_state_and_told_by_rule(
    store: Store, page: Page
) -> None:
    run = a_run()
    store.add_run(run)
    store.put_alert(an_alert("a"))
    store.put_alert(an_alert("b"))
    store.put_alert(an_alert("c", rule="grad", severity="warning", state="acknowledged"))
    store.put_alert(an_alert("d", rule="old", state="resolved"))
    found = samples(page)
    assert found[of_run("alerts", run, severity="critical", state="open")] == 2
    assert found[of_run("alerts", run, severity="warning", state="acknowledged")] == 1
    # a zero is told too: an alert in Grafana compares with it
    assert found[of_run("alerts", run, severity="info", state="silenced")] == 0
    key = of_run("alert_active", run, rule="loss_spike", severity="critical", state="open")
    assert found[key] == 1
    assert sum(name == "moescope_alert_active" for name, _ in found) == 2


def test_runs_are_bounded_and_old_ones_leave(store: Store, page: Page, clock: Clock) -> None:
    for i in range(MOST_RUNS + 5):
        store.add_run(a_run(f"run-{i}", created_s=NOW_S + i))
    store.add_run(a_run("gone", status="finished", finished_s=NOW_S - SHOWN_S - 1))
    store.add_run(a_run("just", status="finished", finished_s=NOW_S - 1, created_s=NOW_S + 100))
    beats = [
        labels for name, labels in samples(page) if name.endswith("heartbeat_timestamp_seconds")
    ]
    ids = {dict(labels)["run_id"] for labels in beats}
    assert len(ids) == MOST_RUNS
    assert "just" in ids
    assert "gone" not in ids
    clock.now_s += SHOWN_S
    assert "just" not in {dict(labels).get("run_id") for _, labels in samples(page)}


def test_every_signal_has_a_name_of_its_own_that_prometheus_takes() -> None:
    names = [metric_name(spec).name for spec in CATALOGUE.values()]
    assert len(set(names)) == len(CATALOGUE)
    assert [n for n in names if n.endswith(("_total", "_count", "_sum", "_bucket", "_s"))] == []
    assert metric_name(CATALOGUE[catalogue.LOSS_TOTAL]).name == "moescope_loss"
    assert metric_name(CATALOGUE[catalogue.CPU_SHARE]).name == "moescope_system_cpu_ratio"


@pytest.fixture
def num_statements(store: Store) -> Iterator[Callable[[], int]]:
    """How many statements reached the database since the last call."""
    counted = [0]

    def count(*_: Any) -> None:
        counted[0] += 1

    engine = store.database._engine
    event.listen(engine, "before_cursor_execute", count)

    def since() -> int:
        found, counted[0] = counted[0], 0
        return found

    yield since
    event.remove(engine, "before_cursor_execute", count)


def test_many_scrapes_cost_the_store_one_and_an_ended_run_is_read_once(
    store: Store, page: Page, clock: Clock, num_statements: Callable[[], int]
) -> None:
    store.add_run(a_run())
    store.add_run(a_run("run-2", status="finished", finished_s=NOW_S))
    for run_id in ("run-1", "run-2"):
        log(store, run_id, 1, loss__total=1.0, grad__norm=1.0)
    num_statements()
    generate_latest(page)  # type: ignore[arg-type]
    first = num_statements()
    assert first > 0
    threads = [threading.Thread(target=lambda: list(page.collect())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert num_statements() == 0
    clock.now_s += 60
    generate_latest(page)  # type: ignore[arg-type]
    assert 0 < num_statements() < first
    log(store, "run-1", 2, loss__total=4.0)
    clock.now_s += 60
    assert samples(page)[of_run("loss", a_run())] == 4.0


def test_while_the_store_is_away_nothing_old_is_told(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "store.db"
    with open_store(f"sqlite:///{file}", patience_s=0.2) as store:
        store.add_run(a_run())
        page = Page(Readings(store, clock), "1", clock)
        assert len(samples(page)) > 2
        file.rename(tmp_path / "away.db")
        clock.now_s += 60
        started_s = time.monotonic()
        found = samples(page)
        assert time.monotonic() - started_s < 5
        assert found["moescope_store_up", frozenset()] == 0
        assert {name for name, _ in found} == {"moescope_store_up", "moescope_build_info"}
        (tmp_path / "away.db").rename(file)
        assert samples(page)["moescope_store_up", frozenset()] == 1


def test_the_documentation_names_metrics_that_there_are(store: Store, page: Page) -> None:
    run = a_run()
    store.add_run(run)
    store.put_alert(an_alert("a"))
    log(store, run.id, 1, loss__total=1.0, grad__norm=1.0, time__step_s=1.0, user__x=1.0)
    log(store, run.id, 2, router__expert_load=[[1.0]], router__max_violation=[1.0])
    told = Path(__file__).parents[3] / "docs" / "in_and_out.md"
    named = set(re.findall(r"\bmoescope_[a-z_]+", told.read_text()))
    assert len(named) > 12
    assert named - {name for name, _ in samples(page)} == set()
