import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

from moescope.kernels.routing.reference import Routing, RoutingRule
from moescope.monitors.taps import Taps
from moescope.platform import catalogue
from moescope.trainer.moe.router import LinearRouter

# B batch  S stream tokens  D width  T tokens  E experts

WIDTH, EXPERTS = 8, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.router = LinearRouter(WIDTH, EXPERTS, RoutingRule(2), has_bias=True)
        self.routing: Routing | None = None

    def forward(self, x_BSD: Tensor) -> Tensor:
        self.routing = self.router(x_BSD.flatten(0, 1))
        return self.linear(x_BSD)


@pytest.fixture
def blocks() -> list[Block]:
    torch.manual_seed(0)
    return [Block(), Block()]


def taps_of(blocks: list[Block]) -> Taps:
    return Taps(blocks, [block.router for block in blocks])


def forward(blocks: list[Block], x_BSD: Tensor) -> list[Tensor]:
    outputs = []
    for block in blocks:
        x_BSD = block(x_BSD)
        outputs.append(x_BSD)
    return outputs


def test_taps_measure_what_the_forward_gave() -> None:
    torch.manual_seed(2)  # with which no two of the signals below are alike
    blocks = [Block(), Block()]
    taps = taps_of(blocks)
    bias_E = blocks[1].router.bias_E
    assert bias_E is not None
    bias_E.copy_(torch.tensor([0.0, -0.25, 0.5, 0.0]))
    with torch.no_grad():
        # routers that decide: untrained ones give each expert nearly the same
        for block in blocks:
            block.router.weight_ED.mul_(30.0)
    with taps.watching():
        outputs = forward(blocks, 0.5 + torch.randn(3, 5, WIDTH))
    taps.send()
    values = taps.read()
    rms = [output.square().mean().sqrt().item() for output in outputs]
    absmax = [output.abs().max().item() for output in outputs]
    assert values[catalogue.ACTIVATION_RMS] == pytest.approx(np.array(rms), rel=1e-5)
    assert values[catalogue.ACTIVATION_ABSMAX] == pytest.approx(np.array(absmax))
    assert values[catalogue.ACTIVATION_OUTLIER_RATIO] == pytest.approx(
        np.array(absmax) / rms, rel=1e-5
    )
    assert values[catalogue.BIAS_RANGE] == pytest.approx(np.array([0.0, 0.75]))
    for layer, block in enumerate(blocks):
        assert block.routing is not None
        count_E = block.routing.counts_E.numpy()
        want = of_the_load(count_E) | of_the_scores(block.routing)
        # so that none can stand in another's place
        assert np.diff(sorted(want.values())).min() > 1e-2
        for signal, number in want.items():
            assert values[signal][layer] == pytest.approx(number, rel=1e-4), signal
        # 15 tokens with 2 choices over 4 experts: 7.5 each when balanced
        assert values[catalogue.EXPERT_LOAD][layer] == pytest.approx(count_E / 7.5)


def of_the_load(count_E: np.ndarray) -> dict[str, float]:
    """What the signals of counts must be, by numpy and scipy."""
    load_E = count_E / count_E.mean()
    return {
        catalogue.MAX_VIOLATION: load_E.max() - 1,
        catalogue.MIN_VIOLATION: 1 - load_E.min(),
        catalogue.AVG_VIOLATION: np.abs(load_E - 1).mean(),
        catalogue.LOAD_CV: stats.variation(count_E),
        catalogue.LOAD_ENTROPY_NATS: stats.entropy(count_E),
        catalogue.EFFECTIVE_EXPERTS: np.exp(stats.entropy(count_E)),
    }


def of_the_scores(routing: Routing) -> dict[str, float]:
    """What the signals of a router's scores and logits must be, by numpy and scipy."""
    logit_TE, score_TE = routing.logit_TE.detach().numpy(), routing.score_TE.detach().numpy()
    normal_TE = score_TE / score_TE.sum(axis=1, keepdims=True)
    of_tokens = stats.entropy(score_TE, axis=1).mean()
    share_E = routing.counts_E.numpy() / routing.counts_E.sum().item()
    ranked_TE = np.sort(logit_TE, axis=1)
    return {
        catalogue.ROUTER_ENTROPY_NATS: of_tokens,
        catalogue.MUTUAL_INFORMATION_NATS: stats.entropy(normal_TE.mean(axis=0)) - of_tokens,
        catalogue.ROUTER_BALANCE: EXPERTS * (share_E @ normal_TE.mean(axis=0)),
        catalogue.ROUTER_Z: np.mean(special.logsumexp(logit_TE, axis=1) ** 2),
        catalogue.ROUTER_MARGIN: np.mean(ranked_TE[:, -1] - ranked_TE[:, -2]),
        catalogue.ROUTER_LOGIT_ABSMAX: np.abs(logit_TE).max(),
    }


def test_the_largest_logit_is_that_of_any_token_and_counts_without_its_sign(
    blocks: list[Block],
) -> None:
    taps = taps_of(blocks)
    x_BSD = torch.zeros(2, 3, WIDTH)
    x_BSD[1, 2, 0] = 1.0
    with torch.no_grad():
        # an expert's logit is minus what stands in front, times its number
        blocks[0].router.weight_ED.zero_()[:, 0] = -3.0 * torch.arange(EXPERTS)
    with taps.watching():
        blocks[0](x_BSD)
    taps.send()
    # -3 x 3; the second router did not run
    assert taps.read()[catalogue.ROUTER_LOGIT_ABSMAX].tolist() == [9.0, 0.0]


def test_hooks_are_absent_outside_of_watching(blocks: list[Block]) -> None:
    taps = taps_of(blocks)

    def num_hooks() -> int:
        return sum(len(m._forward_hooks) for block in blocks for m in block.modules())

    assert num_hooks() == 0
    with taps.watching():
        assert num_hooks() == 4
    assert num_hooks() == 0
    with pytest.raises(RuntimeError), taps.watching():
        blocks[0](torch.zeros(1, 1, WIDTH + 1))
    assert num_hooks() == 0


def test_watching_changes_neither_output_nor_gradient(blocks: list[Block]) -> None:
    taps, x_BSD = taps_of(blocks), torch.randn(2, 3, WIDTH)
    plain = forward(blocks, x_BSD)[-1]
    plain.sum().backward()
    gradient = blocks[0].linear.weight.grad
    assert gradient is not None
    before = gradient.clone()
    blocks[0].linear.weight.grad = None
    with taps.watching():
        watched = forward(blocks, x_BSD)[-1]
    watched.sum().backward()
    assert torch.equal(plain, watched)
    assert torch.equal(before, blocks[0].linear.weight.grad)


def test_taps_write_device_tensors_and_read_no_number(
    blocks: list[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    taps = taps_of(blocks)

    def refuse(self: Tensor) -> float:
        raise AssertionError("a tap waited for the device")

    monkeypatch.setattr(Tensor, "item", refuse)
    monkeypatch.setattr(Tensor, "__bool__", refuse)
    monkeypatch.setattr(Tensor, "__float__", refuse)
    with taps.watching():
        forward(blocks, torch.randn(2, 3, WIDTH))
    taps.send()
    monkeypatch.undo()
    assert taps.read()[catalogue.ACTIVATION_RMS].shape == (2,)


def test_a_model_without_experts_has_activations_only() -> None:
    layers = [nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)]
    taps = Taps(layers, [])
    with taps.watching():
        layers[1](layers[0](torch.randn(2, WIDTH)))
    taps.send()
    assert sorted(taps.read()) == sorted(
        [
            catalogue.ACTIVATION_RMS,
            catalogue.ACTIVATION_ABSMAX,
            catalogue.ACTIVATION_OUTLIER_RATIO,
            catalogue.ACTIVATION_KURTOSIS,
            catalogue.ACTIVATION_SATURATED_SHARE,
            catalogue.ACTIVATION_DEPTH_GROWTH,
        ]
    )


def test_each_modality_has_its_own_activations_and_the_told_tokens_in_front_none() -> None:
    layer = nn.Identity()
    taps = Taps([layer], [], modality_tokens=[2, 1], device="cpu")
    x_BSD = torch.ones(2, 4, 3)
    x_BSD[:, 0] = 100.0  # a told token
    x_BSD[:, 1:3] = 2.0
    x_BSD[1, 3, 0] = -7.0
    with taps.watching():
        layer(x_BSD)
    taps.send()
    values = taps.read()
    # audio: five ones and a 7: sqrt((5 + 49) / 6) = 3
    assert values[catalogue.ACTIVATION_MODALITY_RMS] == pytest.approx(np.array([[2.0, 3.0]]))
    assert values[catalogue.ACTIVATION_MODALITY_ABSMAX] == pytest.approx(np.array([[2.0, 7.0]]))
    ratio_LN = values[catalogue.ACTIVATION_MODALITY_OUTLIER_RATIO]
    assert ratio_LN == pytest.approx(np.array([[1.0, 7.0 / 3.0]]))
    # all twos: 2^4 / (2^2)^2 = 1; audio: ((5 + 7^4) / 6) / 3^4 = 401 / 81
    kurtosis_LN = values[catalogue.ACTIVATION_MODALITY_KURTOSIS]
    assert kurtosis_LN == pytest.approx(np.array([[1.0, 401.0 / 81.0]]))


def test_the_tail_of_a_modality_is_what_scipy_finds_in_its_tokens() -> None:
    layer, num_video, num_audio = nn.Identity(), 60, 12
    taps = Taps([layer], [], modality_tokens=[num_video, num_audio], device="cpu")
    chance = torch.Generator().manual_seed(0)
    half_BSD = torch.randn(2, 3 + num_video + num_audio, 16, generator=chance)
    half_BSD[:, :3] = 100.0  # told tokens
    half_BSD[:, -num_audio:, 5] *= 30.0  # a channel of outliers that audio alone has
    # scipy's is about the mean, which is 0 so
    x_BSD = torch.cat((half_BSD, -half_BSD))
    with taps.watching():
        layer(x_BSD)
    taps.send()
    values = taps.read()
    video, audio = (
        part.numpy().ravel() for part in x_BSD[:, 3:].split([num_video, num_audio], dim=1)
    )
    want = [stats.kurtosis(part, fisher=False) for part in (video, audio)]
    assert want[0] < 3.5
    assert want[1] > 10.0
    assert values[catalogue.ACTIVATION_MODALITY_KURTOSIS][0] == pytest.approx(want, rel=1e-4)
    want = [
        np.abs(part).max() / np.sqrt(stats.moment(part, 2, center=0)) for part in (video, audio)
    ]
    ratio_LN = values[catalogue.ACTIVATION_MODALITY_OUTLIER_RATIO]
    assert ratio_LN[0] == pytest.approx(want, rel=1e-5)


def test_the_tail_of_many_tokens_is_that_of_an_even_part_of_each_sample() -> None:
    # 4 x 512 tokens: every 8th of each sample is looked at
    layer, parts = nn.Identity(), [512, 512]
    taps = Taps([layer], [], modality_tokens=parts, device="cpu")
    x_BSD = torch.randn(4, sum(parts), 8, generator=torch.Generator().manual_seed(1))
    with taps.watching():
        layer(x_BSD)
    taps.send()
    kurtosis_LN = taps.read()[catalogue.ACTIVATION_MODALITY_KURTOSIS]
    for found, part_BSD in zip(kurtosis_LN[0], x_BSD.split(parts, dim=1), strict=True):
        some = part_BSD[:, ::8].numpy()
        assert found == pytest.approx(np.mean(some**4) / np.mean(some**2) ** 2, rel=1e-5)


def test_the_stream_grows_over_depth_by_the_last_rms_over_the_first() -> None:
    layers = [nn.Identity(), nn.Identity(), nn.Identity()]
    taps = Taps(layers, [], device="cpu")
    with taps.watching():
        for layer, scale in zip(layers, (2.0, 9.0, 5.0), strict=True):
            layer(torch.full((1, 1, 4), scale))
    taps.send()
    assert taps.read()[catalogue.ACTIVATION_DEPTH_GROWTH] == pytest.approx(2.5)


class Mixture(nn.Module):
    squares_2: Tensor | None = None

    def forward(self, shared: Tensor, routed: Tensor) -> Tensor:
        if self.squares_2 is not None:
            self.squares_2.add_(torch.stack((shared.square().sum(), routed.square().sum())))
        return shared + routed


def test_shared_answers_are_measured_against_routed_ones(blocks: list[Block]) -> None:
    mixtures = [Mixture(), Mixture()]
    routers = [block.router for block in blocks]
    taps = Taps(blocks, routers, mixtures=[[mixture] for mixture in mixtures])
    with taps.watching():
        forward(blocks, torch.randn(2, 3, WIDTH))
        mixtures[0](torch.full((4,), 3.0), torch.full((4,), 2.0))
    taps.send()
    assert mixtures[0].squares_2 is None
    # the second did not run
    assert taps.read()[catalogue.SHARED_TO_ROUTED] == pytest.approx(np.array([1.5, 0.0]))


def test_a_block_that_did_not_run_keeps_what_it_had(blocks: list[Block]) -> None:
    taps = taps_of(blocks)
    with taps.watching():
        forward(blocks, torch.randn(2, 3, WIDTH))
    taps.send()
    first = taps.read()
    with taps.watching():
        forward(blocks[:1], torch.randn(2, 3, WIDTH) * 3)
    taps.send()
    second = taps.read()
    for signal in (catalogue.ACTIVATION_RMS, catalogue.ROUTER_Z):
        assert second[signal][1] == first[signal][1] != 0
        assert second[signal][0] != first[signal][0]
    assert second[catalogue.EXPERT_LOAD][1].tolist() == first[catalogue.EXPERT_LOAD][1].tolist()


def test_nothing_was_sent_so_nothing_is_read(blocks: list[Block]) -> None:
    taps = taps_of(blocks)
    assert taps.read() == {}
    taps.send()
    taps.drop()
    assert taps.read() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_taps_wait_for_no_device(blocks: list[Block]) -> None:
    for block in blocks:
        block.to("cuda")
    taps, x_BSD = taps_of(blocks), torch.randn(3, 5, WIDTH, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with taps.watching():
            outputs = forward(blocks, x_BSD)
        taps.send()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    rms = [output.square().mean().sqrt().item() for output in outputs]
    assert taps.read()[catalogue.ACTIVATION_RMS] == pytest.approx(np.array(rms), rel=1e-4)


class Bounded(nn.Module):
    """Clamps a quarter of its elements, and says so where it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.clamped_2: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.clamped_2 is not None:
            self.clamped_2 += torch.tensor([x.numel() / 4, x.numel()])
        return x


def test_the_share_of_clamped_elements_is_that_of_all_modules_of_a_block() -> None:
    blocks = nn.ModuleList(nn.Sequential(Bounded(), Bounded()) for _ in range(2))
    bounded = [[blocks[0][0], blocks[0][1]], []]
    taps = Taps(list(blocks), [], bounded=bounded)
    for _ in range(2):
        with taps.watching():
            for block in blocks:
                block(torch.ones(8, 4))
        taps.send()
        # each watching counts anew
        assert taps.read()[catalogue.ACTIVATION_CLAMPED_SHARE].tolist() == [0.25, 0.0]
        assert blocks[0][0].clamped_2 is None
    blocks[0](torch.ones(8, 4))
    without = Taps(list(blocks), [], bounded=[[], []])
    with without.watching():
        blocks[0](torch.ones(8, 4))
    without.send()
    assert catalogue.ACTIVATION_CLAMPED_SHARE not in without.read()


class Attending(nn.Module):
    """Raises its bound to its largest element, where it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_bound_1: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.logit_bound_1 is not None:
            self.logit_bound_1.copy_(torch.maximum(self.logit_bound_1, x.amax()))
        return x


def test_the_logit_bound_of_a_block_is_the_largest_of_its_attentions_and_begins_anew() -> None:
    blocks = nn.ModuleList([nn.Sequential(Attending(), Attending()), nn.Sequential()])
    taps = Taps(list(blocks), [], attentions=[[blocks[0][0], blocks[0][1]], []])
    for size in (7.0, 3.0):
        with taps.watching():
            blocks[0](torch.tensor([[size, -9.0]]))
        taps.send()
        assert taps.read()[catalogue.ATTENTION_LOGIT_BOUND].tolist() == [size, 0.0]
        assert blocks[0][0].logit_bound_1 is None
    assert catalogue.ATTENTION_LOGIT_BOUND not in Taps(list(blocks), []).read()
