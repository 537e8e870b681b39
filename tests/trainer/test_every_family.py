"""Every family, router and balance goes through the whole trainer: signals, checkpoints, the way
back and on, bit for bit.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moescope.monitors.states.checkpoint import copied
from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.records import Action
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.parameters import count_parameters
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.latents import seen
from moescope.trainer.loop import Trainer
from moescope.trainer.model.make import make_model
from moescope.trainer.moe.steps import ExpertSteps
from moescope.trainer.objective.flow import flow_losses
from moescope.trainer.objective.timesteps import draw
from moescope.trainer.rollback import carry_out
from moescope.trainer.run import RunResult, train

STEPS, BACK_AT, EVERY = 9, 6, 3
"""Long enough for a way back and a decay, and no longer: there are many families."""


@pytest.fixture
def config(small: RunConfig, way: str, ways: dict[str, dict[str, Any]]) -> RunConfig:
    every = {"checkpoint.memory_every_steps": EVERY, "checkpoint.disk_every_steps": EVERY}
    often = {"watch.probe_every": 5, "watch.sample_every": 4, "optim.warmup_steps": 2}
    return changed(small, {"steps": STEPS, **every, **often, **ways[way]})


def trained(
    config: RunConfig, home: Path, *, back_at: int = -1, stop_at: int = -1, resume: str = ""
) -> tuple[RunResult, list[dict[str, Any]]]:
    """Trains; goes back to the state before, or stops, at a step on the way. Returns the states
    too: at each time that it came to the step to go back at, and at the end."""
    seen: list[Trainer] = []
    states: list[dict[str, Any]] = []

    def on_step(trainer: Trainer) -> None:
        seen[:] = [trainer]
        step = trainer.state.step
        if step == back_at:
            states.append(copied(trainer.state.capture()))
            if len(states) == 1:
                action = Action("rollback", "forced by the test", to_step=step - EVERY)
                carry_out(trainer, action, is_automatic=False)
        if step == stop_at:
            trainer.stop()

    result = train(
        config,
        settings=Settings(home=home, mlflow="off"),
        resume=resume,
        progress=False,
        on_step=on_step,
    )
    return result, [*states, copied(seen[0].state.capture())]


@pytest.mark.usefixtures("one_thread")
def test_the_way_back_and_the_way_on_end_where_the_straight_way_does(
    config: RunConfig, tmp_path: Path, same: Any, put_store: Callable[[Path], str]
) -> None:
    for way in ("back", "on"):
        put_store(tmp_path / way / "store.db")
    run, (straight, back, want) = trained(config, tmp_path / "back", back_at=BACK_AT)
    assert run.status == "finished"
    # bit for bit all of what computes: from here on it is the straight way
    assert same(straight, back) == []
    stopped, _ = trained(config, tmp_path / "on", stop_at=EVERY + 2)
    assert (stopped.status, stopped.step) == ("stopped", EVERY + 2)
    resumed, (on,) = trained(config, tmp_path / "on", resume=stopped.run_id)
    assert resumed.status == "finished"
    # a resume is an announced event: the detectors start new windows, all else is as it was
    assert same({**want, "judge": {}}, {**on, "judge": {}}) == []
    check_signals(config, resumed, tmp_path / "on")


def check_signals(config: RunConfig, run: RunResult, home: Path) -> None:
    """All signals of the spine are there, and the counts add up."""
    store = open_store(Settings(home=home).store_url)
    try:
        for signal in (catalogue.LOSS_TOTAL, catalogue.GRAD_NORM, catalogue.ACTIVATION_RMS):
            series = read_series(store, run.run_id, signal)
            assert len(series.steps)
            assert bool(np.isfinite(series.values).all()), signal
        if not config.moe_blocks:
            return
        tokens = read_series(store, run.run_id, catalogue.EXPERT_TOKENS).values
        assert len(tokens) == STEPS
        e = config.moe
        places = config.data.batch * config.tokens_per_sample * e.num_chosen
        networks = config.noise_experts.num_experts
        if networks == 1:
            assert (tokens.sum(-1) == places).all()
        else:
            # each sample is in one network, or in two where they are blended
            layers = tokens.reshape(STEPS, networks, -1, e.num_experts).sum(-1)
            assert (layers.sum(1) >= places).all()
            assert (layers.sum(1) <= 2 * places).all()
        for signal in (catalogue.ROUTER_BALANCE, catalogue.ROUTER_Z, catalogue.EXPERT_LOAD):
            assert np.isfinite(read_series(store, run.run_id, signal).values).all()
        if e.has_loss:
            extra = read_series(store, run.run_id, catalogue.LOSS_EXPERTS).values
            assert (extra > 0).all()
    finally:
        store.close()


def test_every_parameter_has_a_part_in_the_loss(config: RunConfig) -> None:
    """Parameters at zero hide others for a step: all are moved a little first."""
    model = make_model(config)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    index = find_clips(config.data.folder)
    with Batches(index, changed(config.data, {"batch": 16}), 0, ahead=0) as batches:
        batch = seen(batches.get(0), config, torch.device("cpu"))
    steps = ExpertSteps(model, config.moe)
    steps.start()
    total = flow_losses(model, batch, draw(config, 0, batch), config).total
    extra = steps.loss()
    (total if extra is None else total + extra).backward()
    # the kind of tokens that are not there
    without = ["noise_levels.kind_GD"] if not config.has_audio else []
    idle = [
        name
        for name, parameter in model.named_parameters()
        if (parameter.grad is None or not bool(parameter.grad.abs().max() > 0))
        and not name.endswith(tuple(without))
    ]
    assert idle == []


def test_the_count_equals_the_built_network(config: RunConfig) -> None:
    with torch.device("meta"):
        model = make_model(config)
    count = count_parameters(config)
    assert count.total == sum(p.numel() for p in model.parameters())
    assert sum(count.parts.values()) == count.total
    assert count.active <= count.total
