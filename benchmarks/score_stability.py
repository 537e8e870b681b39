"""What each measure of the stability recipe does at toy scale, over a sweep of learning rates.

    python benchmarks/score_stability.py [number of seeds] [number of steps]

Each arm is `dsmoe_tiny` in bf16 with the whole recipe, or with one measure of it left out:
activation cutoff, fp32 router, Muon, stratified noise levels. Nothing acts on an alert; a run
counts as unstable where the rule `loss_spike` (a spike that lasts) fired. The loss is that of the
averaged weights on held-out pictures, with fixed noise.
"""

import math
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from score_ablations import base_in, trained

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.platform.store import open_store

RATES = (4e-3, 1.6e-2, 6.4e-2)
RULE = "loss_spike"
RECIPE: dict[str, Any] = {
    "compute.precision": "bf16",
    "policy.mode": "off",
    "moe.expert": "swiglu7",
    "model.mlp": "gelu7",
    "optim.optimizer": "muon",
}
ARMS: dict[str, dict[str, Any]] = {
    "the whole recipe": {},
    "without cutoff": {"moe.expert": "swiglu", "model.mlp": "gelu"},
    "without fp32 router": {"compute.has_exact_router": False},
    "without Muon": {"optim.optimizer": "adamw"},
    "without stratified noise levels": {"objective.is_stratified": False},
}


def main(num_seeds: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = changed(base_in(Path(folder) / "clips", steps), RECIPE)
        print(f"{steps} steps, {num_seeds} seeds\n")
        print("| arm | learning rate | runs with a lasting spike | held-out loss (spread) |")
        print("|---|---|---|---|", flush=True)
        for name, changes in ARMS.items():
            for rate in RATES:
                alarms, losses = 0, []
                for seed in range(num_seeds):
                    keys = {**changes, "optim.learning_rate": rate, "seed": seed}
                    home = Path(folder) / f"{list(ARMS).index(name)}-{rate}-{seed}"
                    run_id, loss = trained(changed(base, keys), home)
                    with open_store(Settings(home=home).store_url) as store:
                        alarms += any(alert.rule == RULE for alert in store.alerts(run_id=run_id))
                    losses.append(loss)
                spread = stdev(losses) if len(losses) > 1 else math.nan
                print(
                    f"| {name} | {rate:g} | {alarms} of {num_seeds} | "
                    f"{mean(losses):.4f} ({spread:.4f}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["3", "100"][len(sys.argv) - 1 :])))
