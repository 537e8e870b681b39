"""Values that no machine could train with are refused in one line, before anything is made."""

from typing import Any

import pytest

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed, leaves
from moescope.trainer.config import RunConfig

NUMBERS = [
    (key, value) for key, value in leaves(RunConfig()) if type(value) in (int, float)
]  # of bool there are two only


@pytest.mark.parametrize(("key", "value"), NUMBERS, ids=[key for key, _ in NUMBERS])
def test_every_number_has_an_end(key: str, value: Any) -> None:
    with pytest.raises(MoescopeError, match=rf"{key} is .*: input should be less than"):
        changed(RunConfig(), {key: type(value)(10**30)})


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_learning_rate_is_finite(value: float) -> None:
    with pytest.raises(MoescopeError, match=r"optim\.learning_rate is .*finite"):
        changed(RunConfig(), {"optim.learning_rate": value})


def test_a_batch_that_fits_no_memory_is_refused_though_each_number_is_fair() -> None:
    large = {"data.batch": 1024, "data.height": 4096, "data.width": 4096}
    with pytest.raises(MoescopeError, match=r"data\.batch is 1024, .* take 1536 GiB"):
        changed(RunConfig(), large)


def test_a_sample_that_lasts_for_hours_is_refused() -> None:
    with pytest.raises(MoescopeError, match=r"data\.frames_per_s is 8000 s, .* at most 600 s"):
        changed(RunConfig(), {"data.frames_per_s": 0.001})
