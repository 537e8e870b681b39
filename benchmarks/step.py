"""What a step of `tiny` costs, forward and backward, by the ways to compute it: in bf16, compiled,
recomputed, in micro-batches. On a GPU it is a larger network, since `tiny` would time the launches.
"""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from turns import print_ratios

from moescope.platform.frozen import changed
from moescope.trainer.compute.compiled import compile_blocks
from moescope.trainer.compute.gradients import step_gradients
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.model.make import make_model
from moescope.trainer.moe.steps import ExpertSteps
from moescope.trainer.objective.timesteps import draw
from moescope.trainer.recipes.stream import tiny

ROUNDS = 10
WAYS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"compute.precision": "bf16"},
    "fp32, compiled": {"compute.is_compiled": True},
    "bf16, compiled": {"compute.precision": "bf16", "compute.is_compiled": True},
    "fp32, recomputed": {"compute.are_blocks_recomputed": True},
    "fp32, 4 micro-batches": {"compute.num_micro_batches": 4},
}


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LARGER: dict[str, Any] = {
    "data.batch": 4,
    "data.num_frames": 16,
    "data.height": 128,
    "data.width": 128,
    "model.width": 1024,
    "model.layers": 12,
    "model.heads": 16,
    "moe.num_experts": 16,
    "moe.hidden": 1024,
}
"""4 samples of 2068 tokens; 507 M parameters, 242 M active."""


def step_of(folder: Path, changes: dict[str, Any]) -> Callable[[], object]:
    size = LARGER if DEVICE.type == "cuda" else {}
    config = changed(
        tiny(), {"data.folder": str(folder), "compute.precision": "fp32", **size, **changes}
    )
    model = make_model(config).to(DEVICE)
    if config.compute.is_compiled:
        compile_blocks(model)
    with Batches(find_clips(config.data.folder), config.data, 0, ahead=0) as batches:
        batch = batches.get(0).to(DEVICE)
    drawn, experts = draw(config, 0, batch), ExpertSteps(model, config.moe)

    def step() -> None:
        model.zero_grad()
        step_gradients(model, batch, drawn, config, experts, lambda is_last: nullcontext())
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_clips(Path(folder), 24, seed=1)
        print_ratios({name: step_of(Path(folder), way) for name, way in WAYS.items()}, ROUNDS)


if __name__ == "__main__":
    main()
