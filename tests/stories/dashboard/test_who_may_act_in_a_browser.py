"""An operator and a viewer follow the link of an alert: both see it, one acts under a name."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from moescope.platform.commands import commands
from moescope.platform.deeds import deeds
from moescope.platform.records import Alert, Checkpoint, Run, Segment
from moescope.platform.store import Store, open_store

pytestmark = pytest.mark.story
expect.set_options(timeout=20_000)  # two cores may have more to do than this test
RUN, ALERT = "amber-finch", "spike-230"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "home").mkdir()
    with open_store(f"sqlite:///{tmp_path / 'home' / 'store.db'}") as opened:
        now_s = time.time()
        opened.add_run(Run("r1", RUN, "p", {"steps": 9}, "running", "cpu", "0", now_s, now_s + 900))
        opened.add_segment(Segment("r1", 0, 0, "start", now_s))
        opened.put_checkpoint(Checkpoint("r1", 0, 2, "x", 2, 1, now_s, "certified"))
        words = ("loss residuals above 4 sigma", now_s, "loss_spike")
        opened.put_alert(Alert(ALERT, "r1", 0, "loss_spike", "critical", 3, 4, 11.0, 4.0, *words))
        yield opened


@pytest.fixture
def said(tmp_path: Path, store: Store) -> Iterator[dict[str, str]]:
    """`moescope up`, and the addresses that it printed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moescope.cli", "up", "--home", str(tmp_path / "home")]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        env={**os.environ, "MOESCOPE_MLFLOW": "off"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(2)]
    yield {words[0]: words[1] for words in lines}
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    process.stdout.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


def _parts(address: str) -> tuple[str, str]:
    base, _, token = address.partition("/?token=")
    return base, token


def _sign_in(context: BrowserContext, address: str, token: str) -> Page:
    page = context.new_page()
    page.goto(address)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    return page


def _icon(page: Page) -> str:
    return str(page.evaluate("document.querySelector('link[rel*=icon]').href"))


def test_a_link_to_an_alert_leads_there_after_signing_in_and_an_operator_acts(
    said: dict[str, str], browser: Browser, store: Store
) -> None:
    base, token = _parts(said["dashboard"])
    link = f"{base}/incidents?alert={ALERT}"
    context = browser.new_context()
    page = _sign_in(context, link, "wrong")
    expect(page.get_by_text("not a token of this dashboard")).to_be_visible()
    expect(page).to_have_title("moescope")  # nothing is told to strangers
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="loss_spike")).to_be_visible()
    expect(page).to_have_url(link)
    expect(page).to_have_title("(1) critical - Incidents - moescope")
    alarmed = _icon(page)

    # a new tab asks for nothing, whichever page is wanted
    for path, heading in (("rules", "Rules"), ("alerts", "Alerts")):
        page = context.new_page()
        page.goto(f"{base}/{path}")
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
        expect(page).to_have_url(f"{base}/{path}")

    # a name, once, goes with what is done
    page.get_by_role("button", name="Operator").click()
    page.get_by_label("Your name").fill("Ann")
    page.get_by_label("Your name").press("Enter")
    expect(page.get_by_role("button", name="Ann")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_text("No open alert.")).to_be_visible()
    assert store.alert(ALERT).changed_by == "Ann (operator)"
    expect(page).to_have_title("Alerts - moescope")
    assert _icon(page) != alarmed
    other = context.new_page()
    other.goto(f"{base}/control")
    expect(other.get_by_role("button", name="Ann")).to_be_visible()
    other.get_by_role("button", name="Save checkpoint…").click()
    other.get_by_role("button", name="Yes, save a checkpoint").click()
    until_s = time.monotonic() + 20
    while not commands(store, "r1"):
        assert time.monotonic() < until_s
        other.wait_for_timeout(100)
    assert [deed.who for deed in deeds(store)] == ["Ann (operator)"] * 2
    assert [command.asked_by for command in commands(store, "r1")] == ["Ann (operator)"]

    # out, and the browser has forgotten the token
    other.get_by_role("button", name="Ann").click()
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_label("Token")).to_be_visible()
    other.reload()
    expect(other.get_by_label("Token")).to_be_visible()
    context.close()


def test_a_viewer_sees_all_and_can_do_nothing_on_a_phone_too(
    said: dict[str, str], browser: Browser, store: Store
) -> None:
    base, token = _parts(said["viewers"])
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(f"{base}/incidents?alert={ALERT}&token={token}")
    expect(page.get_by_role("heading", name="loss_spike")).to_be_visible()
    assert token not in page.url
    page.wait_for_function("window.localStorage.getItem('moescope-token')")
    page.goto(f"{base}/control?run=r1")
    expect(page.get_by_text("You are signed in as a viewer")).to_be_visible()
    expect(page.get_by_role("button", name="Save checkpoint…")).to_be_disabled()
    expect(page.get_by_role("button", name="Pause…")).to_be_disabled()
    expect(page.get_by_role("button", name="Acknowledge")).to_have_count(0)
    # switched on again in the page, it still asks for nothing
    for name in ("Save checkpoint…", "Pause…"):
        button = page.get_by_role("button", name=name)
        button.evaluate("(node) => { node.disabled = false; node.click(); }")
    page.wait_for_timeout(1500)
    assert commands(store, "r1") == []
    assert deeds(store) == []
    context.close()


def test_another_page_can_neither_show_the_dashboard_inside_itself_nor_speak_to_it(
    said: dict[str, str], browser: Browser, tmp_path: Path
) -> None:
    base, token = _parts(said["dashboard"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "index.html").write_text(
        f"""<iframe src="{base}/?token={token}" width="600" height="400"></iframe>
        <script>
          window.closed_by = [];
          for (const host of ["{base[7:]}", "{base[7:]}".replace("127.0.0.1", "localhost")]) {{
            const to = new WebSocket(`ws://${{host}}/_stcore/stream`, ["streamlit"]);
            to.onopen = () => window.closed_by.push("open");
            to.onerror = () => window.closed_by.push("refused");
          }}
        </script>"""
    )
    # another user's server on the same machine
    served = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(
        [*served, "--directory", str(tmp_path / "served")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        page = browser.new_page()
        until_s = time.monotonic() + 20
        while True:
            try:
                page.goto(f"http://127.0.0.1:{port}/")
                break
            except Exception:
                assert time.monotonic() < until_s
                page.wait_for_timeout(100)
        page.wait_for_function("window.closed_by.length === 2")
        assert page.evaluate("window.closed_by") == ["refused", "refused"]
        page.wait_for_timeout(2000)
        framed = page.frames[1]
        assert "moescope" not in framed.content()
    finally:
        process.terminate()
        process.wait(10)
