"""The answer in a sentence or two, made of the numbers."""

import numpy as np

from .answers import Answers
from .best_sizes import BestSizesAnswer
from .comparisons import BASE, Ablations, Grid, Seeds
from .frontier import Frontier
from .law_answers import Laws
from .sensitivity import Sensitivity
from .words import between, listed, loss_text, percent, plural, power, short


def headline(answers: Answers, num_trials: int, num_counted: int) -> str:
    """Returns the study's answer; where there is none yet, why."""
    if not num_counted and not answers.sensitivities:
        return f"There is no answer yet: none of {plural(num_trials, 'trial')} counts."
    told = []
    if answers.sensitivities:
        told.append(_of_rates(answers.sensitivities))
    if answers.ablations is not None:
        told.append(_of_ablations(answers.ablations))
    if answers.seeds is not None:
        told.append(_of_seeds(answers.seeds))
    if answers.grid is not None:
        told.append(_of_grid(answers.grid))
    if answers.best_sizes is not None and not answers.best_sizes.refused:
        told.append(_of_budgets(answers.best_sizes))
    if answers.laws is not None:
        told.append(_of_laws(answers.laws, num_counted))
    told.append(_of_stability(answers.frontier))
    said = " ".join(part for part in told if part)
    return said or f"{plural(num_counted, 'trial')} of {num_trials} count: nothing to compare yet."


def _of_laws(laws: Laws, num_runs: int) -> str:
    if not laws.main:
        return (
            f"{plural(num_runs, 'trial')} pin no law ({'; '.join(laws.reasons[:2])}): "
            "do not extrapolate."
        )
    main = next(one for one in laws.answers if one.form == laws.main)
    if not laws.can_extrapolate:
        return (
            f"{plural(num_runs, 'trial')} do not pin the {main.num_parameters} parameters of the "
            f"{laws.main} law: do not extrapolate ({'; '.join(laws.reasons[:2])})."
        )
    if not laws.recommended:
        return f"The {laws.main} law holds and may be asked beyond the trials."
    beyond = laws.recommended[-1]
    low, high = beyond.params_interval
    return (
        f"At {power(beyond.flops)} FLOPs, {beyond.flops / laws.recommended[0].flops:.0f} times the "
        f"largest trial's, train {short(beyond.params)} active parameters (95%: "
        f"{between(low, high)}) on {short(beyond.tokens)} tokens for a loss of "
        f"{loss_text(beyond.loss)}, by the {laws.main} law."
    )


def _of_budgets(found: BestSizesAnswer) -> str:
    kept = [budget for budget in found.budgets if not budget.refused]
    low, high = found.exponent_interval
    interval = f" (95%: {low:.2f} to {high:.2f})" if np.isfinite(low) else ""
    return (
        f"The best size at {power(kept[-1].flops)} FLOPs is {short(kept[-1].params)} active "
        f"parameters; over {plural(len(kept), 'budget')} it grows as FLOPs to the power "
        f"{found.exponent:.2f}{interval}."
    )


def _of_ablations(found: Ablations) -> str:
    changes = [row for row in found.rows if row.name != BASE and row.difference is not None]
    if not changes:
        return "No change can be compared with the base yet."
    parts = []
    for is_lower, words in ((True, "lowers"), (False, "raises")):
        sure = [
            row
            for row in changes
            if row.difference
            and row.difference.is_told_apart
            and (row.difference.value < 0) == is_lower
        ]
        sure.sort(key=lambda row: -abs(row.difference.value if row.difference else 0.0))
        for row in sure[:2]:
            assert row.difference is not None
            low, high = sorted((abs(row.difference.low), abs(row.difference.high)))
            where = f" at {row.where}" if row.where else ""
            parts.append(
                f"{row.name}{where} {words} the loss by {abs(row.difference.value):.4f} "
                f"(95%: {low:.4f} to {high:.4f})"
            )
    unsure = [row.name for row in changes if not (row.difference and row.difference.is_told_apart)]
    text = f"Against the base, {listed(parts)}." if parts else ""
    if unsure:
        names = listed(list(dict.fromkeys(unsure))[:4])
        text += f" No difference from the base can be told for {names}."
    return text.strip()


def _of_rates(found: tuple[Sensitivity, ...]) -> str:
    first, last = found[0], found[-1]
    if len(found) == 1:
        return (
            f"The best learning rate is {first.best_rate:.3g}; one that is off costs "
            f"{first.sensitivity:.3g} of loss on average over the rates that were tried."
        )
    low, high = (f"{one.best_rate:.3g}" for one in (first, last))
    best = f"is {low} throughout" if low == high else f"goes from {low} to {high}"
    return (
        f"From {short(first.params)} to {short(last.params)} active parameters the best learning "
        f"rate {best}, and the learning-rate sensitivity from {first.sensitivity:.3g} to "
        f"{last.sensitivity:.3g}."
    )


def _of_seeds(found: Seeds) -> str:
    if found.spread.num < 2:
        return f"One seed counts, with a loss of {loss_text(found.spread.mean)}: no spread yet."
    return (
        f"Over {found.spread.num} seeds the loss is {loss_text(found.spread.mean)} (95%: "
        f"{between(found.spread.low, found.spread.high, '.4f')}), with a standard deviation of "
        f"{found.spread.std:.2g}, {percent(found.noise)}."
    )


def _of_grid(found: Grid) -> str:
    best = found.cells[0]
    at = ", ".join(f"{name} {_said(value)}" for name, value in best.values.items())
    text = f"The lowest loss, {loss_text(best.spread.mean)}, is at {at}."
    if found.effects:
        by_axis: dict[str, list[float]] = {}
        for effect in found.effects:
            by_axis.setdefault(effect.axis, []).append(effect.value)
        widest = max(by_axis, key=lambda axis: max(by_axis[axis]) - min(by_axis[axis]))
        reach = max(by_axis[widest]) - min(by_axis[widest])
        text += f" {widest} matters most: its levels differ by {reach:.4f}."
    return text


def _of_stability(found: Frontier) -> str:
    troubled = {
        word: found.counts[word] for word in ("rolled back", "diverged") if found.counts.get(word)
    }
    if not troubled:
        return ""
    told = listed([f"{number} {word}" for word, number in troubled.items()])
    return f"Of {plural(sum(found.counts.values()), 'trial')} {told}."


def _said(value: object) -> str:
    return short(value) if isinstance(value, float) else str(value)
