"""The page of a run in Chromium: how soon it is there, and what a refresh costs, for a run of a
million steps beside one of a thousand, with one viewer and with ten, and beside MLflow's page.

    python benchmarks/dashboard_run.py [STEPS [STEPS_OF_MLFLOW]]

Twenty scalars at every step; what is closed is packed, as the service does. Both runs train on
while they are watched, five steps a second. A refresh is the time from the browser's question to
the last of the answer; what plotly needs to draw it comes on top.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import mlflow
import numpy as np
import psutil
from in_chromium import TOKEN, busy_s, chromium, opened, served
from playwright.sync_api import Browser, Page

from moescope.platform import catalogue
from moescope.platform.compacted.compaction import compact
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.store import Store, open_store

SIGNALS = (
    catalogue.LOSS_TOTAL, catalogue.LOSS_VIDEO, catalogue.LOSS_AUDIO, catalogue.LOSS_SPIKE_SCORE,
    catalogue.LOSS_DRIFT_SCORE, catalogue.GRAD_NORM, catalogue.GRAD_NORM_SCORE,
    catalogue.GUARD_HELD, catalogue.LEARNING_RATE, catalogue.STEP_TIME_S, catalogue.DATA_WAIT_S,
    catalogue.FORWARD_S, catalogue.BACKWARD_S, catalogue.OPTIMIZER_S, catalogue.MONITOR_S,
    catalogue.TOKENS_PER_S, catalogue.STEP_TOKENS, catalogue.CPU_SHARE, catalogue.MEMORY_GIB,
    catalogue.UPDATE_NORM,
)  # fmt: skip
BLOCK = 8192
WATCHED_S = 30.0
WATCH_JS = """
const look = () => {
  const chart = document.querySelector(".moescope-plot .main-svg .xy path, .main-svg .plot path");
  if (chart) window.firstChart = performance.now();
  else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
LOOK_JS = """() => ({
  paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
  chart: window.firstChart,
})"""


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    of_mlflow = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.db"
        with open_store(url) as store:
            for name, number in (("long", steps), ("short", 1000), ("beside", of_mlflow)):
                fill(store, name, number)
        print(f"# {len(SIGNALS)} scalars, load {os.getloadavg()[0]:.1f}", flush=True)
        with training(url), served(Path(folder), url) as (address, server), chromium() as browser:
            for name, number in (("short", 1000), ("long", steps)):
                opening(f"{number:,} steps", browser, run_page(address, name))
            for name, number in (("short", 1000), ("long", steps)):
                refreshes(f"{number:,} steps", browser, run_page(address, name), server, 1)
            refreshes(f"{steps:,} steps", browser, run_page(address, "long"), server, 10)
        with open_store(url) as store:
            store.update_run("long", status="finished", finished_s=time.time())
        with served(Path(folder), url) as (address, server), chromium() as browser:
            idle(browser, run_page(address, "long"), server)
            opening(f"{of_mlflow:,} steps", browser, run_page(address, "beside"))
        beside_mlflow(Path(folder), of_mlflow)


def run_page(address: str, name: str) -> str:
    return f"{address}/run?run={name}&token={TOKEN}"


def fill(store: Store, name: str, steps: int) -> None:
    run = Run(
        name, name, "bench", {"steps": 2 * steps}, "running", "cpu", "0", time.time(), time.time()
    )
    store.add_run(run)
    store.add_segment(Segment(name, 0, 0, "start", time.time()))
    chance = np.random.default_rng(0)
    began_s = time.time() - steps
    started = time.perf_counter()
    for start in range(0, steps, BLOCK):
        number = min(BLOCK, steps - start)
        values = np.abs(chance.normal(1, 0.05, (number, len(SIGNALS)))).astype(np.float32)
        store.write_frames(
            [
                Frame(name, 0, start + i, began_s + start + i, dict(zip(SIGNALS, row, strict=True)))
                for i, row in enumerate(values[..., None].reshape(number, len(SIGNALS)))
            ]
        )
        compact(store, run)
    print(f"  {name}: {steps:,} steps written in {time.perf_counter() - started:.0f} s", flush=True)


@contextmanager
def training(url: str) -> Iterator[None]:
    """Both runs go on, five steps a second."""
    is_over = threading.Event()

    def train() -> None:
        with open_store(url) as store:
            step = 1_000_000_000
            while not is_over.wait(0.2):
                for name in ("long", "short"):
                    values = dict.fromkeys(SIGNALS, np.float32(1 + 0.01 * (step % 7)))
                    last = AT[name] = AT.get(name, 0) + 1
                    frame = Frame(name, 0, BEGIN[name] + last, time.time(), values)
                    store.write_frames([frame])
                    store.update_run(name, heartbeat_s=time.time())
                step += 1

    with open_store(url) as store:
        for name in ("long", "short"):
            BEGIN[name] = int(store.find_run(name).config["steps"]) // 2
    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


AT: dict[str, int] = {}
BEGIN: dict[str, int] = {}


def opening(name: str, browser: Browser, address: str) -> None:
    first, later = seen(browser, address), [seen(browser, address) for _ in range(5)]
    told = ", ".join(
        f"{what} {median(one[what] for one in later):.0f} ms"
        f" (worst {max(one[what] for one in later):.0f}, first {first[what]:.0f})"
        for what in ("paint", "chart")
    )
    sent = median(one["bytes"] for one in later) / 1000
    print(f"  opening, {name}: {told}; received by websocket {sent:.0f} kB", flush=True)


def seen(browser: Browser, address: str) -> dict[str, float]:
    page, frames = opened(browser, address, WATCH_JS)
    page.wait_for_selector(".moescope-plot", state="attached", timeout=60_000)
    page.locator(".moescope-plot").first.scroll_into_view_if_needed()
    page.wait_for_function("() => window.firstChart", timeout=60_000)
    page.wait_for_timeout(1000)
    told: dict[str, float] = page.evaluate(LOOK_JS)
    told["bytes"] = sum(size for _, size in frames)
    page.context.close()
    return told


def refreshes(
    name: str, browser: Browser, address: str, server: psutil.Process, viewers: int
) -> None:
    """How long a page that is open asks and is answered."""
    pages = []
    for _ in range(viewers):
        page, frames = opened(browser, "about:blank")
        asked: list[float] = []
        page.on(
            "websocket",
            lambda socket, asked=asked: socket.on("framesent", lambda _: asked.append(time.time())),
        )
        page.goto(address)
        pages.append((page, asked, frames))
    for page, _, _ in pages:
        page.wait_for_selector(".moescope-plot", state="attached", timeout=120_000)
    page, asked, frames = pages[0]
    page.wait_for_timeout(5000)
    start_s, busy = time.time(), busy_s([server])
    page.wait_for_timeout(1000 * WATCHED_S)
    share = (busy_s([server]) - busy) / (time.time() - start_s)
    took, sizes = answers(asked, frames, start_s)
    print(
        f"  refresh, {name}, {viewers} viewer{'s' if viewers > 1 else ''}: median "
        f"{1000 * median(took):.0f} ms, worst {1000 * max(took):.0f}, {len(took)} of them, "
        f"{median(sizes) / 1000:.1f} kB each; server {share:.0%} of a core",
        flush=True,
    )
    for page, _, _ in pages:
        page.context.close()


def answers(
    asked: list[float], frames: list[tuple[float, int]], start_s: float
) -> tuple[list[float], list[int]]:
    """Seconds from each question to its last frame, and the bytes of the answer."""
    took, sizes = [], []
    for number, at in enumerate(asked):
        until = asked[number + 1] if number + 1 < len(asked) else at + 3
        here = [(when, size) for when, size in frames if at <= when < until]
        if at > start_s and here and sum(size for _, size in here) > 1000:
            took.append(here[-1][0] - at)
            sizes.append(sum(size for _, size in here))
    return took, sizes


def idle(browser: Browser, address: str, server: psutil.Process) -> None:
    page, _ = opened(browser, address)
    page.wait_for_selector(".moescope-plot", state="attached", timeout=60_000)
    page.wait_for_timeout(5000)
    shown = [one for one in psutil.Process().children(recursive=True) if "chrom" in one.name()]
    before, start_s = (busy_s([server]), busy_s(shown)), time.time()
    page.wait_for_timeout(1000 * WATCHED_S)
    took_s = time.time() - start_s
    print(
        f"  an ended run, left open: server {(busy_s([server]) - before[0]) / took_s:.1%} of a "
        f"core, Chromium {(busy_s(shown) - before[1]) / took_s:.1%}",
        flush=True,
    )
    page.context.close()


def beside_mlflow(folder: Path, steps: int) -> None:
    """The same history in MLflow, and its page of the run's metrics."""
    store = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(store)
    experiment = client.create_experiment("bench", artifact_location=str(folder / "artifacts"))
    run = client.create_run(experiment)
    chance = np.random.default_rng(0)
    for start in range(0, steps, 50):
        metrics = [
            mlflow.entities.Metric(name.replace("/", "."), float(value), 1000 * step, step)
            for step in range(start, min(steps, start + 50))
            for name, value in zip(SIGNALS, np.abs(chance.normal(1, 0.05, 20)), strict=True)
        ]
        client.log_batch(run.info.run_id, metrics=metrics)
    client.set_terminated(run.info.run_id)
    page_of = f"#/experiments/{experiment}/runs/{run.info.run_id}/model-metrics"
    with mlflow_ui(store, folder) as address, chromium() as browser:
        found = [mlflow_seen(browser, f"{address}/{page_of}") for _ in range(4)]
    first, later = found[0], found[1:]
    print(
        f"  MLflow's page, {steps:,} steps: paint {median(o['paint'] for o in later):.0f} ms, "
        f"first chart {median(o['chart'] for o in later):.0f} ms (first {first['chart']:.0f}), "
        f"{median(o['bytes'] for o in later) / 1000:.0f} kB of data",
        flush=True,
    )


@contextmanager
def mlflow_ui(store: str, folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(600):
            with (
                suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1),
            ):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        for one in psutil.Process(process.pid).children(recursive=True):
            one.terminate()
        process.terminate()
        process.wait()


def mlflow_seen(browser: Browser, address: str) -> dict[str, float]:
    page, _ = opened(browser, "about:blank", WATCH_JS)
    sizes: list[int] = []

    def count(response: object) -> None:
        if "ajax-api" in response.url or "graphql" in response.url:  # type: ignore[attr-defined]
            sizes.append(len(response.body()))  # type: ignore[attr-defined]

    page.on("requestfinished", lambda request: count(request.response()))
    page.goto(address)
    page.wait_for_function("() => window.firstChart", timeout=120_000)
    _settle(page)
    told: dict[str, float] = page.evaluate(LOOK_JS)
    told["bytes"] = sum(sizes)
    page.context.close()
    return told


def _settle(page: Page) -> None:
    page.wait_for_timeout(3000)


if __name__ == "__main__":
    main()
