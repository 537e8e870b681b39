"""No key of a recipe is decoration: changing any one changes counts, compute or loss, or what the
run is kept by.
"""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from moescope.monitors.guard import Guard
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed, leaves
from moescope.trainer.compute.gradients import step_gradients
from moescope.trainer.config import DataConfig, RunConfig
from moescope.trainer.counts.parameters import count_parameters
from moescope.trainer.data.batches import Batch, Batches
from moescope.trainer.data.clips import ClipIndex, find_clips
from moescope.trainer.data.latents import seen
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.model.make import make_model
from moescope.trainer.moe.steps import ExpertSteps
from moescope.trainer.objective.timesteps import draw
from moescope.trainer.optim.ema import Ema
from moescope.trainer.optim.groups import make_optimizer
from moescope.trainer.optim.schedule import learning_rate
from moescope.trainer.without_effect import refuse_keys_without_effect

NUM_STEPS = 3
Candidates = tuple[dict[str, Any] | Any, ...]
"""Values that a key is given, or changes where others must follow it; the first that is another
one and is not refused is taken."""
OTHER: dict[str, Candidates] = {
    "seed": (1,),
    "data.folder": ("",),
    "data.order": ("by_folder",),
    "data.windows_per_clip": (2,),
    "data.batch": (3,),
    "data.num_frames": (6, 1),
    "data.frames_per_s": (4.0,),
    "data.height": (8,),
    "data.width": (8,),
    "data.num_mels": (12,),
    "data.num_mel_steps": (12, 0),
    "data.num_text_bytes": (12, 0),
    "data.latents": ("cosine", "none"),
    "data.latent_size": (4,),
    "data.latent_frames": (2, 1),
    "data.latent_channels": (6,),
    "data.caption_drop": (0.9,),
    "data.reference_drop": (0.9,),
    "data.flip_share": (0.9,),
    "data.validation_share": (0.5,),
    "model.family": ({"model.family": "wan", "data.num_mel_steps": 0},),
    "model.width": (48,),
    "model.layers": (3,),
    "model.heads": (4, 1),
    "model.kv_heads": (1,),
    "model.mlp": ("swiglu", "silu"),
    "model.activation_bound": (0.02,),
    "model.mlp_ratio": (2.0,),
    "model.norm": ("rms", "layer"),
    "model.qk_norm": ("full", "head", "none"),
    "model.rotary": ("1d", "3d"),
    "model.has_place_table": (False, True),
    "model.rope_base": (100.0,),
    "model.logit_soft_cap": (1.0,),
    "model.has_head_gate": (True,),
    "model.patch_frames": (4, 1),
    "model.patch_size": (4, 2, 1),
    "model.patch_text_bytes": (2,),
    "model.patch_mel_steps": (2,),
    "model.patch_bottleneck": (12,),
    "model.num_classes": (12,),
    "model.num_class_tokens": (2,),
    "model.class_tokens_from": (0,),
    "model.has_variance_output": (True, False),
    "model.text_width": (24,),
    "model.has_reference": (True, False),
    "moe.layer": (
        {
            "moe.layer": "latent",
            "moe.router": "softmax",
            "moe.num_shared": 0,
            "moe.latent_head_width": 8,
        },
    ),
    "moe.num_experts": (6,),
    "moe.every": (1,),
    "moe.num_chosen": (1, 3),
    "moe.num_shared": (0, 1),
    "moe.hidden": (24,),
    "moe.expert": ("gelu", "silu"),
    "moe.has_expert_bias": (True, False),
    "moe.router": ("softmax", "mlp"),
    "moe.router_hidden": (32,),
    "moe.router_heads": (4,),
    "moe.is_normalised": (False, True),
    "moe.routed_scale": (1.0, 3.0),
    "moe.num_groups": (2, {"moe.num_groups": 4, "moe.num_chosen_groups": 2}),
    "moe.num_chosen_groups": (1, 2),
    "moe.bias_update_speed": (0.5,),
    "moe.balance_weight": (0.5,),
    "moe.balance_scope": ("micro_batch", "global_batch"),
    "moe.z_loss_weight": (0.5,),
    "moe.contrast_weight": (0.5,),
    "moe.latent_heads": (2,),
    "moe.latent_head_width": (16,),
    "noise_experts.num_experts": (
        {"noise_experts.num_experts": 2, "noise_experts.boundaries": [0.6]},
    ),
    "noise_experts.boundaries": ([0.8],),
    "noise_experts.transition": (0.3,),
    "noise_experts.blend": ("linear", "smooth"),
    "noise_experts.is_learned": (False,),
    "noise_experts.shared_blocks": (1,),
    "objective.timesteps": ("logit_normal", "mode", "uniform"),
    "objective.is_stratified": (False, True),
    "objective.logit_mean": (0.5,),
    "objective.logit_std": (0.5,),
    "objective.mode_scale": (0.5,),
    "objective.loss_weight": ("cosmap", "sigma_sqrt"),
    "objective.shift_tokens": (7,),
    "objective.shift": (1.0,),
    "objective.are_modalities_tied": (True,),
    "objective.audio_weight": (1.0,),
    "objective.prediction": ("data", "flow"),
    "compute.num_micro_batches": (2, 1),
    "compute.precision": ("bf16", "fp32"),
    "optim.learning_rate": (5e-3,),
    "optim.optimizer": ("muon", "adamw"),
    "optim.muon_momentum": (0.5,),
    "optim.is_router_on_muon": (True,),
    "optim.is_modulation_on_muon": (True,),
    "optim.warmup_steps": (0,),
    "optim.beta1": (0.5,),
    "optim.beta2": (0.9,),
    "optim.eps": (1e-2,),
    "optim.weight_decay": (0.5,),
    "optim.clip_norm": (0.01,),
    "optim.ema_decay": (0.05,),
}
KEPT_BY: dict[str, str] = {
    "recipe": "the run's name, test_resume.py",
    "project": "the run's record, test_cli.py",
    "steps": "test_the_number_of_steps_is_what_is_trained",
    "device": "test_a_device_that_is_not_here_is_refused",
    "noise_experts.guidance": "test_generate.py",
    "optim.schedule": "test_schedule.py",
    "optim.decay_steps": "test_schedule.py",
    "optim.final_share": "test_schedule.py",
    # only where products are bf16
    "compute.has_exact_router": "test_numerics.py",
    # the same but for rounding, in less time
    "compute.is_compiled": "test_compiled.py",
    # the same to the bit, with less memory
    "compute.are_blocks_recomputed": "test_recomputation.py",
    "data.captions": "encoders/test_encode.py",
    "data.num_text_tokens": "encoders/test_encode.py",
    "data.text_encoder": "encoders/test_encode.py",
    "data.vae": "encoders/test_encode.py",
    "data.workers": "test_as_many_processes_decode_as_asked",
    "watch.sample_every": "test_what_is_watched_how_often",
    "watch.probe_every": "test_what_is_watched_how_often",
    "watch.num_probe_clips": "test_what_is_watched_how_often",
    "watch.recorder_steps": "test_witness.py",
    "watch.recorder_mib": "test_witness.py",
    "watch.num_scenes": "test_witness.py",
    "watch.peak_tflops": "test_utilisation_is_of_the_peak_that_was_told",
    "watch.are_checkpoints_sampled": "test_at_checkpoints.py",
    "watch.sample_prompts": "test_at_checkpoints.py",
    "guard.is_on": "test_watching_a_run.py",
    "guard.extreme_factor": "test_the_guard_takes_its_numbers",
    "guard.most_in_a_row": "test_the_guard_takes_its_numbers",
    "policy.": "tests/monitors/test_policy.py",
    "checkpoint.": "test_keeping.py",
}


def test_every_key_is_either_computed_or_kept_by(small: RunConfig) -> None:
    keys = {key for key, _ in leaves(small)}
    kept = {key for key in keys if key.startswith(tuple(KEPT_BY))}
    assert kept | OTHER.keys() == keys
    assert kept & OTHER.keys() == set()


@pytest.fixture(scope="module")
def other_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other-clips")
    for part in ("a", "b"):
        make_clips(folder / part, 6, seed=9)
    return folder


@lru_cache(maxsize=8)
def index_of(folder: str) -> ClipIndex:
    return find_clips(folder)


@lru_cache(maxsize=256)
def batch_of(data: DataConfig, seed: int, index: int) -> Batch:
    with Batches(index_of(data.folder), data, seed, ahead=0) as batches:
        return batches.get(index)


def fingerprints(config: RunConfig) -> Iterator[str]:
    """Yields digests of everything that a few steps compute: of each step's losses, and then of its
    weights and averages."""
    torch.manual_seed(0)
    model = make_model(config)
    optimizer, ema = make_optimizer(model, config), Ema(model, config.optim.ema_decay)
    experts = ExpertSteps(model, config.moe)
    digest, keep = hashlib.blake2b(), torch.ones(())
    for step in range(NUM_STEPS):
        batch = seen(batch_of(config.data, config.seed, step), config, torch.device("cpu"))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        drawn = draw(config, config.seed, batch)
        found = step_gradients(model, batch, drawn, config, experts, lambda _: nullcontext())
        digest.update(found.losses.total.numpy().tobytes())
        yield digest.hexdigest()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        experts.end(keep)
        ema.update(keep)
        for state in (model.state_dict(), ema.state_dict()):
            for value in state.values():
                digest.update(value.detach().numpy().tobytes())
        yield digest.hexdigest()


def with_another(base: RunConfig, key: str, other_folder: str) -> RunConfig | None:
    """Returns the configuration with another value of the key, or None where all are refused."""
    for candidate in OTHER[key]:
        value = other_folder if key == "data.folder" else candidate
        changes = value if isinstance(value, dict) else {key: value}
        try:
            other = changed(base, changes)
            refuse_keys_without_effect(other, [key])
        except MoescopeError:
            continue
        if dict(leaves(other))[key] != dict(leaves(base))[key]:
            return other
    return None


GENERIC = ("seed", "optim.", "data.folder", "data.order", "data.windows", "data.valid")
"""The same code in every family: looked at in one, and in one with the other optimizer."""
PLAIN = ("sigmoid", "muon")


@pytest.mark.usefixtures("one_thread")
def test_changing_a_key_changes_counts_compute_or_loss(
    small: RunConfig, way: str, ways: dict[str, dict[str, Any]], other_clips: Path
) -> None:
    general = {"data.folder": str(other_clips), "optim.clip_norm": 0.5}
    base = changed(small, {**general, **ways[way]})
    of_base, idle = list(fingerprints(base)), []
    keys = [key for key in OTHER if way in PLAIN or not key.startswith(GENERIC)]
    for key in keys:
        other = with_another(base, key, small.data.folder)
        if other is None:
            continue
        if count_parameters(other).total != count_parameters(base).total:
            continue
        # the first difference is enough: what comes after it is not computed
        if all(one == two for one, two in zip(of_base, fingerprints(other), strict=True)):
            idle.append(key)
    assert idle == []


def test_every_key_is_taken_somewhere(small: RunConfig, ways: dict[str, dict[str, Any]]) -> None:
    bases = [changed(small, changes) for changes in ways.values()]
    refused = [
        key for key in OTHER if all(with_another(base, key, "other") is None for base in bases)
    ]
    assert refused == []


def test_as_many_processes_decode_as_asked(small: RunConfig) -> None:
    config = changed(small, {"data.workers": 2})
    with Batches(find_clips(config.data.folder), config.data, 0) as batches:
        batches.get(0)
        assert len(batches.process_ids()) == 2


def test_the_guard_takes_its_numbers() -> None:
    norm, loss = torch.tensor(1.0), torch.tensor(1.0)
    answers = []
    for factor, most in ((10.0, 3), (10.0, 1), (1000.0, 3)):
        guard = Guard("cpu", factor, most)
        for _ in range(30):
            guard.hold(loss, norm)
        answers.append([float(guard.hold(loss, norm * 100)) for _ in range(3)])
    # held thrice; held once, then let go and taken as the new level; not extreme
    assert answers == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"moe.num_experts": 0, "moe.hidden": 64}, "moe.hidden"),
        ({"guard.is_on": False, "guard.extreme_factor": 9.0}, "guard.extreme_factor"),
        ({"policy.mode": "off", "policy.grace_steps": 9}, "policy.grace_steps"),
        ({"watch.probe_every": 0, "watch.num_probe_clips": 2}, "watch.num_probe_clips"),
        ({"checkpoint.ring_gib": 0, "checkpoint.memory_every_steps": 5}, "checkpoint.memory"),
        ({"moe.num_chosen": 4, "moe.bias_update_speed": 0.1}, "moe.bias_update_speed"),
        ({"moe.num_groups": 2, "moe.num_chosen_groups": 2}, "moe.num_groups"),
        ({"moe.num_experts": 1, "moe.num_chosen": 1, "moe.router": "mlp"}, "moe.router"),
    ],
)
def test_a_key_without_effect_in_this_configuration_is_refused(
    small: RunConfig, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(MoescopeError, match=rf"^{key}.* has no effect: "):
        refuse_keys_without_effect(changed(small, changes), changes)
