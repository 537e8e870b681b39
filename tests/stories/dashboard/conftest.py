"""A played trainer, a dashboard as a process, and a browser: what the stories of this folder share.

A thread plays the trainer: it writes through the same store, beats, and answers commands. The
dashboard is a process of its own, started as `moescope up` starts it.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

import moescope.dashboard
from moescope.platform import catalogue
from moescope.platform.commands import answer, take
from moescope.platform.incidents import put_incident
from moescope.platform.records import (
    Alert,
    Checkpoint,
    Event,
    Frame,
    Health,
    Incident,
    Run,
    Segment,
)
from moescope.platform.store import Store, open_store

TOKEN = "a-token-for-the-story"
APP = Path(moescope.dashboard.__file__).parent / "door.py"
expect.set_options(timeout=20_000)  # two cores may have more to do than this test
RUN = "amber-finch"
SPIKE = range(230, 242)
"""Steps of the abandoned branch whose loss is several times too high."""
BACK_TO = 200
NUM_LAYERS, NUM_MOE_LAYERS, NUM_EXPERTS = 6, 3, 8


class PlayedTrainer:
    """A run with a past (spike, alert, rollback) that goes on at ten steps a second."""

    def __init__(self, store: Store) -> None:
        self.store = store
        now_s = time.time()
        self.run = Run(
            id="5f0c2a7e91",
            name=RUN,
            project="default",
            config={"steps": 2000},
            status="running",
            device="cpu",
            code_version="0.1.0",
            created_s=now_s - 90,
            heartbeat_s=now_s,
            tags=("story",),
            note="Text of a run stays text: <script>alert(1)</script> ![x](http://127.0.0.1:9/x.png)",
        )
        self.step = 0
        self._start_s = now_s - 90
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._train, name="played trainer")

    def _frame(self, segment: int, step: int) -> Frame:
        chance = np.random.default_rng((segment, step))
        is_bad = segment == 0 and step in SPIKE
        loss = 0.45 + 0.9 * np.exp(-step / 120) + chance.normal(0, 0.03) + (2.2 if is_bad else 0)
        values: dict[str, float | np.ndarray] = {
            catalogue.LOSS_TOTAL: loss,
            catalogue.LOSS_VIDEO: loss * 0.72,
            catalogue.LOSS_AUDIO: loss * 0.56,
            catalogue.LOSS_SPIKE_SCORE: chance.normal() + (11 if is_bad else 0),
            catalogue.LOSS_DRIFT_SCORE: abs(chance.normal()) * 0.3,
            catalogue.GRAD_NORM: (0.4 + np.exp(-step / 90)) * np.exp(chance.normal() * 0.15)
            + (6 if is_bad else 0),
            catalogue.GRAD_NORM_SCORE: chance.normal() + (9 if is_bad else 0),
            catalogue.GUARD_HELD: float(segment == 0 and step in (230, 231)),
            catalogue.STEP_TIME_S: 0.19,
            catalogue.DATA_WAIT_S: 0.004 + abs(chance.normal()) * 0.004,
            catalogue.FORWARD_S: 0.06 + abs(chance.normal()) * 0.004,
            catalogue.BACKWARD_S: 0.11 + abs(chance.normal()) * 0.006,
            catalogue.OPTIMIZER_S: 0.014,
            catalogue.MONITOR_S: 0.001,
            catalogue.TOKENS_PER_S: 9_200 + chance.normal() * 200,
        }
        if step % 10 == 0:
            load = chance.uniform(0.6, 1.4, (NUM_MOE_LAYERS, NUM_EXPERTS))
            load[1, 5] = max(0.0, 1 - step / 250)  # an expert that dies
            load[2, 2] = 1 + min(2.0, step / 150)  # one that takes over
            load /= load.mean(1, keepdims=True)
            depth = np.arange(NUM_LAYERS)
            rms = 1 + 0.25 * depth + chance.normal(0, 0.03, NUM_LAYERS) + is_bad * depth
            values |= {
                catalogue.EXPERT_LOAD: load,
                catalogue.MAX_VIOLATION: load.max(1) - 1,
                catalogue.ROUTER_ENTROPY_NATS: 1.4
                + 0.1 * np.arange(NUM_MOE_LAYERS)
                + chance.normal(0, 0.02, NUM_MOE_LAYERS),
                catalogue.ACTIVATION_RMS: rms,
                catalogue.ACTIVATION_ABSMAX: 5 * rms,
                catalogue.ACTIVATION_OUTLIER_RATIO: np.full(NUM_LAYERS, 5.0),
                catalogue.CPU_SHARE: 0.9 + chance.normal() * 0.03,
                catalogue.MEMORY_GIB: 1.4,
                catalogue.SINK_COALESCED: 0.0,
                catalogue.SINK_LAG_S: 0.3,
            }
        if step % 50 == 0:
            values[catalogue.PROBE_LOSS] = 0.47 + 0.9 * np.exp(-step / 120)
        arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
        return Frame(self.run.id, segment, step, self._start_s + 0.19 * step, arrays)

    def live_through_the_past(self) -> None:
        store, run, start_s = self.store, self.run, self._start_s
        store.add_run(run)
        store.add_segment(Segment(run.id, 0, 0, "start", start_s))
        store.write_frames([self._frame(0, step) for step in range(SPIKE.stop)])
        alert = Alert(
            id="spike-230",
            run_id=run.id,
            segment=0,
            rule="loss_spike",
            severity="critical",
            onset_step=230,
            fired_step=234,
            value=11.2,
            threshold=4.0,
            message="loss residuals above 4 sigma in 3 of 5 steps",
            created_s=start_s + 45,
            dedupe_key="loss_spike",
            evidence={"signal": catalogue.LOSS_SPIKE_SCORE, "record": "incidents/x/record"},
        )
        store.put_alert(alert)
        put_incident(store, Incident(alert.id, run.id, start_s + 47, "data", True, _account()))
        for step in range(0, SPIKE.stop, 50):
            self._save(0, step, "certified" if step <= BACK_TO else "tainted")
        self._save(0, 240, "tainted")
        store.add_segment(
            Segment(run.id, 1, BACK_TO, "rollback", start_s + 46, 0, BACK_TO - 1, alert.id)
        )
        store.add_event(
            Event(run.id, 0, 231, start_s + 44, "guard", "update of step 231 held back")
        )
        store.add_event(
            Event(run.id, 1, BACK_TO, start_s + 46, "rollback", f"from step 241 to {BACK_TO}")
        )
        store.add_event(
            Event(run.id, 1, 228, start_s + 47, "skip_data", "batches 230 to 241 passed over")
        )
        store.write_frames([self._frame(1, step) for step in range(BACK_TO, 320)])
        self._save(1, 300, "fresh")
        self.step = 320

    def _save(self, segment: int, step: int, health: Health) -> None:
        saved_s = self._start_s + 0.19 * step
        self.store.put_checkpoint(
            Checkpoint(
                self.run.id, segment, step, f"step-{step}", step, 38_000_000, saved_s, health
            )
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(timeout=10)

    def _train(self) -> None:
        while not self._is_over.wait(0.1):
            self.store.write_frames([self._frame(1, self.step)])
            self.store.update_run(self.run.id, heartbeat_s=time.time())
            self.step += 1
            for command in take(self.store, self.run.id):
                if command.kind == "set_mode":
                    self.store.update_run(self.run.id, mode=command.args["mode"])
                text = f"{command.kind} obeyed at step {self.step}"
                answer(self.store, command.id, "done", text, time.time())


def _account() -> dict[str, Any]:
    """What an autopsy made of the spike."""
    steps = list(range(190, 242))
    score = [9.0 if step in SPIKE else float(np.sin(step)) for step in steps]
    line = {"steps": steps, "score": score, "loss": score}
    return {
        "onset": {"step": 230, "batch": 230, "segment": 0, "told_by_the_rule": 230},
        "alarm": {"step": 234, "segment": 0},
        "movers": [
            {"kind": "modality", "what": "audio", "signal": catalogue.LOSS_PER_SAMPLE,
             "step": 230, "score": 9.0},
        ],
        "num_movers": 1,
        "clips": [
            {"name": "part-2/clip-0003.mp4", "steps": [230], "batches": [230], "score": 6.0,
             "modality": "audio", "sigma": 0.4},
        ],
        "num_clips": 1,
        "course": {"record": line, "again": line},
        "verdict": {
            "causes": ["data"], "words": "the data", "is_firm": True, "fidelity": None,
            "evidence": [{"text": "it comes back with the batches", "speaks_for": "data"}],
            "arms": [{"name": "again", "words": "the same again", "shows": "yes", "score": 9.0}],
        },
        "across": {"said": []}, "next": ["Look at the clips that stand out."], "notes": [],
    }  # fmt: skip


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    (tmp_path / "home").mkdir()
    return f"sqlite:///{tmp_path / 'home' / 'store.db'}"


@pytest.fixture
def trainer(store_url: str) -> Iterator[PlayedTrainer]:
    store = open_store(store_url)
    played = PlayedTrainer(store)
    played.live_through_the_past()
    played.start()
    yield played
    played.stop()
    store.close()


@pytest.fixture
def address(tmp_path: Path, store_url: str, trainer: PlayedTrainer) -> Iterator[str]:
    """Starts the dashboard from another working directory and waits until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MOESCOPE_HOME": str(tmp_path / "home"),
        "MOESCOPE_STORE": store_url,
        "MOESCOPE_TOKEN": TOKEN,
    }
    log = (tmp_path / "dashboard.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(APP), "--server.port", str(port)],
        cwd=tmp_path,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_until_up(f"http://127.0.0.1:{port}/_stcore/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)
        log.close()
    said = (tmp_path / "dashboard.log").read_text()
    assert "Traceback" not in said, said


def _wait_until_up(url: str, process: "subprocess.Popen[bytes]") -> None:
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        assert process.poll() is None, "the dashboard ended at once"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"{url} did not answer within 30 s")


@pytest.fixture
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--disable-background-networking",
            ],
        )
        yield started
        started.close()


@dataclass
class Opened:
    """A page, and what its console complained of."""

    page: Page
    complaints: list[str]

    def assert_in_order(self) -> None:
        assert self.page.get_by_test_id("stException").count() == 0
        # a page with a path of its own first looks for the server below that path, then finds it
        assert [c for c in self.complaints if not ("404" in c and "/_stcore/" in c)] == []


@pytest.fixture
def opened(browser: Browser) -> Callable[..., Opened]:
    """Opens an address: `opened(url, width=1440, scheme="light")`."""
    return lambda url, width=1440, scheme="light": _opened(browser, url, width, scheme)


def _opened(browser: Browser, url: str, width: int, scheme: str) -> Opened:
    height = 900 if width > 600 else 844
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(f"{message.text} {message.location.get('url', '')}")

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def miss(request: Request) -> None:
        # leaving a page gives up what it was still loading
        if request.failure != "net::ERR_ABORTED":
            complaints.append(f"{request.failure}: {request.url}")

    page.on("requestfailed", miss)
    page.goto(url)
    return Opened(page, complaints)
