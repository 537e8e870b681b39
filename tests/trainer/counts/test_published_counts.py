"""The published sizes of DSMoE and JiTMoE, to the parameter: from the configuration, and as built.

Source of the integers: facts: model.md section 1, where the papers' figures are told in their units
of 2^20 ("M") and 1000 * 2^20 ("B").
"""

import math

import pytest
import torch

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.parameters import Parameters, count_parameters
from moescope.trainer.model.make import make_model
from moescope.trainer.recipes.by_name import recipe

MI = 2**20
PUBLISHED = {
    "dsmoe_s_e16": (34_939_040, 96_870_560, 33, 92),
    "dsmoe_s_e48": (31_194_656, 69_238_304, 30, 66),
    "dsmoe_b_e16": (138_592_544, 386_318_624, 132, 368),
    "dsmoe_b_e48": (123_436_064, 275_610_656, 118, 263),
    "dsmoe_l_e16": (487_252_000, 1_368_055_840, 465, 1304),
    "dsmoe_l_e48": (456_796_192, 1_166_944_288, 436, 1112),
    "dsmoe_3b_e16": (1_011_480_224, 3_101_669_024, 965, 2958),
    "jitmoe_b16_e16": (139_447_552, 387_442_432, 133, 369),
    "jitmoe_l16_e16": (488_443_464, 1_369_964_104, 465, 1306),
}
"""Active and total parameters, and both as they are printed, in units of 2^20."""


def built(config: RunConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make_model(config).parameters())


def closed_form(config: RunConfig) -> Parameters:
    """The two closed forms of facts: model.md 1.1 and 1.2, written out once more."""
    m, e = config.model, config.moe
    width, layers, hidden, h = m.width, m.layers, e.hidden, config.mlp_hidden
    num_moe = layers // 2
    num_dense = layers - num_moe
    if m.norm == "layer":
        expert = 3 * width * hidden
        blocks = layers * (10 * width**2 + 10 * width)
        dense = num_dense * (8 * width**2 + 5 * width)
        rest = (16 * width + width) + (256 * width + width + width**2 + width) + 1001 * width
        rest += 32 * width + 32 + 2 * width**2 + 2 * width
    else:
        expert = 3 * width * hidden + 2 * hidden + width
        head = width // m.heads
        blocks = layers * (10 * width**2 + 12 * width + 2 * head)
        dense = num_dense * (3 * width * h + 2 * h + width)
        rest = 98_304 + (128 * width + width) + (256 * width + width + width**2 + width)
        rest += 1001 * width + 32 * width
        rest += width + 768 * width + 768 + 2 * width**2 + 2 * width
    experts = num_moe * ((e.num_experts + 1) * expert + e.num_experts * width)
    total = blocks + dense + experts + rest
    return Parameters(total - num_moe * (e.num_experts - e.num_chosen) * expert, total, {})


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_its_published_parameters(name: str) -> None:
    active, total, _, _ = PUBLISHED[name]
    config = recipe(name)
    count = count_parameters(config)
    assert (count.active, count.total) == (active, total)
    assert sum(count.parts.values()) == total
    assert built(config) == total
    form = closed_form(config)
    assert (form.active, form.total) == (active, total)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_prints_as_the_paper_rounds_or_cuts(name: str) -> None:
    active, total, printed_active, printed_total = PUBLISHED[name]
    for number, printed in ((active, printed_active), (total, printed_total)):
        assert printed in (math.floor(number / MI), round(number / MI))


def test_experts_in_every_block_are_the_papers_ablation() -> None:
    config = changed(recipe("dsmoe_s_e16"), {"moe.every": 1})
    count = count_parameters(config)
    # the paper prints 158M of them, 44M active; no count gives 44 (facts: model.md section 1)
    assert (count.active, count.total) == (42_332_960, 166_196_000)
    assert built(config) == count.total
    assert math.floor(count.total / MI) == 158


@pytest.mark.parametrize(
    ("name", "layers", "total"),
    [("jitmoe_b16_e16", 12, 131_123_712), ("jitmoe_l16_e16", 24, 458_877_664)],
)
def test_dense_jit_is_the_same_family_without_experts(name: str, layers: int, total: int) -> None:
    config = changed(recipe(name), {"moe.num_experts": 0, "model.layers": layers})
    count = count_parameters(config)
    assert count.active == count.total == total == built(config)


@pytest.mark.parametrize("name", ["dsmoe_tiny", "jitmoe_tiny"])
def test_the_toys_are_counted_as_they_are_built(name: str) -> None:
    count = count_parameters(recipe(name))
    assert count.total == built(recipe(name))
    assert count.active < count.total < 3e6


def test_a_picture_of_256_pixels_is_256_tokens() -> None:
    # 256 / (8 * 2) = 256 / 16 = 16 tokens a side; JiT has 32 tokens of the class beside
    latents, pixels = recipe("dsmoe_l_e16"), recipe("jitmoe_l16_e16")
    assert latents.video_shape == (4, 1, 32, 32)
    assert latents.grid == pixels.grid == (1, 16, 16)
    assert (latents.tokens_per_sample, pixels.tokens_per_sample) == (256, 288)
