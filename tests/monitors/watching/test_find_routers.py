"""Routers and experts of models that nobody told us of."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from torch import Tensor, nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import moescope
from moescope.monitors.watching.answers import counted, read_answer
from moescope.monitors.watching.find_blocks import find_blocks
from moescope.monitors.watching.find_routers import find_routers
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.series import read_series
from moescope.platform.store import Store
from moescope.trainer.model.make import make_model
from moescope.trainer.recipes.stream import tiny

# T tokens  D width  E experts  K chosen experts
WIDTH, EXPERTS = 32, 4
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


def mixtral() -> nn.Module:
    return MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=EXPERTS))


def qwen3() -> nn.Module:
    config = Qwen3MoeConfig(**SHAPE, num_experts=EXPERTS, moe_intermediate_size=16, head_dim=8)
    return Qwen3MoeForCausalLM(config)


def olmoe() -> nn.Module:
    return OlmoeForCausalLM(OlmoeConfig(**SHAPE, num_experts=EXPERTS))


def deepseek() -> nn.Module:
    config = DeepseekV3Config(
        **SHAPE,
        n_routed_experts=EXPERTS,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
    )
    return DeepseekV3ForCausalLM(config)


@pytest.mark.parametrize(
    ("make", "names", "scores"),
    [
        (mixtral, ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"], "softmax"),
        (qwen3, ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"], "softmax"),
        (olmoe, ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"], "softmax"),
        (deepseek, ["model.layers.1.mlp.gate"], "sigmoid"),
    ],
)
def test_routers_of_transformers_are_found_and_read(
    make: Callable[[], nn.Module], names: list[str], scores: str
) -> None:
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    found = find_routers(model)
    assert [router.name for router in found.routers] == names
    assert found.left == ()
    router = found.routers[-1]
    assert (router.num_experts, router.num_chosen, router.scores) == (EXPERTS, 2, scores)
    assert router.matrices[0].shape[0] == EXPERTS
    blocks = find_blocks(model)
    assert blocks.names == ("model.layers.0", "model.layers.1")
    assert blocks.is_one_stack
    heard: list[tuple[Any, Any]] = []
    router.module.register_forward_hook(lambda module, args, output: heard.append((args, output)))
    model(torch.arange(12).view(2, 6))
    ((args, output),) = heard
    answer = read_answer(
        router.module, args, output, num_experts=EXPERTS, num_chosen=2, scores=router.scores
    )
    assert answer is not None
    # computed anew from what the router was given
    logit_TE = F.linear(args[0].reshape(-1, WIDTH), router.module.weight).detach()
    score_TE = logit_TE.sigmoid() if scores == "sigmoid" else logit_TE.softmax(-1)
    torch.testing.assert_close(answer.logit_TE, logit_TE)
    torch.testing.assert_close(answer.score_TE, score_TE)
    chosen_TK = score_TE.topk(2).indices
    assert answer.counts_E.tolist() == chosen_TK.flatten().bincount(minlength=EXPERTS).tolist()


def test_a_router_of_diffusers_is_found_and_asked_again_for_its_logits() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"moe": MOEFeedForwardSwiGLU(WIDTH, 64, EXPERTS, 2)})
    (router,) = find_routers(model).routers
    assert (router.name, router.num_experts, router.num_chosen) == ("moe.gate", EXPERTS, 2)
    x_TD = torch.randn(1, 6, WIDTH)
    output = router.module(x_TD)
    answer = read_answer(
        router.module, (x_TD,), output, num_experts=EXPERTS, num_chosen=2, scores="softmax"
    )
    assert answer is not None
    want_TE = F.linear(x_TD[0], router.module.weight).detach()
    torch.testing.assert_close(answer.logit_TE, want_TE)
    assert answer.counts_E.sum() == 12


def test_routers_of_our_own_networks_are_found_like_anybodys() -> None:
    model = make_model(tiny())
    found = find_routers(model)
    assert [router.name for router in found.routers] == [
        f"blocks.{i}.mlp.router" for i in (1, 3, 5)
    ]
    assert {(router.num_experts, router.num_chosen) for router in found.routers} == {(8, 2)}


def test_a_handwritten_router_is_found_and_its_choices_are_counted_at_its_experts(
    watched: Callable[..., Any], network: type[nn.Module]
) -> None:
    found = find_routers(network())
    assert [(r.name, r.num_experts, r.num_chosen) for r in found.routers] == [
        ("layers.0.gate", 4, None),
        ("layers.1.gate", 4, None),
    ]
    loop = watched()
    loop.step()
    assert loop.run._parts.measure._loads.num_chosen == [2, 2]
    loop.run.finish()


class Stacked(nn.Module):
    """Experts as one weight, its router two levels away and called by another word."""

    def __init__(self) -> None:
        super().__init__()
        self.chooser = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6))
        self.experts = nn.Module()
        self.experts.w_in = nn.Parameter(torch.randn(6, 8, 8))
        self.top_k = 1


class ByName(nn.ModuleDict):
    """Experts by name, as Switch has them; it goes over the experts themselves."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())


class Blocks(nn.Module):
    """As many blocks as its head has outputs: no experts at all."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 4)


class Bare(nn.Module):
    """A router without a module."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = nn.Parameter(torch.randn(4, 8))
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))


def test_experts_in_one_weight_are_found_with_what_chooses_among_them() -> None:
    (router,) = find_routers(nn.ModuleDict({"moe": Stacked()})).routers
    assert (router.name, router.num_experts, router.num_chosen) == ("moe.chooser.1", 6, 1)


def test_a_head_with_as_many_outputs_as_there_are_blocks_is_no_router() -> None:
    found = find_routers(Blocks())
    assert found.routers == ()
    (line,) = found.left
    assert line.startswith("layers: 4 modules beside head, which answers with as many numbers")
    assert line.endswith("name it with routers=")


def test_experts_without_a_router_are_told_of() -> None:
    found = find_routers(nn.ModuleDict({"moe": Bare()}))
    assert found.routers == ()
    (line,) = found.left
    assert line.startswith("moe.experts: 4 experts, but no module beside them has a matrix with 4")


def test_what_holds_the_experts_is_not_taken_for_their_router() -> None:
    model = nn.ModuleDict({"moe": Bare()})
    for name in ("moe", "moe.experts"):
        with pytest.raises(MoescopeError, match=f"routers names {name}, .* holds the experts"):
            find_routers(model, [name])


def test_experts_by_name_are_found_and_counted_like_those_in_a_list(
    network: type[nn.Module], plain: Callable[..., Any], store: Store
) -> None:
    loop = plain()
    for layer in loop.model.layers:
        layer.experts = ByName({f"expert_{e}": one for e, one in enumerate(layer.experts)})
    loop.run = moescope.watch(loop.model, loop.optimizer, name="by_name", tell=lambda line: None)
    for _ in range(3):
        loop.step()
    loop.run.finish()
    tokens = read_series(store, loop.run.id, catalogue.EXPERT_TOKENS).values
    # two of four experts for each of sixteen tokens
    assert tokens.shape == (3, 2, 4)
    assert (tokens.sum(-1) == 32).all()
    assert loop.run._parts.measure._loads._by_experts == [True, True]


def test_a_router_that_its_user_names_is_taken_as_it_is() -> None:
    found = find_routers(Blocks(), ["head"], top_k=3)
    assert [(r.name, r.num_experts, r.num_chosen) for r in found.routers] == [("head", 4, 3)]


def test_routers_of_other_numbers_of_experts_than_most_are_left(
    network: type[nn.Module],
) -> None:
    model = nn.ModuleList([*network().layers, Stacked()])
    found = find_routers(model)
    assert [router.name for router in found.routers] == ["0.gate", "1.gate"]
    assert found.left == ("2.chooser.1: has 6 experts, most routers 4",)


def test_an_answer_of_probabilities_is_not_made_one_again() -> None:
    probability_TE = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    answer = read_answer(
        nn.Identity(), (), probability_TE, num_experts=3, num_chosen=1, scores="softmax"
    )
    assert answer is not None
    assert torch.equal(answer.score_TE, probability_TE)
    assert torch.equal(answer.counts_E, torch.tensor([1.0, 1.0, 0.0]))


def test_a_dropped_token_is_counted_nowhere() -> None:
    # an index of E says: to nobody
    chosen_TK = torch.tensor([[0, 4], [2, 1]])
    logit_TE = torch.randn(2, 4)
    answer = read_answer(
        nn.Identity(), (), (logit_TE, chosen_TK), num_experts=4, num_chosen=2, scores="softmax"
    )
    assert answer is not None
    assert answer.counts_E.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("whole_numbers", "num_chosen"),
    [
        pytest.param([[0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]], 1, id="mask"),
        pytest.param([[2, -1], [0, 2], [-1, -1]], 2, id="dropped-is-minus-one"),
        pytest.param([1, 0, 2, 0], 1, id="numbers-of-tokens"),
    ],
)
def test_whole_numbers_that_are_no_indices_are_not_taken_for_some(
    whole_numbers: Any, num_chosen: int
) -> None:
    answer = (torch.randn(3, 4), torch.tensor(whole_numbers))
    counts_E = counted(answer, num_experts=4, num_chosen=num_chosen)
    assert counts_E is not None
    assert counts_E.tolist() == [1, 0, 2, 0]


def test_an_answer_without_logits_is_none() -> None:
    nothing: tuple[Tensor, ...] = (torch.randn(2, 3),)
    assert (
        read_answer(nn.Identity(), (), nothing, num_experts=4, num_chosen=1, scores="softmax")
        is None
    )
