"""`moescope demo`: trains on real video files, meets corrupt ones, alerts, goes back and
recovers, in a few minutes.

Neither the trainer nor the policy is told where the corrupt clips are; this file knows, for the
account at the end.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..platform import catalogue
from ..platform.errors import MoescopeError
from ..platform.records import Alert, Event, Series
from ..platform.series import is_living, read_series
from ..platform.settings import Settings
from ..platform.store import Store, open_store
from ..platform.terminal import say
from .config import RunConfig
from .data.deliveries import Deliveries, make_demo_deliveries
from .recipes.by_name import recipe
from .run import RunResult, train

READY_S = 60.0
STEPS = 380
RULES_OF_A_SPIKE = ("loss_spike",)
WORST_RECOVERY = 1.1
"""The loss at the end over the loss before the corrupt stretch, at most: a run that recovered
goes on learning.
"""


@dataclass(frozen=True, slots=True)
class Account:
    """What happened, as read back from the store; None where a stage did not happen."""

    alert: Alert | None
    rollback: Event | None
    skipped: Event | None
    loss_before: float
    loss_worst: float
    loss_after: float
    is_finished: bool

    def stages(self, made: Deliveries) -> dict[str, bool]:
        """Returns {stage: whether it really happened}, held against where the corrupt clips lie."""
        back = self.rollback.details if self.rollback else {}
        passed = self.skipped.details if self.skipped else {}
        onset_batch = self.alert.evidence.get("onset_batch") if self.alert else None
        return {
            "an alert was raised, with its onset in the corrupt stretch": (
                onset_batch is not None
                and made.first_spoiled_batch <= onset_batch <= made.last_spoiled_batch
                and self.loss_worst > self.loss_before
            ),
            "it went back for that to a certified checkpoint from before the onset": bool(
                self.alert
                and back.get("alert_id") == self.alert.id
                and back.get("health") == "certified"
                and back.get("to_step", 1 << 60) <= self.alert.onset_step
            ),
            "the corrupt batches were passed over": (
                passed.get("from_batch", 1 << 60) <= made.first_spoiled_batch
                and passed.get("to_batch", -1) > made.last_spoiled_batch
                and passed.get("num_batches", 0) >= made.last_spoiled_batch - onset_batch
                if onset_batch is not None
                else False
            ),
            "the loss recovered": self.loss_after <= WORST_RECOVERY * self.loss_before,
            "the run finished": self.is_finished,
        }


def demo_config(folder: Path) -> RunConfig:
    return recipe(
        "tiny",
        {
            "project": "demo",
            "steps": STEPS,
            "data.folder": str(folder),
            "data.order": "by_folder",
            "data.windows_per_clip": 16,
        },
    )


def run_demo(settings: Settings, headless: bool) -> int:
    """Runs the demo. headless: ends afterwards, with 0 only if every stage happened; else it
    serves until Ctrl-C."""
    started_s = time.monotonic()
    home = settings.make_home()
    # as Ctrl-C: what was started is ended
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _service(settings) as service:
        config = demo_config(home / "demo-clips")
        deliveries = _deliveries(home / "demo-clips", config)
        say(f"{deliveries.num_clips} clips in {deliveries.folder}, in three deliveries")
        result = train(config, settings=settings, name=f"demo-{time.strftime('%H%M%S')}")
        store = open_store(settings.store_url)
        try:
            account = read_account(store, result)
        finally:
            store.close()
        tell(account, deliveries)
        say(f"the demo took {time.monotonic() - started_s:.0f} s")
        if headless:
            return 0 if all(account.stages(deliveries).values()) else 1
        say("serving until Ctrl-C")
        service.wait()
    # only an interrupt leads here before the end
    return 1 if headless else 0


def read_account(store: Store, result: RunResult) -> Account:
    """Reads what happened to a run back from the store, as anybody else would see it."""
    alerts = [a for a in store.alerts(result.run_id) if a.rule in RULES_OF_A_SPIKE]
    events = store.events(result.run_id)
    first = min(alerts, key=lambda alert: alert.fired_step, default=None)
    series = read_series(store, result.run_id, catalogue.LOSS_TOTAL)
    living = is_living(series, store.segments(result.run_id))
    onset = first.onset_step if first else int(series.steps.max(initial=0))
    last = int(series.steps.max(initial=0))
    return Account(
        alert=first,
        rollback=next((e for e in events if e.kind == "rollback"), None),
        skipped=next((e for e in events if e.kind == "skip_data"), None),
        loss_before=_median(series, (series.steps < onset) & (series.steps >= onset - 40)),
        loss_worst=float(np.max(series.values, where=~living, initial=-np.inf)),
        loss_after=_median(series, living & (series.steps >= last - 40)),
        is_finished=result.status == "finished",
    )


def tell(account: Account, deliveries: Deliveries) -> None:
    """Prints the account in a few lines."""
    first, last = deliveries.first_spoiled_batch, deliveries.last_spoiled_batch
    say("")
    say(f"corrupt clips      batches {first} to {last}; nobody was told")
    if account.alert:
        alert = account.alert
        say(f"onset, alarm       step {alert.onset_step}, step {alert.fired_step}: {alert.message}")
    if account.rollback:
        back = account.rollback.details
        steps = back["took_s"] / back["step_s"]
        say(
            f"went back          to step {back['to_step']} ({back['health']}, {back['source']}) "
            f"in {back['took_s'] * 1000:.0f} ms, {steps:.2f} steps' time"
        )
    if account.skipped:
        say(f"passed over        {account.skipped.text}")
    say(
        f"loss               {account.loss_before:.3f} before, {account.loss_worst:.3f} at worst, "
        f"{account.loss_after:.3f} at the end"
    )
    for stage, happened in account.stages(deliveries).items():
        say(f"  {'yes' if happened else 'NO '}  {stage}")


@contextmanager
def _service(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """Runs `moescope up` as a process on free ports, says its addresses at once, and ends it
    afterwards."""
    command = [sys.executable, "-m", "moescope.cli", "up", "--home", str(settings.home_path)]
    command += ["--store", settings.store_url, "--port", "0", "--mlflow-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _wait_until_ready(process)
        yield process
    except KeyboardInterrupt:
        say("stopped")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    stdout = process.stdout
    ready = threading.Event()

    def pass_on() -> None:
        for line in stdout:
            say(line.rstrip())
            if line.startswith("dashboard"):
                ready.set()
        ready.set()

    threading.Thread(target=pass_on, name="service output", daemon=True).start()
    if not ready.wait(READY_S) or process.poll() is not None:
        raise MoescopeError("the service did not start: `moescope up` says why")


def _deliveries(folder: Path, config: RunConfig) -> Deliveries:
    """Writes the clips, or takes those that an earlier demo wrote to the end."""
    note = folder.with_suffix(".json")
    if note.exists():
        kept = json.loads(note.read_text())
        return Deliveries(**{**kept, "folder": Path(kept["folder"])})
    say("writing clips (H.264 with AAC sound) ...")
    deliveries = make_demo_deliveries(folder, config.data)
    note.write_text(json.dumps({**asdict(deliveries), "folder": str(deliveries.folder)}))
    return deliveries


def _median(series: Series, where: np.ndarray) -> float:
    values = series.values[where]
    return float(np.median(values)) if values.size else float("nan")
