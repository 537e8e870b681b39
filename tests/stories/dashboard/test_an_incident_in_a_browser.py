"""A person is called to a poisoned training, and mends it from a browser: all of it is real.

The training, the dashboard and Chromium are processes; nobody plays the trainer. Set
MOESCOPE_SCREENSHOTS to a folder to keep the pictures.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

import moescope.dashboard
from moescope.platform import catalogue
from moescope.platform.commands import commands
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, Command, Run
from moescope.platform.rule_versions import newest
from moescope.platform.series import measured_steps
from moescope.platform.store import Store, open_store

pytestmark = pytest.mark.story

TOKEN = "a-token-for-the-story"
APP = Path(moescope.dashboard.__file__).parent / "app.py"
TRAINER = Path(__file__).parent / "a_poisoned_trainer.py"
RUN = "amber-finch"
PICTURES = os.environ.get("MOESCOPE_SCREENSHOTS")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
WAIT_S = 90.0
expect.set_options(timeout=20_000)  # two cores may have more to do than this test


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trainer(home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with (home / "trainer.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(TRAINER), str(home), RUN],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield process
    _end(process)


@pytest.fixture(scope="module")
def address(home: Path, trainer: "subprocess.Popen[bytes]") -> Iterator[str]:
    """The dashboard as `moescope up` starts it; it ends without a traceback in its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MOESCOPE_HOME": str(home),
        "MOESCOPE_STORE": f"sqlite:///{home / 'store.db'}",
        "MOESCOPE_TOKEN": TOKEN,
    }
    log = home / "dashboard.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", str(APP), "--server.port", str(port)],
            cwd=home,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(lambda: _answers(f"{url}/_stcore/health"), "the dashboard did not answer")
        yield url
    finally:
        _end(process)
    assert "Traceback" not in log.read_text(), log.read_text()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _wait(until: Callable[[], object], else_told: str) -> None:
    end_s = time.monotonic() + WAIT_S
    while not until():
        assert time.monotonic() < end_s, else_told
        time.sleep(0.1)


@pytest.fixture(scope="module")
def store(home: Path, trainer: "subprocess.Popen[bytes]") -> Iterator[Store]:
    _wait((home / "store.db").exists, "the trainer made no store")
    with open_store(f"sqlite:///{home / 'store.db'}") as opened:
        yield opened


@pytest.fixture(scope="module")
def alert(store: Store, home: Path) -> Alert:
    """The first alert of the spoiled clips, once its flight record is there."""
    found: list[Alert] = []

    def is_raised() -> bool:
        try:
            found[:] = [
                a for a in store.alerts() if a.rule == "loss_spike" and "record" in a.evidence
            ]
        except MoescopeError:  # the trainer is making the tables
            return False
        return bool(found)

    _wait(is_raised, f"no alert: {(home / 'trainer.log').read_text()[-2000:]}")
    return found[-1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


_ALL_DRAWN = """() => !document.querySelector('[data-testid=stSkeleton]')
    && [...document.querySelectorAll('[data-testid=stPlotlyChart]')]
        .every((place) => place.querySelector('.js-plotly-plot .main-svg .xy'))"""


class Seat:
    """A person's browser, and what its console complains of."""

    def __init__(self, browser: Browser, width: int, folder: Path) -> None:
        self.width, self._folder = width, folder
        height = 900 if width > 600 else 844
        self.page: Page = browser.new_page(viewport={"width": width, "height": height})
        self.complaints: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        # a page with a path of its own first looks for the server below that path, then finds it
        if message.type == "error" and "/_stcore/" not in message.location.get("url", ""):
            self.complaints.append(message.text)

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def follow(self, name: str) -> None:
        """A link of the page itself, not of the navigation above it."""
        self.page.get_by_test_id("stMain").get_by_role("link", name=name).first.click()

    def picture(self, name: str) -> None:
        """Both schemes, of the whole page: it scrolls inside, so the window is made as tall."""
        page = self.page
        before = page.viewport_size
        assert before is not None
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
            page.set_viewport_size({"width": self.width, "height": max(before["height"], height)})
            page.wait_for_function(_ALL_DRAWN)
            page.wait_for_timeout(400)
            page.screenshot(path=self._folder / f"{name}-{self.width}-{scheme}.png")
        page.set_viewport_size(before)
        page.emulate_media(color_scheme="light")

    def is_in_order(self) -> None:
        assert self.page.get_by_test_id("stException").count() == 0
        wide = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
        assert wide <= self.width
        assert self.complaints == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = Path(PICTURES) if PICTURES else tmp_path
    made.mkdir(parents=True, exist_ok=True)
    return made


def _run(store: Store) -> Run:
    (run,) = store.runs()
    return run


def _answer(store: Store, kind: str) -> Command:
    """The newest command of a kind, once it has its answer."""
    found: list[Command] = []

    def is_answered() -> bool:
        found[:] = [c for c in commands(store, _run(store).id) if c.kind == kind]
        return bool(found) and found[-1].state in ("done", "refused")

    _wait(is_answered, f"{kind} was not answered: {found}")
    return found[-1]


_CERTIFIED = """() => {
    for (const trace of document.querySelectorAll('.scatterlayer .trace')) {
        const told = trace.__data__[0].trace;
        if (told.name !== 'certified') continue;
        const steps = Array.from(told.customdata);
        const at = steps.findLastIndex((step) => step !== null);
        if (at < 0) return null;
        const box = trace.querySelectorAll('.points path')[at].getBoundingClientRect();
        return {step: steps[at], x: box.x + box.width / 2, y: box.y + box.height / 2};
    }
    return null;
}"""
"""Where on the page the newest certified state of the timeline is drawn, and its step."""


def test_an_alert_leads_to_its_incident_and_the_run_is_taken_back(
    address: str, browser: Browser, store: Store, alert: Alert, folder: Path
) -> None:
    seat = Seat(browser, 1440, folder)
    page, run = seat.page, _run(store)

    # the alert, found by what it is, leads to how it came about
    page.goto(f"{address}/alerts?severity=critical&token={TOKEN}")
    expect(page.get_by_text("open alert")).to_be_visible()
    seat.picture("alerts")
    seat.follow("How it came about, and why")
    page.wait_for_url(f"**/incidents?alert={alert.id}")
    story = page.locator(".st-key-incident_story")
    expect(story).to_contain_text("advisory: would roll back")
    for earlier, later in zip(("Onset", "First to move", "Alarm", "Advice", "Action"),
                              ("First to move", "Alarm", "Advice", "Action", "Recovery"),
                              strict=True):  # fmt: skip
        text = story.inner_text()
        assert text.index(earlier) < text.index(later)
    expect(story).to_contain_text("none was taken")
    table = page.locator(".st-key-incident_before_and_after")
    for signal in ("loss", "gradient norm", "spike score", "MaxVio", "tokens per second"):
        expect(table).to_contain_text(signal)
    # the clips of the batch are here, and play
    expect(page.locator("video").first).to_be_visible()
    assert page.locator("video").first.evaluate("v => v.networkState") != 3  # no source

    # on to the run's page of control: a state is chosen on its timeline
    seat.follow("Control: go back, pause, stop")
    page.wait_for_url(f"**/control?run={run.id}")
    page.locator(".js-plotly-plot .points path").first.wait_for()
    place = page.evaluate(_CERTIFIED)
    page.mouse.click(place["x"], place["y"])
    chosen = page.get_by_test_id("stSelectbox").filter(has_text="Go back to")
    expect(chosen.locator("input")).to_have_value(f"step {place['step']:,}: certified, on disk")
    seat.click("Roll back…")
    expect(page.get_by_text(f"goes back to its state of step {place['step']:,}")).to_be_visible()
    assert commands(store, run.id) == []
    seat.click(f"Yes, roll back to step {place['step']:,}")
    answer = _answer(store, "rollback")
    assert (answer.state, answer.args) == ("done", {"to_step": place["step"]})
    expect(page.get_by_text("went back from step")).to_be_visible()
    expect(page.get_by_text("after it was asked").first).to_be_visible()
    back = store.segments(run.id)[-1]
    assert (back.reason, back.start_step) == ("rollback", place["step"])

    # it is paused, and says so, and goes on
    seat.click("Pause…")
    seat.click("Yes, pause")
    assert _answer(store, "pause").state == "done"
    expect(page.get_by_text("paused at step")).to_be_visible()
    expect(page.get_by_role("button", name="Continue…")).to_be_visible()
    # a state that only the trainer's memory has, chosen from the list by keys alone
    chosen.locator("input").focus()
    page.keyboard.type("known to")
    page.keyboard.press("Enter")
    expect(chosen.locator("input")).to_have_value(re.compile("in memory$"))
    seat.click("Roll back…")
    seat.page.get_by_role("button", name="Yes, roll back to step").click()
    _wait(lambda: _answer(store, "rollback").id != answer.id, "no second rollback")
    answer = _answer(store, "rollback")
    assert answer.state == "done", answer.answer
    assert "from memory" in answer.answer
    # it stands there until it is continued
    branch = store.segments(run.id)[-1].index
    assert branch not in measured_steps(store, run.id, [catalogue.LOSS_TOTAL])
    seat.click("Continue…")
    seat.click("Yes, continue")
    assert _answer(store, "continue").state == "done"
    _wait(
        lambda: branch in measured_steps(store, run.id, [catalogue.LOSS_TOTAL]),
        "it did not go on",
    )
    seat.picture("control")
    seat.is_in_order()


def test_a_rule_is_edited_tried_over_the_run_and_taken_by_the_trainer(
    address: str, browser: Browser, store: Store, alert: Alert, folder: Path
) -> None:
    seat = Seat(browser, 1440, folder)
    page, run = seat.page, _run(store)
    page.goto(f"{address}/rules?run={run.id}&token={TOKEN}")
    page.get_by_label("Find").fill("loss_spike")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 of ")).to_be_visible()
    # the rules that do not match leave a moment later
    expect(page.get_by_role("button", name="Edit", exact=True)).to_have_count(1)
    seat.click("Edit")
    text = page.get_by_role("textbox", name="Rule as YAML")
    assert "threshold: 3.5" in text.input_value()
    # a mistake is said with its line
    text.fill(text.input_value().replace("threshold: 3.5", "threshold: much"))
    page.keyboard.press("Control+Enter")
    seat.click("Try")
    expect(page.get_by_text("Line 4: threshold is 'much'")).to_be_visible()
    text.fill(text.input_value().replace("threshold: much", "threshold: 3.0"))
    page.keyboard.press("Control+Enter")
    seat.click("Try")
    # what it would have raised is drawn on the loss
    expect(page.locator(".js-plotly-plot")).to_have_count(1)
    expect(page.get_by_text("would be critical")).to_be_visible()
    assert newest(store, run.id) == []
    seat.picture("rules")
    seat.click("Save…")
    seat.click("Yes, save")
    expect(page.get_by_text(f"rule loss_spike of run {RUN}: version 1")).to_be_visible()
    answer = _answer(store, "set_rules")
    assert answer.state == "done", answer.answer
    (version,) = newest(store, run.id)
    assert version.body["threshold"] == 3.0
    seat.is_in_order()


def test_the_pages_fit_a_phone_and_the_run_is_stopped_from_there(
    address: str, browser: Browser, store: Store, alert: Alert, folder: Path,
    trainer: "subprocess.Popen[bytes]",
) -> None:  # fmt: skip
    seat = Seat(browser, 390, folder)
    page, run = seat.page, _run(store)
    shown = {
        f"alerts?run={run.id}&state=all": ("alerts", "loss_spike"),
        f"rules?run={run.id}": ("rules", "dry run"),
        f"incidents?alert={alert.id}": ("incident", "Where to go from here"),
        f"control?run={run.id}": ("control", "Automatic action"),
    }
    for path, (name, says) in shown.items():
        page.goto(f"{address}/{path}&token={TOKEN}")
        expect(page.get_by_text(says).first).to_be_visible()
        seat.picture(name)
        seat.is_in_order()
    seat.click("Stop…")
    expect(page.get_by_text("ends after the present step, with a checkpoint")).to_be_visible()
    seat.click("Yes, stop")
    assert _answer(store, "stop").state == "done"
    trainer.wait(20)
    expect(page.get_by_text("The run has stopped")).to_be_visible()
    assert _run(store).status == "stopped"
    # what came of it is told where it began, also after the end
    page.goto(f"{address}/incidents?alert={alert.id}&token={TOKEN}")
    story = page.locator(".st-key-incident_story")
    expect(story).to_contain_text("Recovery")
    wide = Seat(browser, 1440, folder)
    wide.page.goto(f"{address}/incidents?alert={alert.id}&token={TOKEN}")
    expect(wide.page.locator(".st-key-incident_story")).to_contain_text("Recovery")
    wide.picture("incident")
    wide.is_in_order()
    seat.is_in_order()
