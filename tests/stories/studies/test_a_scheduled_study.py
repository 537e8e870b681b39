"""A study from its schedule to the dashboard: one trial killed, one unstable, the service killed in
the middle; every trial is in the report once, and twelve toy trials do not make a law.

Set MOESCOPE_SCREENSHOTS to a folder to keep the pictures of the dashboard's page.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from playwright.sync_api import Page, expect, sync_playwright
from sqlalchemy import select, update

from moescope.platform import reports, tables, trials
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.studies import schedules
from moescope.trainer.data.make_clips import make_clips

pytestmark = pytest.mark.story

PICTURES = os.environ.get("MOESCOPE_SCREENSHOTS")
MOST_S = 8 * 60.0
STUDY = {
    "name": "toy-ladder",
    "question": "Do twelve toy trials make a law?",
    "kind": "ladder",
    "sizes": {"active_params": [2e5, 2.4e5, 2.9e5, 3.5e5]},
    "budget": {"tokens": [2400, 2900, 3500]},
    "learning_rate": "fixed",
    "batch": "fixed",
    "changes": {
        "data.batch": 4,
        "data.num_frames": 4,
        "data.height": 16,
        "data.width": 16,
        "data.num_mels": 8,
        "data.num_mel_steps": 8,
        "data.num_text_bytes": 8,
        "model.width": 64,
        "model.layers": 2,
        "model.heads": 2,
        "moe.num_experts": 4,
        "watch.probe_every": 0,
        "checkpoint.disk_every_steps": 10,
        "checkpoint.min_free_gib": 0.0,
    },
    "early_stop": {"unstable_steps": 8},
    "launch": {"slots": 2},
}


class Service:
    """`moescope up` as a process."""

    def __init__(self, settings: Settings, log: Path) -> None:
        command = [sys.executable, "-m", "moescope.cli", "up", "--home", str(settings.home_path)]
        self._log = log.open("ab")
        self._out = log
        self._from = log.stat().st_size
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--mlflow-port", "0"],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            # one trial each has a core; more threads would wait for each other
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def said(self) -> str:
        return self._out.read_bytes()[self._from :].decode()

    def dashboard(self) -> str:
        found = re.search(r"dashboard (\S+)", self.said())
        return found[1] if found else ""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        self._log.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def serve(tmp_path: Path, settings: Settings) -> Iterator[Callable[[], Service]]:
    started: list[Service] = []

    def start() -> Service:
        started.append(Service(settings, tmp_path / "service.log"))
        return started[-1]

    yield start
    for service in started:
        service.end()


def wait_until(is_true: Callable[[], object], what: str, most_s: float = 120.0) -> None:
    until_s = time.monotonic() + most_s
    while not is_true():
        assert time.monotonic() < until_s, f"waited in vain for {what}"
        time.sleep(0.2)


def trainer_of(run_id: str) -> psutil.Process | None:
    for process in psutil.process_iter():
        try:
            if run_id in process.cmdline() and "moescope.trainer" in process.cmdline():
                return process
        except psutil.Error:
            continue
    return None


def in_state(store: Store, state: str) -> list[trials.Trial]:
    return [one for one in trials.trials(store, "toy-ladder") if one.state == state]


def make_unstable(store: Store, key: str) -> None:
    """Gives a trial that waits a learning rate that nothing survives."""
    (trial,) = [one for one in trials.trials(store, "toy-ladder") if one.key == key]
    assert trial.state == "waiting"
    config = json.loads(json.dumps(trial.config))
    config["optim"]["learning_rate"] = 10.0
    row = update(tables.trials).where(tables.trials.c.key == key).values(config=config)
    store.database.write(lambda c: c.execute(row))


def test_from_a_schedule_to_the_dashboard(
    tmp_path: Path, settings: Settings, serve: Callable[[], Service]
) -> None:
    began_s = time.monotonic()
    make_clips(tmp_path / "clips", 12, seed=0)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "data": str(tmp_path / "clips")}))
    first = serve()
    wait_until(first.dashboard, "the service")
    # on a busy machine a command alone may take ten seconds to start
    at_s = int(time.time()) + 30
    at = datetime.fromtimestamp(at_s, UTC).isoformat()
    place = ["--home", str(settings.home_path)]
    command = [sys.executable, "-m", "moescope.cli", "study", "schedule", str(file), "--at", at]
    done = subprocess.run([*command, *place], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "12 trials, first" in done.stdout
    with open_store(settings.store_url) as store:
        wait_until(lambda: in_state(store, "waiting"), "the schedule")
        [study] = trials.studies(store)
        assert study.created_s >= at_s, "it came before its time"
        last = trials.trials(store, "toy-ladder")[-1]
        make_unstable(store, last.key)

        # a trainer that has saved something is killed
        def victims() -> list[trials.Trial]:
            return [
                trial
                for trial in in_state(store, "running")
                if any(c.is_on_disk and c.step for c in store.checkpoints(trial.run_id))
                and trainer_of(trial.run_id)
            ]

        wait_until(victims, "a trial that runs")
        victim = victims()[0]
        trainer = trainer_of(victim.run_id)
        assert trainer is not None
        trainer.kill()

        # the service is killed in the middle, and another goes on
        wait_until(lambda: len(in_state(store, "done")) >= 4, "four trials")
        first.kill()
        second = serve()
        wait_until(lambda: len(in_state(store, "done")) == 12, "all trials", 300)
        wait_until(lambda: reports.newest(store, "toy-ladder"), "the report")

        found = trials.trials(store, "toy-ladder")
        attempts = {one.key: trials.attempts(store, "toy-ladder", one.key) for one in found}
        assert len(attempts[victim.key]) == 2
        assert attempts[victim.key][0].exit_reason == "ended by signal 9"
        assert attempts[victim.key][1].run_id == victim.run_id
        assert len(schedules.firings(store, "toy-ladder")) == 1
        finished = [run for run in store.runs() if not run.is_archived]
        assert len(finished) == 12

        report = reports.newest(store, "toy-ladder")
        assert report is not None
        told = report.content["numbers"]
        rows = pd.read_parquet(Path(report.folder) / "trials.parquet")
        assert sorted(rows["key"]) == sorted(one.key for one in found)
        assert rows.set_index("key")["num_attempts"][victim.key] == 2
        assert json.loads((Path(report.folder) / "report.json").read_text()) == told
        (excluded,) = told["excluded"]
        assert excluded["key"] == last.key
        assert "unstable" in excluded["reason"] or "diverged" in excluded["reason"]
        assert "do not extrapolate" in told["headline"]
        assert "11 trials do not pin the 5 parameters" in told["headline"]
        page = (Path(report.folder) / "report.html").read_text()
        assert "DO NOT EXTRAPOLATE" in page

        wait_until(second.dashboard, "the dashboard")
        _look(second.dashboard(), settings, told["headline"])
        assert "Traceback" not in (tmp_path / "service.log").read_text()
        chosen = select(tables.trials.c.key).where(tables.trials.c.study == "toy-ladder")
        assert len(store.database.read(lambda c: c.scalars(chosen).all())) == 12
    assert time.monotonic() - began_s < MOST_S


def _look(address: str, settings: Settings, headline: str) -> None:
    """Opens the study's page at the width of a screen and of a phone."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        assert chromium is not None
        browser = playwright.chromium.launch(executable_path=chromium)
        for width, scheme in ((1440, "light"), (390, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
            complaints: list[str] = []
            page.on("pageerror", lambda error, said=complaints: said.append(str(error)))
            page.goto(address.replace("/?", "/studies?"))
            page.get_by_role("link", name="toy-ladder").click(timeout=30_000)
            expect(page.get_by_role("heading", name="toy-ladder")).to_be_visible(timeout=30_000)
            expect(page.get_by_text("12 of 12 done")).to_be_visible(timeout=30_000)
            expect(page.get_by_text(headline[:60])).to_be_visible(timeout=30_000)
            expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=30_000)
            page.wait_for_timeout(1000)
            assert page.get_by_test_id("stException").count() == 0
            wide = page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
            assert wide <= width
            assert complaints == []
            _picture(page, f"study-{width}")
        browser.close()


def _picture(page: Page, name: str) -> None:
    if PICTURES:
        main = page.get_by_test_id("stMain")
        height = int(main.evaluate("e => e.scrollHeight")) + 60
        width = page.viewport_size["width"] if page.viewport_size else 1440
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"))
