"""A watched run that ended, or whose process was killed, goes on: exactly, with its memory."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import moescope
from moescope.monitors.going_back import HalfRestored
from moescope.monitors.watching.limits import WatchKeeping
from moescope.platform import catalogue, leases
from moescope.platform.claims import claim
from moescope.platform.contact import run_lease
from moescope.platform.errors import MoescopeError
from moescope.platform.series import is_living, read_series
from moescope.platform.settings import Settings
from moescope.platform.store import Store

Make = Callable[..., Any]

OFTEN = {"keeping": WatchKeeping(memory_every_steps=5, disk_every_steps=10)}
KILLED = """
import importlib.util, os, signal, sys
import torch
import moescope
from moescope.monitors.watching.acting import carry_out
from moescope.monitors.going_back import HalfRestored
from moescope.monitors.watching.limits import WatchKeeping
from moescope.platform.records import Action

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("loops", sys.argv[1])
loops = importlib.util.module_from_spec(spec)
sys.modules["loops"] = loops
spec.loader.exec_module(loops)
loop = loops.make_loop()
loop.run = moescope.watch(
    loop.model, loop.optimizer, name="mine", resume=True, state=[loop.schedule],
    keeping=WatchKeeping(memory_every_steps=5, disk_every_steps=10),
)

def end(*_):
    os.kill(os.getpid(), signal.SIGKILL)

while loop.run.num_steps < 47:
    loop.step()
loop.run.keeper.flush()
if sys.argv[2] == "going back":
    # noted before it takes effect, and long before what is left behind is dropped
    loop.run.state.restore = end
    carry_out(loop.run, Action("rollback", "test", to_step=20))
end()
"""


Killed = Callable[..., None]


@pytest.fixture
def killed(run_script: Callable[..., tuple[int, str]]) -> Killed:
    """Trains 47 steps in a process that kills itself."""

    def run(what: str = "nothing") -> None:
        loops = Path(__file__).with_name("conftest.py")
        code, said = run_script(KILLED, str(loops), what)
        assert code == -signal.SIGKILL, said

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums come out alike in this process and in the one that was killed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def living_losses(store: Store, run_id: str) -> dict[int, float]:
    series = read_series(store, run_id, catalogue.LOSS_TOTAL)
    living = is_living(series, store.segments(run_id))
    return dict(zip(series.steps[living].tolist(), series.values[living].tolist(), strict=True))


@pytest.mark.usefixtures("one_thread")
def test_a_watched_run_that_was_killed_goes_on_bit_for_bit(
    killed: Killed, watched: Make, plain: Make, told: list[str], store: Store
) -> None:
    killed()
    straight = plain()
    for _ in range(60):
        straight.step()
    loop = watched(name="mine", resume=True, **OFTEN)
    assert loop.run.num_steps == 40
    assert "run mine goes on from step 40 (from its fresh state on disk)" in told
    while loop.run.num_steps < 60:
        loop.step()
    loop.run.finish()
    assert loop.losses == straight.losses[40:]
    pairs = zip(loop.model.parameters(), straight.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert loop.schedule.state_dict() == straight.schedule.state_dict()
    [run] = store.runs()
    assert (run.id, run.name, run.status) == (loop.run.id, "mine", "finished")
    segments = store.segments(run.id)
    assert [(s.index, s.reason, s.start_step) for s in segments] == [
        (0, "start", 0),
        (1, "resume", 40),
    ]
    losses = living_losses(store, run.id)
    assert list(losses) == list(range(60))
    assert list(losses.values()) == pytest.approx(straight.losses, rel=1e-6)
    assert "resume" in [event.kind for event in store.events(run.id)]


@pytest.mark.usefixtures("one_thread")
def test_a_kill_while_going_back_forgets_neither_the_rollback_nor_where_it_went(
    killed: Killed, watched: Make, store: Store
) -> None:
    killed("going back")
    loop = watched(name="mine", resume=True, **OFTEN)
    # the states of steps 30 and 40 are of the branch that was left
    assert loop.run.num_steps == 20
    lines = (Path(loop.run.folder) / "memory.jsonl").read_text().splitlines()
    actions = [line for line in map(json.loads, lines) if line["what"] == "action"]
    assert [(a["kind"], a["to_step"], a["step"]) for a in actions] == [("rollback", 20, 47)]
    for _ in range(5):
        loop.step()
    loop.run.finish()
    losses = living_losses(store, loop.run.id)
    assert list(losses) == list(range(25))


def test_a_name_that_nobody_has_begins_a_run_and_its_script_can_start_again_and_again(
    watched: Make, store: Store
) -> None:
    for start in range(3):
        loop = watched(name="mine", resume=True, **OFTEN)
        assert loop.run.num_steps == 4 * start
        for _ in range(4):
            loop.step()
        loop.run.finish()
    [run] = store.runs()
    assert [s.reason for s in store.segments(run.id)] == ["start", "resume", "resume"]
    assert list(living_losses(store, run.id)) == list(range(12))


def test_a_run_without_a_state_counts_on_and_a_loop_that_restored_itself_says_where_it_is(
    watched: Make, store: Store
) -> None:
    loop = watched(name="mine", state=None)
    for _ in range(7):
        loop.step()
    loop.run.finish()
    loop = watched(name="mine", resume=True, state=None)
    assert (loop.run.num_steps, loop.run.mode) == (7, "advisory")
    loop.step()
    loop.run.finish()
    loop = watched(name="mine", resume=loop.run.id, state=None, start_step=5)
    assert loop.run.num_steps == 5
    loop.step()
    loop.run.finish()
    assert [s.start_step for s in store.segments(loop.run.id)] == [0, 7, 5]
    assert list(living_losses(store, loop.run.id)) == list(range(6))


def test_where_the_loop_restored_itself_nothing_is_put_back_and_later_states_are_gone(
    watched: Make,
) -> None:
    loop = watched(name="mine", **OFTEN)
    for _ in range(25):
        loop.step()
    loop.run.finish()
    loop = watched(name="mine", resume=True, start_step=12, seed=3, **OFTEN)
    fresh = [p.detach().clone() for p in loop.model.parameters()]
    assert loop.run.num_steps == 12
    assert [c.step for c in loop.run.keeper.checkpoints] == [0, 10]
    torch.manual_seed(3)
    again = type(loop.model)()
    assert all(torch.equal(a, b) for a, b in zip(fresh, again.parameters(), strict=True))
    loop.run.finish()


def test_a_run_that_is_judged_by_losses_of_samples_keeps_its_baselines(watched: Make) -> None:
    samples = {"per_sample": torch.ones(4)}
    loop = watched(name="mine", **OFTEN)
    for _ in range(5):
        loop.step(**samples)
    loop.run.finish()
    loop = watched(name="mine", resume=True, **OFTEN)
    judge = loop.run.state.judge
    loop.step(**samples)
    assert loop.run.state.judge is judge
    signals = {rule.signal for rule in loop.run.table.rules()}
    assert catalogue.LOSS_PER_SAMPLE in signals
    loop.run.finish()


def test_a_state_that_is_not_taken_back_is_told_and_the_run_is_left_alone(
    watched: Make, store: Store
) -> None:
    class Stubborn:
        def state_dict(self) -> dict[str, Any]:
            return {"place": 3}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise RuntimeError("no place")

    loop = watched(name="mine", state={"loader": Stubborn()}, **OFTEN)
    loop.step()
    loop.run.finish()
    with pytest.raises(HalfRestored, match=r"state loader .* is neither new nor of step 1: make"):
        watched(name="mine", resume=True, state={"loader": Stubborn()}, **OFTEN)
    assert store.find_run("mine").status == "finished"


def test_a_run_goes_on_in_the_mode_that_it_had_unless_another_is_asked_for(
    watched: Make, store: Store
) -> None:
    for asked, had in [
        ({"mode": "advisory"}, "advisory"),
        ({}, "advisory"),
        ({"mode": "on"}, "on"),
    ]:
        loop = watched(name="mine", resume=True, **asked)
        loop.step()
        loop.run.finish()
        assert (loop.run.mode, store.find_run("mine").mode) == (had, had)
    # nothing to go back to: it cannot be on
    loop = watched(name="mine", resume=True, state=None)
    assert loop.run.mode == "advisory"
    loop.run.finish()


def test_a_run_that_lives_elsewhere_is_not_gone_on_with(watched: Make, store: Store) -> None:
    watched(name="mine").run.finish()
    run = store.find_run("mine")
    holder = claim(store, run)
    with pytest.raises(MoescopeError) as caught:
        watched(name="mine", resume=True, seed=1)
    assert f"run mine is still alive (process {os.getpid()} on" in str(caught.value)
    assert "\n" not in str(caught.value)
    leases.release(store, run_lease(run.id), holder)
    watched(name="mine", resume=True, seed=1).run.finish()


def test_a_run_that_this_process_lost_is_finished_and_gone_on_with(
    watched: Make, store: Store, told: list[str]
) -> None:
    """As where a cell of a notebook runs again."""
    first = watched(name="mine")
    first.step()
    again = watched(name="mine", resume=True, seed=1)
    assert "run mine was not finished in this process: it is now" in told
    assert (again.run.id, first.run.status) == (first.run.id, "stopped")
    with pytest.raises(MoescopeError, match="run mine is finished"):
        first.run.step(1.0)
    again.step()
    again.run.finish()
    assert store.find_run("mine").status == "finished"
    assert [segment.index for segment in store.segments(again.run.id)] == [0, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"resume": True}, "the run has no name", id="no-name"),
        pytest.param({"resume": "min"}, "did you mean mine", id="near-name"),
        pytest.param({"resume": "mine", "name": "yours"}, "leave name out", id="two-names"),
        pytest.param({"name": "mine"}, "resume=True goes on with it", id="taken"),
        pytest.param({"start_step": 3}, "start_step is 3", id="no-resume"),
        pytest.param({"name": "mine", "resume": True, "state": []}, "another state", id="state"),
        pytest.param(
            {"name": "mine", "resume": True, "routers": ["layers.0.gate"]},
            "another routers: 1 (layers.0.gate), and it had 2 (layers.0.gate, layers.1.gate)",
            id="routers",
        ),
    ],
)
def test_a_resume_that_cannot_be_is_refused_in_one_line_and_leaves_the_run_as_it_was(
    watched: Make, store: Store, options: dict[str, Any], words: str
) -> None:
    first = watched(name="mine")
    first.step()
    first.run.finish()
    before = store.find_run("mine")
    with pytest.raises(MoescopeError) as caught:
        watched(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.find_run("mine") == before
    assert len(store.runs()) == 1


def test_another_model_does_not_go_on_with_a_run_and_neither_does_a_run_of_ours(
    watched: Make, store: Store, told: list[str]
) -> None:
    first = watched(name="mine")
    first.run.finish()
    wider = torch.nn.Sequential(torch.nn.Linear(3, 3))
    optimizer = torch.optim.AdamW(wider.parameters())
    with pytest.raises(MoescopeError, match="another model: Sequential, and it had Network"):
        moescope.watch(wider, optimizer, name="mine", resume=True, tell=told.append)
    ours = dataclasses.replace(
        store.find_run("mine"), id="ours", name="ours", config={"recipe": "tiny"}
    )
    store.add_run(ours)
    with pytest.raises(MoescopeError, match="moescope train --resume ours goes on with it"):
        watched(name="ours", resume=True)


def test_states_that_are_damaged_or_elsewhere_are_told_and_the_run_is_left_alone(
    watched: Make, store: Store
) -> None:
    loop = watched(name="mine", **OFTEN)
    for _ in range(12):
        loop.step()
    loop.run.finish()
    folder = Path(loop.run.folder)
    for file in folder.glob("checkpoints/*/objects.pt"):
        file.write_bytes(b"nonsense")
    with pytest.raises(MoescopeError, match="no usable checkpoint at or before step 12"):
        watched(name="mine", resume=True, **OFTEN)
    assert store.find_run("mine").status == "finished"
    folder.rename(Settings().home_path / "elsewhere")
    with pytest.raises(
        MoescopeError, match=r"keeps its states in .*, which is not on this machine"
    ):
        watched(name="mine", resume=True, **OFTEN)
    assert store.find_run("mine").status == "finished"
