"""The wall clock of a machine is set back an hour and forward a day while a run is on: no record
is lost or out of order, nobody takes the run away, and no lag is told that there is not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moescope.platform.catalogue import LOSS_TOTAL
from moescope.platform.series import read_series
from moescope.platform.store import open_store

pytestmark = pytest.mark.story

RATES = {"steps_per_s": 60.0, "alerts_per_s": 2.0, "events_per_s": 2.0}
HOUR_S, DAY_S = 3600.0, 86400.0


def test_a_clock_that_is_set_costs_nothing(
    tmp_path: Path,
    store_url: str,
    machine: Any,
    write: Callable[..., Any],
    assert_kept: Callable[..., int],
) -> None:
    home = tmp_path / "home"
    writer = write(store_url, home, "r", machine.env, **RATES)
    writer.wait_for_steps(60)
    for shift_s in (-HOUR_S, DAY_S):
        machine.has(clock_shift_s=shift_s)
        # a beat with the new time, and one more
        writer.wait_for_steps(120)
        # somebody on the same machine, who has the new time at once
        second = write(store_url, home, "r", machine.env, **RATES)
        assert second.process.wait(30) == 2
        assert f"process {writer.process.pid} on" in second.errors()
    told = writer.stop()
    assert told.replaced_by == ""
    lags_s = [look["lag_s"] for look in told.looks]
    assert min(lags_s) >= 0.0
    assert max(lags_s) < 10.0
    assert told.states() <= {"keeps up", "behind"}
    with open_store(store_url) as store:
        assert_kept(store, "r", told)
        series = read_series(store, "r", LOSS_TOTAL)
        assert (np.diff(series.steps) == 1).all()
        # what the clock said is kept as it was said
        jumps_s = np.diff(series.times_s)
        assert jumps_s.min() < -HOUR_S + 60 < DAY_S < jumps_s.max()
