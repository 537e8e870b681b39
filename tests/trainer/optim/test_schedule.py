"""The learning rate of a step."""

import math
from typing import Any

import pytest
import torch

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.optim.schedule import decay_begins_at, learning_rate
from moescope.trainer.recipes.stream import tiny


def _config(**optim: Any) -> RunConfig:
    keys = {"learning_rate": 0.01, "warmup_steps": 4, **optim}
    return changed(tiny(), {"steps": 20} | {f"optim.{key}": value for key, value in keys.items()})


def test_the_rate_warms_up_and_stays() -> None:
    rates = [learning_rate(_config(), step) for step in (0, 1, 3, 4, 10_000)]
    # (step + 1) / 4 of 0.01, at most all of it
    assert rates == pytest.approx([0.0025, 0.005, 0.01, 0.01, 0.01])
    assert decay_begins_at(_config()) is None


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(_config(warmup_steps=0), 0) == 0.01


@pytest.mark.parametrize("final_share", [0.0, 0.1])
def test_the_cosine_is_that_of_torch(final_share: float) -> None:
    config = _config(schedule="cosine", final_share=final_share)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16, 0.01 * final_share)
    for step in range(4, 20):
        assert learning_rate(config, step) == pytest.approx(theirs.get_last_lr()[0]), step
        optimizer.step()
        theirs.step()
    # one step more would have what is left
    assert learning_rate(config, 20) == pytest.approx(0.01 * final_share)


def test_wsd_stays_and_then_falls_in_a_line() -> None:
    config = _config(schedule="wsd", decay_steps=5, final_share=0.2)
    rates = [learning_rate(config, step) for step in range(20)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[4:16] == [0.01] * 12
    # x = 1/5 ... 4/5: 0.01 (1 - 0.8 x)
    assert rates[16:] == pytest.approx([0.0084, 0.0068, 0.0052, 0.0036])
    assert decay_begins_at(config) == 15


def test_before_its_decay_a_run_of_any_length_is_the_same() -> None:
    short, long = (
        changed(_config(schedule="wsd", decay_steps=5), {"steps": steps}) for steps in (20, 500)
    )
    assert [learning_rate(short, s) for s in range(16)] == [
        learning_rate(long, s) for s in range(16)
    ]
    assert math.isclose(learning_rate(long, 499), 0.002)


def test_a_decay_that_is_longer_than_the_run_is_refused() -> None:
    with pytest.raises(MoescopeError, match=r"4 and 17, but the run has 20 steps"):
        _config(schedule="wsd", decay_steps=17)
