"""What runs came to, in numbers that can be checked by hand."""

from typing import Any

import numpy as np
import pytest

from moescope.dashboard.finals import (
    Final,
    finals_over_seeds,
    finals_table,
    lowest_bucket,
    mean_and_spread,
    mean_of,
    tail_range,
)
from moescope.platform.records import Bands


def bands(mean: list[float], low: list[float], num: list[int], width: int = 4) -> Bands:
    count = len(mean)
    finite = np.array(num)[:, None]
    return Bands(
        "loss/total",
        width,
        np.zeros(count, np.int32),
        np.arange(count) * width,
        np.full(count, width),
        np.array(low, np.float32)[:, None],
        np.array(low, np.float32)[:, None] + 1,
        np.array(mean, np.float32)[:, None],
        finite,
    )


def final(make: Any, name: str, last: float | None, **changes: Any) -> Final:
    values: dict[str, Any] = {
        "low": last, "low_step": 3, "tail": last, "num_steps": 10, "tokens": 100.0, "flops": None,
        "hours": 0.5,
    }  # fmt: skip
    return Final(make.run(name), name, last, **(values | changes))


@pytest.mark.parametrize(
    ("steps", "tail"),
    [
        ((0, 99), (95, 99)),
        ((0, 0), (0, 0)),
        ((50, 70), (69, 70)),
        ((0, 999_999), (950_000, 999_999)),
    ],
)
def test_the_tail_is_the_last_twentieth_of_the_steps(
    steps: tuple[int, int], tail: tuple[int, int]
) -> None:
    assert tail_range(*steps) == tail


def test_a_mean_over_buckets_is_that_of_the_points_in_them() -> None:
    # (4 * 1 + 2 * 4) / 6
    assert mean_of(bands([1, 4], [1, 4], [4, 2])) == pytest.approx(2.0)
    assert mean_of(bands([1, float("nan")], [1, float("inf")], [4, 0])) == pytest.approx(1.0)
    assert mean_of(bands([float("nan")], [float("inf")], [0])) is None


def test_the_lowest_bucket_is_found_by_its_lowest_value() -> None:
    assert lowest_bucket(bands([1, 2, 3], [0.9, 0.2, 0.5], [4, 4, 4])) == (4, 7)
    assert lowest_bucket(bands([float("nan")], [float("inf")], [0])) is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 2.0, 3.0], "2 ± 1"),
        ([0.5], "0.5"),
        ([2.0, None], "2 (1 of 2)"),
        ([1.0, 3.0, float("nan")], "2 ± 1.4 (2 of 3)"),  # the root of 2
        ([None], "-"),
    ],
)
def test_mean_and_spread_say_of_how_many(values: list[float | None], said: str) -> None:
    assert mean_and_spread(values) == said


def test_the_table_has_a_row_for_each_run_and_a_link_to_it(make: Any) -> None:
    table = finals_table([final(make, "a", 0.5), final(make, "b", None)])
    assert table["run"].tolist() == ["a", "b"]
    assert table["page"].tolist() == ["run?run=id-a", "run?run=id-b"]
    assert table["tokens"].tolist() == [100.0, 100.0]
    assert table["last"].isna().tolist() == [False, True]


def test_seeds_are_put_together_in_groups(make: Any) -> None:
    groups = {"lr = 0.1": [final(make, "a", 1.0), final(make, "b", 3.0, num_steps=20)]}
    (row,) = finals_over_seeds(groups).to_dict("records")
    assert (row["runs"], row["n"], row["last"]) == ("lr = 0.1", 2, "2 ± 1.4")
    assert row["steps"] == "15 ± 7.1"
