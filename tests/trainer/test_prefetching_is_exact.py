"""With batches decoded ahead by other processes, going back and going on end bit for bit where an
undisturbed run does that decodes its batches itself.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from moescope.monitors.states.checkpoint import copied
from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.records import Action
from moescope.platform.series import is_living, read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.loop import Trainer
from moescope.trainer.rollback import carry_out
from moescope.trainer.run import RunResult, train

STEPS, BACK_AT, BACK_TO, STOP_AT = 24, 18, 8, 13


class Trained(NamedTuple):
    result: RunResult
    state: dict[str, Any]
    series: np.ndarray
    """(2, steps): number of each living step's batch, and its loss."""
    num_decoders: set[int]


def trained(
    config: RunConfig,
    home: Path,
    *,
    back_at: int = -1,
    stop_at: int = -1,
    resume: str = "",
) -> Trained:
    """Trains; goes back to BACK_TO once, in front of step `back_at`, or stops at a step."""
    seen: list[Trainer] = []
    num_decoders: set[int] = set()
    settings = Settings(home=home, mlflow="off")

    def on_step(trainer: Trainer) -> None:
        num_decoders.add(len(trainer.batches.process_ids()))
        if trainer.state.step == back_at and trainer.segment.reason != "rollback":
            action = Action("rollback", "forced by the test", to_step=BACK_TO)
            carry_out(trainer, action, is_automatic=False)
        if trainer.state.step == stop_at:
            trainer.stop()
        seen[:] = [trainer]

    result = train(config, settings=settings, resume=resume, progress=False, on_step=on_step)
    with open_store(settings.store_url) as store:
        rows = []
        for signal in (catalogue.DATA_BATCH, catalogue.LOSS_TOTAL):
            series = read_series(store, result.run_id, signal)
            living = is_living(series, store.segments(result.run_id))
            order = np.argsort(series.steps[living], kind="stable")
            assert series.steps[living][order].tolist() == list(range(result.step))
            rows.append(series.values[living][order])
    return Trained(result, copied(seen[0].state.capture()), np.stack(rows), num_decoders)


@pytest.mark.usefixtures("one_thread")
def test_going_back_and_going_on_with_batches_decoded_ahead_change_no_bit(
    small: RunConfig, tmp_path: Path, same: Callable[[Any, Any], list[str]]
) -> None:
    every = {"checkpoint.memory_every_steps": 4, "checkpoint.disk_every_steps": 12}
    itself = changed(small, {"steps": STEPS, "data.workers": 0, **every})
    ahead = changed(itself, {"data.workers": 2})
    want = trained(itself, tmp_path / "itself")
    assert want.num_decoders == {0}
    assert want.series[0].tolist() == list(range(STEPS))

    back = trained(ahead, tmp_path / "back", back_at=BACK_AT)
    assert back.num_decoders == {2}
    np.testing.assert_array_equal(want.series, back.series)
    assert same(want.state, back.state) == []

    # stopped between two states that were due, with three batches under way
    stopped = trained(ahead, tmp_path / "on", stop_at=STOP_AT)
    assert (stopped.result.status, stopped.result.step) == ("stopped", STOP_AT)
    on = trained(ahead, tmp_path / "on", resume=stopped.result.run_id)
    assert on.num_decoders == {2}
    np.testing.assert_array_equal(want.series, on.series)
    # a resume is an announced event: the detectors start new windows, all else is as it was
    assert same({**want.state, "judge": {}}, {**on.state, "judge": {}}) == []
