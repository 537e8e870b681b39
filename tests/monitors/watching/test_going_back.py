"""A watched training that goes back: exactly, from memory and from disk, and never in a circle."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from moescope.monitors.policy_limits import Limits
from moescope.monitors.states.checkpoint import checkpoint_folders
from moescope.monitors.watching.limits import WatchKeeping
from moescope.platform.commands import ask, commands
from moescope.platform.errors import MoescopeError
from moescope.platform.store import Store

Make = Callable[..., Any]

SPIKE = range(74, 80)
IN_MEMORY_ALONE = {"on_disk": False}
ON_DISK_ALONE = {"keeping": WatchKeeping(ring_gib=0, disk_every_steps=10)}


@pytest.mark.parametrize("options", [IN_MEMORY_ALONE, ON_DISK_ALONE], ids=["memory", "disk"])
def test_a_spike_that_was_gone_back_from_leaves_no_trace(
    watched: Make, plain: Make, options: dict[str, Any]
) -> None:
    straight = plain()
    for _ in range(110):
        straight.step()
    loop = watched(**options)
    assert loop.run is not None
    num_spoiled = 0
    while loop.run.num_steps < 110:
        # a fault of the training, not of its data: it is gone when the run comes by again
        is_spoiled = loop.run.num_steps in SPIKE and not any(
            action.kind == "rollback" for action in loop.actions
        )
        num_spoiled += is_spoiled
        loop.step(scale=100.0 if is_spoiled else 1.0)
    loop.run.finish()
    back = [action for action in loop.actions if action.kind == "rollback"]
    assert len(back) == 1
    assert num_spoiled > 1
    to_step = back[0].to_step
    assert to_step is not None
    assert loop.losses[-(110 - to_step) :] == straight.losses[to_step:]
    for a, b in zip(loop.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert same(loop.optimizer.state_dict(), straight.optimizer.state_dict())
    assert loop.schedule.state_dict() == straight.schedule.state_dict()


def test_a_state_on_disk_is_read_by_torch_without_executing_anything(
    watched: Make, store: Store
) -> None:
    loop = watched(name="kept")
    for _ in range(3):
        loop.step()
    assert loop.run is not None
    loop.run.finish()
    folder = Path(store.find_run("kept").folder) / "checkpoints"
    newest = checkpoint_folders(folder)[-1]
    objects = torch.load(newest / "objects.pt", weights_only=True)
    assert same(objects["model"], loop.model.state_dict())
    assert same(objects["optimizer"], loop.optimizer.state_dict())
    assert objects["LinearLR_0"] == loop.schedule.state_dict()


class Sampler:
    """A part of a state that cannot be read back without executing code."""

    def __init__(self) -> None:
        self.chance = np.random.default_rng(0)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": 1, "inner": [{"chance": self.chance}]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chance = state["inner"][0]["chance"]


def test_what_disks_do_not_hold_is_refused_at_once_with_object_and_type(watched: Make) -> None:
    with pytest.raises(MoescopeError) as caught:
        watched(state={"order": Sampler()})
    text = str(caught.value)
    assert text.startswith("state order (Sampler) holds a numpy.random")
    assert "Generator at inner[0].chance" in text
    assert "on_disk=False" in text


def test_what_disks_do_not_hold_goes_back_from_memory(watched: Make) -> None:
    sampler = Sampler()
    loop = watched(state={"order": sampler}, on_disk=False)
    drawn = []
    for step in range(90):
        if step == 70:
            before = copy.deepcopy(sampler.chance)
        drawn.append(sampler.chance.random())
        action = loop.step(scale=100.0 if step >= 74 else 1.0)
        assert action is not None
        if action.kind == "rollback":
            break
    assert (action.kind, action.to_step) == ("rollback", 50)
    assert sampler.chance.random() == drawn[50]
    assert before is not sampler.chance


def test_a_run_whose_states_are_gone_halts_in_words(watched: Make, store: Store) -> None:
    loop = watched(keeping=WatchKeeping(ring_gib=0, disk_every_steps=10))
    for _ in range(74):
        loop.step()
    loop.run.keeper.flush()
    for file in Path(loop.run.folder).glob("checkpoints/*/objects.pt"):
        file.write_bytes(b"nonsense")
    for _ in range(10):
        action = loop.step(scale=100.0)
        if action.kind != "carry_on":
            break
    assert action.kind == "halt"
    assert "no usable checkpoint" in action.reason
    loop.run.finish()
    assert store.find_run(loop.run.id).status == "halted"
    damaged = [a for a in store.alerts(loop.run.id) if "objects.pt does not match" in a.message]
    assert damaged


def test_a_run_whose_data_is_all_poison_from_a_step_on_halts(watched: Make) -> None:
    loop = watched(limits=Limits(most_rollbacks=2))
    kinds = []
    for step in range(300):
        action = loop.step(scale=1.0 if step < 80 else 100.0)
        assert action is not None
        kinds.append(action.kind)
        if action.kind == "halt":
            break
    assert kinds[-1] == "halt"
    assert kinds.count("rollback") <= 3
    assert loop.run is not None
    # a loop that does not listen is told again, and nothing more is done to it
    again = loop.step(scale=100.0)
    assert again is not None
    assert again.kind == "halt"
    loop.run.finish()
    assert loop.run.status == "halted"


def test_without_a_state_nothing_is_ever_done_and_what_would_be_is_said(
    watched: Make, told: list[str]
) -> None:
    loop = watched(state=None)
    for step in range(80):
        loop.step(scale=100.0 if step >= 74 else 1.0)
    assert {action.kind for action in loop.actions} == {"carry_on"}
    assert any("advisory: would" in line for line in told)


def test_people_can_ask_a_watched_run_to_go_back_and_to_save(watched: Make, store: Store) -> None:
    loop = watched(name="asked")
    assert loop.run is not None
    for _ in range(25):
        loop.step()
    run_id = store.find_run("asked").id
    # the first state is always there, however far the loop gets before it is told
    ask(store, run_id, "rollback", {"to_step": 0}, "ada", time.time())
    ask(store, run_id, "damp", {"scale": 0.5, "steps": 3}, "ada", time.time())
    ask(store, run_id, "set_mode", {"mode": "none"}, "ada", time.time())
    until_s = time.monotonic() + 60
    while any(c.state in ("asked", "taken") for c in commands(store, run_id)):
        assert time.monotonic() < until_s, "a command was never answered"
        loop.step()
    loop.run.finish()
    assert "rollback" in {action.kind for action in loop.actions}
    answers = {c.kind: (c.state, c.answer) for c in commands(store, run_id)}
    assert answers["rollback"] == ("done", "went back to step 0")
    assert answers["damp"][0] == "done"
    assert answers["set_mode"] == ("refused", "mode is 'none': allowed are on, advisory, off")


def test_a_damped_rate_is_lower_at_the_update_and_as_it_was_afterwards() -> None:
    from moescope.monitors.watching.damping import Damping

    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    damping = Damping([optimizer])
    damping.start(0.25, 2)
    moved = []
    for _ in range(3):
        before = weight.item()
        weight.grad = torch.ones(1)
        optimizer.step()
        damping.step_done()
        moved.append(before - weight.item())
        assert optimizer.param_groups[0]["lr"] == 1.0
    assert moved == [0.25, 0.25, 1.0]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
