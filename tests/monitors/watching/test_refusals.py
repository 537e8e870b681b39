"""What cannot be is told in one clear line; what goes wrong on the way never stops a training."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import moescope
from moescope.monitors.watching.limits import WatchKeeping
from moescope.platform.errors import MoescopeError
from moescope.platform.settings import Settings

Make = Callable[..., Any]

WIDTH, BATCH = 8, 16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"store": "runs.db"}, "runs.db", id="no-address"),
        pytest.param({"store": "mysql://host/db"}, "mysql", id="another-database"),
        pytest.param({"store": "sqlite:////proc/no/runs.db"}, "/proc/no", id="no-such-folder"),
        pytest.param({"routers": ["layers.0.gat"]}, "did you mean layers.0.gate", id="near-name"),
        pytest.param({"routers": ["layers.0.experts.0.no"]}, "no module", id="no-router"),
        pytest.param({"blocks": ["layer.0"]}, "did you mean layers.0", id="no-block"),
        pytest.param({"state": [object()]}, "without state_dict", id="no-state"),
        pytest.param({"state": "schedule"}, "state is a str", id="a-word"),
        pytest.param({"mode": "on", "state": None}, "give state=", id="nothing-to-go-back-to"),
        pytest.param({"sample_every": 0}, "sample_every is 0", id="never"),
        pytest.param({"on_disk": False, "keeping": WatchKeeping(ring_gib=0)}, "none fits", id="0"),
    ],
)
def test_a_watch_that_cannot_be_is_refused_in_one_line(
    watched: Make, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(MoescopeError) as caught:
        watched(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    # and nothing is left of it
    loop = watched()
    loop.step()
    assert loop.run is not None
    loop.run.finish()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({}, "run.step() needs the loss", id="nothing"),
        pytest.param({"loss": torch.ones(3, 2)}, "shape (3, 2): give its mean", id="many"),
        pytest.param({"loss": "low"}, "type str", id="word"),
        pytest.param({"loss": 1.0, "sigma": torch.ones(2)}, "sigma is given without", id="sigma"),
        pytest.param(
            {"loss": 1.0, "per_sample": torch.ones(2), "timestep": torch.ones(3)},
            "timestep has 3 values for 2 losses",
            id="levels",
        ),
        pytest.param(
            {"loss": 1.0, "per_sample": torch.ones(2, 2)}, "per_sample has shape (2, 2)", id="rows"
        ),
    ],
)
def test_a_step_that_cannot_be_is_refused_in_one_line(
    watched: Make, arguments: dict[str, Any], words: str
) -> None:
    loop = watched()
    assert loop.run is not None
    with pytest.raises(MoescopeError) as caught:
        loop.run.step(**arguments)
    assert words in str(caught.value)
    loop.step()
    loop.run.finish()
    assert loop.run.fault == ""


def test_a_state_of_which_no_copy_can_be_made_is_refused_with_its_name(watched: Make) -> None:
    class Order:
        def state_dict(self) -> dict[str, Any]:
            return {"numbers": (number for number in range(3))}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    with pytest.raises(MoescopeError, match=r"state order \(Order\) cannot be copied \(TypeError"):
        watched(state={"order": Order()}, on_disk=False)


def test_a_loss_with_its_graph_is_taken_and_the_graph_is_let_go(watched: Make) -> None:
    loop = watched()
    assert loop.run is not None
    loss = loop.model(torch.ones(2, WIDTH)).mean()
    assert loss.requires_grad
    loop.run.step(loss.reshape(1))
    loop.run.finish()
    loss.backward()


def test_a_second_watch_on_the_same_optimizer_is_refused_until_the_first_is_finished(
    watched: Make,
) -> None:
    loop = watched(name="first")
    assert loop.run is not None
    with pytest.raises(MoescopeError, match="watched already, by run first: finish"):
        moescope.watch(loop.model, loop.optimizer, name="second")
    loop.run.finish()
    moescope.watch(loop.model, loop.optimizer, name="second", tell=lambda line: None).finish()


def test_two_runs_of_one_name_are_refused(watched: Make) -> None:
    first = watched(name="mine")
    with pytest.raises(MoescopeError, match=r"a run called mine already \(.*, running\)"):
        watched(name="mine", seed=1)
    assert first.run is not None
    first.run.finish()
    with pytest.raises(MoescopeError, match=r"a run called mine already \(.*, finished\)"):
        watched(name="mine", seed=1)


def test_of_two_that_begin_a_run_of_one_name_at_the_same_moment_one_does(
    watched: Make, plain: Make
) -> None:
    seen: list[str] = []
    met = threading.Barrier(4)

    def begin(loop: Any) -> None:
        met.wait()
        try:
            loop.run = moescope.watch(loop.model, loop.optimizer, name="race", tell=str)
            seen.append("begun")
            loop.run.finish()
        except MoescopeError as refusal:
            seen.append(str(refusal))

    # the store is there already, or the first one to make it would be alone
    watched(name="before").run.finish()
    threads = [threading.Thread(target=begin, args=(plain(seed),)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen.count("begun") == 1, seen
    assert all("a run called race" in words for words in seen if words != "begun"), seen


def test_a_finished_run_takes_no_step(watched: Make) -> None:
    loop = watched(name="over")
    assert loop.run is not None
    loop.run.finish()
    with pytest.raises(MoescopeError, match="run over is finished"):
        loop.run.step(1.0)


def test_a_model_without_routers_is_watched_all_the_same(told: list[str]) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = moescope.watch(model, optimizer, tell=told.append, sample_every=1)
    for _ in range(3):
        loss = model(torch.randn(BATCH, WIDTH)).square().mean()
        loss.backward()
        optimizer.step()
        run.step(loss)
    run.finish()
    assert "routers: none was found" in told[0]
    assert told[1] == "blocks: 2: 0, 2"
    assert run.fault == ""


def test_a_compiled_model_is_watched_as_far_as_hooks_fire_and_says_so(
    plain: Make, told: list[str]
) -> None:
    loop = plain()
    compiled = torch.compile(loop.model, backend="eager")
    loop.run = moescope.watch(compiled, loop.optimizer, tell=told.append, sample_every=1)
    for _ in range(3):
        loop.step()
    loop.run.finish()
    assert told[0].startswith("the model is compiled, where hooks do not fire")
    assert not [line for line in told[1:] if "not watched" in line]
    assert loop.run.fault == ""


def test_a_model_that_is_compiled_later_trains_on_and_is_told_of(told: list[str]) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = moescope.watch(model, optimizer, tell=told.append, sample_every=2)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for _ in range(6):
        loss = compiled(torch.ones(BATCH, WIDTH)).square().mean()
        loss.backward()
        optimizer.step()
        run.step(loss)
    run.finish()
    assert run.fault == ""
    assert len([line for line in told if "is the model compiled" in line]) == 1


def test_a_model_in_eval_mode_is_told_once(watched: Make, told: list[str]) -> None:
    loop = watched(sample_every=1)
    loop.model.eval()
    for _ in range(4):
        loop.step()
    assert loop.run is not None
    loop.run.finish()
    assert len([line for line in told if "no forward in training mode" in line]) == 1


def test_a_store_that_goes_away_stops_no_training_and_loses_nothing(
    watched: Make, told: list[str], tmp_path: Path
) -> None:
    loop = watched(name="away")
    assert loop.run is not None
    for _ in range(5):
        loop.step()
    home = Settings().home_path
    for file in home.glob("store.db*"):
        file.unlink()
    for _ in range(15):
        assert loop.step() is not None
    loop.run.finish()
    assert loop.run.fault == ""
    # what the store did not take waits for it
    assert any((home / "runs").glob("*/journal/*.journal"))


def test_what_fails_in_watching_is_said_once_and_training_goes_on(
    watched: Make, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = watched()
    assert loop.run is not None
    loop.step()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(loop.run.state.judge, "step", fail)
    for _ in range(3):
        action = loop.step()
        assert action is not None
        assert action.kind == "carry_on"
    assert [line for line in told if "no such thing" in line] == [
        f"watching {loop.run.name} ends here, training does not: RuntimeError: no such thing"
    ]
    loop.run.finish()
