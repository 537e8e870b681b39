"""A person watches a run in a browser while it trains: what no test without a browser can see.

Set MOESCOPE_SCREENSHOTS to a folder to keep the pictures.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Locator,
    Page,
    expect,
)

from moescope.platform import catalogue
from moescope.platform.commands import commands
from moescope.platform.series import latest

pytestmark = pytest.mark.story

PICTURES = os.environ.get("MOESCOPE_SCREENSHOTS")
TOKEN = "a-token-for-the-story"
RUN = "amber-finch"
BACK_TO = 200


_ALL_DRAWN = """() => [...document.querySelectorAll('.moescope-plot')]
    .every((place) => place.querySelector('.main-svg .xy'))"""


def _picture(page: Page, tmp_path: Path, name: str) -> None:
    """Takes a picture of the whole page: it scrolls inside, so the window is made as tall."""
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    before = page.viewport_size
    assert before is not None
    page.set_viewport_size({"width": before["width"], "height": max(before["height"], height)})
    page.wait_for_timeout(300)
    page.wait_for_function(_ALL_DRAWN)
    folder = Path(PICTURES) if PICTURES else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")
    page.set_viewport_size(before)


def _assert_both_schemes(page: Page, tmp_path: Path, name: str) -> None:
    """Takes the page's picture in light and dark; the page follows the browser at once."""
    ground = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
    grounds = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.wait_for_timeout(500)
        grounds[scheme] = page.evaluate(ground)
        _picture(page, tmp_path, f"{name}-{scheme}")
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 20, 25)"}


def _drawn(page: Page, title: str) -> dict[str, object]:
    """Returns what plotly drew under a heading: extent of x and y, and the names of the traces."""
    found: dict[str, object] = page.evaluate(
        """(title) => {
            const plots = [...document.querySelectorAll('.js-plotly-plot')];
            const bold = document.querySelectorAll('[data-testid=stMarkdownContainer] strong');
            const head = [...bold].find((h) => h.textContent === title);
            const below = (p) =>
                head.compareDocumentPosition(p) & Node.DOCUMENT_POSITION_FOLLOWING;
            const plot = head && plots.find(below);
            if (!plot || !plot._fullData) return {};
            const line = plot._fullData.find((t) => (t.name || '').startsWith('loss'));
            const of = (t, k) => Array.from(t && t[k] ? t[k] : []);
            const tops = plot._fullData.filter((t) => t.yaxis !== 'y2').flatMap((t) => of(t, 'y'));
            return {
                last: Math.max(...of(line, 'x')),
                top: Math.max(...tops),
                names: plot._fullData.map((t) => t.name),
            };
        }""",
        title,
    )
    return found


def _badge(page: Page, word: str) -> Locator:
    return page.locator(".stMarkdownBadge").filter(has_text=word).first


def _wait_for_loss(page: Page, past: float) -> dict[str, object]:
    until_s = time.monotonic() + 30
    drawn: dict[str, object] = {}
    # a chart out of sight is not drawn
    page.locator(".moescope-plot").first.scroll_into_view_if_needed()
    while time.monotonic() < until_s:
        drawn = _drawn(page, "Loss")
        if float(str(drawn.get("last") or 0)) > past:
            return drawn
        page.wait_for_timeout(200)
    pytest.fail(f"the loss chart did not grow past step {past}: {drawn}")


def test_a_person_watches_a_run_acknowledges_an_alert_and_rolls_back(
    address: str, opened: Callable[..., Any], trainer: Any, tmp_path: Path
) -> None:
    store, run = trainer.store, trainer.run

    # without the token there is nothing to see
    at_desk = opened(address)
    page = at_desk.page
    expect(page.get_by_text("wants a token")).to_be_visible()
    assert RUN not in page.content()

    # with it: the list of runs, and one click to the run
    page.goto(f"{address}/?token={TOKEN}")
    row = page.locator(".fleet tbody tr")
    expect(row).to_contain_text("critical")
    expect(row).to_contain_text("training")
    assert TOKEN not in page.url
    _picture(page, tmp_path, "runs-1440")
    page.get_by_role("link", name=RUN).click()
    expect(page.get_by_role("heading", name=RUN)).to_be_visible()
    page.wait_for_url(f"**/run?run={run.id}")

    # the chart grows while training goes on, and shows what the abandoned branch died of
    first = _wait_for_loss(page, 320)
    _wait_for_loss(page, float(str(first["last"])) + 15)
    assert float(str(first["top"])) > 2.5
    assert "abandoned branch" in str(first["names"])
    assert "critical alert" in str(first["names"])
    expect(page.locator(".moescope-plot")).to_have_count(12)
    _assert_both_schemes(page, tmp_path, "run-1440")

    # the alert is seen
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_role("button", name="Acknowledge")).to_have_count(0)
    assert store.alert("spike-230").state == "acknowledged"
    expect(_badge(page, "healthy")).to_be_visible()

    # a rollback says what it will do, asks once more, and shows the answer
    page.get_by_test_id("stMain").get_by_role("link", name="Control").click()
    page.wait_for_url(f"**/control?run={run.id}")
    page.get_by_role("button", name="Roll back…").click()
    expect(page.get_by_text("gives up the")).to_be_visible()
    assert commands(store, run.id) == []
    page.get_by_role("button", name=f"Yes, roll back to step {BACK_TO}").click()
    expect(page.get_by_text("rollback obeyed at step")).to_be_visible()
    (command,) = commands(store, run.id)
    assert (command.kind, command.args, command.state) == (
        "rollback",
        {"to_step": BACK_TO},
        "done",
    )

    # automatic action is switched in two clicks
    page.get_by_text("advisory", exact=True).click()
    page.get_by_role("button", name="Yes, set to advisory").click()
    expect(page.get_by_text("set_mode obeyed at step")).to_be_visible()
    assert store.find_run(run.id).mode == "advisory"

    # the browser knows the token, and an address alone shows a run and a range of its steps
    page.goto(f"{address}/run?run={run.id}&steps=190-260")
    expect(page.get_by_role("heading", name=RUN)).to_be_visible()
    expect(page.get_by_label("From")).to_have_value("190")
    _wait_for_loss(page, 258)
    page.get_by_role("link", name="Alerts").click()
    expect(page.get_by_text("No open alert.")).to_be_visible()
    page.get_by_text("All", exact=True).click()
    expect(page.get_by_text("acknowledged by operator")).to_be_visible()
    _picture(page, tmp_path, "alerts-1440")

    # what it was about: the story of the incident, with the autopsy's verdict
    page.get_by_role("link", name="How it came about, and why").click()
    page.wait_for_url("**/incidents?alert=spike-230")
    expect(page.get_by_role("heading", name="loss_spike")).to_be_visible()
    expect(page.get_by_text("It comes back with the batches.")).to_be_visible()
    expect(page.locator(".moescope-plot")).to_have_count(1)
    _assert_both_schemes(page, tmp_path, "incident-1440")
    at_desk.assert_in_order()

    # a phone at night
    on_phone = opened(f"{address}/?run={run.id}&token={TOKEN}", width=390, scheme="dark")
    page = on_phone.page
    _wait_for_loss(page, 320)
    expect(page.locator(".moescope-plot")).to_have_count(12)
    _assert_both_schemes(page, tmp_path, "run-390")
    _assert_fits(page, 390)
    page.goto(f"{address}/incidents?alert=spike-230")
    expect(page.get_by_text("It comes back with the batches.")).to_be_visible()
    _assert_both_schemes(page, tmp_path, "incident-390")
    _assert_fits(page, 390)
    on_phone.assert_in_order()
    assert latest(store, run.id, [catalogue.LOSS_TOTAL])[catalogue.LOSS_TOTAL][0] > 320


def _assert_fits(page: Page, width: int) -> None:
    wide = page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
    assert wide <= width
