"""The page of all runs in Chromium: how soon it is there, what a refresh costs, what an idle page
and ten viewers cost.

    python benchmarks/dashboard_fleet.py [RUNS]

A store of 200 runs (300 to 8,000 steps each, six scalars, what has ended is packed) of which twelve
train a step a second, besides forty archived ones. The dashboard is a process of its own, as
`moescope up` starts it; the browser is the system's Chromium without a GPU.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from fleet_of_runs import NUM_LIVE, fill, values_of
from in_chromium import TOKEN, busy_s, chromium, opened, served
from playwright.sync_api import Browser

from moescope.dashboard.fleet_changes import message
from moescope.dashboard.fleet_rows import facts
from moescope.dashboard.reads_of_the_fleet import Fleet
from moescope.dashboard.run_search import Searched, found
from moescope.platform.records import Frame
from moescope.platform.store import Store, open_store

WATCHED_S = 30.0
# when the first row, and the last line, could be seen: asked at each frame that is drawn
WATCH_JS = """
const look = () => {
  for (const part of document.querySelectorAll("[data-testid=stBidiComponentIsolated]")) {
    const rows = part.shadowRoot?.querySelectorAll(".fleet tbody tr") ?? [];
    const lines = part.shadowRoot?.querySelectorAll(".fleet .spark").length ?? 0;
    if (rows.length && !window.firstRow && rows[0].getBoundingClientRect().height)
      window.firstRow = performance.now();
    if (rows.length && lines === rows.length && !window.allLines)
      window.allLines = performance.now();
  }
  if (!window.allLines) requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
LOOK_JS = """() => ({
  paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
  row: window.firstRow, lines: window.allLines,
})"""


def main() -> None:
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.db"
        with open_store(url) as store:
            fill(store, num_runs, time.time())
            print(f"# {num_runs} runs, load {os.getloadavg()[0]:.1f}")
            in_process(store)
            with (
                training(url),
                served(Path(folder), url) as (address, server),
                chromium() as browser,
            ):
                opening(browser, address, server)
                costs("one viewer, twelve runs train", browser, address, server, 1)
                costs("ten viewers", browser, address, server, 10)
            end_all(store)
            with served(Path(folder), url) as (address, server), chromium() as browser:
                costs("one viewer, nothing trains", browser, address, server, 1)


def in_process(store: Store) -> None:
    """The server's part of a page and of a refresh, without Streamlit."""
    fleet, times = Fleet(is_archived=False), dict[str, list[float]]()

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start_s = time.perf_counter()
        out = work()
        times.setdefault(name, []).append(1000 * (time.perf_counter() - start_s))
        return out

    now = timed("first look", lambda: fleet.now(store, 0.0))
    looks = 1
    while not now.is_whole:
        now, looks = timed("further looks for lines", lambda: fleet.now(store, 0.0)), looks + 1
    sent = None
    for number in range(1, 21):
        now = timed("a later look", lambda n=number: fleet.now(store, 10.0 * n))
        data, sent = timed("message", lambda r=now.rows, s=sent, n=number: message(r, s, n))
        searched = [Searched(one.now.run, facts(one, now.read_s)) for one in now.runs]
        timed("search by configuration",
              lambda s=searched: found("learning_rate=0.001 num_chosen>1 finch", s))  # fmt: skip
        if number == 1:
            print(f"  first message {len(json.dumps(data)) / 1000:.0f} kB")
    for name, took in times.items():
        print(f"  {name:28} {median(took):6.1f} ms (worst {max(took):.1f})")
    print(f"  looks until all lines were there: {looks}")


def opening(browser: Browser, address: str, server: psutil.Process) -> None:
    cold, warm = seen(browser, address, server), [seen(browser, address, server) for _ in range(5)]
    print("  opening, ms after the address was entered: median of 5, and the server's first page")
    for name in ("paint", "row", "lines", "busy"):
        took = [one[name] for one in warm]
        print(f"    {name:6} {median(took):6.0f} (worst {max(took):.0f}); first {cold[name]:.0f}")
    print("    busy: what server and Chromium computed until then, on whatever core: on a machine")
    print("    with nothing else to do the page is there sooner than after that")
    print(
        f"    received by websocket {warm[0]['bytes'] / 1000:.0f} kB; load {os.getloadavg()[0]:.1f}"
    )


def seen(browser: Browser, address: str, server: psutil.Process) -> dict[str, float]:
    before_s = busy_s([server, *chromiums()])
    page, frames = opened(browser, f"{address}/?token={TOKEN}", WATCH_JS)
    page.wait_for_function("() => window.firstRow", timeout=60_000)
    busy = 1000 * (busy_s([server, *chromiums()]) - before_s)
    page.wait_for_function("() => window.allLines", timeout=60_000)
    told: dict[str, float] = page.evaluate(LOOK_JS)
    page.context.close()
    return told | {"bytes": sum(size for _, size in frames), "busy": busy}


def chromiums() -> list[psutil.Process]:
    every = psutil.Process().children(recursive=True)
    return [one for one in every if "chrom" in one.name()]


def costs(name: str, browser: Browser, address: str, server: psutil.Process, viewers: int) -> None:
    """What pages cost that are open and left alone: processor time of the server and of Chromium,
    which draws without a GPU here.
    """
    pages = [opened(browser, f"{address}/?token={TOKEN}", WATCH_JS) for _ in range(viewers)]
    for page, _ in pages:
        page.wait_for_function("() => window.allLines", timeout=120_000)
    page, frames = pages[0]
    page.wait_for_timeout(4000)
    shown = chromiums()
    before = [busy_s([server]), busy_s(shown)]
    start_s = time.time()
    page.wait_for_timeout(1000 * WATCHED_S)
    took_s = time.time() - start_s
    of_server, of_browser = (
        (after - b) / took_s
        for b, after in zip(before, [busy_s([server]), busy_s(shown)], strict=True)
    )
    sizes = [size for at, size in frames if at > start_s and size > 1100]
    said = f"{len(sizes)} refreshes in {took_s:.0f} s"
    if sizes:
        said += f", {median(sizes) / 1000:.1f} kB each"
    shares = f"server {of_server:.1%} of a core, Chromium {of_browser:.1%}"
    print(f"  {name}: {shares}; {said}; load {os.getloadavg()[0]:.1f}", flush=True)
    for page, _ in pages:
        page.context.close()


@contextmanager
def training(url: str) -> Iterator[None]:
    """Runs that train write a step a second each."""
    is_over = threading.Event()

    def train() -> None:
        chance = np.random.default_rng(1)
        with open_store(url) as store:
            live = [run for run in store.runs() if run.status == "running"]
            live = sorted(live, key=lambda run: -run.heartbeat_s)[:NUM_LIVE]
            step = 10_000
            while not is_over.wait(1.0):
                for run in live:
                    values = values_of(0.5 + 0.02 * chance.normal(), chance.normal(), 0.3, step)
                    arrays = {name: np.asarray(v, np.float32) for name, v in values.items()}
                    segment = len(store.segments(run.id)) - 1
                    store.write_frames([Frame(run.id, segment, step, time.time(), arrays)])
                    store.update_run(run.id, heartbeat_s=time.time())
                step += 1

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def end_all(store: Store) -> None:
    for run in store.runs():
        if run.status == "running":
            store.update_run(run.id, status="stopped", finished_s=time.time())


if __name__ == "__main__":
    main()
