"""Where tokens go: counted by hand, and on every family of networks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moescope.kernels.routing.reference import ExpertChoice, Routing
from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.evaluation.flip_count import FlipCount
from moescope.trainer.evaluation.routing_probe import RoutingProbe, membership, saturation
from moescope.trainer.evaluation.token_traits import NONE, Trait
from moescope.trainer.model.make import make_model
from moescope.trainer.moe.experts import MoeLayer
from moescope.trainer.moe.latent import LatentMoe
from moescope.trainer.moe.steps import moe_layers
from moescope.trainer.run import train

OF_ROUTERS = (catalogue.FLIP_RATE, catalogue.CO_ACTIVATION)
OF_TRAITS = (
    catalogue.ROUTING_BY_TIMESTEP,
    catalogue.ROUTING_BY_REGION,
    catalogue.ROUTING_BY_MOTION,
)


class FixedRouter(nn.Module):
    """Sends the tokens of a sequence where it was told."""

    is_exact = True

    def __init__(self, chosen_TK: list[list[int]], num_experts: int) -> None:
        super().__init__()
        self.chosen_TK, self.num = torch.tensor(chosen_TK), num_experts

    def forward(self, x_TD: Tensor) -> Routing:
        zero_TE = torch.zeros(len(self.chosen_TK), self.num)
        counts_E = torch.bincount(self.chosen_TK.flatten(), minlength=self.num)
        return Routing(self.chosen_TK, self.chosen_TK.float(), zero_TE, counts_E, zero_TE)


def layer_of(router: nn.Module, num_experts: int, rows: int = 1) -> Any:
    counts = SimpleNamespace(counts_RE=torch.zeros(rows, num_experts))
    return SimpleNamespace(router=router, tally=counts)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> tuple[RoutingProbe, FixedRouter]:
    # two samples of three tokens each, two of four experts for each token
    router = FixedRouter([[0, 1], [0, 2], [0, 1], [3, 0], [1, 2], [1, 2]], 4)
    layers = [layer_of(router, 4)]
    monkeypatch.setattr(
        "moescope.trainer.evaluation.routing_probe.moe_layers", lambda model: layers
    )
    return RoutingProbe(router, num_samples=2), router


def test_who_works_with_whom_is_counted_over_the_tokens_of_an_expert(
    probe: tuple[RoutingProbe, FixedRouter],
) -> None:
    routing, router = probe
    with routing.watching({}):
        router(torch.zeros(6, 1))
    values, kept_MTE = routing.read()
    # expert 0 has four tokens: two with 1, one with 2, one with 3
    want = [[1, 1 / 2, 1 / 4, 1 / 4], [2 / 4, 1, 2 / 4, 0], [1 / 3, 2 / 3, 1, 0], [1, 0, 0, 1]]
    assert values[catalogue.CO_ACTIVATION] == pytest.approx(np.array([want]))
    assert kept_MTE.sum(2).tolist() == [[2] * 6]


def test_a_layer_that_no_token_reached_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    router = FixedRouter([[0, 1], [0, 2]], 4)
    layers = [layer_of(nn.Identity(), 4), layer_of(router, 4)]
    monkeypatch.setattr(
        "moescope.trainer.evaluation.routing_probe.moe_layers", lambda model: layers
    )
    routing = RoutingProbe(router, num_samples=2)
    assert routing.read()[0] == {}
    with routing.watching({}):
        router(torch.zeros(2, 1))
    values, kept_MTE = routing.read()
    assert values[catalogue.CO_ACTIVATION][0].sum() == 0
    assert values[catalogue.CO_ACTIVATION][1, 0].tolist() == [1.0, 0.5, 0.5, 0.0]
    assert kept_MTE.sum((1, 2)).tolist() == [0, 4]


def test_who_goes_where_is_a_share_of_the_choices_of_the_tokens_with_a_value(
    probe: tuple[RoutingProbe, FixedRouter],
) -> None:
    routing, router = probe
    # the first token of each sample is a told one and has no place; the others are left and right
    place = Trait(torch.tensor([[0, 1]]), 3)
    of_sample = Trait(torch.tensor([[0, 0], [1, NONE]]), 2)
    kind = Trait(torch.tensor([[1, 1]]), 2, of_told=0)
    names = (catalogue.ROUTING_BY_REGION, catalogue.ROUTING_BY_CLASS, catalogue.ROUTING_BY_KIND)
    with routing.watching(dict(zip(names, (place, of_sample, kind), strict=True))):
        router(torch.zeros(6, 1))
    region, of_class, of_kind = (routing_of[0] for routing_of in map(routing.read()[0].get, names))
    # left: tokens 1 and 4; right: 2 and 5; nothing in the third place
    want = [[1 / 4, 1 / 4, 2 / 4, 0], [1 / 4, 2 / 4, 1 / 4, 0], [0, 0, 0, 0]]
    assert region == pytest.approx(np.array(want))
    # sample 0: tokens 1 and 2; sample 1: token 4 alone
    assert of_class == pytest.approx(np.array([[2 / 4, 1 / 4, 1 / 4, 0], [0, 1 / 2, 1 / 2, 0]]))
    # told: tokens 0 and 3
    assert of_kind[0] == pytest.approx(np.array([2 / 4, 1 / 4, 0, 1 / 4]))


def test_choices_of_experts_and_of_heads_are_told_token_by_token() -> None:
    choice = ExpertChoice(
        torch.tensor([0, 2, 1]),
        torch.ones(3),
        torch.zeros(3, 2),
        torch.tensor([2, 1]),
        torch.zeros(3, 2),
    )
    goes = membership(choice, cast(MoeLayer, layer_of(nn.Identity(), 2)))
    assert goes.tolist() == [[[1, 0], [0, 1], [1, 0]]]
    # two tokens of two heads with three experts each: rows are token by token
    chosen = torch.tensor([[0, 1], [3, 5], [2, 1], [4, 5]])
    heads = Routing(chosen, chosen.float(), torch.zeros(2, 2, 3), chosen, torch.zeros(2, 2, 3))
    goes = membership(heads, cast(LatentMoe, layer_of(nn.Identity(), 3, rows=2)))
    assert goes[0].tolist() == [[1, 1, 0], [0, 1, 1]]
    assert goes[1].tolist() == [[1, 0, 1], [0, 1, 1]]


def test_saturation_is_the_share_of_choices_that_are_made_again() -> None:
    then = np.array([[[1, 1, 0, 0], [1, 0, 1, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]], bool)
    now = np.array([[[1, 0, 1, 0], [1, 0, 1, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]]], bool)
    assert saturation(now, then).tolist() == [0.75, 0.0]
    assert saturation(then, then).tolist() == [1.0, 0.0]


def test_choices_that_hang_on_rounding_flip_in_bf16_and_others_do_not(small: RunConfig) -> None:
    model = make_model(small)
    layer = moe_layers(model)[0]
    weight_ED = cast(Tensor, layer.router.weight_ED)
    x_BSD = torch.zeros(4, 8, weight_ED.shape[1])
    x_BSD[..., 0] = 1.0
    with torch.no_grad():
        weight_ED.zero_()
        # of two experts one is ahead by 2^-9, which bf16 does not see beside 1: the lower one wins
        weight_ED[:, 0] = torch.tensor([1.0, 1.0 + 2.0**-9, 0.5, 2.0])
    for lead, flipped in ((2.0**-9, 1.0), (0.25, 0.0)):
        with torch.no_grad():
            weight_ED[1, 0] = 1.0 + lead
        routing = RoutingProbe(nn.ModuleList([layer]), num_samples=4)
        count = FlipCount(nn.ModuleList([layer]))
        with routing.watching({}), count.watching():
            layer.router(x_BSD)
        assert routing.read()[0][catalogue.FLIP_RATE].tolist() == [flipped]
        assert count.read().tolist() == [flipped]
    assert layer.router.is_exact


@pytest.mark.parametrize(
    "family",
    ["softmax", "bf16", "expert choice", "batch choice", "latent", "jitmoe", "two noise experts"],
)
def test_every_family_tells_where_its_tokens_go(
    small: RunConfig, family: str, ways: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, mlflow="off")
    every = {"watch.probe_every": 3, "checkpoint.disk_every_steps": 2, "steps": 7}
    config = changed(small, {**ways[family], **every})
    run_id = train(config, settings=settings, progress=False).run_id
    with open_store(settings.store_url) as store:
        found = {
            name: read_series(store, run_id, name)
            for name in (*OF_ROUTERS, *OF_TRAITS, catalogue.ROUTING_SATURATION)
        }
    num = config.moe.num_experts
    # the store keeps a row for each layer
    co_MEE = found[catalogue.CO_ACTIVATION].values[-1].reshape(-1, num, num)
    assert ((co_MEE >= 0) & (co_MEE <= 1)).all()
    # experts that choose have no fixed set per token
    is_token_choice = "choice" not in family
    assert bool(len(found[catalogue.FLIP_RATE].steps)) is is_token_choice
    # from the second probe on: the first state is the first checkpoint
    assert found[catalogue.ROUTING_SATURATION].steps.tolist() == [3, 6]
    assert found[catalogue.ROUTING_BY_REGION].values.shape[-1] == 9 * num
    for name in OF_TRAITS:
        shares = found[name].values
        if len(shares):
            sums = shares.reshape(len(shares), -1, num).sum(-1)
            assert np.isclose(sums, 1, atol=1e-5).any(), name
            assert (np.isclose(sums, 1, atol=1e-5) | (sums == 0)).all(), name
