"""A corpus and a configuration small enough that a whole training is a matter of seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.recipes.stream import tiny

ROUTED: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "softmax": {
        "moe.router": "softmax",
        "moe.bias_update_speed": 0.0,
        "moe.balance_weight": 0.01,
        "moe.balance_scope": "global_batch",
        "compute.num_micro_batches": 2,
        "moe.z_loss_weight": 1e-3,
        "moe.contrast_weight": 0.1,
    },
    "softmax as it is, top-1": {
        "moe.router": "softmax",
        "moe.is_normalised": False,
        "moe.num_chosen": 1,
        "moe.balance_weight": 0.01,
    },
    "groups": {
        "moe.num_groups": 2,
        "moe.every": 1,
        "objective.timesteps": "mode",
        "objective.loss_weight": "cosmap",
    },
    "mlp": {"moe.router": "mlp", "moe.num_shared": 0, "moe.expert": "gelu7"},
    "bf16": {"compute.precision": "bf16", "moe.every": 1},
    "cutoff": {"model.mlp": "swiglu7", "moe.expert": "swiglu7", "model.activation_bound": 1.0},
    "cross-attention": {"moe.router": "cross_attention"},
    "expert choice": {"moe.router": "expert_choice", "moe.bias_update_speed": 0.0},
    "batch choice": {
        "moe.router": "batch_choice",
        "moe.bias_update_speed": 0.0,
        "compute.are_blocks_recomputed": True,
    },
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
    "latents, no sound": {
        "data.num_mel_steps": 0,
        "data.latents": "cosine",
        "data.latent_size": 2,
        "data.latent_frames": 2,
        "model.patch_size": 4,
        "model.patch_frames": 1,
    },
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
OPTIM: dict[str, dict[str, Any]] = {
    "cosine": {"optim.schedule": "cosine", "optim.final_share": 0.1},
    "wsd": {"optim.schedule": "wsd", "optim.decay_steps": 6},
    "muon": {"optim.optimizer": "muon", "model.kv_heads": 1, "model.has_head_gate": True},
    "muon, cosine": {
        "optim.optimizer": "muon",
        "optim.schedule": "cosine",
        "optim.is_router_on_muon": True,
        "optim.is_modulation_on_muon": True,
        "model.mlp": "swiglu",
    },
    "muon, wsd": {
        "optim.optimizer": "muon",
        "optim.schedule": "wsd",
        "optim.decay_steps": 6,
        "moe.layer": "latent",
        "moe.router": "softmax",
        "moe.num_shared": 0,
        "moe.latent_head_width": 8,
    },
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
        "objective.timesteps": "logit_normal",
        "objective.is_stratified": False,
        "objective.logit_mean": 0.8,
        "objective.logit_std": 0.8,
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
WAYS = ROUTED | ATTENTION | NOISE | OPTIM | FAMILIES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", WAYS)


@pytest.fixture(scope="session")
def ways() -> dict[str, dict[str, Any]]:
    """The families, routers, balances and attentions that `small` can be changed into."""
    return WAYS


@pytest.fixture(scope="session")
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    # short, small and at the rate that they are read at: less than half of a step is decoding
    make_clips(folder, 24, seed=1, size=32, duration_s=1.0)
    return folder


@pytest.fixture(scope="session")
def small(clips_folder: Path) -> RunConfig:
    """`tiny` with narrower everything: the same code on about ten milliseconds a step."""
    return changed(
        tiny(),
        {
            "steps": 60,
            "data.folder": str(clips_folder),
            "data.batch": 4,
            # a process takes most of a second to start, which is more than many a test's steps do
            "data.workers": 0,
            "data.num_frames": 4,
            "data.frames_per_s": 16.0,
            "data.height": 16,
            "data.width": 16,
            "data.num_mels": 8,
            "data.num_mel_steps": 8,
            "data.num_text_bytes": 8,
            "model.width": 32,
            "model.layers": 2,
            "model.heads": 2,
            "moe.num_experts": 4,
            "moe.hidden": 16,
            "optim.warmup_steps": 5,
            "watch.probe_every": 0,
            "checkpoint.disk_every_steps": 20,
            "checkpoint.min_free_gib": 0.0,
        },
    )


@pytest.fixture
def settings(tmp_path: Path, put_store: Callable[[Path], str]) -> Settings:
    put_store(tmp_path / "home" / "store.db")
    return Settings(home=tmp_path / "home", mlflow="off")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Bit-exactness is promised on one CPU thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def same() -> Callable[[Any, Any], list[str]]:
    """Returns the paths at which two states differ in any bit, but for how long steps took."""

    def differing(one: Any, two: Any) -> list[str]:
        by_the_clock = ("/judge/scorers/time/", "/judge/rules/slow_steps/")
        return [path for path in _differing(one, two) if not path.startswith(by_the_clock)]

    return differing


def _differing(one: Any, two: Any, path: str = "") -> list[str]:
    """Returns the paths at which two states differ in any bit."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        return [p for key in one for p in _differing(one[key], two[key], f"{path}/{key}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(two), path
        return [
            p
            for i, (a, b) in enumerate(zip(one, two, strict=True))
            for p in _differing(a, b, f"{path}/{i}")
        ]
    if isinstance(one, torch.Tensor):
        return [] if one.numpy().tobytes() == two.numpy().tobytes() else [path]
    if isinstance(one, np.ndarray):
        return [] if one.tobytes() == two.tobytes() else [path]
    return [] if one == two or (one != one and two != two) else [path]
