"""Going back happens as a whole, or not at all, or is said aloud and ends the training."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moescope.monitors.going_back import HalfRestored
from moescope.monitors.watching import state as watched_state
from moescope.monitors.watching.acting import carry_out
from moescope.monitors.watching.limits import WatchKeeping
from moescope.platform.alert_kinds import HALTED
from moescope.platform.commands import ask, commands
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Action
from moescope.platform.store import Store

Make = Callable[..., Any]

ON_DISK_ALONE = {"keeping": WatchKeeping(ring_gib=0, disk_every_steps=10)}


class Stubborn:
    """A part of a state that gives and, once asked to, does not take."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def state_dict(self) -> dict[str, Any]:
        return {"place": 3}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise self.error


def spoil(loop: Any, num_steps: int = 10) -> Any:
    """Steps that ask for a rollback; returns the first action that is none to carry on."""
    for _ in range(num_steps):
        action = loop.step(scale=100.0)
        if action.kind != "carry_on":
            return action
    raise AssertionError("nothing was done about a loss that is a hundred times too high")


def actions_of(run_folder: str) -> list[dict[str, Any]]:
    lines = (Path(run_folder) / "memory.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["what"] == "action"]


def damage(loop: Any, *, after: int = -1) -> None:
    """Spoils the states on disk of steps after `after`."""
    loop.run.keeper.flush()
    for checkpoint in loop.run.keeper.checkpoints:
        if checkpoint.step > after:
            (Path(checkpoint.path) / "objects.pt").write_bytes(b"nonsense")


def obeyed(loop: Any, store: Store) -> Any:
    """Steps until every command has its answer; returns the last command."""
    until_s = time.monotonic() + 60
    while any(c.state in ("asked", "taken") for c in commands(store, loop.run.id)):
        assert time.monotonic() < until_s, "a command was never answered"
        loop.step()
    return commands(store, loop.run.id)[-1]


def test_what_is_left_half_restored_raises_at_every_call_and_is_an_alert(
    watched: Make, store: Store
) -> None:
    loop = watched(state={"loader": Stubborn(RuntimeError("no place"))})
    for _ in range(74):
        loop.step()
    with pytest.raises(HalfRestored) as caught:
        spoil(loop)
    text = str(caught.value)
    assert text.startswith("state loader (Stubborn) does not take back what it gave")
    assert "(RuntimeError: no place)" in text
    assert text.endswith("cannot go on: end it, and resume it from its states on disk")
    assert "\n" not in text
    # a loop that catches it does not get far
    for _ in range(2):
        with pytest.raises(HalfRestored):
            loop.step()
        with pytest.raises(HalfRestored):
            loop.run.guard(1.0)
    newest = loop.run.keeper.checkpoints[-1].step
    loop.run.finish()
    assert loop.run.status == "halted"
    assert store.find_run(loop.run.id).status == "halted"
    [call] = [alert for alert in store.alerts(loop.run.id) if alert.rule == HALTED]
    assert (call.severity, text in call.message) == ("critical", True)
    # what is between two states is not kept as a state
    assert loop.run.keeper.checkpoints[-1].step == newest


@pytest.mark.parametrize("part", ["guard", "judge", "chance"])
def test_a_fault_of_our_own_in_the_middle_of_a_rollback_is_not_passed_over(
    watched: Make, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    loop = watched()
    for _ in range(74):
        loop.step()

    def fail(*_: Any) -> None:
        raise KeyError("no such thing")

    if part == "chance":
        monkeypatch.setattr(watched_state, "set_random_state", fail)
    else:
        monkeypatch.setattr(getattr(loop.run.state, part), "load_state_dict", fail)
    with pytest.raises(HalfRestored, match="KeyError: 'no such thing'; so the training is between"):
        spoil(loop)
    loop.run.finish("crashed")


@pytest.mark.parametrize("error", [ValueError("odd"), TypeError("odd"), RuntimeError("odd")])
def test_a_rollback_that_a_person_asked_for_and_that_stops_half_way_is_no_refusal(
    watched: Make, store: Store, error: Exception
) -> None:
    loop = watched(state={"loader": Stubborn(error)})
    for _ in range(5):
        loop.step()
    ask(store, loop.run.id, "rollback", {"to_step": 0}, "ada", time.time())
    with pytest.raises(HalfRestored, match="odd"):
        obeyed(loop, store)
    loop.run.finish("crashed")
    assert "between step" in commands(store, loop.run.id)[-1].answer


def test_a_fault_behind_a_rollback_ends_the_watching_and_tells_the_loop_where_it_is(
    watched: Make, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = watched()
    weights = {}
    for step in range(74):
        weights[step] = [p.detach().clone() for p in loop.model.parameters()]
        loop.step()

    def fail(step: int) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr(loop.run.keeper, "drop_after", fail)
    action = spoil(loop)
    assert (action.kind, action.to_step) == ("rollback", loop.run.num_steps)
    pairs = zip(loop.model.parameters(), weights[action.to_step], strict=True)
    assert all((a == b).all() for a, b in pairs)
    assert loop.run.fault == "OSError: no such disk"
    assert len([line for line in told if "no such disk" in line]) == 1
    assert loop.step().kind == "carry_on"
    loop.run.finish()


def test_a_rollback_to_damaged_states_that_a_person_asks_for_is_refused_and_leaves_no_trace(
    watched: Make, store: Store
) -> None:
    loop = watched(**ON_DISK_ALONE)
    for _ in range(45):
        loop.step()
    damage(loop)
    ask(store, loop.run.id, "rollback", {"to_step": 0}, "ada", time.time())
    command = obeyed(loop, store)
    assert command.state == "refused"
    assert command.answer.startswith("no usable checkpoint at or before step 0")
    assert loop.run.num_steps == len(loop.losses)
    assert {action.kind for action in loop.actions} == {"carry_on"}
    loop.run.finish()
    assert loop.run.status == "finished"
    assert actions_of(loop.run.folder) == []
    assert [s.reason for s in store.segments(loop.run.id)] == ["start"]
    # what is saved afterwards is on no branch that was left
    last = store.checkpoints(loop.run.id)[-1]
    assert (last.step, last.health, last.is_on_disk) == (len(loop.losses), "fresh", True)


def test_the_policy_remembers_the_step_that_was_really_gone_back_to(watched: Make) -> None:
    loop = watched(**ON_DISK_ALONE)
    for _ in range(74):
        loop.step()
    certified = [c.step for c in loop.run.keeper.checkpoints if c.health == "certified"]
    assert certified[-1] > 0
    damage(loop, after=0)
    action = spoil(loop)
    assert action.reason.startswith(f"roll back to step {certified[-1]}")
    assert (action.kind, action.to_step, loop.run.num_steps) == ("rollback", 0, 0)
    [taken] = actions_of(loop.run.folder)
    assert (taken["kind"], taken["to_step"]) == ("rollback", 0)
    loop.run.finish()


def test_a_rollback_that_finds_no_state_is_a_halt_and_takes_nothing_from_the_budget(
    watched: Make, store: Store
) -> None:
    loop = watched(**ON_DISK_ALONE)
    for _ in range(74):
        loop.step()
    damage(loop)
    action = spoil(loop)
    assert action.kind == "halt"
    assert [taken["kind"] for taken in actions_of(loop.run.folder)] == ["halt"]
    loop.run.finish()
    assert store.find_run(loop.run.id).status == "halted"


def test_what_has_grown_since_a_state_was_kept_is_found_before_anything_is_touched(
    watched: Make, store: Store
) -> None:
    loop = watched(name="grown")
    for _ in range(12):
        loop.step()
    extra = torch.nn.Linear(2, 2)
    loop.optimizer.add_param_group({"params": extra.parameters()})
    ask(store, loop.run.id, "rollback", {"to_step": 0}, "ada", time.time())
    answer = obeyed(loop, store)
    assert answer.state == "refused"
    assert "optimizer has groups of" in answer.answer
    before = [parameter.detach().clone() for parameter in loop.model.parameters()]
    halt = carry_out(loop.run, Action("rollback", "forced", to_step=0))
    assert halt.kind == "halt"
    assert "the state of step 0 cannot be put back" in halt.reason
    # nothing is between two states: the loop may end as it likes
    assert all(map(torch.equal, before, loop.model.parameters()))
    assert loop.step().kind == "halt"
    loop.run.finish()
    assert [a["kind"] for a in actions_of(loop.run.folder)] == ["halt"]


def test_a_model_with_a_new_part_does_not_take_an_older_state(watched: Make) -> None:
    loop = watched()
    for _ in range(12):
        loop.step()
    loop.model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(MoescopeError, match=r"model has extra\.bias now or had it then"):
        carry_out(loop.run, Action("rollback", "asked", to_step=10), is_automatic=False)
    assert loop.step().kind == "carry_on"
    loop.run.finish()
