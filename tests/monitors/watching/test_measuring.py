"""What is counted and judged in forwards of all kinds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import moescope
from moescope.platform import catalogue
from moescope.platform.series import read_series
from moescope.platform.store import Store

Make = Callable[..., Any]

# T tokens  D width  E experts
WIDTH, CHOSEN, BATCH = 8, 2, 16


def series(store: Store, run_id: str, signal: str) -> np.ndarray:
    return read_series(store, run_id, signal).values


def counted(model: nn.Module, store: Store, num_parts: int = 1) -> np.ndarray:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run = moescope.watch(model, optimizer, tell=lambda line: None)
    for _ in range(3):
        for _ in range(num_parts):
            model(torch.randn(BATCH, WIDTH)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            model(torch.randn(5, WIDTH))
        model.train()
        run.step(1.0)
    run.finish()
    return series(store, run.id, catalogue.EXPERT_TOKENS).sum(axis=-1)


def test_tokens_of_blocks_that_are_computed_again_count_once(
    store: Store, network: type[nn.Module]
) -> None:
    class Checkpointed(network):  # type: ignore[misc, valid-type]
        def forward(self, x_TD: Tensor) -> Tensor:
            for layer in self.layers:
                x_TD = x_TD + checkpoint(layer, x_TD, use_reentrant=False)
            return x_TD

    torch.manual_seed(0)
    assert (counted(Checkpointed(), store) == BATCH * CHOSEN).all()


def test_tokens_of_all_parts_of_a_step_count_and_those_of_a_validation_do_not(
    store: Store, network: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    assert (counted(network(), store, num_parts=3) == 3 * BATCH * CHOSEN).all()


class Crowded(nn.Module):
    """Each expert works for all tokens, and what was not chosen is weighed by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.top_k = 2

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_TE = self.gate(x_TD).softmax(-1)
        kept_TE = weight_TE * (weight_TE >= weight_TE.topk(2).values[:, -1:])
        return sum(kept_TE[:, e, None] * expert(x_TD) for e, expert in enumerate(self.experts))


def test_experts_that_all_see_all_tokens_are_counted_by_their_router(store: Store) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"moe": Crowded()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run = moescope.watch(model, optimizer, tell=lambda line: None)
    want = []
    for _ in range(3):
        x_TD = torch.randn(BATCH, WIDTH)
        gate = model["moe"].gate
        logit_TE = x_TD @ gate.weight.detach().T + gate.bias.detach()
        want.append(logit_TE.topk(2).indices.flatten().bincount(minlength=4).tolist())
        model["moe"](x_TD).square().mean().backward()
        optimizer.step()
        run.step(1.0)
    run.finish()
    tokens = series(store, run.id, catalogue.EXPERT_TOKENS)[:, 0]
    # in the first step nobody knows yet whether the experts see only their own
    assert tokens[1:].tolist() == want[1:]


def test_losses_of_samples_are_judged_at_their_noise_levels(
    watched: Make, store: Store, told: list[str]
) -> None:
    chance = np.random.default_rng(0)

    def losses(scale: float = 1.0) -> dict[str, Any]:
        sigma_B = torch.from_numpy(chance.uniform(0.02, 1.0, 8)).float()
        # the loss of a diffusion model depends on its noise level, here by a factor of 50
        loss_B = scale * (0.02 + sigma_B) * torch.from_numpy(chance.lognormal(0, 0.1, 8)).float()
        return {"loss": loss_B.mean(), "per_sample": loss_B, "timestep": 1000 * sigma_B}

    loop = watched()
    run = loop.run
    assert run is not None
    kinds = [run.step(**losses(3.0 if step in range(90, 96) else 1.0)).kind for step in range(100)]
    run.finish()
    assert "rollback" in kinds[90:96]
    rules = [alert.rule for alert in store.alerts(run.id)]
    assert "loss_spike" in rules
    alert = next(alert for alert in store.alerts(run.id) if alert.rule == "loss_spike")
    assert alert.evidence["signal"] == catalogue.LOSS_PER_SAMPLE
    assert alert.onset_step == 90
    bins = series(store, run.id, catalogue.LOSS_NOISE_BIN)[-1, 0]
    assert bins[-1] > 5 * bins[0] > 0


def test_the_guard_advises_against_what_is_not_finite_and_against_extremes_alone(
    watched: Make, store: Store
) -> None:
    loop = watched(state=None)
    run = loop.run
    assert run is not None

    def advice(scale: float, loss: float = 1.0) -> bool:
        for parameter in loop.model.parameters():
            parameter.grad = torch.full_like(parameter, scale)
        is_held = run.guard(loss)
        run.step(loss)
        return is_held

    assert not any(advice(1.0) for _ in range(30))
    # a mere spike: ten times the usual norm
    assert not advice(10.0)
    assert advice(float("nan"))
    assert advice(1.0, loss=float("inf"))
    # extremes are held three times in a row, and then it lets go
    assert [advice(1000.0) for _ in range(4)] == [True, True, True, False]
    run.finish()
    assert series(store, run.id, catalogue.GUARD_HELD).sum() == 5


def test_the_guard_takes_sparse_gradients_and_they_have_a_norm(store: Store) -> None:
    table = nn.Embedding(6, 3, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    with moescope.watch(table, optimizer, tell=lambda line: None) as run:
        for _ in range(3):
            # the same row twice: its gradient is 2 in each of three places
            loss = table(torch.tensor([1, 1])).sum()
            loss.backward()
            assert not run.guard(loss)
            optimizer.step()
            optimizer.zero_grad()
            run.step(loss)
        for _ in range(2):
            loss = table(torch.tensor([1, 1])).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            run.step(loss)
        assert run.fault == ""
    norms = series(store, run.id, catalogue.GRAD_NORM)
    assert norms == pytest.approx([12**0.5] * 5)


def test_a_guard_that_fails_ends_the_watching_and_not_the_training(told: list[str]) -> None:
    # no norm can be taken over what has no storage
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, device="meta")])
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    with moescope.watch(layers, optimizer, tell=told.append) as run:
        for parameter in layers.parameters():
            parameter.grad = torch.ones_like(parameter)
        assert run.guard(1.0) is False
        assert run.step(1.0).kind == "carry_on"
    assert run.fault
    assert len([line for line in told if "ends here, training does not" in line]) == 1


def test_a_signal_of_the_loops_own_is_recorded(watched: Make, store: Store) -> None:
    loop = watched()
    assert loop.run is not None
    loop.run.log({"reward": 0.5})
    loop.step()
    loop.run.finish()
    assert series(store, loop.run.id, "user/reward").tolist() == [0.5]


@pytest.mark.parametrize("sample_every", [1, 3])
def test_experts_that_do_not_learn_are_told_by_their_weights(
    store: Store, sample_every: int
) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"moe": Stacked()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = moescope.watch(model, optimizer, sample_every=sample_every, tell=lambda line: None)
    for _ in range(4):
        model["moe"](torch.randn(BATCH, WIDTH)).square().mean().backward()
        grad = model["moe"].experts_EDD.grad
        assert grad is not None
        grad[1] = 0
        optimizer.step()
        optimizer.zero_grad()
        run.step(1.0)
    run.finish()
    frozen = series(store, run.id, catalogue.FROZEN_EXPERTS)
    assert frozen.shape == (len(range(0, 4, sample_every)), 1)
    assert (frozen == 1).all()


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4)
        self.experts_EDD = nn.Parameter(torch.randn(4, WIDTH, WIDTH))

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_TE = self.router(x_TD).softmax(-1)
        return torch.einsum("td,edf,te->tf", x_TD, self.experts_EDD, weight_TE)
