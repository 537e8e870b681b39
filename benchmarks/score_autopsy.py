"""Trains with planted causes of every kind, examines their alerts, and says which verdicts were
right.

    python benchmarks/score_autopsy.py [SEEDS] [CAUSE ...] [--kept FILE] [--first SEED]

SEEDS is 10 and the first one 2 unless given: the thresholds were chosen on seeds 0 and 1, so what
these show is no score.

Rows are what was planted, columns what the autopsy said; shares have Wilson's 95% intervals. Of a
run that raised no alert there is nothing to examine: it counts as missed, and is told apart. --kept
keeps each row in a file of JSON lines, and goes on from there. A seed of all causes takes about two
minutes of a core, all of it about twenty. docs/lab.md has what was found.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from moescope.monitors.scores.intervals import wilson
from moescope.platform.settings import Settings
from moescope.trainer.faults.autopsies import (
    ONSET,
    AutopsyRun,
    asked_causes,
    families,
    make_autopsy_runs,
)

NO_ALERT = "no alert"
NUM_SEEDS = 10
FIRST_SEED = 2
"""The thresholds of the autopsy were chosen on those before it."""


def row_of(run: AutopsyRun) -> dict[str, Any]:
    """What is kept of a run."""
    row: dict[str, Any] = {
        "cause": run.cause.name,
        "planted": " and ".join(sorted(run.cause.verdict)) or "no_cause",
        "seed": run.seed,
        "said": run.said,
        "is_right": run.is_right,
        "is_in_part": run.is_in_part,
        "trained_s": round(run.trained_s, 1),
        "examined_s": round(run.examined_s, 1),
    }
    if run.incident is not None:
        content = run.incident.content
        named = [clip["name"] for clip in content["clips"]]
        row |= {
            "onset_error": content["onset"]["step"] - ONSET,
            "is_firm": content["verdict"]["is_firm"],
            "clips": len(named),
            "right_clips": sum(name in run.spoiled_clips for name in named),
            "movers": [f"{m['step'] - ONSET:+d} {m['what']}" for m in content["movers"][:3]],
            "shown": {arm["name"]: arm["shows"] for arm in content["verdict"]["arms"]},
        }
    return row


def tell(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the table of confusion and the shares."""
    said = Counter((row["cause"], row["said"]) for row in rows)
    columns = sorted({row["said"] for row in rows})
    print(f"\n| planted | ought to say | {' | '.join(columns)} | right (95%) |")
    print("|---" * (len(columns) + 3) + "|")
    for cause in dict.fromkeys(row["cause"] for row in rows):
        mine = [row for row in rows if row["cause"] == cause]
        cells = [str(said[cause, column] or "") for column in columns]
        print(f"| {cause} | {mine[0]['planted']} | {' | '.join(cells)} | {share(mine)} |")
    seen = [row for row in rows if row["said"] != NO_ALERT]
    print(f"\nright, of all: {share(rows)}; of those that raised an alert: {share(seen)}")
    both = [row for row in seen if " and " in row["planted"]]
    if both:
        part = sum(row["is_in_part"] for row in both)
        print(f"two causes at once: {share(both)} both, {part} only one of them, nothing false")
    clips = sum(row.get("clips", 0) for row in rows if "data" in row["planted"])
    right = sum(row.get("right_clips", 0) for row in rows if "data" in row["planted"])
    if clips:
        low, high = wilson(right, clips)
        print(f"clips named of spoiled data: {right} of {clips} spoiled ({low:.0%} to {high:.0%})")
    errors = [abs(row["onset_error"]) for row in seen if row["planted"] != "no_cause"]
    if errors:
        exact = sum(error <= 1 for error in errors)
        print(f"onset within one step of the plant: {exact} of {len(errors)}")


def share(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "-"
    num = sum(row["is_right"] for row in rows)
    low, high = wilson(num, len(rows))
    return f"{num}/{len(rows)} ({low:.0%} to {high:.0%})"


def option(arguments: list[str], name: str) -> tuple[str, list[str]]:
    """Returns the value behind an option, empty where it is not there, and the other arguments."""
    if name not in arguments:
        return "", arguments
    at = arguments.index(name)
    return arguments[at + 1], arguments[:at] + arguments[at + 2 :]


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    kept_in, arguments = option(arguments, "--kept")
    first_given, arguments = option(arguments, "--first")
    first = int(first_given) if first_given else FIRST_SEED
    kept = Path(kept_in) if kept_in else None
    num_seeds = int(arguments[0]) if arguments else NUM_SEEDS
    rows: list[dict[str, Any]] = []
    if kept is not None and kept.exists():
        rows = [json.loads(line) for line in kept.read_text().splitlines()]
    known = {(row["cause"], row["seed"]) for row in rows}
    for seed in range(first, first + num_seeds):
        asked = [c for c in asked_causes(arguments[1:]) if (c.name, seed) not in known]
        for family in families(asked):
            with TemporaryDirectory() as folder:
                settings = Settings(home=Path(folder) / "home", mlflow="off", notify="")
                runs = make_autopsy_runs(family, Path(folder), seed, settings)
            new = [row_of(run) for run in runs]
            rows += new
            lines = "".join(json.dumps(row) + "\n" for row in new)
            print(lines, end="", flush=True)
            if kept is not None:
                with kept.open("a") as file:
                    file.write(lines)
    tell(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
