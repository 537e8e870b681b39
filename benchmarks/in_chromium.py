"""What the dashboard's benchmarks share: its process, Chromium, and a page that counts."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

import moescope.dashboard

APP = Path(moescope.dashboard.__file__).parent / "app.py"
TOKEN = "a-token-for-the-benchmark"


def busy_s(processes: list[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes if one.is_running())


Frames = list[tuple[float, int]]
"""What a websocket received: (when, bytes)."""


def opened(browser: Browser, address: str, script: str = "") -> tuple[Page, Frames]:
    """A page with nothing in its cache, and what its websocket receives.

    script: run in the page before anything else.
    """
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    if script:
        page.add_init_script(script)
    frames: Frames = []
    page.on(
        "websocket",
        lambda socket: socket.on(
            "framereceived", lambda data: frames.append((time.time(), len(data)))
        ),
    )
    page.goto(address)
    return page, frames


@contextmanager
def served(folder: Path, url: str) -> Iterator[tuple[str, psutil.Process]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MOESCOPE_HOME": str(folder), "MOESCOPE_STORE": url, "MOESCOPE_TOKEN": TOKEN,
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(APP), "--server.port", str(port)],
        cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(300):
            with (
                suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1),
            ):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise SystemExit("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        yield browser
        browser.close()
