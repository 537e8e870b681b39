"""The ablations of the sources at toy scale: positions, shared expert, interleaving, GQA, experts
against width.

    python benchmarks/score_ablations.py [number of seeds] [number of steps]

Each variant is a training of `dsmoe_tiny` through `moescope`'s own trainer on made pictures of
classes; the figure is the loss of the averaged weights on held-out pictures, with fixed noise at
fixed noise levels. Seeds are paired: the seed sets the first weights, the order of data and the
noise of every variant alike, so that the difference to the base is taken seed by seed.
Active parameters are printed: experts against width have them within a percent; experts in every
block have a fifth more, GQA 4% less, as in the sources.
"""

import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.parameters import count_parameters
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.latents import seen
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.evaluation.evaluate import probe, probe_passes
from moescope.trainer.loop import Trainer
from moescope.trainer.recipes.by_name import recipe
from moescope.trainer.run import train

NUM_CLIPS, NUM_HELD_OUT = 400, 64
NUM_BINS = 16

BASE = recipe("dsmoe_tiny")
HIDDEN, CHOSEN, EXPERTS = BASE.moe.hidden, BASE.moe.num_chosen, BASE.moe.num_experts
VARIANTS: dict[str, dict[str, Any]] = {
    "base: 2-D RoPE, shared expert, every other block": {},
    "positions: a fixed table (absolute)": {
        "model.rotary": "none",
        "model.has_place_table": True,
    },
    "positions: 1-D RoPE": {"model.rotary": "1d"},
    "no shared expert, one more chosen": {"moe.num_shared": 0, "moe.num_chosen": CHOSEN + 1},
    "experts in every block": {"moe.every": 1},
    "GQA: two heads share keys and values": {"model.kv_heads": BASE.model.heads // 2},
    # (K + shared) * hidden stays: 3 of the base are 2 * 3 half as wide, 5 of them chosen
    "twice as many experts, half as wide": {
        "moe.num_experts": 2 * EXPERTS,
        "moe.num_chosen": 2 * CHOSEN + 1,
        "moe.hidden": HIDDEN // 2,
    },
    # and 2 that are 3/2 as wide, one of them chosen
    "half as many experts, 3/2 as wide": {
        "moe.num_experts": EXPERTS // 2,
        "moe.num_chosen": 1,
        "moe.hidden": HIDDEN * 3 // 2,
    },
}


def base_in(folder: Path, steps: int) -> RunConfig:
    """Returns the base, with pictures that are made in the folder."""
    make_clips(folder, NUM_CLIPS, seed=5, is_by_class=True, are_pictures=True)
    return changed(
        BASE,
        {
            "data.folder": str(folder),
            "data.validation_share": NUM_HELD_OUT / NUM_CLIPS,
            "steps": steps,
            "watch.probe_every": 0,
            "checkpoint.min_free_gib": 0.0,
        },
    )


def trained(config: RunConfig, home: Path) -> tuple[str, float]:
    """Trains; returns the run's id, and the loss of its averaged weights on held-out pictures."""
    trainers: list[Trainer] = []

    def on_step(trainer: Trainer) -> None:
        trainers[:] = [trainer]

    settings = Settings(home=home, mlflow="off")
    result = train(config, settings=settings, progress=False, on_step=on_step)
    assert result.status == "finished", result
    state, device = trainers[0].state, trainers[0].device
    with Batches(find_clips(config.data.folder), config.data, 0) as batches:
        held_out = seen(batches.validation_batch(NUM_HELD_OUT), config, device)
    with state.ema.swapped_in():
        passes = probe_passes(config, held_out, NUM_BINS)
        return result.run_id, probe(state.model, held_out, passes, config).video


def spread(values: list[float]) -> float:
    """Standard deviation over seeds; nan for one."""
    return stdev(values) if len(values) > 1 else float("nan")


def main(num_seeds: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = base_in(Path(folder) / "clips", steps)
        print(f"{steps} steps, {num_seeds} seeds\n")
        print("| variant | active | total | loss (spread) | against base (spread) |")
        print("|---|---|---|---|---|")
        of_base: list[float] = []
        for name, changes in VARIANTS.items():
            losses = []
            for seed in range(num_seeds):
                config = changed(base, {**changes, "seed": seed})
                losses.append(trained(config, Path(folder) / f"{name[:8]}-{seed}")[1])
            of_base = of_base or losses
            count = count_parameters(changed(base, changes))
            differences = [100 * (a / b - 1) for a, b in zip(losses, of_base, strict=True)]
            print(
                f"| {name} | {count.active:,} | {count.total:,} | "
                f"{mean(losses):.4f} ({spread(losses):.4f}) | "
                f"{mean(differences):+.2f}% ({spread(differences):.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["3", "100"][len(sys.argv) - 1 :])))
