"""A person looks over all runs in a browser: search, order, choice and place outlast a refresh.

A thread plays the runs that train. Set MOESCOPE_SCREENSHOTS to a folder to keep the pictures.
"""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

import moescope.dashboard
from moescope.platform import catalogue
from moescope.platform.records import Alert, Frame, Run, Segment
from moescope.platform.store import Store, open_store

pytestmark = pytest.mark.story

TOKEN = "a-token-for-the-story"
APP = Path(moescope.dashboard.__file__).parent / "door.py"
PICTURES = os.environ.get("MOESCOPE_SCREENSHOTS")
NUM_RUNS, NUM_LIVE, NUM_STEPS = 40, 3, 120
MARKUP = "<img src=x onerror=window.was_run=1>"
expect.set_options(timeout=20_000)  # two cores may have more to do than this test

COMPARING = """
import streamlit as st
from moescope.dashboard.reads import open_for_reading
from moescope.dashboard.views import fleet

store = open_for_reading({url!r})
fleet.render(
    store,
    lambda run_id: st.text(f"opens {{run_id}}"),
    lambda ids: st.text(f"compares {{len(ids)}}: {{','.join(ids)}}"),
)
"""


def _frame(run_id: str, step: int) -> Frame:
    loss = 0.4 + np.exp(-step / 40) + (3.0 if step == 60 else 0.0)
    values = {
        catalogue.LOSS_TOTAL: loss,
        catalogue.TOKENS_PER_S: 9_000 + step,
        catalogue.UTILISATION: 0.4,
        catalogue.STEP_TIME_S: 0.5,
    }
    arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return Frame(run_id, 0, step, 1.7e9 + step, arrays)


def _add_runs(store: Store, now_s: float) -> None:
    for i in range(NUM_RUNS):
        is_live = i < NUM_LIVE
        run = Run(
            id=f"run-{i:02}",
            name=MARKUP if i == NUM_LIVE else f"run {i:02}",
            project="video",
            config={"steps": 200, "optim": {"learning_rate": 1e-3 if i % 2 else 3e-4}},
            status="running" if is_live else "finished",
            device="cpu",
            code_version="0.1.0",
            created_s=now_s - 600 - 60 * i,
            heartbeat_s=now_s,
            finished_s=None if is_live else now_s - 30 * i,
            tags=("baseline",) if i % 5 == 0 else (),
        )
        store.add_run(run)
        store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
        store.write_frames([_frame(run.id, step) for step in range(NUM_STEPS - i)])
    store.put_alert(
        Alert("a", "run-01", 0, "loss_spike", "critical", 60, 61, 9.0, 4.0, "far above", now_s, "k")
    )
    store.update_run(f"run-{NUM_RUNS - 1:02}", is_archived=True)


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    (tmp_path / "home").mkdir()
    url = f"sqlite:///{tmp_path / 'home' / 'store.db'}"
    with open_store(url) as store:
        _add_runs(store, time.time())
    return url


@pytest.fixture
def _training(store_url: str) -> Iterator[None]:
    """Plays the runs that train: a step a second."""
    is_over = threading.Event()

    def train() -> None:
        with open_store(store_url) as store:
            step = NUM_STEPS
            while not is_over.wait(1.0):
                for i in range(NUM_LIVE):
                    store.write_frames([_frame(f"run-{i:02}", step)])
                    store.update_run(f"run-{i:02}", heartbeat_s=time.time())
                step += 1

    thread = threading.Thread(target=train, name="played runs")
    thread.start()
    yield
    is_over.set()
    thread.join(timeout=10)


@contextmanager
def _served(script: Path, tmp_path: Path, store_url: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MOESCOPE_HOME": str(tmp_path / "home"),
        "MOESCOPE_STORE": store_url,
        "MOESCOPE_TOKEN": TOKEN,
    }
    said = tmp_path / f"{script.stem}.log"
    options = ["--server.headless", "true", "--server.address", "127.0.0.1"]
    options += ["--server.port", str(port), "--browser.gatherUsageStats", "false"]
    with said.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", str(script), *options],
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
    assert "Traceback" not in said.read_text(), said.read_text()


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


def _opened(browser: Browser, url: str, width: int = 1440) -> tuple[Page, list[str]]:
    height = 900 if width > 600 else 844
    page = browser.new_page(viewport={"width": width, "height": height})
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        # a page with a path of its own first looks for the server below that path
        if message.type == "error" and "/_stcore/" not in str(message.location):
            complaints.append(f"{message.text} {message.location.get('url', '')}")

    def miss(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":
            complaints.append(f"{request.failure}: {request.url}")

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", miss)
    page.goto(url)
    return page, complaints


def _names(page: Page) -> list[str]:
    return page.locator(".fleet tbody a").all_inner_texts()


def _pictures(page: Page, tmp_path: Path, name: str) -> None:
    folder = Path(PICTURES) if PICTURES else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.wait_for_timeout(500)
        page.screenshot(path=folder / f"{name}-{scheme}.png")


@pytest.mark.usefixtures("_training")
def test_a_person_searches_sorts_and_opens_while_the_runs_train(
    browser: Browser, store_url: str, tmp_path: Path
) -> None:
    with _served(APP, tmp_path, store_url) as address:
        page, complaints = _opened(browser, f"{address}/?token={TOKEN}")
        rows = page.locator(".fleet tbody tr")
        expect(rows).to_have_count(NUM_RUNS - 1)
        expect(rows.first).to_contain_text("run 00")
        expect(page.locator(".fleet tbody .spark")).to_have_count(NUM_RUNS - 1)
        _pictures(page, tmp_path, "fleet-1440")

        # what a run calls itself is shown, and does nothing
        expect(page.get_by_role("link", name=MARKUP)).to_be_visible()
        assert page.locator(".fleet img").count() == 0
        assert page.evaluate("window.was_run") is None

        # the row stays where it is while its numbers grow
        first = rows.first
        first.evaluate("(row) => { row.is_the_same = true; }")
        before = first.locator("td.step").inner_text()
        page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop = 600")
        expect(first.locator("td.step")).not_to_have_text(before)
        assert first.evaluate("(row) => row.is_the_same")
        assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == 600

        # searched by configuration, sorted by a column, and the address says so
        page.get_by_label("Find runs").fill("learning_rate=0.001 run")
        expect(rows).to_have_count(NUM_RUNS // 2 - 1)  # one is archived
        page.get_by_role("button", name="Tokens/s").click()
        expect(page.get_by_role("columnheader", name="Tokens/s")).to_have_attribute(
            "aria-sort", "descending"
        )
        page.wait_for_url("**/?find=learning_rate%3D0.001+run&sort=speed")
        found = _names(page)
        assert found[0] == "run 01"
        again, _ = _opened(browser, page.url)
        again.goto(f"{page.url}&token={TOKEN}")
        expect(again.locator(".fleet tbody tr")).to_have_count(len(found))
        assert _names(again) == found
        again.close()

        # a key that no run has is said, with the one that was meant
        page.get_by_label("Find runs").fill("learning_rat=1")
        expect(page.get_by_role("status")).to_contain_text("did you mean")
        expect(page.get_by_text("No run matches")).to_be_visible()
        page.get_by_label("Find runs").fill("")
        expect(rows).to_have_count(NUM_RUNS - 1)

        # those that want a person, and those that were put away
        page.get_by_role("button", name="Want a person").click()
        expect(rows).to_have_count(1)
        page.get_by_role("button", name="Archived").click()
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text(f"run {NUM_RUNS - 1}")
        page.get_by_role("button", name="All", exact=False).first.click()

        # by keyboard alone to a run, and one step back to where one came from
        page.get_by_role("link", name="run 01").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/run?run=run-01")
        expect(page.get_by_role("heading", name="run 01")).to_be_visible()
        page.go_back()
        page.wait_for_url("**/?sort=speed")
        expect(rows).to_have_count(NUM_RUNS - 1)
        assert complaints == []
        page.close()

        # on a phone the rows are cards, and nothing is wider than it
        page, complaints = _opened(browser, f"{address}/?token={TOKEN}", width=390)
        expect(page.locator(".fleet tbody tr")).to_have_count(NUM_RUNS - 1)
        wide = page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
        assert wide <= 390
        page.get_by_label("Sort by").select_option("name false")
        expect(page.locator(".fleet tbody tr").nth(1)).to_contain_text("run 00")
        _pictures(page, tmp_path, "fleet-390")
        page.goto(f"{address}/system?token={TOKEN}")
        expect(page.get_by_role("heading", name="Versions")).to_be_visible()
        wide = page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
        assert wide <= 390
        _pictures(page, tmp_path, "system-390")
        assert complaints == []


@pytest.mark.usefixtures("_training")
def test_up_to_ten_runs_are_chosen_and_compared(
    browser: Browser, store_url: str, tmp_path: Path
) -> None:
    script = tmp_path / "comparing.py"
    script.write_text(COMPARING.format(url=store_url))
    with _served(script, tmp_path, store_url) as address:
        page, complaints = _opened(browser, address)
        boxes = page.get_by_role("checkbox")
        expect(boxes).to_have_count(NUM_RUNS - 1)
        boxes.nth(0).check()
        compare = page.get_by_role("button", name="Compare", exact=True)
        expect(compare).to_be_disabled()  # one alone is compared with nothing
        for i in range(1, 10):
            boxes.nth(i).check()
        expect(boxes.nth(10)).to_be_disabled()
        expect(page.get_by_text("10 runs chosen, which is the most")).to_be_visible()
        # a refresh leaves the choice as it is
        step = page.locator(".fleet tbody tr").first.locator("td.step")
        before = step.inner_text()
        expect(step).not_to_have_text(before)
        expect(page.locator(".fleet input:checked")).to_have_count(10)
        compare.click()
        expect(page.get_by_text("compares 10: run-00,run-01,")).to_be_visible()
        page.get_by_role("button", name="Choose none").click()
        expect(page.locator(".fleet input:checked")).to_have_count(0)
        assert complaints == []
