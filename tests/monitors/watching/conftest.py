"""A small network with experts that were written by hand, and a loop around it."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import moescope
from moescope.monitors.watching.watched_run import WatchedRun
from moescope.platform.records import Action
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store

WIDTH, EXPERTS, CHOSEN, BATCH = 8, 4, 2, 16


class HandWritten(nn.Module):
    """A layer that no adapter knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_TK, chosen_TK = self.gate(x_TD).softmax(-1).topk(CHOSEN)
        out_TD = torch.zeros_like(x_TD)
        for e, expert in enumerate(self.experts):
            token, place = torch.where(chosen_TK == e)
            out_TD = out_TD.index_add(0, token, expert(x_TD[token]) * weight_TK[token, place, None])
        return out_TD


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(HandWritten() for _ in range(2))

    def forward(self, x_TD: Tensor) -> Tensor:
        for layer in self.layers:
            x_TD = x_TD + layer(x_TD)
        return x_TD


@dataclass
class Loop:
    """A training of somebody else's. Its data come from all three generators of a process, so that
    going back is exact only where all are put back."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any
    run: WatchedRun | None = None
    losses: list[float] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)

    def step(self, scale: float = 1.0, **more: Any) -> Action | None:
        """One step; targets are `scale` times what they should be."""
        shift = random.random() + float(np.random.rand())
        x_TD = torch.randn(BATCH, WIDTH) + shift
        loss = F.mse_loss(self.model(x_TD), scale * x_TD.roll(1, -1))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.losses.append(loss.item())
        if self.run is None:
            return None
        action = self.run.step(loss, **more)
        self.actions.append(action)
        return action


def make_loop(seed: int = 0) -> Loop:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20)
    return Loop(model, optimizer, schedule)


@pytest.fixture
def plain() -> Callable[..., Loop]:
    """Makes a loop that nobody watches."""
    return make_loop


@pytest.fixture
def network() -> type[Network]:
    return Network


@pytest.fixture(autouse=True)
def _store_is_there(tmp_path: Path, put_store: Callable[[Path], str]) -> None:
    put_store(tmp_path / "home" / "store.db")


@pytest.fixture
def told() -> list[str]:
    """Lines that a person was told."""
    return []


@pytest.fixture
def watched(told: list[str]) -> Callable[..., Loop]:
    """Makes a loop that is watched, with its schedule in the state."""

    def make(seed: int = 0, **more: Any) -> Loop:
        loop = make_loop(seed)
        options = {"state": [loop.schedule], "tell": told.append} | more
        loop.run = moescope.watch(loop.model, loop.optimizer, **options)
        return loop

    return make


@pytest.fixture
def store() -> Iterator[Store]:
    settings = Settings()
    settings.make_home()
    opened = open_store(settings.store_url)
    yield opened
    opened.close()
