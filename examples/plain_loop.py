"""A loop of one's own, with a Mixture-of-Experts layer written by hand, watched in four lines.

    python examples/plain_loop.py [STEPS]

The second run of batches is bad on purpose: the run goes back by itself, the loop passes over the
bad stretch, and training goes on. `moescope up` shows it.
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import moescope
from moescope.monitors.watching.watched_run import WatchedRun

# B batch  T tokens  D width  E experts  K chosen experts
WIDTH, NUM_EXPERTS, NUM_CHOSEN, BATCH = 32, 4, 2, 64
BAD = range(120, 140)
"""Batches whose targets are nonsense."""


class Experts(nn.Module):
    """Sends each token to the best K of E small networks."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, NUM_EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))
            for _ in range(NUM_EXPERTS)
        )

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_TK, chosen_TK = self.gate(x_TD).softmax(-1).topk(NUM_CHOSEN)
        out_TD = torch.zeros_like(x_TD)
        for e, expert in enumerate(self.experts):
            token, place = torch.where(chosen_TK == e)
            out_TD = out_TD.index_add(0, token, expert(x_TD[token]) * weight_TK[token, place, None])
        return out_TD


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Experts() for _ in range(3))

    def forward(self, x_TD: Tensor) -> Tensor:
        for layer in self.layers:
            x_TD = x_TD + layer(x_TD)
        return x_TD


class Batches:
    """Batches by number: with them in its state, a run that went back gets the same ones again."""

    def __init__(self) -> None:
        self.next = 0
        self.skipped: set[int] = set()
        self.target = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))

    def draw(self) -> tuple[int, Tensor, Tensor]:
        while self.next in self.skipped:
            self.next += 1
        number, self.next = self.next, self.next + 1
        x_TD = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(100 + number))
        scale = 30.0 if number in BAD else 1.0
        return number, x_TD, scale * torch.tanh(x_TD @ self.target)

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


def train(steps: int, name: str = "", store: str = "", resume: bool = False) -> WatchedRun:
    torch.manual_seed(0)
    model, batches = Model(), Batches()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20)
    state = [schedule, batches]
    with moescope.watch(
        model, optimizer, name=name, store=store, state=state, resume=resume
    ) as run:
        while run.num_steps < steps:
            number, x_TD, y_TD = batches.draw()
            loss = F.mse_loss(model(x_TD), y_TD)
            loss.backward()
            if not run.guard(loss):
                optimizer.step()
                schedule.step()
            optimizer.zero_grad()
            action = run.step(loss, tokens=BATCH, batch=number)
            if action.kind == "rollback":
                # the loop's own part of going back: what it will not read again
                batches.skipped |= set(BAD)
            if action.kind == "halt":
                break
    return run


if __name__ == "__main__":
    train(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
