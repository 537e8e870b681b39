"""How alike experts are: 1 for clones, 0 for orthogonal ones, on weights and on answers."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moescope.kernels.expert_mlp.reference import Experts, answer
from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.model.make import make_model
from moescope.trainer.moe.similarity import (
    CHUNK,
    TOKENS_PER_PASS,
    ExpertSimilarity,
    output_cosine,
    weight_cosine,
)
from moescope.trainer.moe.steps import moe_layers
from moescope.trainer.run import train
from moescope.trainer.upcycle.check import made_inputs

LATENT: dict[str, Any] = {
    "moe.layer": "latent",
    "moe.router": "softmax",
    "moe.num_shared": 0,
    "moe.latent_heads": 3,
    "moe.latent_head_width": 8,
}


@pytest.mark.parametrize(
    ("w_in", "w_out", "expected"),
    [
        pytest.param([[3.0], [3.0]], [[4.0], [4.0]], 1.0, id="clones"),
        pytest.param([[2.0], [0.0]], [[0.0], [9.0]], 0.0, id="orthogonal"),
        pytest.param([[2.0], [-4.0]], [[1.0], [-2.0]], -1.0, id="opposite, whatever the length"),
        # (3, 4) . (4, 3) / (5 * 5) = 24 / 25: both matrices make up one vector
        pytest.param([[3.0], [4.0]], [[4.0], [3.0]], 0.96, id="both matrices count"),
        # of three pairs one is a pair of clones
        pytest.param([[1.0], [1.0], [0.0]], [[0.0], [0.0], [5.0]], 1 / 3, id="one pair of three"),
        pytest.param([[1.0], [0.0]], [[1.0], [0.0]], 0.0, id="a zero expert"),
    ],
)
def test_the_cosine_of_weights(
    w_in: list[list[float]], w_out: list[list[float]], expected: float
) -> None:
    found = weight_cosine(torch.tensor([w_in]), torch.tensor([w_out]))
    assert found.tolist() == pytest.approx([expected], abs=1e-6)


def test_the_experts_of_one_head_are_not_compared_with_those_of_another() -> None:
    # head 0 has clones, head 1 orthogonal experts
    w_in_REN = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    assert weight_cosine(w_in_REN, torch.zeros(2, 2, 1)).tolist() == [1.0, 0.0]


def test_a_weight_that_is_no_number_is_not_taken_for_a_zero_expert() -> None:
    w_in_REN = torch.tensor([[[1.0], [torch.nan]]])
    assert bool(weight_cosine(w_in_REN, torch.zeros(1, 2, 1)).isnan().all())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param([[2.0, 1.0], [4.0, 2.0]], 1.0, id="alike up to a factor"),
        pytest.param([[1.0, 0.0], [0.0, 3.0]], 0.0, id="orthogonal"),
        # pairs: cos 90, cos 45, cos 45 degrees: (0 + 2 / sqrt 2) / 3
        pytest.param([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], 2**0.5 / 3, id="three"),
        pytest.param([[1.0, 0.0], [0.0, 0.0]], 0.0, id="an expert that says nothing"),
    ],
)
def test_the_cosine_of_answers(answers: list[list[float]], expected: float) -> None:
    # weights of zero: the answer of an expert is its last bias, whatever the token
    b_out_ED = torch.tensor(answers)
    num, width = b_out_ED.shape
    experts = Experts(
        torch.zeros(num, width, 3), torch.zeros(num, 3, width), None, b_out_ED, form="silu"
    )
    assert float(output_cosine(torch.randn(5, width), experts)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("form", ["swiglu", "silu", "gelu", "gelu_exact"])
@pytest.mark.parametrize("num", [2, 5, CHUNK + 8])
@pytest.mark.parametrize("has_bias", [False, True])
def test_answers_are_compared_as_pair_by_pair(form: Any, num: int, has_bias: bool) -> None:
    torch.manual_seed(num)
    width, hidden = 6, 4
    rows = 2 * hidden if form == "swiglu" else hidden
    biases = (torch.randn(num, rows), torch.randn(num, width)) if has_bias else (None, None)
    experts = Experts(torch.randn(num, width, rows), torch.randn(num, hidden, width), *biases, form)
    x_TD = torch.randn(7, width)
    said = [answer(x_TD, experts, expert) for expert in range(num)]
    pairs = [F.cosine_similarity(a, b, dim=1).mean() for a, b in combinations(said, 2)]
    want = float(torch.stack(pairs).mean())
    assert float(output_cosine(x_TD, experts)) == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize("changes", [{}, LATENT, {"moe.has_expert_bias": True, "moe.every": 1}])
def test_clones_have_1_and_new_experts_about_0_in_every_row(
    small: RunConfig, changes: dict[str, Any]
) -> None:
    config = changed(small, changes)
    model = make_model(config)
    num_rows = 3 if "moe.layer" in changes else len(config.moe_blocks)
    for is_cloned in (False, True):
        if is_cloned:
            with torch.no_grad():
                for layer in moe_layers(model):
                    num = config.moe.num_experts
                    for weight in (layer.w_in_EDG, layer.w_out_EHD):
                        weight.copy_(weight[::num].repeat_interleave(num, 0))
        similarity = ExpertSimilarity(model)
        before = model(made_inputs(config, 0)).video_BCFHW
        with similarity.watching():
            watched = model(made_inputs(config, 0)).video_BCFHW
        assert torch.equal(before, watched)
        weights_M, answers_M = similarity.read()
        assert weights_M.shape == answers_M.shape == (num_rows,)
        if is_cloned:
            np.testing.assert_allclose(np.stack([weights_M, answers_M]), 1.0, atol=1e-5)
        else:
            # vectors of N numbers: a cosine is of the order of 1 / sqrt(N), N >= 256
            assert np.abs(weights_M).max() < 0.1
            assert np.abs(answers_M).max() < 0.5
        assert not any(layer.router._forward_pre_hooks for layer in moe_layers(model))


def test_a_few_tokens_of_each_pass_are_taken_evenly_spaced(small: RunConfig) -> None:
    model = make_model(small)
    similarity = ExpertSimilarity(model)
    (layer,) = moe_layers(model)
    router: Any = layer.router
    x_BSD = torch.arange(32.0)[:, None].expand(32, 32).reshape(2, 16, 32)
    with similarity.watching():
        router(x_BSD)
        router(x_BSD[:1, :5])
    taken = [x_RTD[0, :, 0].tolist() for x_RTD in similarity._taken[0]]
    assert TOKENS_PER_PASS == 8
    # the middles of eighths of 32 tokens; and all of fewer
    assert taken == [[2, 6, 10, 14, 18, 22, 26, 30], [0, 1, 2, 3, 4]]


def test_a_layer_that_no_token_reached_has_no_answers_and_is_not_called_alike(
    small: RunConfig,
) -> None:
    similarity = ExpertSimilarity(make_model(small))
    weights_M, answers_M = similarity.read()
    assert np.isfinite(weights_M).all()
    assert np.isnan(answers_M).all()


def test_a_lone_expert_has_nobody_to_be_like(small: RunConfig) -> None:
    lone = changed(small, {"moe.num_experts": 1, "moe.num_chosen": 1})
    assert ExpertSimilarity(make_model(lone)).read()[0].size == 0


def test_the_cosines_are_measured_with_the_probe(small: RunConfig, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow="off")
    config = changed(small, {"steps": 7, "watch.probe_every": 6, "moe.every": 1})
    train(config, settings=settings, run_id="r", progress=False)
    dense = changed(config, {"moe.num_experts": 0})
    train(dense, settings=settings, run_id="d", progress=False)
    with open_store(settings.store_url) as store:
        for signal in (catalogue.EXPERT_WEIGHT_COSINE, catalogue.EXPERT_OUTPUT_COSINE):
            series = read_series(store, "r", signal)
            assert series.steps.tolist() == [0, 6]
            assert series.values.shape == (2, 2)
            assert np.isfinite(series.values).all()
            assert len(read_series(store, "d", signal).steps) == 0
