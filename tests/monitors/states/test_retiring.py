"""Over a whole run the disk holds certified states of about 1, 4, 16 and 64 delays, and no more."""

from dataclasses import replace

import pytest

from moescope.monitors.states.retiring import steps_to_keep
from moescope.platform.records import Checkpoint

KEEP = 4


@pytest.mark.parametrize(
    ("delay", "every"), [(20, 10), (20, 5), (100, 100), (100, 25), (200, 100), (48, 7)]
)
def test_there_is_a_state_of_each_age_at_any_time(delay: int, every: int) -> None:
    held: dict[int, Checkpoint] = {}
    for step in range(0, 6 * delay * 4 ** (KEEP - 1), every):
        held[step] = Checkpoint("r", 0, step, "", step, 1, 0.0)
        for old in held:
            if old == 0 or step - old >= delay:
                held[old] = replace(held[old], health="certified")
        kept = steps_to_keep(list(held.values()), delay, KEEP)
        held = {old: held[old] for old in held if old in kept}
        # the fresh ones wait for their certificate; of the others one for each age
        fresh = -(-delay // every)
        assert len(held) <= fresh + KEEP
        ages = [step - old for old, state in held.items() if state.health == "certified"]
        for wanted in (delay * 4**i for i in range(KEEP)):
            if step > 4 * wanted:
                nearest = min(ages, key=lambda age: abs(age - wanted))
                assert 0.25 * wanted <= nearest <= 1.75 * wanted, (step, wanted, nearest)
