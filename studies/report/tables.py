"""The tables of a report, as rows of words."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from .best_sizes import BestSizesAnswer
from .comparisons import Ablations, Grid
from .frontier import Frontier, verdict_words
from .law_answers import LawAnswer
from .law_curve import Recommended
from .sensitivity import Sensitivity
from .words import NOTHING, between, loss_text, percent, power, short

Rows = list[dict[str, Any]]


def trial_rows(frame: pd.DataFrame) -> Rows:
    """Every trial that the study asks for, once."""
    return [
        {
            "trial": f"#{number} {row['label']}",
            "verdict": verdict_words(row["verdict"], row["state"], int(row["num_rollbacks"])),
            "loss": loss_text(row["loss"]),
            "active": short(row["params"]),
            "total": short(row["total_params"]),
            "tokens": short(row["tokens"]),
            "FLOPs": power(row["flops"]),
            "learning rate": f"{row['learning_rate']:.3g}",
            "seconds": f"{row['seconds']:.1f}" if row["seconds"] == row["seconds"] else NOTHING,
            "attempts": row["num_attempts"],
            "alerts": row["alerts"] or NOTHING,
            "counts": "yes" if not row["excluded"] else "no",
            "run": row["run_id"] or NOTHING,
            "key": row["key"],
        }
        for number, (_, row) in enumerate(frame.iterrows(), 1)
    ]


def excluded_rows(frame: pd.DataFrame) -> Rows:
    rows = frame[frame["excluded"] != ""] if len(frame) else frame
    return [{"trial": row["label"], "why it does not count": row["excluded"]} for _, row in
            rows.iterrows()]  # fmt: skip


def form_rows(answers: Sequence[LawAnswer]) -> Rows:
    """The forms side by side, by what they foretell."""
    return [
        {
            "form": one.form,
            "held-out error": percent(one.held_out_error),
            "runs": one.num_runs,
            "parameters": one.num_parameters,
            "noise around it": percent(one.noise),
            "beyond the trials": "may be asked" if one.can_extrapolate else "refused",
            "why": "; ".join(one.reasons) or NOTHING,
        }
        for one in answers
    ]


def parameter_rows(answer: LawAnswer) -> Rows:
    return [
        {
            "parameter": name,
            "value": f"{value:.5g}",
            "95%": between(*answer.intervals[name], ".5g") if answer.intervals else "not given",
        }
        for name, value in answer.params.items()
    ]


def diagnostic_lines(answer: LawAnswer) -> list[str]:
    """What the solver did, and what the runs say of the parameters."""
    d = answer.diagnostics
    if not d:
        return []
    return [
        (
            f"The solver {'arrived' if d['has_converged'] else 'stopped early'}: a slope of "
            f"{d['gradient']:.2g} is left."
        ),
        f"{d['num_agreeing']} of {d['num_starts']} starts came to this fit.",
        f"Parameters that did not move from their start: {', '.join(d['unmoved']) or 'none'}.",
        f"Condition of the fit: {d['condition']:.1e}; the freest are {' and '.join(d['loosest'])}.",
        f"Outliers, which count little: {', '.join(answer.outliers) or 'none'}.",
        f"Held out: {', '.join(answer.held_out_keys) or 'none'}.",
    ]


def recommended_rows(found: Sequence[Recommended]) -> Rows:
    return [
        {
            "compute": "beyond the trials" if one.is_beyond else "as the largest trials",
            "FLOPs": power(one.flops),
            "active parameters": short(one.params),
            "95%": between(*one.params_interval),
            "tokens": short(one.tokens),
            "95% of tokens": between(*one.tokens_interval),
            "loss": loss_text(one.loss),
            "95% of the loss": between(*one.loss_interval, ".4f"),
            "as good, within 0.25%": between(*one.flat_params),
        }
        for one in found
    ]


def budget_rows(found: BestSizesAnswer) -> Rows:
    return [
        {
            "FLOPs": power(one.flops),
            "best size": short(one.params) if not one.refused else NOTHING,
            "95%": between(*one.params_interval) if not one.refused else NOTHING,
            "loss": loss_text(one.loss) if not one.refused else NOTHING,
            "runs": one.num_runs,
            "why it does not count": one.refused or NOTHING,
        }
        for one in found.budgets
    ]


def ablation_rows(found: Ablations) -> Rows:
    rows: Rows = []
    for row in found.rows:
        gap = row.difference
        word = NOTHING
        if gap is not None:
            word = "not told apart"
            if gap.is_told_apart:
                word = "lower" if gap.value < 0 else "higher"
        where = {"where": row.where} if any(one.where for one in found.rows) else {}
        rows.append(
            {
                "change": row.name,
                **where,
                "loss": loss_text(row.spread.mean),
                "std": f"{row.spread.std:.2g}" if row.spread.num > 1 else NOTHING,
                "seeds": row.spread.num,
                "difference": NOTHING if gap is None else f"{gap.value:+.4f}",
                "95%": NOTHING if gap is None else between(gap.low, gap.high, "+.4f"),
                "by": NOTHING if gap is None else gap.how,
                "verdict": word,
                "active": short(row.params),
                "FLOPs": power(row.flops),
            }
        )
    return rows


def sensitivity_rows(found: Sequence[Sensitivity]) -> Rows:
    return [
        {
            "size": one.where,
            "active": short(one.params),
            "rates": len(one.rates),
            "best rate": f"{one.best_rate:.3g}",
            "loss there": loss_text(one.best_loss),
            "loss at the start": loss_text(one.start),
            "sensitivity": f"{one.sensitivity:.3g}",
            "remark": one.remark or NOTHING,
        }
        for one in found
    ]


def grid_rows(found: Grid) -> Rows:
    return [
        {
            **{name: short(v) if isinstance(v, float) else v for name, v in cell.values.items()},
            "loss": loss_text(cell.spread.mean),
            "std": f"{cell.spread.std:.2g}" if cell.spread.num > 1 else NOTHING,
            "seeds": cell.spread.num,
            "active": short(cell.params),
            "FLOPs": power(cell.flops),
        }
        for cell in found.cells
    ]


def effect_rows(found: Grid) -> Rows:
    return [
        {"axis": one.axis, "level": one.level, "effect": f"{one.value:+.4f}", "runs": one.num}
        for one in found.effects
    ]


def edge_rows(found: Frontier) -> Rows:
    def told(rate: float | None) -> str:
        return "none" if rate is None else f"{rate:.3g}"

    return [
        {
            "size": edge.where,
            "highest healthy rate": told(edge.highest_healthy),
            "lowest that did not stay so": told(edge.lowest_not_healthy),
            "lowest that diverged": told(edge.lowest_diverged),
        }
        for edge in found.edges
    ]


def health_rows(found: Frontier) -> Rows:
    """Trials that did not just stay healthy, and what moved before their loss did."""
    return [
        {
            "trial": f"#{number} {one.label}",
            "verdict": one.verdict,
            "alerts": one.alerts or NOTHING,
            "loss grew at step": NOTHING if one.loss_grew_at is None else one.loss_grew_at,
            "before it": "; ".join(f"{word} by {lead}" for word, lead in one.before_loss.items())
            or NOTHING,
            "all that grew": "; ".join(
                f"{word} at {step}"
                for word, step in sorted(one.grew_at.items(), key=lambda entry: entry[1])
            )
            or NOTHING,
        }
        for number, one in enumerate(found.trials, 1)
        if one.verdict not in ("healthy", "waiting", "running", "failed")
        or one.grew_at
        or one.loss_grew_at is not None
    ]
