"""The ring holds the newest states, keeps what is named, and says what it takes."""

import pytest
import torch

from moescope.monitors.states.host_ring import ON_THEIR_WAY, HostRing
from moescope.platform.errors import MoescopeError


def state(value: float) -> dict[str, object]:
    return {"w": torch.full((4,), value)}


def test_the_oldest_leaves_first_unless_it_is_kept() -> None:
    ring = HostRing(3)
    for step in (0, 10, 20):
        ring.put(step, state(step))
    ring.put(30, state(30), keep=frozenset({0}))
    assert ring.steps() == [0, 20, 30]
    assert ring.state(0)["w"][0] == 0


def test_a_held_state_does_not_follow_the_live_one() -> None:
    ring = HostRing(2)
    live = state(1)
    ring.put(0, live)
    live["w"].add_(1)  # type: ignore[attr-defined]
    assert ring.state(0)["w"][0] == 1


def test_a_lent_state_is_never_overwritten() -> None:
    ring = HostRing(2)
    ring.put(0, state(0))
    lent = ring.lend(0)
    for step in (10, 20, 30, 40):
        ring.put(step, state(step))
    assert lent["w"].tolist() == [0, 0, 0, 0]


def test_an_abandoned_branch_is_forgotten() -> None:
    ring = HostRing(4)
    for step in (0, 10, 20):
        ring.put(step, state(step))
    ring.drop_after(10)
    assert ring.steps() == [0, 10]
    with pytest.raises(MoescopeError, match="step 20 is not in the host ring"):
        ring.state(20)


def test_the_plan_shrinks_to_what_fits_and_says_so() -> None:
    mib = 2**20
    assert HostRing.planned_capacity(mib, 8, 100 * mib, 100 * mib)[0] == 8
    capacity, line = HostRing.planned_capacity(10 * mib, 8, 55 * mib, 1000 * mib)
    assert capacity == 5
    assert "shrunk from 8" in line
    # half of the free memory holds five, and two may be on their way to the disk
    capacity, line = HostRing.planned_capacity(10 * mib, 8, 1000 * mib, 100 * mib)
    assert (capacity, ON_THEIR_WAY) == (3, 2)
    assert "0.03 GiB in all, and up to 0.02 GiB more while states are written" in line
    # half of the free memory holds one state: no use
    capacity, line = HostRing.planned_capacity(10 * mib, 8, 1000 * mib, 30 * mib)
    assert capacity == 0
    assert "ring is off" in line


def test_prepared_memory_takes_the_first_states() -> None:
    ring = HostRing(3)
    ring.put(0, state(0))
    ring.prepare(state(1)).join()
    spare = {ring._spare[i]["w"].data_ptr() for i in range(len(ring._spare))}
    assert len(spare) == 2  # one of three is taken already
    for step in (10, 20):
        ring.put(step, state(step))
    assert {ring.state(step)["w"].data_ptr() for step in (10, 20)} == spare
    assert [ring.state(step)["w"][0].item() for step in ring.steps()] == [0, 10, 20]
