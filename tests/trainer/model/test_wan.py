"""The wan family: it computes what diffusers' Wan computes, has the published counts, and what is
its own, experts and the caption's bytes, is read where it should be.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from moescope.kernels.compare import relative_error
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.parameters import count_parameters
from moescope.trainer.model.cross_attention import CrossAttention
from moescope.trainer.model.inputs import Inputs
from moescope.trainer.model.make import make_model, watched_blocks
from moescope.trainer.model.wan import WanDit
from moescope.trainer.moe.experts import MoeLayer
from moescope.trainer.moe.steps import moe_layers
from moescope.trainer.optim.groups import make_optimizer
from moescope.trainer.recipes.by_name import recipe
from moescope.trainer.sampling.generate import Prompt, Sampling, generate
from moescope.trainer.without_effect import refuse_keys_without_effect

# B batch  S tokens  D width  T width of the caption's vectors  E experts  K chosen experts


@pytest.fixture
def toy(small: RunConfig, ways: dict[str, dict[str, Any]]) -> RunConfig:
    """Wan's blocks on pixels, the second with four experts."""
    return changed(small, ways["wan"])


def _inputs(config: RunConfig, size: int = 3) -> Inputs:
    torch.manual_seed(0)
    d = config.data
    return Inputs(
        torch.randn(size, *config.video_shape),
        torch.zeros(size, d.num_mels, 0),
        torch.randint(1, 257, (size, d.num_text_bytes)),
        torch.zeros(size, dtype=torch.int64),
        None,
        torch.rand(2, size),
    )


def _awake(config: RunConfig) -> WanDit:
    """A model whose head has values, as after some training."""
    model = make_model(config)
    assert isinstance(model, WanDit)
    torch.manual_seed(1)
    for parameter in model.video_out.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def _flow(model: WanDit, inputs: Inputs) -> Tensor:
    return model(inputs).video_BCFHW


# ---- what Wan computes


def _as_ours(theirs: Mapping[str, Tensor], head_width: int) -> dict[str, Tensor]:
    """Brings diffusers' weights, or their gradients, under our names.

    Wan turns channel 2c against 2c + 1, we turn c against c + P: a head's rows of queries and keys,
    and their gains, are sorted into the even ones and the odd ones.
    """
    sorted_d = torch.cat([torch.arange(0, head_width, 2), torch.arange(1, head_width, 2)])

    def turned(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (-1, head_width))[:, sorted_d].flatten(0, 1)

    conv = theirs["patch_embedding.weight"]
    ours = {
        "video_in.weight": conv.permute(0, 2, 3, 4, 1).flatten(1),
        "video_in.bias": theirs["patch_embedding.bias"],
        "table_ND": theirs["scale_shift_table"][0],
    }
    names = {
        "told_in": "condition_embedder.text_embedder.linear_1",
        "told_out": "condition_embedder.text_embedder.linear_2",
        "level_in": "condition_embedder.time_embedder.linear_1",
        "level_out": "condition_embedder.time_embedder.linear_2",
        "vectors": "condition_embedder.time_proj",
        "video_out": "proj_out",
    }
    num_blocks = len({name.split(".")[1] for name in theirs if name.startswith("blocks.")})
    for i in range(num_blocks):
        block = f"blocks.{i}"
        names |= {
            f"{block}.attention.out": f"{block}.attn1.to_out.0",
            f"{block}.cross_norm": f"{block}.norm2",
            f"{block}.cross_attention.query": f"{block}.attn2.to_q",
            f"{block}.cross_attention.out": f"{block}.attn2.to_out.0",
            f"{block}.mlp.w_in": f"{block}.ffn.net.0.proj",
            f"{block}.mlp.w_out": f"{block}.ffn.net.2",
        }
        ours |= {
            f"{block}.table_ND": theirs[f"{block}.scale_shift_table"][0],
            f"{block}.attention.query_gain": turned(theirs[f"{block}.attn1.norm_q.weight"]),
            f"{block}.attention.key_gain": turned(theirs[f"{block}.attn1.norm_k.weight"]),
            f"{block}.cross_attention.query_gain": theirs[f"{block}.attn2.norm_q.weight"],
            f"{block}.cross_attention.key_gain": theirs[f"{block}.attn2.norm_k.weight"],
        }
        for part in ("weight", "bias"):
            q, k, v = (theirs[f"{block}.attn1.to_{x}.{part}"] for x in "qkv")
            ours[f"{block}.attention.qkv.{part}"] = torch.cat([turned(q), turned(k), v])
            told = [theirs[f"{block}.attn2.to_{x}.{part}"] for x in "kv"]
            ours[f"{block}.cross_attention.key_value.{part}"] = torch.cat(told)
    for name, other in names.items():
        ours |= {f"{name}.{part}": theirs[f"{other}.{part}"] for part in ("weight", "bias")}
    return ours


@pytest.mark.parametrize(
    ("head_width", "patch_frames", "frames"),
    [
        pytest.param(24, 1, 3, id="equal-axes"),  # 24 // 6 = 4: eight channels for each axis
        pytest.param(16, 2, 4, id="patch-of-two-frames"),  # 16 // 6 = 2: eight, four and four
    ],
)
def test_forward_and_gradients_are_those_of_diffusers_wan(
    toy: RunConfig, head_width: int, patch_frames: int, frames: int
) -> None:
    heads, channels, text_width = 2, 5, 20
    config = changed(
        toy,
        {
            "data.num_frames": 2 * frames,
            "data.height": 16,
            "data.width": 24,
            "data.latents": "cosine",
            "data.latent_frames": 2,
            "data.latent_size": 4,
            "data.latent_channels": channels,
            "model.width": heads * head_width,
            "model.mlp_ratio": 1.5,
            "model.patch_frames": patch_frames,
            "model.patch_size": 2,
            "model.text_width": text_width,
            "moe.num_experts": 0,
        },
    )
    torch.manual_seed(3)
    theirs = WanTransformer3DModel(
        patch_size=(patch_frames, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=head_width,
        in_channels=channels,
        out_channels=channels,
        text_dim=text_width,
        ffn_dim=3 * heads * head_width // 2,
        num_layers=2,
    )
    for parameter in theirs.parameters():
        # also gains, biases and tables away from where they start
        nn.init.normal_(parameter, mean=0.5 if parameter.dim() == 1 else 0.0, std=0.2)
    ours = _awake(config)
    weights = _as_ours(dict(theirs.named_parameters()), head_width)
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert unexpected == []
    assert all(name.startswith("text_in.") for name in missing)
    noisy = torch.randn(3, *config.video_shape)
    sigma_B, text_BST = torch.tensor([0.02, 0.5, 1.0]), torch.randn(3, 7, text_width)
    inputs = _inputs(config)._replace(video_BCFHW=noisy)
    assert config.video_shape == (channels, frames, 4, 6)

    want = theirs(noisy, 1000 * sigma_B, text_BST, return_dict=False)[0]
    got = ours.finish(ours.work(ours.embed(noisy, sigma_B, text_BST), range(2)), inputs).video_BCFHW
    # fp32 sums in another order; the network is 2 blocks deep
    assert relative_error("flow", want, got) < 1e-5
    weight = torch.randn_like(want)
    (want * weight).sum().backward()
    (got * weight).sum().backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(theirs.parameters()))
    mine = {n: p.grad for n, p in ours.named_parameters() if not n.startswith("text_in.")}
    for name, gradient in _as_ours(gradients, head_width).items():
        found = mine.pop(name)
        assert found is not None, name
        assert relative_error(name, gradient, found) < 1e-4, name
    assert mine == {}


@pytest.mark.parametrize(
    ("name", "sizes", "published"),
    [
        ("wan_14b", {}, 14_288_491_584),
        (
            "wan_5b",
            {
                "num_attention_heads": 24,
                "num_layers": 30,
                "ffn_dim": 14_336,
                "in_channels": 48,
                "out_channels": 48,
            },
            4_999_787_712,
        ),
    ],
)
def test_dense_networks_have_as_many_parameters_as_diffusers(
    name: str, sizes: dict[str, int], published: int
) -> None:
    config = recipe(name)
    with torch.device("meta"):
        ours, theirs = make_model(config), WanTransformer3DModel(**sizes)
    assert _count(theirs) == published  # facts: model.md section 2
    count = count_parameters(config)
    assert count.total == count.active == _count(ours)
    assert count.parts["text_encoder"] == _count(ours.text_in)
    assert count.total - count.parts["text_encoder"] == published


def test_the_token_moe_has_the_published_counts_within_a_percent_and_a_half() -> None:
    config = recipe("wan_token_moe")
    count = count_parameters(config)
    with torch.device("meta"):
        model = make_model(config)
    assert count.total == _count(model)
    text = count.parts["text_encoder"]
    # base + 16 e and base + 2 e in the facts: 14.4 and 5.3 billion
    assert count.total - text == pytest.approx(14.4e9, rel=0.015)
    assert count.active - text == pytest.approx(5.3e9, rel=0.015)
    # an expert: 2 D S + S + D with D = 3072, S = 6272, 14 of 16 idle in each of 17 layers
    assert count.total - count.active == 17 * 14 * (2 * 3072 * 6272 + 6272 + 3072)
    assert config.moe_blocks == tuple(range(1, 34, 2))


@pytest.mark.parametrize("name", ["wan_tiny", "wan_token_moe_tiny"])
def test_the_toys_are_counted_as_they_are_built(name: str) -> None:
    config = recipe(name)
    model = make_model(config)
    count = count_parameters(config)
    assert count.total == _count(model)
    assert len(moe_layers(model)) == (2 if name == "wan_token_moe_tiny" else 0)
    assert len(watched_blocks(model)) == config.model.layers == 4


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- the network by itself


def test_a_new_network_answers_zero_or_zero_data(toy: RunConfig) -> None:
    inputs = _inputs(toy)
    answer = make_model(toy)(inputs)
    assert torch.equal(answer.video_BCFHW, torch.zeros_like(inputs.video_BCFHW))
    assert answer.mel_BNM.shape == inputs.mel_BNM.shape
    of_data = make_model(changed(toy, {"objective.prediction": "data"}))(inputs).video_BCFHW
    # x = 0: the flow from noisy to it is noisy / max(sigma, 0.05)
    sigma = inputs.sigma_MB[0].clamp_min(0.05).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(of_data, inputs.video_BCFHW / sigma)


def test_every_other_block_is_moe(toy: RunConfig) -> None:
    model = make_model(changed(toy, {"model.layers": 5}))
    assert [isinstance(b.mlp, MoeLayer) for b in model.blocks] == [False, True, False, True, False]


WITH_EXPERTS = [{}, {"moe.num_experts": 0}, {"moe.router": "cross_attention"}]


@pytest.mark.parametrize("changes", WITH_EXPERTS)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_every_parameter_gets_a_finite_gradient(toy: RunConfig, changes: dict[str, Any]) -> None:
    model = _awake(changed(toy, changes))
    # enough tokens that no expert stays idle
    _flow(model, _inputs(model.config, size=8)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("which", ["video_BCFHW", "text_BS", "sigma_MB"])
def test_the_flow_depends_on_every_input(toy: RunConfig, which: str) -> None:
    model, inputs = _awake(toy), _inputs(toy)
    given = getattr(inputs, which)
    other = given * 0.5 if which == "sigma_MB" else given.flip(-1)
    changed_flow = _flow(model, inputs._replace(**{which: other}))
    assert not torch.allclose(_flow(model, inputs), changed_flow, atol=1e-4)


@pytest.mark.parametrize("changes", WITH_EXPERTS)
def test_samples_of_a_batch_do_not_see_each_other(toy: RunConfig, changes: dict[str, Any]) -> None:
    model, inputs = _awake(changed(toy, changes)), _inputs(toy)
    alone = _flow(model, inputs.rows(torch.tensor([1])))
    torch.testing.assert_close(_flow(model, inputs)[1:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("unwritten_is_nan")
def test_a_sample_that_is_not_finite_spoils_no_other(toy: RunConfig) -> None:
    model, inputs = _awake(toy), _inputs(toy)
    want = _flow(model, inputs)
    inputs.video_BCFHW[2] = float("nan")
    got = _flow(model, inputs)
    assert bool(got[2].isnan().any())
    torch.testing.assert_close(got[:2], want[:2], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_forward_and_backward_repeat_themselves_bit_for_bit(toy: RunConfig) -> None:
    model, inputs = _awake(toy), _inputs(toy)
    results = []
    for _ in range(2):
        model.zero_grad()
        flow = _flow(model, inputs)
        flow.square().mean().backward()
        results.append([flow.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_all_that_computes_is_in_the_state(toy: RunConfig) -> None:
    model, inputs = _awake(toy), _inputs(toy)
    copy = make_model(changed(toy, {"seed": 9}))
    assert not torch.equal(_flow(model, inputs), _flow(copy, inputs))
    copy.load_state_dict(model.state_dict())
    assert torch.equal(_flow(model, inputs), _flow(copy, inputs))


def test_the_order_of_frames_is_told_by_rotary_positions_alone(toy: RunConfig) -> None:
    config = changed(toy, {"data.num_frames": 2, "model.patch_frames": 1, "moe.num_experts": 0})
    model, inputs = _awake(config), _inputs(config)
    back = inputs._replace(video_BCFHW=inputs.video_BCFHW.flip(2))
    assert not torch.allclose(_flow(model, back).flip(2), _flow(model, inputs), atol=1e-4)
    # attention without places is a function of a set: frames that swap places swap their answers
    model.rotary_2SP = None
    torch.testing.assert_close(
        _flow(model, back).flip(2), _flow(model, inputs), atol=1e-5, rtol=1e-4
    )


def test_matrices_decay_and_embeddings_tables_gains_and_biases_do_not(toy: RunConfig) -> None:
    model = make_model(toy)
    decays, keeps = (g["params"] for g in make_optimizer(model, toy).param_groups)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert not any("text_in." in names[p] or "table_ND" in names[p] for p in decays)
    matrices = [p for p in keeps if p.dim() > 1]
    assert {names[p] for p in matrices} == {
        *("text_in.byte.weight", "text_in.gram.weight", "table_ND"),
        *("blocks.0.table_ND", "blocks.1.table_ND", "blocks.1.mlp.router.weight_ED"),
        *("blocks.1.mlp.b_in_EG", "blocks.1.mlp.b_out_ED"),
    }


def test_clips_are_made_from_captions_without_sound(toy: RunConfig) -> None:
    model = _awake(toy)
    made = generate(model, toy, [Prompt("a ball"), Prompt("a ring"), Prompt()], 1, Sampling(3))
    assert made.video_BCFHW.shape == (3, *toy.video_shape)
    assert made.mel_BNM.shape == (3, toy.data.num_mels, 0)
    other = generate(model, toy, [Prompt("a cube"), Prompt("a ring"), Prompt()], 1, Sampling(3))
    pairs = zip(made.video_BCFHW, other.video_BCFHW, strict=True)
    assert [torch.allclose(a, b, atol=1e-5) for a, b in pairs] == [False, True, True]


# ---- what a configuration can say


OPTIONS: list[dict[str, Any]] = [
    {"model.kv_heads": 1},
    {"model.qk_norm": "head"},
    {"model.qk_norm": "none"},
    {"model.logit_soft_cap": 0.5},
    {"model.has_head_gate": True},
    {"model.rotary": "2d"},
    {"model.rotary": "1d"},
    {"model.rotary": "none", "model.has_place_table": True},
    {"model.has_place_table": True},
    {"model.rope_base": 10.0},
    {"model.mlp": "swiglu"},
    {"model.mlp_ratio": 2.0},
    {"model.text_width": 24},
    {"model.patch_text_bytes": 2},
    {"moe.layer": "latent", "moe.latent_heads": 2, "moe.latent_head_width": 16},
    {"moe.router": "mlp"},
    {"moe.router": "cross_attention"},
    {"moe.router": "expert_choice", "moe.balance_weight": 0.0},
]


@pytest.mark.parametrize(
    "changes", OPTIONS, ids=lambda changes: ",".join(map(str, changes.items()))
)
def test_every_option_changes_counts_or_the_answer_and_is_counted(
    toy: RunConfig, changes: dict[str, Any]
) -> None:
    config = changed(toy, changes)
    refuse_keys_without_effect(config, changes)
    model, before = _awake(config), _awake(toy)
    assert count_parameters(config).total == _count(model)
    inputs = _inputs(toy)
    flow = _flow(model, inputs)
    assert bool(torch.isfinite(flow).all())
    assert not torch.allclose(flow, _flow(before, inputs), atol=1e-5)


def test_without_a_caption_there_is_nothing_to_attend_to(toy: RunConfig) -> None:
    with pytest.raises(MoescopeError, match="num_text_bytes is 0, but the wan family"):
        changed(toy, {"data.num_text_bytes": 0})
    with pytest.raises(MoescopeError, match=r"model.norm has no effect"):
        refuse_keys_without_effect(changed(toy, {"model.norm": "rms"}), ["model.norm"])


# ---- cross-attention


def test_cross_attention_is_that_of_torch(toy: RunConfig) -> None:
    config = changed(toy, {"model.qk_norm": "none"})
    torch.manual_seed(2)
    ours = CrossAttention(config.model)
    theirs = nn.MultiheadAttention(config.model.width, config.model.heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x_BSD = torch.randn(2, 5, config.model.width, requires_grad=True)
    told_BSD = torch.randn(2, 3, config.model.width, requires_grad=True)
    got = ours(x_BSD, told_BSD)
    want, _ = theirs(x_BSD, told_BSD, told_BSD, need_weights=False)
    assert relative_error("out", want, got) < 1e-6
    weight = torch.randn_like(got)
    gradients = [torch.autograd.grad((y * weight).sum(), (x_BSD, told_BSD)) for y in (got, want)]
    for mine, other in zip(*gradients, strict=True):
        assert relative_error("gradient", other, mine) < 1e-5


@pytest.mark.parametrize("qk_norm", ["head", "full"])
def test_cross_attention_normalises_queries_and_keys(toy: RunConfig, qk_norm: str) -> None:
    """softmax(q_h k_h^T / sqrt(d)) v_h, written out head by head."""
    config = changed(toy, {"model.qk_norm": qk_norm})
    torch.manual_seed(2)
    ours, width, heads = CrossAttention(config.model), config.model.width, config.model.heads
    for gain in (ours.query_gain, ours.key_gain):
        nn.init.normal_(gain, mean=1.0, std=0.3)
    x_BSD, told_BSD = torch.randn(2, 5, width), torch.randn(2, 3, width)
    q_BSD = ours.query(x_BSD)
    k_BSD, v_BSD = ours.key_value(told_BSD).split(width, dim=-1)
    if qk_norm == "full":
        q_BSD = F.rms_norm(q_BSD, (width,), ours.query_gain, 1e-6)
        k_BSD = F.rms_norm(k_BSD, (width,), ours.key_gain, 1e-6)
    answers = []
    for q, k, v in zip(*(x.chunk(heads, dim=-1) for x in (q_BSD, k_BSD, v_BSD)), strict=True):
        if qk_norm == "head":
            q = F.rms_norm(q, q.shape[-1:], ours.query_gain, 1e-6)
            k = F.rms_norm(k, k.shape[-1:], ours.key_gain, 1e-6)
        logits = q @ k.transpose(1, 2) / (width // heads) ** 0.5
        answers.append(logits.softmax(-1) @ v)
    want = ours.out(torch.cat(answers, dim=-1))
    assert relative_error("out", want, ours(x_BSD, told_BSD)) < 1e-5


# ---- experts


def test_the_cross_attention_router_reads_the_caption_and_the_linear_one_does_not(
    toy: RunConfig,
) -> None:
    for router, reads in (("cross_attention", True), ("softmax", False)):
        config = changed(toy, {"moe.router": router})
        model, inputs = _awake(config), _inputs(config)
        for block in model.blocks:
            # the caption now reaches the video through the routers alone
            nn.init.zeros_(block.cross_attention.out.weight)
        other = inputs._replace(text_BS=inputs.text_BS.flip(-1))
        assert torch.equal(_flow(model, inputs), _flow(model, other)) != reads


def test_the_balance_loss_is_the_published_one_with_shares_that_add_up_to_one() -> None:
    config = recipe("wan_token_moe_tiny")
    assert (config.moe.num_experts, config.moe.num_chosen) == (16, 2)
    model, inputs = _awake(config), _inputs(config, size=2)
    layer = moe_layers(model)[1]
    routings: list[Any] = []
    layer.router.register_forward_hook(lambda module, args, output: routings.append(output))
    _flow(model, inputs)
    (routing,) = routings
    p_TE = routing.logit_TE.detach().softmax(-1)
    weight_TK, chosen_TK = p_TE.topk(2)
    # as they are: neither divided by their sum nor scaled, and chosen without a bias
    torch.testing.assert_close(routing.weight_TK, weight_TK)
    assert torch.equal(routing.chosen_TK.sort(-1).values, chosen_TK.sort(-1).values)
    f_E = torch.bincount(chosen_TK.flatten(), minlength=16) / chosen_TK.numel()
    assert float(f_E.sum()) == pytest.approx(1.0)
    want = 0.01 * 16 * float((f_E * p_TE.mean(0)).sum())
    loss = layer.tally.loss()
    assert loss is not None
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5)
    # a new router is near balance, where the loss is alpha
    assert want == pytest.approx(0.01, rel=0.1)
