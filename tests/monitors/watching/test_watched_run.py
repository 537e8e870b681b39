"""A loop of somebody else's: what is measured, judged and done about it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from moescope.cli import app
from moescope.platform import catalogue
from moescope.platform.settings import Settings
from moescope.platform.store import Store

Make = Callable[..., Any]


def test_a_plain_loop_has_signals_segments_and_alerts_in_the_store(
    watched: Make, store: Store
) -> None:
    loop = watched(name="mine", project="theirs")
    for step in range(100):
        loop.step(scale=100.0 if step in range(80, 85) else 1.0, tokens=16, batch=step)
    loop.run.finish()
    run = store.find_run("mine")
    assert (run.status, run.project, run.config["recipe"]) == (
        *("finished", "theirs"),
        "watched Network",
    )
    assert [(s.reason, s.start_step) for s in store.segments(run.id)][:2] == [
        ("start", 0),
        ("rollback", 60),
    ]
    assert "loss_divergence" in {alert.rule for alert in store.alerts(run.id)}
    back = next(action for action in loop.actions if action.kind == "rollback")
    assert (back.to_step, loop.run.num_steps) == (60, 100 - len(back_steps(loop)))
    tokens = series(store, run.id, catalogue.EXPERT_TOKENS)
    # 16 tokens with two choices each, in every layer at every step
    assert (tokens.sum(axis=-1) == 32).all()
    for signal in (
        *(catalogue.LOSS_TOTAL, catalogue.GRAD_NORM, catalogue.STEP_TIME_S),
        *(catalogue.TOKENS_PER_S, catalogue.DATA_BATCH, catalogue.LOSS_SPIKE_SCORE),
        *(catalogue.ACTIVATION_RMS, catalogue.ROUTER_ENTROPY_NATS, catalogue.MAX_VIOLATION),
        *(catalogue.UPDATE_WEIGHT_RATIO, catalogue.GRAD_LAYER_NORM, catalogue.DEAD_EXPERTS),
    ):
        assert np.isfinite(series(store, run.id, signal)).all(), signal
        assert len(series(store, run.id, signal)), signal


def test_what_is_measured_is_what_the_step_was(watched: Make, store: Store) -> None:
    loop = watched(sample_every=1, state=None)
    norms = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for p in loop.model.parameters()]
        norms.append(torch.nn.utils.get_total_norm(grads).item())

    loop.optimizer.register_step_pre_hook(note)
    seen = []
    loop.model.layers[1].register_forward_hook(
        lambda module, args, output: seen.append(output.square().mean().sqrt().item())
    )
    for _ in range(5):
        loop.step()
    loop.run.finish()
    assert series(store, loop.run.id, catalogue.LOSS_TOTAL) == pytest.approx(loop.losses)
    assert series(store, loop.run.id, catalogue.GRAD_NORM) == pytest.approx(norms)
    rms = series(store, loop.run.id, catalogue.ACTIVATION_RMS)[:, 1]
    assert rms == pytest.approx(seen, rel=1e-5)


def test_a_watched_training_computes_what_an_unwatched_one_does(watched: Make, plain: Make) -> None:
    unwatched = plain()
    for _ in range(25):
        unwatched.step()
    loop = watched(sample_every=2)
    for _ in range(25):
        loop.step()
    loop.run.finish()
    assert loop.losses == unwatched.losses
    assert all(
        torch.equal(a, b)
        for a, b in zip(loop.model.parameters(), unwatched.model.parameters(), strict=True)
    )


def test_nothing_is_left_in_the_model_when_a_run_is_finished(watched: Make) -> None:
    loop = watched()
    loop.step()
    loop.run.finish()
    loop.run.finish()
    hooks = [(module._forward_hooks, module._forward_pre_hooks) for module in loop.model.modules()]
    assert not any(forward or pre for forward, pre in hooks)
    assert not loop.optimizer._optimizer_step_pre_hooks
    assert not loop.optimizer._optimizer_step_post_hooks


def back_steps(loop: Any) -> range:
    """Steps that the first rollback took back."""
    at = next(i for i, action in enumerate(loop.actions) if action.kind == "rollback")
    return range(loop.actions[at].to_step, at + 1)


def series(store: Store, run_id: str, signal: str) -> np.ndarray:
    from moescope.platform.series import read_series

    return read_series(store, run_id, signal).values


def test_who_asks_a_watched_run_that_has_ended_is_told_how_it_goes_on(
    watched: Make, store: Store
) -> None:
    loop = watched(name="ended")
    loop.step()
    loop.run.finish()
    result = CliRunner().invoke(app, ["rollback", "ended", "--store", Settings().store_url])
    assert result.exit_code != 0
    assert "resume=True" in result.output
    assert "moescope train" not in result.output
