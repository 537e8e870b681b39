"""Rules as text: templates for every signal, mistakes with their lines, dry runs in a picture."""

import numpy as np
import pytest

from moescope.dashboard.charts_of_rules import WouldAlarm, trial_figure, worst_entries
from moescope.dashboard.rule_text import (
    Fault,
    faults,
    marked,
    signals_of,
    template,
    thresholds_of_values,
)
from moescope.dashboard.window import Branches
from moescope.monitors.rules import read_rules
from moescope.platform.catalogue import CATALOGUE
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Bands
from moescope.platform.strict_yaml import read_yaml

TEXT = template("loss/total")


@pytest.mark.parametrize("signal", [*CATALOGUE, "user/fvd"])
def test_every_signal_has_a_template_that_is_a_rule(signal: str) -> None:
    (rule,) = read_rules([read_yaml(template(signal, 0.1, 3.0), "rule")])
    assert rule.signal == signal
    assert rule.is_dry_run
    assert rule.action == "observe"


def test_a_text_is_asked_for_its_signals_and_for_thresholds_of_values() -> None:
    assert signals_of(TEXT) == {"my_loss_total": "loss/total"}
    assert thresholds_of_values(TEXT) == {}
    above = TEXT.replace("detector: spike", "detector: above")
    assert thresholds_of_values(above) == {"my_loss_total": 6.0}
    assert signals_of("- name: [") == {}


def _said(text: str) -> str:
    """How the command line refuses a text."""
    try:
        row = read_yaml(text, "-")
        read_rules([row])
    except MoescopeError as error:
        return str(error)
    raise AssertionError("it was not refused")


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        (("threshold: 6 ", "threshold: much "), [5]),
        (("signal: loss/total", "signal: loss/totl"), [3]),
        (("severity: warning", "severty: warning"), [None, 9]),
        (("name: my_loss_total", "name: My Loss"), [2]),
        (("patience: 3 ", "patience: 9 "), [6]),
        (("is_dry_run: true", "parameters: {windo: 3}"), [13]),
        (("is_dry_run: true", "parameters: {window: 1}"), [13]),
        (("detector: spike ", "detector: sipke "), [4]),
    ],
)
def test_a_mistake_is_found_in_its_line(changed: tuple[str, str], lines: list[int | None]) -> None:
    text = TEXT.replace(*changed)
    assert text != TEXT
    found = faults(_said(text), text)
    assert [fault.line for fault in found] == lines, found


def test_several_mistakes_are_told_apart() -> None:
    text = TEXT.replace("name: my_loss_total", "name: My Loss").replace(
        "severity: warning", "severity: bad"
    )
    found = faults(_said(text), text)
    assert [fault.line for fault in found] == [2, 9]
    assert found[1].text.startswith("severity is 'bad'")
    pointed = marked(text, found, around=0).splitlines()
    assert [line[0] for line in pointed] == ["→", "→"]


def test_a_text_that_is_no_yaml_is_pointed_at_where_it_breaks() -> None:
    text = "name: x\n  signal: [\n"
    assert [fault.line for fault in faults(_said(text), text)] == [2]


def test_what_has_no_line_points_nowhere() -> None:
    assert faults("no answer within 30 s", TEXT) == [Fault(None, "no answer within 30 s")]
    assert marked(TEXT, [Fault(None, "x"), Fault(99, "y")]) == ""


def _bands(segments: list[int], steps: list[int], values: np.ndarray) -> Bands:
    """A bucket for each step. values: (steps,) or (steps, numbers)."""
    wide = values.reshape(len(steps), -1).astype(np.float32)
    is_finite = np.isfinite(wide)
    return Bands(
        "loss/total",
        1,
        np.array(segments, np.int32),
        np.array(steps, np.int64),
        np.ones(len(steps), np.int64),
        np.where(is_finite, wide, np.inf).astype(np.float32),
        np.where(is_finite, wide, -np.inf).astype(np.float32),
        np.where(is_finite, wide, np.nan).astype(np.float32),
        is_finite.astype(np.int64),
    )


def test_a_mark_lies_where_the_signal_was_at_its_alarm() -> None:
    living = _bands([2, 2, 2], [0, 10, 20], np.array([1.0, 4.0, 1.0]))
    ghosts = _bands([0, 0, 1, 1], [5, 6, 7, 8], np.array([9.0, np.nan, 2.0, 3.0]))
    alarms = [
        WouldAlarm(12, 10, "<b>r</b>", "critical", 6.5, "<i>m</i>"),
        WouldAlarm(6, 5, "r", "warning", 5.0, "m"),
    ]
    figure = trial_figure(Branches(living, ghosts), alarms, name="loss", unit="mse", threshold=3.0)
    found = {trace.name: trace for trace in figure.data}
    assert list(found["would be critical"].y) == [4.0]
    # step 6 was not finite on the abandoned branch: the point before it stands
    assert list(found["would be warning"].y) == [9.0]
    assert "<b>" not in found["would be critical"].hovertext[0]
    # each abandoned branch is a line of its own
    assert [len(t.x) for t in figure.data if t.name == "abandoned branch"] == [2, 2]
    # a line for the threshold, and a stretch from onset to alarm for each
    assert len(figure.layout.shapes) == 3


def test_a_vector_is_drawn_by_its_highest_finite_entry() -> None:
    values = np.array([[1, 3], [np.nan, 2], [np.nan] * 2], np.float32)
    worst = worst_entries(_bands([0, 0, 0], [0, 1, 2], values))
    assert worst[:2].tolist() == [3.0, 2.0]
    assert np.isnan(worst[2])
