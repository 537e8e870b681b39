"""Runs of experts by noise level: what is measured of them, and how many parameters they have."""

from typing import Any

import numpy as np
import pytest
import torch

from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.parameters import count_parameters
from moescope.trainer.model.make import make_model
from moescope.trainer.moe.noise_experts import blend_weights
from moescope.trainer.recipes.by_name import recipe
from moescope.trainer.run import train
from moescope.trainer.without_effect import refuse_keys_without_effect

# P steps  M modalities  X experts  J boundaries  B batch  R routers  E experts by token

THREE: dict[str, Any] = {
    "noise_experts.num_experts": 3,
    # so little is below 0.15 that the first expert has no sample in most steps
    "noise_experts.boundaries": [0.15, 0.7],
    "noise_experts.transition": 0.1,
    "noise_experts.is_learned": True,
}


def test_what_is_recorded_follows_from_levels_losses_and_boundaries(
    small: RunConfig, settings: Settings
) -> None:
    config = changed(small, {**THREE, "steps": 40, "watch.sample_every": 1, "policy.mode": "off"})
    run_id = train(config, settings=settings, progress=False).run_id
    store = open_store(settings.store_url)
    try:

        def read(signal: str) -> np.ndarray:
            return read_series(store, run_id, signal).values

        share_PX, loss_PX = read(catalogue.NOISE_EXPERT_SHARE), read(catalogue.NOISE_EXPERT_LOSS)
        edge_PX, blended_P = (
            read(catalogue.NOISE_EXPERT_BOUNDARY),
            read(catalogue.NOISE_EXPERT_BLENDED),
        )
        sigma_PB = read(catalogue.LOSS_SIGMA)[:, 0]
        video_PB = read(catalogue.LOSS_PER_SAMPLE)[:, 0]
        tokens_PRE = read(catalogue.EXPERT_TOKENS)
        rms_PL = read(catalogue.ACTIVATION_RMS)
        alerts = [alert for alert in store.alerts(run_id) if alert.rule == "dead_experts"]
    finally:
        store.close()
    assert share_PX.shape == loss_PX.shape == edge_PX.shape == (40, 3)
    assert np.isfinite(loss_PX).all()
    assert share_PX.sum(1) == pytest.approx(np.ones(40), abs=1e-6)
    assert (edge_PX[:, 0] == 0).all()
    assert edge_PX[0].tolist() == pytest.approx([0, 0.15, 0.7])
    assert edge_PX[-1, 2] != edge_PX[0, 2]
    shown_X = np.full(3, np.nan)
    num_idle = 0
    for step in range(40):
        weight_XB = blend_weights(
            torch.tensor(sigma_PB[step]), torch.tensor(edge_PX[step, 1:]), 0.1, "linear"
        ).numpy()
        assert share_PX[step] == pytest.approx(weight_XB.mean(1), abs=1e-6)
        assert blended_P[step] == ((weight_XB > 0).sum(0) > 1).mean()
        is_idle_X = share_PX[step] == 0
        with np.errstate(invalid="ignore"):
            now_X = (weight_XB * video_PB[step]).sum(1) / weight_XB.sum(1)
        before_X = np.where(np.isnan(shown_X), video_PB[step].mean(), shown_X)
        assert loss_PX[step] == pytest.approx(np.where(is_idle_X, before_X, now_X), rel=1e-4)
        shown_X = np.where(is_idle_X, shown_X, now_X)
        # one layer of experts by token in each of the three networks
        assert ((tokens_PRE[step].sum(-1) == 0) == is_idle_X).all()
        num_idle += is_idle_X.sum()
    assert num_idle > 20
    assert alerts == []
    # two blocks each: those of an idle network stay as they were, and are never 0 again
    first = int(np.argmax(share_PX[:, 0] > 0))
    assert (rms_PL[first:] > 0).all()


def test_a_run_with_one_network_records_none_of_it(small: RunConfig, settings: Settings) -> None:
    run_id = train(changed(small, {"steps": 2}), settings=settings, progress=False).run_id
    store = open_store(settings.store_url)
    try:
        assert not read_series(store, run_id, catalogue.NOISE_EXPERT_SHARE).steps.size
    finally:
        store.close()


def test_guidance_without_anything_to_be_guided_by_is_refused(small: RunConfig) -> None:
    changes = {
        "noise_experts.num_experts": 2,
        "noise_experts.boundaries": [0.7],
        "noise_experts.guidance": [1.0, 2.0],
    }
    refuse_keys_without_effect(changed(small, changes), changes)
    silent = changed(small, {**changes, "data.num_text_bytes": 0})
    with pytest.raises(MoescopeError, match=r"guidance has no effect: data\.num_text_bytes is 0"):
        refuse_keys_without_effect(silent, changes)


RECIPES = ("wan22_two_expert", "wan22_shared", "wan22_two_expert_tiny", "noise_experts_tiny")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_count_equals_the_built_network(name: str) -> None:
    config = recipe(name)
    with torch.device("meta"):
        model = make_model(config)
    count = count_parameters(config)
    assert count.total == sum(p.numel() for p in model.parameters())
    assert count.total == sum(count.parts.values())


def test_wans_two_experts_are_as_large_as_published() -> None:
    """facts: model.md section 2: 28.58 B are 26.61 in units of 2^30, where "27B" comes from."""
    count = count_parameters(recipe("wan22_two_expert"))
    text_encoder = count.parts["text_encoder"]
    total = count.total - text_encoder
    assert total == 2 * 14_288_491_584
    assert (round(total / 1e9, 2), round(total / 2**30, 2)) == (28.58, 26.61)
    assert count.active - text_encoder // 2 == 14_288_491_584


def test_with_embeddings_and_four_blocks_shared_they_are_as_large_as_computed() -> None:
    """facts: model.md section 2: 26.94 B in all, 14.29 B active; a block has 351.4 M."""
    count, apart = (count_parameters(recipe(name)) for name in ("wan22_shared", "wan22_two_expert"))
    total = count.total - count.parts["text_encoder"]
    assert round(total / 1e9, 2) == 26.94
    assert round((count.active - count.parts["text_encoder"]) / 1e9, 2) == 14.29
    # what reads the caption is shared, too, and so there once
    assert apart.parts["text_encoder"] == 2 * count.parts["text_encoder"]


@pytest.mark.parametrize("kind", ["sigmoid", "latent", "reference", "jitmoe", "wan"])
@pytest.mark.parametrize("shared", [0, 1, 2])
def test_what_is_shared_is_counted_once(
    small: RunConfig, ways: dict[str, Any], kind: str, shared: int
) -> None:
    config = changed(
        small,
        {"model.layers": 4, **ways[kind], **THREE, "noise_experts.shared_blocks": shared},
    )
    with torch.device("meta"):
        model = make_model(config)
    count = count_parameters(config)
    assert count.total == sum(p.numel() for p in model.parameters())
    assert count.parts["boundaries"] == 2
    alone = changed(config, {f"noise_experts.{key}": value for key, value in ALONE.items()})
    assert count.active == count_parameters(alone).active


ALONE = {"num_experts": 1, "boundaries": [], "transition": 0, "is_learned": False}
