"""Laws of noise levels and weights of losses, against diffusers'."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import (
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
)

from moescope.platform.frozen import changed
from moescope.trainer.config import ObjectiveConfig, RunConfig
from moescope.trainer.objective.laws import (
    LEAST_WEIGHED,
    loss_weight,
    noise_levels_of,
    quantiles,
    shifted,
)
from moescope.trainer.recipes.by_name import recipe

MIDDLES = (np.arange(100_000) + 0.5) / 100_000
LAWS: list[dict[str, Any]] = [
    {"timesteps": "uniform"},
    {"timesteps": "logit_normal"},
    {"timesteps": "logit_normal", "logit_mean": 0.8, "logit_std": 0.8},
    {"timesteps": "mode"},
    {"timesteps": "mode", "mode_scale": -0.9},
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: "-".join(map(str, law.values())))
def test_a_law_is_that_of_diffusers(law: dict[str, Any]) -> None:
    objective = ObjectiveConfig.model_validate(law)
    drawn = compute_density_for_timestep_sampling(
        "none" if objective.timesteps == "uniform" else objective.timesteps,
        len(MIDDLES),
        logit_mean=objective.logit_mean,
        logit_std=objective.logit_std,
        mode_scale=objective.mode_scale,
        generator=torch.Generator().manual_seed(0),
    )
    ours = quantiles(MIDDLES, objective)
    assert (np.diff(ours) >= 0).all()
    # Kolmogorov-Smirnov: 1.63 / sqrt(n) is passed by one in a hundred; ours are not drawn
    share_below = np.searchsorted(np.sort(drawn.double().numpy()), ours) / len(MIDDLES)
    assert np.abs(share_below - MIDDLES).max() < 1.63 / math.sqrt(len(MIDDLES))


def test_logit_normal_draws_are_those_of_diffusers_for_the_same_chance() -> None:
    objective = ObjectiveConfig(timesteps="logit_normal", logit_mean=0.3, logit_std=1.7)
    theirs = compute_density_for_timestep_sampling(
        "logit_normal", 500, 0.3, 1.7, generator=torch.Generator().manual_seed(5)
    )
    normal = torch.empty(500).normal_(0.3, 1.7, generator=torch.Generator().manual_seed(5))
    uniform = torch.special.ndtr((normal.double() - 0.3) / 1.7).numpy()
    assert quantiles(uniform, objective) == pytest.approx(theirs.numpy(), abs=1e-6)


def test_mode_draws_are_those_of_diffusers_for_the_same_chance() -> None:
    theirs = compute_density_for_timestep_sampling(
        "mode", 500, mode_scale=0.81, generator=torch.Generator().manual_seed(5)
    )
    uniform = torch.rand(500, generator=torch.Generator().manual_seed(5)).double().numpy()
    # theirs falls with the chance, ours rises
    ours = quantiles(1 - uniform, ObjectiveConfig(timesteps="mode", mode_scale=0.81))
    assert ours == pytest.approx(theirs.numpy(), abs=1e-6)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: "-".join(map(str, law.values())))
def test_the_ends_of_chance_are_noise_levels(law: dict[str, Any]) -> None:
    levels = quantiles(np.array([0.0, 1 - 2**-53]), ObjectiveConfig.model_validate(law))
    assert levels[0] == pytest.approx(0.0, abs=1e-12)
    assert 0.99 < levels[1] <= 1.0


@pytest.mark.parametrize("scheme", ["none", "sigma_sqrt", "cosmap"])
def test_weights_are_those_of_diffusers(scheme: Any) -> None:
    sigma_B = torch.linspace(LEAST_WEIGHED, 1, 50)
    want = compute_loss_weighting_for_sd3(scheme, sigma_B)
    got = loss_weight(sigma_B, ObjectiveConfig(loss_weight=scheme))
    got = torch.ones_like(sigma_B) if got is None else got
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


def test_the_weight_of_hardly_any_noise_is_bounded() -> None:
    weight_B = loss_weight(torch.tensor([0.0, 1e-3]), ObjectiveConfig(loss_weight="sigma_sqrt"))
    assert weight_B is not None
    assert weight_B.tolist() == pytest.approx([400.0, 400.0])


def test_shifting_moves_levels_towards_noise_and_keeps_the_ends() -> None:
    # 3 * .5 / (1 + 2 * .5) = .75
    assert shifted(np.array([0.0, 0.5, 1.0]), 3.0).tolist() == pytest.approx([0.0, 0.75, 1.0])
    assert shifted(np.array([0.3]), 1.0)[0] == 0.3


def test_the_shift_grows_with_the_root_of_the_tokens_as_diffusers_dynamic_one(
    small: RunConfig,
) -> None:
    base = small.tokens_per_sample
    config = changed(small, {"objective.shift": 1.0, "objective.shift_tokens": base})
    assert config.noise_shift == 1.0
    larger = changed(config, {"data.height": 32, "data.width": 32, "data.num_frames": 8})
    ratio = larger.tokens_per_sample / base
    assert larger.noise_shift == pytest.approx(math.sqrt(ratio))
    scheduler: Any = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    levels = np.linspace(1, 0.1, 10)
    scheduler.set_timesteps(sigmas=levels, mu=math.log(math.sqrt(ratio)))
    ours = noise_levels_of(levels, larger)
    assert scheduler.sigmas[:-1].tolist() == pytest.approx(ours.tolist(), abs=1e-6)


def test_jit_s_law_is_its_own() -> None:
    config = recipe("jitmoe_b16_e16")
    # of JiT's code: the share of data is sigmoid(-0.8 + 0.8 n)
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    share_of_data = torch.sigmoid(-0.8 + 0.8 * normal).double().numpy()
    levels = noise_levels_of(np.array([0.1, 0.5, 0.9]), config)
    assert levels == pytest.approx(np.quantile(1 - share_of_data, [0.1, 0.5, 0.9]), abs=5e-3)
