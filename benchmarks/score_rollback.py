"""Is going back worth it? A small training to which something happens, three ways: clean, advised
only, rolled back.

    python benchmarks/score_rollback.py [SEEDS] [CASE ...] [--first SEED]

Prints the loss on held-out clips when equally many batches were consumed, at the end of what
happened and later, and how often a run went back: for faults, and for cases in which going back
would be wrong. A seed of all cases takes some minutes of a core. docs/lab.md has what was found.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from moescope.trainer.faults.three_arms import (
    ARMS,
    CASES,
    CLEAN,
    STRETCH,
    Arm,
    arm_config,
    case_of,
    make_case_clips,
    train_arm,
)

ONSET = 100
JUDGED_AT = (ONSET + STRETCH, ONSET + 2 * STRETCH)

Rows = dict[str, list[dict[str, Arm]]]


def score_seed(seed: int, names: Sequence[str], rows: Rows) -> None:
    """Trains the arms of one seed and adds them to rows, {case: arms of each seed}."""
    num_batches = JUDGED_AT[-1]
    with TemporaryDirectory() as root:

        def trained(arm: str, name: str) -> Arm:
            case = CLEAN if arm == "clean" else case_of(name)
            # only where clips differ do they lie in a folder of their own
            folder = Path(root) / (name if case.rewritten else "clean")
            config = arm_config(folder, seed, num_batches)
            if not folder.exists():
                make_case_clips(case, config, folder, onset=ONSET, num_batches=num_batches)
            run = folder / f"run-{name}-{arm}"
            found = train_arm(arm, case, config, folder, run, onset=ONSET, judged_at=JUDGED_AT)
            if found.status == "stopped" and len(found.losses) < len(JUDGED_AT):
                # by a signal, which the run took for its own end
                raise SystemExit("stopped")
            return found

        clean = trained("clean", "clean")
        for name in names:
            back = trained("rollback", name)
            # where nothing was done, both are the same training
            advised = trained("advisory", name) if back.done else back
            arms = {"clean": clean, "advisory": advised, "rollback": back}
            rows.setdefault(name, []).append(arms)
            print(f"{name:16} seed {seed}: {told(arms)}", flush=True)


def told(arms: dict[str, Arm]) -> str:
    losses = [f"{arm} {loss_words(found)}" for arm, found in arms.items()]
    back = arms["rollback"]
    return f"{', '.join(losses)}; {back.status}, alerts {back.alerts}, done {back.done}"


def loss_words(arm: Arm) -> str:
    return "/".join(f"{arm.losses.get(at, float('nan')):.3f}" for at in JUDGED_AT)


def tell(rows: Rows) -> None:
    """Prints the table: mean and spread over the seeds, and how often each seed went back."""
    columns = [f"{arm} at {at}" for at in JUDGED_AT for arm in ARMS]
    print(f"\n| case | {' | '.join(columns)} | times back |")
    print("|---" * (len(columns) + 2) + "|")
    for name, seeds in rows.items():
        cells = []
        for at in JUDGED_AT:
            for arm in ARMS:
                losses = [arms[arm].losses.get(at, float("nan")) for arms in seeds]
                spread = statistics.stdev(losses) if len(losses) > 1 else float("nan")
                cells.append(f"{statistics.fmean(losses):.3f} ({spread:.3f})")
        back = [len(arms["rollback"].went_back) for arms in seeds]
        print(f"| {name} | {' | '.join(cells)} | {', '.join(map(str, back))} |")


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    first = 0
    if "--first" in arguments:
        at = arguments.index("--first")
        first = int(arguments[at + 1])
        arguments = arguments[:at] + arguments[at + 2 :]
    num_seeds = int(arguments[0]) if arguments else 1
    names = arguments[1:] or list(CASES)
    print(f"onset at turn or batch {ONSET}, judged at {JUDGED_AT} batches")
    rows: Rows = {}
    for seed in range(first, first + num_seeds):
        score_seed(seed, names, rows)
    tell(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
