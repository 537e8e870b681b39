"""The demo as a stranger runs it, with a browser open: every stage must really happen, in time."""

import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

pytestmark = pytest.mark.story

WAIT_S = 600
MOST_REFERENCES = 200
"""CPU time of the demo and the browser together, in units of `reference_cpu_s`: seconds are also a
matter of the machine and of who else is on it."""
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]


class Demo:
    """`moescope demo --headless` as a process, and what it has printed so far."""

    def __init__(self, home: Path) -> None:
        self.started_s = time.monotonic()
        command = [sys.executable, "-m", "moescope.cli", "demo", "--headless", "--home", str(home)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def wait_for(self, pattern: str, wait_s: float) -> str:
        """Returns the first match in what was printed. Fails where the demo ends without it."""
        until_s = time.monotonic() + wait_s
        while time.monotonic() < until_s:
            found = re.search(pattern, "".join(self.lines))
            if found:
                return found.group(0)
            assert self.process.poll() is None, "".join(self.lines)[-3000:]
            time.sleep(0.2)
        raise AssertionError(f"never printed {pattern}: {''.join(self.lines)[-3000:]}")

    def end(self) -> int:
        code = self.process.wait(WAIT_S)
        self._reader.join(10)
        return code

    def close(self) -> None:
        self._reader.join(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


def reference_cpu_s() -> float:
    """CPU time of a fixed piece of work that is half products of matrices and half Python, as
    training in the small is; about a second and a half where the demo takes four minutes."""
    code = "import torch; a = torch.rand(512, 512); torch.set_num_threads(1)\n"
    code += "for _ in range(100): a = (a @ a).softmax(-1); sum(i * i for i in range(50_000))\n"
    code += "import time; print(time.thread_time())"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(told.stdout)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    running = Demo(tmp_path)
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(30)
    running.close()


def shown_step(page: Page) -> int:
    """The step in the head line of the run's page."""
    text = page.get_by_test_id("stMetric").filter(has_text="Step").first.inner_text()
    return int(text.replace(",", "").split("/")[0].split()[-1])


def test_the_demo_alerts_goes_back_and_recovers_while_a_browser_shows_it(demo: Demo) -> None:
    before_s = reference_cpu_s()
    address = demo.wait_for(r"http://127\.0\.0\.1:\d+/\?token=\S+", 60)
    # at once: before the clips are written and the training starts
    assert time.monotonic() - demo.started_s < 45
    demo.wait_for(r"run demo-\d+", WAIT_S)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address.replace("/?", "/run?"))
        page.get_by_test_id("stMetric").first.wait_for(timeout=60_000)
        page.locator(".js-plotly-plot").first.wait_for(timeout=60_000)
        first = shown_step(page)
        demo.wait_for(r"critical loss_spike", WAIT_S)
        # the alert heals within seconds on a quick machine; what was done for it stays
        page.get_by_text(re.compile("rolled back .* for loss spike")).wait_for(timeout=30_000)
        assert shown_step(page) > first
        demo.wait_for(r"bad batches passed over", WAIT_S)
        page.get_by_text("rollback").first.wait_for(timeout=20_000)
        assert page.get_by_test_id("stException").count() == 0
        assert complaints == []
        browser.close()
    assert demo.end() == 0, "".join(demo.lines)[-3000:]
    told = "".join(demo.lines)
    for stage in ("corrupt clips", "onset, alarm", "went back", "passed over", "loss  "):
        assert stage in told
    assert "NO " not in told
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    reference_s = max(before_s, reference_cpu_s())
    assert used.ru_utime + used.ru_stime < MOST_REFERENCES * reference_s
