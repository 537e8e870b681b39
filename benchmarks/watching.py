"""What watching a training of somebody else's costs: CPU time of whole steps, beside nothing,
TensorBoard histograms of the same tensors, and a monitor that asks every module for numbers.

Trainings of the same model take turns in one process, one for each way, a block of steps each, in
an order that changes from round to round; a round gives one paired difference per way, in shares of
a step with nothing. Process CPU time counts everything, side threads included: those of all watched
runs, which beat once a second, fall on every way alike. Intervals are the 2.5th to 97.5th
percentile of bootstrapped means.

    python benchmarks/watching.py [ROUNDS]

The ways, each at every 10th step unless it says otherwise:
    watch            the loop with `run.step`: all tiers, judge, journal and store
    watch, no taps   the same without the sampled tier: what is paid at every step
    watch, always    the sampled tier at every step
    blocks, items    root mean square, largest, kurtosis and share near overflow of each block's
                     output, by a hook that asks for each number (`.item()`): the statistics of our
                     activation taps, as they would be asked for one by one
    modules, items   the same way at every module's inputs and outputs, with the statistics of
                     composer's ActivationMonitor (norm, mean, largest, kurtosis)
    histograms       TensorBoard's `add_histogram` of each block's output
"""

import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from overhead import interval
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

import moescope
from moescope.monitors.taps import Taps
from moescope.monitors.watching.find_blocks import find_blocks
from moescope.monitors.watching.find_routers import find_routers

# B batch  S tokens of a sample  T tokens (B*S)  D width  E experts  K chosen experts
BATCH, LENGTH, WIDTH, LAYERS, NUM_EXPERTS, NUM_CHOSEN = 4, 128, 128, 6, 8, 2
BLOCK, ROUNDS, EVERY = 10, 21, 10


class Block(nn.Module):
    """Attention and eight experts that were written by hand, as foreign code has them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.gate = nn.Linear(WIDTH, NUM_EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
            for _ in range(NUM_EXPERTS)
        )

    def forward(self, x_BSD: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (4, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x_BSD)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_BSD = x_BSD + self.out(mixed)
        h_TD = self.norm2(x_BSD).flatten(0, 1)
        weight_TK, chosen_TK = self.gate(h_TD).softmax(-1).topk(NUM_CHOSEN)
        out_TD = torch.zeros_like(h_TD)
        for e, expert in enumerate(self.experts):
            token, place = torch.where(chosen_TK == e)
            out_TD = out_TD.index_add(0, token, expert(h_TD[token]) * weight_TK[token, place, None])
        return x_BSD + out_TD.view_as(x_BSD)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, words_BS: Tensor) -> Tensor:
        x_BSD = self.embed(words_BS)
        for layer in self.layers:
            x_BSD = layer(x_BSD)
        return self.head(x_BSD)


def items_of_block(x: Tensor) -> dict[str, float]:
    """What our activation taps measure, a number at a time."""
    x = x.detach().float()
    square = x.square()
    limit = 0.5 * torch.finfo(torch.bfloat16).max
    return {
        "rms": square.mean().sqrt().item(),
        "absmax": x.abs().max().item(),
        "kurtosis": (square.square().mean() / square.mean().square().clamp_min(1e-30)).item(),
        "saturated": (x.abs() > limit).float().mean().item(),
    }


def items_of_module(x: Tensor) -> dict[str, float]:
    """Composer's ActivationMonitor, as read at 64051888 (facts, health.md section 3)."""
    x = x.detach().float()
    centred = x - x.mean()
    return {
        "l2_norm": torch.linalg.vector_norm(x).item(),
        "average": x.mean().item(),
        "max": x.max().item(),
        "kurtosis": ((centred**4).mean() / (centred**2).mean().square().clamp_min(1e-30)).item(),
    }


@contextmanager
def hooked(modules: list[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Training:
    """One training, looked at in one way."""

    def __init__(self, way: str, home: Path) -> None:
        torch.manual_seed(0)
        self.way = way
        self.model = Model()
        self.blocks = list(self.model.layers)
        self.modules = [m for m in self.model.modules() if m is not self.model]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.chance = torch.Generator().manual_seed(0)
        self.num_steps = 0
        self.seen: list[dict[str, float]] = []
        self.writer = SummaryWriter(str(home / "tensorboard")) if way == "histograms" else None
        self.run = None
        if WAYS[way] is not None:
            self.run = moescope.watch(
                self.model,
                self.optimizer,
                store=f"sqlite:///{home / 'store.db'}",
                sample_every=WAYS[way],
                tell=lambda line: None,
            )

    def block(self) -> float:
        """Trains BLOCK steps and returns the process's CPU seconds, side threads included."""
        start_s = time.process_time()
        for step in range(BLOCK):
            with self._looking() if step % EVERY == 0 else nullcontext():
                loss = self._forward()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.run is not None:
                self.run.step(loss, tokens=BATCH * LENGTH)
            self.num_steps += 1
        return time.process_time() - start_s

    def _forward(self) -> Tensor:
        words_BS = torch.randint(256, (BATCH, LENGTH), generator=self.chance)
        return F.cross_entropy(self.model(words_BS).flatten(0, 1), words_BS.flatten())

    def _looking(self) -> object:
        def items(module: nn.Module, args: object, output: object) -> None:
            self.seen.append(items_of_block(output))

        def everything(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            for value in (*args, output):
                if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                    self.seen.append(items_of_module(value))

        def histogram(module: nn.Module, args: object, output: object) -> None:
            assert self.writer is not None
            name = f"block{self.blocks.index(module)}"
            self.writer.add_histogram(name, output.detach(), self.num_steps)

        self.seen.clear()
        match self.way:
            case "blocks, items":
                return hooked(self.blocks, items)
            case "modules, items":
                return hooked(self.modules, everything)
            case "histograms":
                return hooked(self.blocks, histogram)
        return nullcontext()


WAYS = {
    "nothing": None,
    "watch": EVERY,
    "watch, no taps": 1_000_000_000,
    "watch, always": 1,
    "blocks, items": None,
    "modules, items": None,
    "histograms": None,
}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    torch.set_num_threads(1)
    print(f"machine: {platform.machine()}, torch {torch.__version__}, 1 thread")
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), rounds)
        taps_alone(rounds)


def measure(home: Path, rounds: int) -> None:
    trainings = {way: Training(way, home) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    names = list(WAYS)
    for way in 2 * names:
        trainings[way].block()
    for turn in range(rounds):
        first = turn % len(names)
        for way in names[first:] + names[:first]:
            seconds[way].append(trainings[way].block())
    for training in trainings.values():
        if training.run is not None:
            training.run.finish()
    nothing = np.array(seconds["nothing"])
    parameters = sum(p.numel() for p in trainings["nothing"].model.parameters())
    print(
        f"{parameters / 1e6:.1f} M parameters, {LAYERS} layers of {NUM_EXPERTS} experts: "
        f"{nothing.mean() / BLOCK * 1000:.1f} ms of CPU a step, {rounds} rounds of {BLOCK} steps"
    )
    extra = {}
    for way in names[1:]:
        extra[way] = np.array(seconds[way]) - nothing
        low, high = interval(extra[way] / nothing)
        print(
            f"  {way:16} {100 * (extra[way] / nothing).mean():+7.2f}% of a step "
            f"(95% interval {100 * low:+.2f}% to {100 * high:+.2f}%)"
        )
    sampled = (extra["watch"] - extra["watch, no taps"]) / nothing
    low, high = interval(sampled)
    print(
        f"  sampled tier     {100 * sampled.mean():+7.2f}% of a step every {EVERY} steps "
        f"(95% interval {100 * low:+.2f}% to {100 * high:+.2f}%)"
    )


def taps_alone(rounds: int) -> None:
    """The activation statistics alone, at equal statistics: one forward of the blocks, looked at by
    our taps and by numbers one by one."""
    torch.manual_seed(0)
    model = Model()
    blocks = find_blocks(model, {id(r.expert_list) for r in find_routers(model).routers})
    taps = Taps(blocks.modules, [])
    outputs = [torch.randn(BATCH, LENGTH, WIDTH) for _ in blocks.modules]
    hooks = [taps._block_hook(i) for i in range(len(outputs))]

    def ours() -> None:
        for hook, module, output in zip(hooks, blocks.modules, outputs, strict=True):
            hook(module, (), output)
        taps.send()
        taps.read()

    def one_by_one() -> None:
        for output in outputs:
            items_of_block(output)

    def composers() -> None:
        for output in outputs:
            items_of_module(output)

    ways = {"taps": ours, "items": one_by_one, "composer's": composers}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, 5 * rounds):
        names = list(ways)[turn % 3 :] + list(ways)[: turn % 3]
        for name in names:
            start_s = time.process_time()
            for _ in range(5):
                ways[name]()
            if turn >= 0:
                seconds[name].append(time.process_time() - start_s)
    print(f"activations alone, of {len(outputs)} blocks, {BATCH * LENGTH} tokens each:")
    for name in list(ways)[1:]:
        ratio = np.array(seconds[name]) / np.array(seconds["taps"])
        low, high = interval(ratio)
        print(
            f"  {name:11} {np.mean(seconds[name]) / 5 * 1000:.2f} ms, taps "
            f"{np.mean(seconds['taps']) / 5 * 1000:.2f} ms: {ratio.mean():.1f} times as much "
            f"(95% interval {low:.1f} to {high:.1f})"
        )


if __name__ == "__main__":
    main()
