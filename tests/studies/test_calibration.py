"""What a machine has measured is kept, so that a study asked for again plans the same trials."""

from typing import Any

import pytest

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.store import Store
from moescope.studies import calibration
from moescope.studies.calibration import calibrated, shape_of
from moescope.trainer.config import RunConfig
from moescope.trainer.recipes.by_name import recipe


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Widths that were trained; each time at another speed, as on a busy machine."""
    widths: list[int] = []

    def measure(config: RunConfig) -> float:
        widths.append(config.model.width)
        return 1e9 * len(widths)

    monkeypatch.setattr(calibration, "_measured", measure)
    return widths


def sizes(*widths: int) -> list[RunConfig]:
    return [changed(recipe("tiny"), {"model.width": width}) for width in widths]


def test_the_smallest_and_the_largest_are_measured_once(store: Store, measured: list[int]) -> None:
    first = calibrated(store, sizes(32, 64, 96), 1.0)
    assert measured == [32, 96]
    assert sorted(first.values()) == [1e9, 2e9]
    assert calibrated(store, sizes(32, 64, 96), 2.0) == first
    assert measured == [32, 96]
    anew = calibrated(store, sizes(32, 64, 96), 3.0, is_anew=True)
    assert anew != first
    assert calibrated(store, sizes(32, 96), 4.0) == anew


def test_what_is_not_known_and_may_not_be_measured_is_one_line(
    store: Store, measured: list[int]
) -> None:
    calibrated(store, sizes(32), 1.0)
    with pytest.raises(MoescopeError, match="has not been calibrated for this study"):
        calibrated(store, sizes(32, 64), 2.0, may_measure=False)
    assert len(calibrated(store, sizes(32), 2.0, may_measure=False)) == 1


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"seed": 7}, True),
        ({"steps": 7}, True),
        ({"optim.learning_rate": 0.5}, True),
        ({"data.batch": 3}, False),
        ({"moe.num_experts": 2}, False),
        ({"optim.optimizer": "adamw"}, False),
    ],
)
def test_only_what_makes_a_step_counts(changes: dict[str, Any], is_same: bool) -> None:
    base = changed(recipe("tiny"), {"optim.optimizer": "muon"})
    assert (shape_of(changed(base, changes)) == shape_of(base)) is is_same
