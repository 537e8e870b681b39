"""Every family, router and balance goes through the whole trainer: signals, checkpoints, the way
back and on, bit for bit.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.records import Action
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.checkpoint import copied
from moescope.trainer.config import RunConfig
from moescope.trainer.counts import count_parameters
from moescope.trainer.loop import Trainer
from moescope.trainer.model.make import make_model
from moescope.trainer.rollback import carry_out
from moescope.trainer.run import RunResult, train

STEPS = 24

ROUTED: dict[str, dict[str, Any]] = {
    "softmax": {
        "moe.router": "softmax",
        "moe.bias_update_speed": 0.0,
        "moe.balance_weight": 0.01,
        "moe.balance_scope": "global_batch",
        "moe.z_loss_weight": 1e-3,
        "moe.contrast_weight": 0.1,
    },
    "softmax as it is, top-1": {
        "moe.router": "softmax",
        "moe.is_normalised": False,
        "moe.num_chosen": 1,
        "moe.balance_weight": 0.01,
    },
    "groups": {"moe.num_groups": 2, "moe.every": 1},
    "mlp": {"moe.router": "mlp", "moe.num_shared": 0},
    "cross-attention": {"moe.router": "cross_attention"},
    "expert choice": {"moe.router": "expert_choice", "moe.bias_update_speed": 0.0},
    "batch choice": {"moe.router": "batch_choice", "moe.bias_update_speed": 0.0},
    "latent": {
        "moe.layer": "latent",
        "moe.router": "softmax",
        "moe.num_shared": 0,
        "moe.latent_heads": 4,
        "moe.latent_head_width": 8,
        "moe.balance_weight": 0.01,
        "moe.contrast_weight": 0.1,
    },
}
ATTENTION: dict[str, dict[str, Any]] = {
    "reference": {"model.has_reference": True, "data.reference_drop": 0.5},
    "grouped queries": {"model.kv_heads": 1, "model.qk_norm": "full", "model.rotary": "1d"},
    "absolute, capped, gated": {
        "model.rotary": "none",
        "model.qk_norm": "none",
        "model.logit_soft_cap": 20.0,
        "model.has_head_gate": True,
    },
    "no sound": {"data.num_mel_steps": 0},
}
NOISE: dict[str, dict[str, Any]] = {
    "two noise experts": {
        "noise_experts.num_experts": 2,
        "noise_experts.boundaries": [0.7],
        "noise_experts.transition": 0.15,
        "noise_experts.is_learned": True,
        "noise_experts.blend": "smooth",
    },
    "three, sharing": {
        "noise_experts.num_experts": 3,
        "noise_experts.boundaries": [0.5, 0.8],
        "noise_experts.shared_blocks": 1,
    },
}
CLASS: dict[str, Any] = {
    "model.family": "class",
    "model.num_classes": 8,
    "data.num_mel_steps": 0,
    "data.num_text_bytes": 0,
    "data.num_frames": 1,
    "model.patch_frames": 1,
    "model.rotary": "2d",
}
FAMILIES: dict[str, dict[str, Any]] = {
    "dsmoe": {
        **CLASS,
        "model.qk_norm": "none",
        "model.has_place_table": False,
        "model.has_variance_output": True,
        "data.latents": "cosine",
        "data.latent_size": 2,
        "model.patch_size": 2,
        "moe.num_groups": 2,
        "moe.num_chosen_groups": 2,
    },
    "jitmoe": {
        **CLASS,
        "model.mlp": "swiglu",
        "model.norm": "rms",
        "model.patch_bottleneck": 8,
        "model.num_class_tokens": 4,
        "model.class_tokens_from": 1,
        "moe.has_expert_bias": True,
        "objective.prediction": "data",
    },
    "wan": {
        "model.family": "wan",
        "model.mlp": "gelu",
        "model.qk_norm": "full",
        "model.has_place_table": False,
        "model.text_width": 16,
        "data.num_mel_steps": 0,
        "moe.router": "softmax",
        "moe.expert": "gelu",
        "moe.has_expert_bias": True,
        "moe.num_shared": 0,
        "moe.bias_update_speed": 0.0,
        "moe.balance_weight": 0.01,
    },
}
WAYS = ROUTED | ATTENTION | NOISE | FAMILIES


@pytest.fixture(params=WAYS, scope="module")
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(small: RunConfig, way: str) -> RunConfig:
    every = {"checkpoint.memory_every_steps": 4, "checkpoint.disk_every_steps": 4}
    return changed(small, {"steps": STEPS, "watch.probe_every": 8, **every, **WAYS[way]})


def trained(
    config: RunConfig, home: Path, *, back_at: int = -1, stop_at: int = -1, resume: str = ""
) -> tuple[RunResult, dict[str, Any]]:
    """Trains; goes back four steps or stops at a step on the way. Returns the final state, too."""
    seen: list[Trainer] = []
    done: list[int] = []

    def on_step(trainer: Trainer) -> None:
        seen[:] = [trainer]
        step = trainer.state.step
        if step == back_at and not done:
            done.append(step)
            action = Action("rollback", "forced by the test", to_step=step - 4)
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
    return result, copied(seen[0].state.capture())


@pytest.mark.usefixtures("one_thread")
def test_the_way_back_and_the_way_on_end_where_the_straight_way_does(
    config: RunConfig, tmp_path: Path, same: Any
) -> None:
    straight, want = trained(config, tmp_path / "straight")
    assert straight.status == "finished"
    _, back = trained(config, tmp_path / "back", back_at=16)
    assert same(want, back) == []
    stopped, _ = trained(config, tmp_path / "on", stop_at=13)
    assert (stopped.status, stopped.step) == ("stopped", 13)
    resumed, on = trained(config, tmp_path / "on", resume=stopped.run_id)
    assert resumed.status == "finished"
    # a resume is an announced event: the detectors start new windows, all else is as it was
    assert same({**want, "judge": {}}, {**on, "judge": {}}) == []
    check_signals(config, straight, tmp_path / "straight")


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


def test_the_count_equals_the_built_network(config: RunConfig) -> None:
    with torch.device("meta"):
        model = make_model(config)
    count = count_parameters(config)
    assert count.total == sum(p.numel() for p in model.parameters())
    assert sum(count.parts.values()) == count.total
    assert count.active <= count.total
