"""A chart's node stays while its run trains; so do what was zoomed to and where the page was."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.story

TOKEN = "a-token-for-the-story"

_AXES = """() => [...document.querySelectorAll('.moescope-plot.js-plotly-plot')].map((plot) => ({
    says: plot.getAttribute('aria-label'),
    range: plot._fullLayout.xaxis.range,
    y: plot._fullLayout.yaxis.range,
    last: Math.max(...plot._fullData.flatMap((t) => Array.from(t.x || []))),
    number: plot.dataset.number,
}))"""


def _charts(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(_AXES)
    return found


def _loss(page: Page) -> dict[str, Any]:
    return next(chart for chart in _charts(page) if chart["says"].startswith("Loss up to"))


def _wait_until(page: Page, is_true: Callable[[], object], what: str) -> None:
    for _ in range(150):
        if is_true():
            return
        page.wait_for_timeout(200)
    pytest.fail(f"waited in vain for {what}")


def test_what_was_zoomed_to_survives_refreshes_and_stands_in_the_address(
    address: str, opened: Callable[..., Any], trainer: Any
) -> None:
    seen = opened(f"{address}/?run={trainer.run.id}&token={TOKEN}")
    page = seen.page
    expect(page.locator(".moescope-plot .main-svg").first).to_be_visible()
    _wait_until(page, lambda: _charts(page), "the first chart")
    expect(page.locator(".moescope-plot")).to_have_count(12)
    page.wait_for_timeout(3000)  # the page comes in two turns, since the address is made shorter
    # each node is marked: were one replaced, its mark would be gone
    page.evaluate(
        "document.querySelectorAll('.moescope-plot').forEach((p, i) => { p.dataset.number = i; })"
    )
    grown = _loss(page)
    _wait_until(page, lambda: _loss(page)["last"] > grown["last"] + 20, "the run to grow")
    assert _loss(page)["number"] == "0"

    # a drag over two refreshes takes the chart to its steps, and the others too
    page.locator(".moescope-plot .nsewdrag").first.scroll_into_view_if_needed()
    box = page.locator(".moescope-plot .nsewdrag").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], y, steps=4)
    page.wait_for_timeout(7000)
    page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=4)
    page.mouse.up()
    _wait_until(page, lambda: "steps=" in page.url, f"the range in the address: {_loss(page)}")
    first, last = page.evaluate(
        "new URL(location).searchParams.get('steps').split('-').map(Number)"
    )
    assert 60 < first < last < 400
    _wait_until(
        page,
        lambda: all(
            first - 30 < chart["range"][0] and chart["range"][1] < last + 30
            for chart in _charts(page)
            if "over the steps" in chart["says"] or "Loss up to" in chart["says"]
        ),
        "all charts to follow",
    )
    expect(page.get_by_label("From")).to_have_value(str(first))
    assert _loss(page)["number"] == "0"

    # along the values it is the chart's own, and stays through refreshes and where the page was
    page.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 300)")
    page.evaluate(
        "Plotly.relayout(document.querySelector('.moescope-plot'), {'yaxis.range': [0.4, 0.9]})"
    )
    page.wait_for_timeout(7000)
    assert _loss(page)["y"] == [0.4, 0.9]
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == 300

    # the address alone brings it back elsewhere
    again = opened(page.url.replace("/run?", f"/run?token={TOKEN}&"), width=390, scheme="dark")
    again.page.locator(".moescope-plot").first.scroll_into_view_if_needed()
    _wait_until(again.page, lambda: _charts(again.page), "the same on a phone")
    assert _loss(again.page)["range"][0] > first - 30
    again.assert_in_order()

    # a double click is the way out
    page.locator(".moescope-plot .nsewdrag").first.dblclick()
    _wait_until(page, lambda: "steps=" not in page.url, "the whole run")
    _wait_until(page, lambda: _loss(page)["range"][0] < 5, "the chart to show it")
    seen.assert_in_order()


def test_tokens_time_smoothing_and_pause(
    address: str, opened: Callable[..., Any], trainer: Any
) -> None:
    seen = opened(f"{address}/?run={trainer.run.id}&token={TOKEN}&x=wall-time&smooth=100")
    page = seen.page
    page.locator(".moescope-plot").first.scroll_into_view_if_needed()
    _wait_until(page, lambda: _charts(page), "the first chart")
    expect(page.get_by_role("combobox", name="Across")).to_have_value("wall time")
    assert str(_loss(page)["range"][0]).startswith("20")  # a date
    expect(page.get_by_text("loss, mean of 100 steps").first).to_be_visible()
    page.get_by_text("Pause", exact=True).click()
    page.wait_for_timeout(2000)
    stood = _loss(page)["last"]
    page.wait_for_timeout(5000)
    assert _loss(page)["last"] == stood
    with page.expect_download() as saved:
        page.locator(".moescope-plot").first.hover()
        page.locator(".modebar-btn[data-title*=CSV]").first.click()
    text = saved.value.path().read_text()
    assert "# Loss up to step" in text
    assert "loss, mean of 100 steps" in text
    seen.assert_in_order()


def test_a_chart_that_was_scrolled_over_by_finger_goes_on_and_one_that_was_left_is_let_go(
    address: str, opened: Callable[..., Any], trainer: Any
) -> None:
    seen = opened(f"{address}/?run={trainer.run.id}&token={TOKEN}")
    page = seen.page
    _wait_until(page, lambda: _charts(page), "the first chart")
    page.evaluate(
        """() => {
            window.left = document.querySelector('.moescope-plot');
            left.dispatchEvent(new PointerEvent('pointerdown', { bubbles: true }));
            left.dispatchEvent(new PointerEvent('pointercancel', { bubbles: true }));
        }"""
    )
    before = _loss(page)["last"]
    _wait_until(page, lambda: _loss(page)["last"] > before, "the run to grow")
    page.get_by_role("link", name="Compare", exact=True).first.click()
    _wait_until(page, lambda: "/compare" in page.url, "another page")
    page.get_by_role("link", name="Run", exact=True).first.click()
    _wait_until(page, lambda: _charts(page), "the charts again")
    assert page.evaluate("!left.isConnected && !left._fullLayout")
    seen.assert_in_order()


def test_the_first_page_is_found_by_its_name_before_and_after_signing_in(
    address: str, opened: Callable[..., Any], trainer: Any
) -> None:
    seen = opened(f"{address}/runs?token={TOKEN}")
    expect(seen.page.get_by_role("link", name=trainer.run.name)).to_be_visible()
    seen.page.goto(f"{address}/runs?find={trainer.run.name}")
    expect(seen.page.get_by_role("link", name=trainer.run.name)).to_be_visible()
    assert "find=" in seen.page.url
    seen.assert_in_order()
