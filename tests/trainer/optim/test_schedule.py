"""The learning rate of a step."""

import pytest

from moescope.platform.frozen import changed
from moescope.trainer.optim.schedule import learning_rate
from moescope.trainer.recipes.stream import tiny


def test_the_rate_warms_up_and_stays() -> None:
    config = changed(tiny(), {"optim.learning_rate": 0.01, "optim.warmup_steps": 4})
    rates = [learning_rate(config, step) for step in (0, 1, 3, 4, 10_000)]
    # (step + 1) / 4 of 0.01, at most all of it
    assert rates == pytest.approx([0.0025, 0.005, 0.01, 0.01, 0.01])


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    config = changed(tiny(), {"optim.learning_rate": 0.01, "optim.warmup_steps": 0})
    assert learning_rate(config, 0) == 0.01
