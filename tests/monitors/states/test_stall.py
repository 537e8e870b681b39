"""A snapshot that takes too much of training is told once, with the interval that would not."""

import pytest

from moescope.monitors.states.stall import JUDGED, Stall


def told(took_s: float, step_s: float, every: int = 10) -> list[str]:
    stall, now_s, lines = Stall(every, 0.0), 0.0, []
    for _ in range(JUDGED + 3):
        start_s = now_s + every * step_s
        now_s = start_s + took_s
        lines.append(stall.taken(start_s, now_s))
    return [line for line in lines if line]


def test_what_takes_too_much_is_told_once_with_the_way_out() -> None:
    [line] = told(took_s=0.5, step_s=1.0)
    assert line.startswith("a snapshot takes 0.5 s, 4.8% of training")
    assert line.endswith("memory_every_steps=48 makes it 1%")
    # as told, and it is well
    assert told(took_s=0.5, step_s=1.05, every=48) == []


@pytest.mark.parametrize(("took_s", "step_s"), [(0.1, 1.0), (0.05, 0.01)])
def test_what_is_short_or_seldom_is_not_told(took_s: float, step_s: float) -> None:
    assert told(took_s, step_s) == []
