"""A process of several: trains the small network of `conftest.py` in parallel, watched, and writes
down what became of it.

    python -m torch.distributed.run --standalone --nproc-per-node 2 THIS_FILE WHAT FOLDER
"""

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import moescope
from moescope.monitors.watching import ranks
from moescope.platform.errors import MoescopeError

MOST_STEPS = 20_000
ODD_STEP = 5


def make_loop() -> Any:
    spec = importlib.util.spec_from_file_location("loops", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    loops = importlib.util.module_from_spec(spec)
    sys.modules["loops"] = loops
    spec.loader.exec_module(loops)
    return loops.make_loop()


def main(what: str, folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    loop = make_loop()
    model = DistributedDataParallel(loop.model)
    found: dict[str, Any] = {"actions": [], "rates": [], "held": [], "losses": [], "told": []}
    options: dict[str, Any] = {"name": "both", "tell": found["told"].append}
    if what == "alone":
        ranks.MEET_S = 2.0
    try:
        if what != "alone" or rank == 0:
            if what == "train":
                found["refused"] = refused_a_state(model, loop, options)
            run = moescope.watch(model, loop.optimizer, **options)
            if what == "train":
                train(loop, model, run, rank, found)
            run.finish()
            found["run"] = [run.id, run.status, run.num_steps, run.fault]
    except MoescopeError as refusal:
        found["refused"] = str(refusal)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def refused_a_state(model: Any, loop: Any, options: dict[str, Any]) -> str:
    try:
        moescope.watch(model, loop.optimizer, **options, state=[])
    except MoescopeError as refusal:
        return str(refusal)
    return "not refused"


def train(loop: Any, model: Any, run: Any, rank: int, found: dict[str, Any]) -> None:
    torch.manual_seed(rank)
    loop.optimizer.register_step_pre_hook(
        lambda *_: found["rates"].append(loop.optimizer.param_groups[0]["lr"])
    )
    start_s, in_step_s = time.perf_counter(), 0.0
    for step in range(MOST_STEPS):
        x_TD = torch.randn(16, 8)
        loss = F.mse_loss(model(x_TD), x_TD.roll(1, -1))
        if step == ODD_STEP and rank == 1:
            loss = loss * torch.inf
        loss.backward()
        is_held = run.guard(loss)
        found["held"].append(is_held)
        if not is_held:
            loop.optimizer.step()
        loop.optimizer.zero_grad()
        before_s = time.perf_counter()
        action = run.step(loss)
        in_step_s += time.perf_counter() - before_s
        found["losses"].append(loss.item())
        found["actions"].append([action.kind, action.reason])
        if action.kind == "halt":
            break
    found["step_ms"] = 1000 * (time.perf_counter() - start_s) / (step + 1)
    found["watching_ms"] = 1000 * in_step_s / (step + 1)
    found["weights"] = [p.sum().item() for p in loop.model.parameters()]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
