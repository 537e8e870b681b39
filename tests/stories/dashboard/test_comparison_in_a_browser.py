"""Runs laid over each other in a browser: grouped by seed, zoomed, saved, opened again.

Set MOESCOPE_SCREENSHOTS to a folder to keep the pictures.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from moescope.platform import catalogue
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.run_log import LOG, RunLog

pytestmark = pytest.mark.story

TOKEN = "a-token-for-the-story"
PICTURES = os.environ.get("MOESCOPE_SCREENSHOTS")
MARKUP = "<img src=x onerror=window.was_run=1>"

_CHARTS = """() => [...document.querySelectorAll('.moescope-plot.js-plotly-plot')].map((plot) => ({
    says: plot.getAttribute('aria-label'),
    range: plot._fullLayout.xaxis?.range,
    names: plot._fullData.filter((t) => t.showlegend !== false && t.name).map((t) => t.name),
}))"""


def _charts(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(_CHARTS)
    return found


def _wait_until(page: Page, is_true: Callable[[], object], what: str) -> None:
    for _ in range(150):
        if is_true():
            return
        page.wait_for_timeout(200)
    pytest.fail(f"waited in vain for {what}")


@pytest.fixture
def seeds(trainer: Any, tmp_path: Path) -> Sequence[Run]:
    """Two rates with three seeds each, finished; the first run has a log."""
    runs = []
    for rate in (0.001, 0.003):
        for seed in range(3):
            number = len(runs)
            run = Run(
                id=f"5eed{number}", name=f"rate {rate} seed {seed} {MARKUP if not number else ''}",
                project="sweep", status="finished", device="cpu", code_version="0.1.0",
                config={"steps": 300, "seed": seed, "optim": {"learning_rate": rate}},
                created_s=1.7e9, heartbeat_s=1.7e9 + 300, finished_s=1.7e9 + 300,
                folder=str(tmp_path / "home" / "runs" / f"5eed{number}"),
            )  # fmt: skip
            trainer.store.add_run(run)
            trainer.store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
            trainer.store.write_frames([_frame(run.id, step, rate, seed) for step in range(300)])
            runs.append(run)
    folder = Path(runs[0].folder)
    folder.mkdir(parents=True)
    log = RunLog(folder / LOG)
    for step in range(0, 600):
        log.write(f"step {step}/600  loss {1 / (1 + step):.4f}  healthy", 1.7e9 + step)
    log.write(f"ALERT loss_spike: {MARKUP}", 1.7e9 + 600)
    return runs


def _frame(run_id: str, step: int, rate: float, seed: int) -> Frame:
    chance = np.random.default_rng((seed, step))
    loss = 0.4 + 20 * rate + np.exp(-step * rate * 20) + 0.02 * seed + chance.normal(0, 0.02)
    values: dict[str, Any] = {
        catalogue.LOSS_TOTAL: loss,
        catalogue.GRAD_NORM: 0.3 + np.exp(-step / 60) + abs(chance.normal(0, 0.05)),
        catalogue.TOKENS_PER_S: 9_000 + chance.normal() * 100,
        catalogue.STEP_TOKENS: 1024,
        catalogue.STEP_FLOPS: 6e9,
        catalogue.LOSS_PER_SAMPLE: np.abs(chance.normal(loss, 0.2, (2, 8))),
    }
    arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return Frame(run_id, 0, step, 1.7e9 + step, arrays)


def test_seeds_are_grouped_zoomed_saved_and_opened_again(
    address: str, opened: Callable[..., Any], seeds: Sequence[Run]
) -> None:
    ids = ",".join(run.id for run in seeds)
    seen = opened(f"{address}/compare?runs={ids}&group=seed&x=tokens&token={TOKEN}")
    page = seen.page
    page.set_viewport_size({"width": 1440, "height": 1700})  # a chart out of sight is not drawn
    _wait_until(page, lambda: len(_charts(page)) == 3, "three charts")
    assert _charts(page)[0]["names"] == [
        "optim.learning_rate = 0.001 (n = 3)",
        "optim.learning_rate = 0.003 (n = 3)",
    ]
    page.wait_for_timeout(1500)

    # a drag takes every chart there, in tokens, and the address keeps it
    box = page.locator(".moescope-plot .nsewdrag").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=6)
    page.mouse.up()
    _wait_until(page, lambda: "span=" in page.url, "the range in the address")
    first, last = page.evaluate(
        "new URL(location).searchParams.get('span').split('..').map(Number)"
    )
    assert 50_000 < first < 130_000 < last < 250_000
    _wait_until(
        page,
        lambda: all(
            first - 5000 < chart["range"][0] and chart["range"][1] < last + 5000
            for chart in _charts(page)
        ),
        f"all charts to follow to {first}..{last}: {_charts(page)}",
    )

    # it is saved, the page is left for another one, and the view leads back to the same
    page.get_by_role("button", name="Views").click()
    page.get_by_label("Name", exact=True).fill("two rates")
    page.get_by_label("Name", exact=True).press("Tab")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("button", name="two rates")).to_be_visible()
    kept = page.url
    page.goto(f"{address}/compare?runs={seeds[0].id}")
    _wait_until(page, lambda: len(_charts(page)) == 3, "the page of one run")
    page.get_by_role("button", name="Views").click()
    page.get_by_role("button", name="two rates").click()
    _wait_until(page, lambda: page.url == kept, f"{kept}, not {page.url}")
    _wait_until(page, lambda: len(_charts(page)[0]["names"]) == 2, "the groups again")

    # text of a run stays text, in the legend, the tables and the links
    assert page.evaluate("window.was_run") is None
    seen.assert_in_order()


def test_a_run_that_trains_grows_beside_one_that_has_ended(
    address: str, opened: Callable[..., Any], seeds: Sequence[Run], trainer: Any
) -> None:
    seen = opened(f"{address}/compare?runs={trainer.run.id},{seeds[0].id}&token={TOKEN}")
    page = seen.page
    page.set_viewport_size({"width": 1440, "height": 1700})  # a chart out of sight is not drawn
    ends = (
        "() => Math.max(...[...document.querySelectorAll('.moescope-plot')].flatMap("
        "(p) => (p._fullData ?? []).flatMap((t) => Array.from(t.x ?? []))))"
    )
    _wait_until(page, lambda: len(_charts(page)) == 3, "three charts")
    before = page.evaluate(ends)
    page.evaluate("document.querySelectorAll('.moescope-plot').forEach((p) => { p.mark = 1; })")
    _wait_until(page, lambda: page.evaluate(ends) > before + 20, "the run to grow")
    assert page.evaluate(
        "[...document.querySelectorAll('.moescope-plot')].every((p) => p.mark === 1)"
    )
    page.get_by_role("link", name=trainer.run.name).click()
    expect(page.get_by_role("heading", name=trainer.run.name)).to_be_visible()
    seen.assert_in_order()


def test_the_log_is_searched_and_the_data_are_saved_as_a_file(
    address: str, opened: Callable[..., Any], seeds: Sequence[Run]
) -> None:
    seen = opened(f"{address}/run?run={seeds[0].id}&token={TOKEN}")
    page = seen.page
    page.get_by_text("Log", exact=True).click()
    expect(page.get_by_text("step 599/600")).to_be_visible()
    page.get_by_placeholder("lines with these words").fill("alert")
    page.get_by_placeholder("lines with these words").press("Enter")
    expect(page.get_by_text(f"ALERT loss_spike: {MARKUP}")).to_be_visible()
    expect(page.get_by_text("step 599/600")).to_have_count(0)
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    rows = Path(download.value.path()).read_text().splitlines()
    assert download.value.suggested_filename == f"{seeds[0].id}.csv"
    assert len(rows) == 1 + 300
    assert page.evaluate("window.was_run") is None
    seen.assert_in_order()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_it_fits_a_desk_and_a_hand(
    address: str, opened: Callable[..., Any], seeds: Sequence[Run], width: int, scheme: str
) -> None:
    ids = ",".join(run.id for run in seeds)
    url = f"{address}/compare?runs={ids}&group=seed&x=FLOPs&logx=1&token={TOKEN}"
    seen = opened(url, width, scheme)
    page = seen.page
    page.get_by_text("of the chosen runs", exact=True).click()
    expect(page.get_by_text("Axes of the threads")).to_be_visible()
    height = page.get_by_test_id("stMain").evaluate("(main) => main.scrollHeight")
    page.set_viewport_size({"width": width, "height": height + 60})
    _wait_until(page, lambda: len(_charts(page)) == 5, "five charts")
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/compare-{width}-{scheme}.png")
    seen.assert_in_order()
