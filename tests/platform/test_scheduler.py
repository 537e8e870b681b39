"""Ticks go on whatever one of them does."""

import threading
import time

from moescope.platform.scheduler import Ticker


def test_a_tick_that_raises_is_called_again_and_stops_no_other() -> None:
    calls: list[str] = []
    three = threading.Event()

    def bad() -> None:
        calls.append("bad")
        raise OSError("away")

    def good() -> None:
        calls.append("good")
        if calls.count("good") >= 3 and calls.count("bad") >= 3:
            three.set()

    ticker = Ticker()
    ticker.add("bad", 0.05, bad)
    ticker.add("good", 0.05, good)
    ticker.start()
    assert three.wait(10)
    ticker.stop()
    num_calls = len(calls)
    time.sleep(0.15)
    assert len(calls) == num_calls


def test_a_slow_tick_never_runs_twice_at_once_and_is_waited_for_at_the_end() -> None:
    running: list[int] = []
    most: list[int] = []

    def slow() -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.2)
        running.pop()

    ticker = Ticker()
    ticker.add("slow", 0.03, slow)
    ticker.start()
    time.sleep(0.5)
    ticker.stop()
    assert running == []
    assert max(most) == 1


def test_stopping_what_was_never_started_is_no_error() -> None:
    ticker = Ticker()
    ticker.stop()
    ticker.stop()
    assert not ticker.is_running
