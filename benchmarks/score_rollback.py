"""Is going back worth it? A training of `tiny` with a fault that passes, three ways: never planted,
planted and only advised about, planted and rolled back.

    python benchmarks/score_rollback.py [SEEDS] [FAULT...]

Prints the loss on held-out clips when equally many batches were consumed, and how often each run
went back. `heals_alone` is a case in which going back would be wrong.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from moescope.trainer.faults.three_arms import ARMS, PASSING, arm_config, passing, train_arm

ONSET, NUM_BATCHES = 120, 170


def main(num_seeds: int, names: list[str]) -> None:
    print(f"onset at turn {ONSET}, {NUM_BATCHES} batches")
    for name in names:
        plant = passing(name)
        for seed in range(num_seeds):
            with TemporaryDirectory() as folder:
                config = arm_config(Path(folder), seed, NUM_BATCHES)
                arms = {
                    arm: train_arm(
                        arm, plant, config, Path(folder), onset=ONSET, num_batches=NUM_BATCHES
                    )
                    for arm in ARMS
                }
            told = ", ".join(f"{arm} {found.loss:.3f}" for arm, found in arms.items())
            print(
                f"{name:16} seed {seed}: {told}; went back {arms['rollback'].went_back}", flush=True
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, sys.argv[2:] or list(PASSING))
