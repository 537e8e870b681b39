"""Scores the loss detectors on recorded curves, and chooses their thresholds anew on one part.

    python benchmarks/score_curves.py [places to plant each shape at]

Curves are looked for in the folder that MOESCOPE_DATA names, by default ../shared/data beside the
checkout: `curves/healthy/*.csv` and `curves/spikes/*.csv`. Thresholds are 1.15 times the highest
score on the tuning part; everything else is reported on the curves that are held out.
"""

import os
import sys
from pathlib import Path

from moescope.monitors.plain_rules import PLAIN_RULES
from moescope.monitors.scores.curves import curves_of, read_curves
from moescope.monitors.scores.recorded import read_recorded
from moescope.monitors.scores.report import OURS, Report, make_report
from moescope.monitors.scores.shell import say_report
from moescope.monitors.scores.tuning import MARGIN, highest_score

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("MOESCOPE_DATA", ROOT.parent / "shared" / "data"))
CHOSEN_BY_REASON = ("loss_divergence",)


def main(num_places: int) -> None:
    folder = DATA / "curves" / "healthy"
    if not folder.is_dir():
        print(
            f"no recorded curves at {DATA} (MOESCOPE_DATA names another place): nothing is scored"
        )
        return
    curves = read_curves([folder])
    tuning, held_out = curves_of(curves, "tuning"), curves_of(curves, "held-out")
    print(f"thresholds: {MARGIN} times the highest score on {len(tuning)} curves for tuning")
    for rule in PLAIN_RULES:
        is_graded = rule.detector != "non_finite" and rule.severity != "info"
        if is_graded and rule.name not in CHOSEN_BY_REASON:
            highest = highest_score(rule, tuning)
            print(
                f"  {rule.name:<16} highest {highest:6.2f}   asks for {MARGIN * highest:6.2f}   "
                f"in the table {rule.threshold:6.2f}"
            )
    events = read_recorded([DATA / "curves" / "spikes"])
    report = make_report(held_out, events, "held-out", num_places=num_places)
    say_report(report)
    print("\ngoals, on the curves that are held out")
    for goal, is_met in goals(report).items():
        print(f"  {'met   ' if is_met else 'missed'}  {goal}")


def goals(report: Report) -> dict[str, bool]:
    """{goal with its number: whether it is met}."""
    found = {(d.rule, d.shape): d for d in report.detections}
    false = {f.rule: f for f in report.false_events}
    asked = {}
    for shape, steps in (("BLOOM spike x1", 5), ("one NaN", 5), ("drift 0.1% a step", 80)):
        share = found[OURS, shape].share_within(steps)
        asked[f"{shape}: all within {steps} steps ({share:.3f})"] = share == 1
    small = found[OURS, "spike, peak +20%"].share
    asked[f"spike, peak +20%: 0.40 or more ({small:.2f})"] = small >= 0.40
    odd = max(d.share for d in report.detections if d.rule == OURS and not d.is_wanted)
    asked[f"single outliers raise no alarm ({odd:.3f})"] = odd == 0
    better = [
        rule
        for rule in false
        if false[rule].num_events < false[OURS].num_events
        and found[rule, "spike, peak +20%"].share > small
    ]
    asked[f"no public rule is better in both columns ({', '.join(better) or 'none'})"] = not better
    events = false[OURS]
    told = f"no false event ({events.num_events} in {events.num_steps} steps)"
    return {told: events.num_events == 0, **asked}


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
