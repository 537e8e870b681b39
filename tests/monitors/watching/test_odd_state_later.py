"""An optimizer that makes something odd at its first steps, which no disk holds."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

import moescope
from moescope.monitors.states.checkpoint import checkpoint_folders
from moescope.monitors.watching.limits import WatchKeeping
from moescope.platform.alert_kinds import CHECKPOINT
from moescope.platform.store import Store

Make = Callable[..., Any]

ODD_FROM = 3
OFTEN = {"memory_every_steps": 5, "disk_every_steps": 5}


class Odd(torch.optim.SGD):
    """Keeps a fraction beside its moments, from its third step on."""

    num_steps = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        self.num_steps += 1
        if self.num_steps == ODD_FROM:
            weight = self.param_groups[0]["params"][0]
            self.state[weight]["share"] = Fraction(1, 3)


@pytest.fixture
def odd(plain: Make, told: list[str]) -> Make:
    def make(**more: Any) -> Any:
        loop = plain()
        loop.optimizer = Odd(loop.model.parameters(), lr=1e-2)
        loop.schedule = torch.optim.lr_scheduler.LinearLR(loop.optimizer, 0.1, 1.0, 20)
        options = {"state": [loop.schedule], "tell": told.append, "name": "odd"} | more
        loop.run = moescope.watch(loop.model, loop.optimizer, **options)
        return loop

    return make


def test_what_no_disk_holds_is_found_before_it_is_written_and_training_goes_on(
    odd: Make, told: list[str], store: Store
) -> None:
    loop = odd(keeping=WatchKeeping(**OFTEN))
    for _ in range(12):
        assert loop.step().kind == "carry_on"
    [line] = [line for line in told if "fractions.Fraction" in line]
    assert line.startswith(f"ALERT {CHECKPOINT}: state optimizer (Odd) holds a fractions.Fraction")
    assert "at state.0.share, which torch.load(weights_only=True) does not read" in line
    assert line.endswith("states are kept in memory alone from here on; training goes on")
    # the state of the start is on disk, and nothing that cannot be read back
    folder = Path(loop.run.folder) / "checkpoints"
    loop.run.keeper.flush()
    assert [path.name for path in checkpoint_folders(folder)] == ["step-00000000-segment-0000"]
    assert [c.step for c in loop.run.keeper.checkpoints] == [0, 5, 10]
    loop.run.finish()
    assert (loop.run.fault, loop.run.status) == ("", "finished")
    [alert] = [a for a in store.alerts(loop.run.id) if a.rule == CHECKPOINT]
    assert (alert.state, alert.message in line) == ("open", True)


def test_what_no_disk_holds_is_gone_back_from_by_memory(odd: Make) -> None:
    loop = odd()
    for step in range(90):
        action = loop.step(scale=100.0 if step >= 74 else 1.0)
        if action.kind == "rollback":
            break
    assert action.kind == "rollback"
    assert loop.run.num_steps == action.to_step > 0
    weight = loop.optimizer.param_groups[0]["params"][0]
    assert loop.optimizer.state[weight]["share"] == Fraction(1, 3)
    loop.run.finish()


def test_where_memory_holds_no_states_either_it_is_said(odd: Make, told: list[str]) -> None:
    loop = odd(keeping=WatchKeeping(ring_gib=0, **OFTEN))
    for _ in range(12):
        assert loop.step().kind == "carry_on"
    [line] = [line for line in told if "fractions.Fraction" in line]
    assert "no more states are kept, as host memory holds none" in line
    assert [c.step for c in loop.run.keeper.checkpoints] == [0]
    loop.run.finish()
    assert loop.run.fault == ""
