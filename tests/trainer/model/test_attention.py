"""Attention in all its options is held to loops over heads and tokens, and to torch's own layer."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moescope.kernels.compare import relative_error
from moescope.trainer.counts.parts import attention_parameters
from moescope.trainer.model.attention import Attention, attend, note_logit_bound
from moescope.trainer.model.positions import rotary_table, rotate
from moescope.trainer.model_config import ModelConfig

# B batch  S tokens  H heads of queries  K heads of keys and values  d head width  D width

OPTIONS: list[Any] = [
    pytest.param({}, id="as_it_was"),
    pytest.param({"kv_heads": 1}, id="one_head_of_keys"),
    pytest.param({"kv_heads": 2}, id="two_heads_share"),
    pytest.param({"qk_norm": "none"}, id="no_norm"),
    pytest.param({"qk_norm": "full"}, id="full_norm"),
    pytest.param({"qk_norm": "full", "kv_heads": 2}, id="full_norm_of_fewer_keys"),
    pytest.param({"logit_soft_cap": 0.5}, id="soft_cap"),
    pytest.param({"logit_soft_cap": 0.5, "kv_heads": 2}, id="soft_cap_shared"),
    pytest.param({"has_head_gate": True}, id="gates"),
    pytest.param(
        {"kv_heads": 2, "qk_norm": "full", "logit_soft_cap": 2.0, "has_head_gate": True}, id="all"
    ),
]
WIDTH, HEADS = 24, 4


def made(changes: dict[str, Any]) -> Attention:
    """An attention whose gains and biases are not what they start as."""
    torch.manual_seed(0)
    attention = Attention(ModelConfig(width=WIDTH, heads=HEADS, **changes))
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    return attention


def rotary(tokens: int) -> Tensor:
    return rotary_table(0.7 * np.arange(tokens, dtype=np.float64)[:, None], WIDTH // HEADS, 100.0)


def by_loops(attention: Attention, m: ModelConfig, x_BSD: Tensor, table_2SP: Any) -> Tensor:
    """The definition, token by token and head by head."""
    head = m.width // m.heads
    num_keys = m.kv_heads or m.heads
    weight, bias = attention.qkv.weight, attention.qkv.bias
    answers = []
    for x_SD in x_BSD:
        row_SR = x_SD @ weight.T + bias
        ends = np.cumsum([m.heads * head, num_keys * head, num_keys * head])
        q_SD, k_SD, v_SD = (row_SR[:, end - n : end] for end, n in _parts(ends))
        if m.qk_norm == "full":
            q_SD, k_SD = _normed(q_SD, attention.query_gain), _normed(k_SD, attention.key_gain)
        heads = []
        for h in range(m.heads):
            shared = h // (m.heads // num_keys)
            q_Sd = q_SD[:, h * head : (h + 1) * head]
            k_Sd = k_SD[:, shared * head : (shared + 1) * head]
            v_Sd = v_SD[:, shared * head : (shared + 1) * head]
            if m.qk_norm == "head":
                q_Sd, k_Sd = _normed(q_Sd, attention.query_gain), _normed(k_Sd, attention.key_gain)
            if table_2SP is not None:
                q_Sd, k_Sd = (rotate(x[None, None], table_2SP)[0, 0] for x in (q_Sd, k_Sd))
            y_Sd = []
            for q_d in q_Sd:
                logits = [torch.dot(q_d, k_d) / math.sqrt(head) for k_d in k_Sd]
                if m.logit_soft_cap:
                    logits = [m.logit_soft_cap * torch.tanh(a / m.logit_soft_cap) for a in logits]
                exponents = [torch.exp(a) for a in logits]
                total = sum(exponents)
                parts = [e / total * v for e, v in zip(exponents, v_Sd, strict=True)]
                y_Sd.append(torch.stack(parts).sum(0))
            answer_Sd = torch.stack(y_Sd)
            if m.has_head_gate:
                answer_Sd = answer_Sd / (1 + torch.exp(-row_SR[:, ends[-1] + h, None]))
            heads.append(answer_Sd)
        answers.append(torch.cat(heads, 1) @ attention.out.weight.T + attention.out.bias)
    return torch.stack(answers)


def _parts(ends: Any) -> list[tuple[int, int]]:
    return [(int(end), int(n)) for end, n in zip(ends, np.diff(ends, prepend=0), strict=True)]


def _normed(x: Tensor, gain: Tensor | None) -> Tensor:
    assert gain is not None
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * gain


@pytest.mark.parametrize("is_turned", [True, False], ids=["turned", "still"])
@pytest.mark.parametrize("changes", OPTIONS)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_every_option_is_its_definition_forward_and_backward(
    changes: dict[str, Any], is_turned: bool
) -> None:
    attention = made(changes)
    m = ModelConfig(width=WIDTH, heads=HEADS, **changes)
    x_BSD = torch.randn(2, 5, WIDTH, requires_grad=True)
    table = rotary(5) if is_turned else None
    answers = [attention(x_BSD, table), by_loops(attention, m, x_BSD, table)]
    names = ["answer", "d_x", *(f"d_{name}" for name, _ in attention.named_parameters())]
    told = torch.randn_like(answers[0])
    results = []
    for answer in answers:
        attention.zero_grad()
        inputs = [x_BSD, *attention.parameters()]
        results.append([answer, *torch.autograd.grad((answer * told).sum(), inputs)])
    for name, got, want in zip(names, *results, strict=True):
        assert relative_error(name, want, got) < 2e-5, name


def test_without_norm_and_places_it_is_torchs_attention() -> None:
    ours = made({"qk_norm": "none"})
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = torch.randn(3, 7, WIDTH, requires_grad=True)
    got, want = ours(x, None), theirs(x, x, x, need_weights=False)[0]
    assert relative_error("answer", want, got) < 1e-6
    told = torch.randn_like(got)
    (d_got,), (d_want,) = (torch.autograd.grad((y * told).sum(), x) for y in (got, want))
    assert relative_error("d_x", d_want, d_got) < 1e-5
    got_weights = torch.autograd.grad((ours(x, None) * told).sum(), ours.qkv.weight)[0]
    want_answer = theirs(x, x, x, need_weights=False)[0]
    want_weights = torch.autograd.grad((want_answer * told).sum(), theirs.in_proj_weight)[0]
    assert relative_error("d_qkv", want_weights, got_weights) < 1e-5


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_shared_heads_are_full_attention_with_repeated_ones(kv_heads: int) -> None:
    few, full = made({"kv_heads": kv_heads}), made({})
    head = WIDTH // HEADS
    with torch.no_grad():
        for name in ("weight", "bias"):
            rows = getattr(few.qkv, name).split([WIDTH, kv_heads * head, kv_heads * head])
            repeated = [
                part.unflatten(0, (kv_heads, head)).repeat_interleave(HEADS // kv_heads, 0)
                for part in rows[1:]
            ]
            whole = torch.cat([rows[0], *(part.flatten(0, 1) for part in repeated)])
            getattr(full.qkv, name).copy_(whole)
        full.out.load_state_dict(few.out.state_dict())
    gains = {name: value for name, value in few.state_dict().items() if name.endswith("gain")}
    full.load_state_dict(gains, strict=False)
    x = torch.randn(2, 9, WIDTH)
    got, want = few(x, rotary(9)), full(x, rotary(9))
    assert relative_error("answer", want, got) < 1e-6


@pytest.mark.usefixtures("one_thread")
def test_without_options_it_computes_what_it_did_before_there_were_any_bit_for_bit() -> None:
    attention = made({})
    assert list(attention.state_dict()) == [
        "query_gain", "key_gain", "qkv.weight", "qkv.bias", "out.weight", "out.bias",
    ]  # fmt: skip
    x = torch.randn(2, 33, WIDTH)
    qkv = attention.qkv(x).view(2, 33, 3, HEADS, WIDTH // HEADS)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    q = q * torch.rsqrt(q.square().mean(-1, keepdim=True) + 1e-6) * attention.query_gain
    k = k * torch.rsqrt(k.square().mean(-1, keepdim=True) + 1e-6) * attention.key_gain
    q, k = rotate(q, rotary(33)), rotate(k, rotary(33))
    y = nn.functional.scaled_dot_product_attention(q, k, v)
    want = attention.out(y.transpose(1, 2).reshape(2, 33, WIDTH))
    assert torch.equal(attention(x, rotary(33)), want)


@pytest.mark.parametrize("changes", OPTIONS)
def test_its_parameters_are_those_that_are_counted(changes: dict[str, Any]) -> None:
    m = ModelConfig(width=WIDTH, heads=HEADS, **changes)
    num = sum(p.numel() for p in Attention(m).parameters())
    assert num == attention_parameters(m)


def test_shared_heads_need_a_smaller_matrix() -> None:
    m = ModelConfig(width=WIDTH, heads=HEADS, kv_heads=2, has_head_gate=True, qk_norm="none")
    attention = Attention(m)
    # (H + 2 K) d + H = (4 + 2 * 2) * 6 + 4 rows
    assert attention.qkv.weight.shape == (52, WIDTH)


def test_a_cap_holds_logits_and_a_high_one_lets_them_be() -> None:
    torch.manual_seed(0)
    q, (k, v) = 30 * torch.randn(1, 2, 6, 4), torch.randn(2, 1, 2, 6, 4)
    free, high = attend(q, k, v), attend(q, k, v, soft_cap=1e6)
    assert relative_error("answer", free, high) < 1e-4
    # within +-0.01 no token has more than exp(0.02) times the weight of another
    flat = attend(q, k, v, soft_cap=0.01)
    mean = v.mean(2, keepdim=True).expand_as(flat)
    assert relative_error("answer", mean, flat) < 0.05
    assert relative_error("answer", mean, free) > 0.5


def test_a_shut_gate_silences_its_head_and_no_other() -> None:
    attention = made({"has_head_gate": True})
    x = torch.randn(1, 4, WIDTH)
    with torch.no_grad():
        attention.qkv.weight[-HEADS:] = 0
        attention.qkv.bias[-HEADS:] = torch.tensor([-1e4, 1e4, -1e4, 1e4])
        attention.out.weight.copy_(torch.eye(WIDTH))
        attention.out.bias.zero_()
    by_head = attention(x, None).unflatten(-1, (HEADS, -1)).abs().amax((0, 1, 3))
    assert (by_head == 0).tolist() == [True, False, True, False]


@pytest.mark.parametrize("changes", OPTIONS)
@pytest.mark.usefixtures("one_thread")
def test_it_repeats_itself_bit_for_bit(changes: dict[str, Any]) -> None:
    attention = made(changes)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        x = torch.randn(2, 40, WIDTH, requires_grad=True)
        answer = attention(x, rotary(40))
        gradients = torch.autograd.grad(answer.square().sum(), [x, *attention.parameters()])
        results.append([answer, *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("changes", OPTIONS)
def test_half_precision_products_change_little(changes: dict[str, Any]) -> None:
    attention = made(changes)
    x = torch.randn(2, 16, WIDTH)
    want = attention(x, rotary(16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = attention(x, rotary(16))
    assert got.dtype == torch.bfloat16
    # bf16 keeps 8 bits: each of four products in a row is off by up to 2^-9 of its size
    assert relative_error("answer", want, got.float()) < 0.03


@pytest.mark.parametrize("kv_heads", [4, 2], ids=["a head each", "two share one"])
def test_no_logit_exceeds_its_bound_and_one_that_is_along_a_key_meets_it(kv_heads: int) -> None:
    torch.manual_seed(0)
    q_BHSd, k_BKSd = torch.randn(2, 4, 5, 8), torch.randn(2, kv_heads, 5, 8)
    k_BHSd = k_BKSd.repeat_interleave(4 // kv_heads, dim=1)
    largest = float((q_BHSd @ k_BHSd.transpose(-2, -1)).abs().max()) / math.sqrt(8)
    bound_1 = torch.zeros(1)
    note_logit_bound(q_BHSd, k_BKSd, bound_1)
    assert largest < float(bound_1) < 3 * largest
    # the longest query along the longest key of its head
    q_BHSd = 10 * k_BHSd
    note_logit_bound(q_BHSd, k_BKSd, bound_1)
    along = 10 * float(k_BKSd.square().sum(-1).max()) / math.sqrt(8)
    assert float(bound_1) == pytest.approx(along, rel=1e-6)
    # it is raised and never lowered
    note_logit_bound(0 * q_BHSd, k_BKSd, bound_1)
    assert float(bound_1) == pytest.approx(along, rel=1e-6)


def test_watching_the_bound_changes_no_answer() -> None:
    torch.manual_seed(0)
    attention = Attention(ModelConfig(width=32, heads=4, layers=1))
    x_BSD = torch.randn(2, 5, 32)
    want = attention(x_BSD, None)
    attention.logit_bound_1 = torch.zeros(1)
    assert torch.equal(attention(x_BSD, None), want)
    # queries and keys of RMS 1: norms of sqrt(d), so logits of at most sqrt(d)
    assert 0.0 < float(attention.logit_bound_1) <= math.sqrt(8) * (1 + 1e-5)
