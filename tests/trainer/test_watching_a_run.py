"""What a run records, how often, and what becomes of steps that the guard holds back."""

from typing import Any

import numpy as np
import pytest
import torch

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Judge
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.flops import count_flops
from moescope.trainer.loop import Trainer
from moescope.trainer.run import open_trainer, train


def steps_of(settings: Settings, run_id: str, signal: str) -> list[int]:
    store = open_store(settings.store_url)
    try:
        row = 0 if signal == catalogue.EXPERT_LOAD else None
        return read_series(store, run_id, signal, row=row).steps.tolist()
    finally:
        store.close()


def test_what_is_watched_how_often(small: RunConfig, settings: Settings) -> None:
    changes = {"steps": 12, "watch.sample_every": 4, "watch.probe_every": 6}
    half = {**changes, "data.validation_share": 0.5}
    for run_id, num in (("a", 1), ("b", 2)):
        config = changed(small, {**half, "watch.num_probe_clips": num})
        train(config, settings=settings, run_id=run_id, progress=False)
    assert steps_of(settings, "a", catalogue.LOSS_TOTAL) == list(range(12))
    assert steps_of(settings, "a", catalogue.ACTIVATION_RMS) == [0, 4, 8]
    assert steps_of(settings, "a", catalogue.EXPERT_LOAD) == [0, 4, 8]
    assert steps_of(settings, "a", catalogue.PROBE_LOSS) == [0, 6]
    store = open_store(settings.store_url)
    try:
        one, two = (read_series(store, run, catalogue.PROBE_LOSS).values for run in "ab")
    finally:
        store.close()
    # all clips with the same noise, but another number of them
    assert one[0] != two[0]


def test_utilisation_is_of_the_peak_that_was_told(small: RunConfig, settings: Settings) -> None:
    changes = {"steps": 3, "watch.sample_every": 2, "compute.are_blocks_recomputed": True}
    for run_id, peak in (("told", 2.0), ("not", 0.0)):
        config = changed(small, {**changes, "watch.peak_tflops": peak})
        train(config, settings=settings, run_id=run_id, progress=False)
    with open_store(settings.store_url) as store:
        names = (catalogue.MODEL_TFLOP_PER_S, catalogue.UTILISATION, catalogue.STEP_TIME_S)
        speed, share, step_s = (read_series(store, "told", name).values for name in names)
        # a CPU's peak is not known
        assert len(read_series(store, "not", catalogue.UTILISATION).steps) == 0
        slowest = read_series(store, "told", catalogue.SLOWEST_OVER_MEDIAN).values
    # what is computed again is work of the machine, not of the model
    flops = count_flops(changed(config, {"compute.are_blocks_recomputed": False})).training
    assert speed == pytest.approx(flops * config.data.batch / 1e12 / step_s, rel=1e-4)
    assert share == pytest.approx(speed / 2.0, rel=1e-5)
    assert slowest == pytest.approx([1.0, step_s.max() / np.median(step_s)], rel=1e-4)


def test_the_number_of_steps_is_what_is_trained(small: RunConfig, settings: Settings) -> None:
    assert train(changed(small, {"steps": 3}), settings=settings, progress=False).step == 3


def test_a_device_that_is_not_here_is_refused(small: RunConfig, settings: Settings) -> None:
    if torch.cuda.is_available():
        assert train(changed(small, {"steps": 1, "device": "cuda"}), settings=settings).step == 1
        return
    with pytest.raises(MoescopeError, match="torch sees no GPU"):
        train(changed(small, {"device": "cuda"}), settings=settings)


@pytest.mark.parametrize("is_on", [True, False])
def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(
    small: RunConfig, settings: Settings, is_on: bool
) -> None:
    config = changed(small, {"guard.is_on": is_on, "policy.mode": "off"})
    with open_trainer(config, settings) as trainer:
        for _ in range(3):
            trainer.train_step()
        before = weights(trainer)
        poison(trainer)
        trainer.train_step()
        after = weights(trainer)
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)) == is_on
        assert all(np.isfinite(a).all() for a in after) == is_on


def weights(trainer: Trainer) -> list[np.ndarray]:
    """Weights, router biases, moments, step counters and averages."""
    state = trainer.state
    tensors = [*state.model.state_dict().values(), *state.ema.state_dict().values()]
    for entry in state.optimizer.state_dict()["state"].values():
        tensors += list(entry.values())
    return [tensor.detach().numpy().copy() for tensor in tensors]


def poison(trainer: Trainer) -> None:
    """Makes one parameter's next gradient a NaN."""
    parameter = next(iter(trainer.state.model.parameters()))
    handle = parameter.register_hook(lambda grad: remove(grad))

    def remove(grad: torch.Tensor) -> torch.Tensor:
        handle.remove()
        return torch.full_like(grad, torch.nan)


def test_the_judge_sees_every_signal_that_a_default_rule_is_about(
    small: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    judged = Judge.step

    def step(judge: Judge, *args: Any) -> Any:
        seen.update(args[-1])
        return judged(judge, *args)

    monkeypatch.setattr(Judge, "step", step)
    changes = {"steps": 4, "watch.sample_every": 2, "watch.probe_every": 2}
    train(changed(small, changes), settings=settings, progress=False)
    assert {rule.signal for rule in DEFAULT_RULES} - seen == set()
