"""FLOPs from the configuration are those that torch counts while the model runs."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.flops import count_flops
from moescope.trainer.counts.parameters import count_parameters
from moescope.trainer.model.inputs import Inputs
from moescope.trainer.model.make import make_model
from moescope.trainer.recipes.by_name import recipe

NUM_SAMPLES = 4


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    count: int = sdpa_flop_count(query, key, value)
    return count


def _grouped(rows: torch.Size, matrices: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * rows[0] * matrices[1] * matrices[2]


# torch 2.13 counts neither on the CPU
UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._grouped_mm: _grouped,
}


def inputs(config: RunConfig) -> Inputs:
    d, channels = config.data, config.video_shape[0]
    torch.manual_seed(0)
    text = torch.randint(1, 256, (NUM_SAMPLES, d.num_text_bytes))
    reference = torch.randn(NUM_SAMPLES, channels, *config.video_shape[2:])
    sigma = torch.full((2, NUM_SAMPLES), 0.3)
    return Inputs(
        torch.randn(NUM_SAMPLES, *config.video_shape),
        torch.randn(NUM_SAMPLES, d.num_mels, d.num_mel_steps),
        text,
        torch.zeros(NUM_SAMPLES, dtype=torch.long),
        reference if config.model.has_reference else None,
        sigma,
        host_sigma_MB=sigma,
    )


def test_the_count_is_torchs(way: str, small: RunConfig, ways: dict[str, dict[str, Any]]) -> None:
    config = changed(small, ways[way])
    model = make_model(config).eval()
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter, torch.no_grad():
        model(inputs(config))
    counted = counter.get_total_flops() / NUM_SAMPLES
    assert count_flops(config).forward == pytest.approx(counted, rel=0.01)


def test_six_flops_a_parameter_and_token_but_for_what_sees_a_sample_once() -> None:
    """C = 6 N D with N the active parameters that work on each token: modulation is a third of a
    DiT, and works once on a sample."""
    config = recipe("dsmoe_l_e16")
    flops, tokens = count_flops(config), config.tokens_per_sample
    without = flops.training - 3 * flops.parts["attention"]
    count = count_parameters(config)
    once = sum(count.parts[part] for part in ("modulation", "noise_levels", "classes"))
    assert without == pytest.approx(6 * (count.active - once) * tokens, rel=0.01)
    assert without < 0.75 * 6 * count.active * tokens
    assert flops.parts["attention"] == config.model.layers * 4 * tokens**2 * config.model.width


def test_recomputed_blocks_cost_another_forward_pass() -> None:
    config = recipe("tiny")
    again = changed(config, {"compute.are_blocks_recomputed": True})
    plain, more = count_flops(config), count_flops(again)
    assert more.forward == plain.forward
    fixed = plain.parts["linear_part"]
    assert plain.training == 3 * (plain.forward - fixed) + fixed
    assert plain.training < more.training <= 4 * plain.forward
